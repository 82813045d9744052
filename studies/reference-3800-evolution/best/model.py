"""7 s8 M 12v 7v s13v M 12v G Cb

3,608 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 7, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Conv2d(7, 7, 3, stride=1, padding=1, groups=7, bias=False),
        nn.Conv2d(7, 8, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 7, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Conv2d(7, 7, 3, stride=1, padding=0, groups=7, bias=False),
        nn.Conv2d(7, 13, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(13),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(13, 12, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(12, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
