"""12 s4 M 13v s18v s15v s13v G C

2,125 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, stride=1, padding=1, groups=12, bias=False),
        nn.Conv2d(12, 4, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 13, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(13),
        nn.ReLU(),
        nn.Conv2d(13, 13, 3, stride=1, padding=0, groups=13, bias=False),
        nn.Conv2d(13, 18, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(18),
        nn.ReLU(),
        nn.Conv2d(18, 18, 3, stride=1, padding=0, groups=18, bias=False),
        nn.Conv2d(18, 15, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(15),
        nn.ReLU(),
        nn.Conv2d(15, 15, 3, stride=1, padding=0, groups=15, bias=False),
        nn.Conv2d(15, 13, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(13),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(13, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
