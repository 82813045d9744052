"""13r s8r M 17vr s24vr s15vr s25vr G C

3,663 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 13, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(13),
        nn.Conv2d(13, 13, 3, stride=1, padding=1, groups=13, bias=False),
        nn.Conv2d(13, 8, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 17, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(17),
        nn.Conv2d(17, 17, 3, stride=1, padding=0, groups=17, bias=False),
        nn.Conv2d(17, 24, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 24, 3, stride=1, padding=0, groups=24, bias=False),
        nn.Conv2d(24, 15, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(15),
        nn.Conv2d(15, 15, 3, stride=1, padding=0, groups=15, bias=False),
        nn.Conv2d(15, 25, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(25),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(25, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
