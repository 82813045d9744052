"""7vr M 6k1r 13vr s15vr s11vr s11vr G C

1,875 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 7, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(7),
        nn.MaxPool2d(2),
        nn.Conv2d(7, 6, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 13, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(13),
        nn.Conv2d(13, 13, 3, stride=1, padding=0, groups=13, bias=False),
        nn.Conv2d(13, 15, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(15),
        nn.Conv2d(15, 15, 3, stride=1, padding=0, groups=15, bias=False),
        nn.Conv2d(15, 11, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(11),
        nn.Conv2d(11, 11, 3, stride=1, padding=0, groups=11, bias=False),
        nn.Conv2d(11, 11, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(11),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(11, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
