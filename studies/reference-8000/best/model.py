"""20r 11k1r M 25vr s39vr s30vr s31vr G C

7,418 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 20, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(20),
        nn.Conv2d(20, 11, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(11),
        nn.MaxPool2d(2),
        nn.Conv2d(11, 25, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(25),
        nn.Conv2d(25, 25, 3, stride=1, padding=0, groups=25, bias=False),
        nn.Conv2d(25, 39, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(39),
        nn.Conv2d(39, 39, 3, stride=1, padding=0, groups=39, bias=False),
        nn.Conv2d(39, 30, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(30),
        nn.Conv2d(30, 30, 3, stride=1, padding=0, groups=30, bias=False),
        nn.Conv2d(30, 31, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(31),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(31, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
