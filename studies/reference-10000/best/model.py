"""35v 12k1 M 16v 16v 16v 16v G C

9,757 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 35, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(35),
        nn.ReLU(),
        nn.Conv2d(35, 12, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(16, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
