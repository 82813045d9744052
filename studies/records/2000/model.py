"""7 s5 M 10v s20v s15v s11v G C

1,927 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 7, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Conv2d(7, 7, 3, stride=1, padding=1, groups=7, bias=False),
        nn.Conv2d(7, 5, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 10, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 10, 3, stride=1, padding=0, groups=10, bias=False),
        nn.Conv2d(10, 20, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.Conv2d(20, 20, 3, stride=1, padding=0, groups=20, bias=False),
        nn.Conv2d(20, 15, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(15),
        nn.ReLU(),
        nn.Conv2d(15, 15, 3, stride=1, padding=0, groups=15, bias=False),
        nn.Conv2d(15, 11, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(11),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(11, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
