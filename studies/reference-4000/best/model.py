"""13r 7k1r M 19vr s27vr s17vr s24vr G C

3,806 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 13, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(13),
        nn.Conv2d(13, 7, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(7),
        nn.MaxPool2d(2),
        nn.Conv2d(7, 19, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(19),
        nn.Conv2d(19, 19, 3, stride=1, padding=0, groups=19, bias=False),
        nn.Conv2d(19, 27, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(27),
        nn.Conv2d(27, 27, 3, stride=1, padding=0, groups=27, bias=False),
        nn.Conv2d(27, 17, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(17),
        nn.Conv2d(17, 17, 3, stride=1, padding=0, groups=17, bias=False),
        nn.Conv2d(17, 24, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(24),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(24, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
