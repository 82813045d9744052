"""10v 30v 10k1 M 14v 14v 14v 14v G C

9,994 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 10, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 30, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(30),
        nn.ReLU(),
        nn.Conv2d(30, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 14, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.Conv2d(14, 14, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.Conv2d(14, 14, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.Conv2d(14, 14, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(14, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
