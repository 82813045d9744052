"""24r s29r M s26vr s31vr s49vr s27vr C G

7,387 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 24, 3, stride=1, padding=1, groups=24, bias=False),
        nn.Conv2d(24, 29, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(29),
        nn.MaxPool2d(2),
        nn.Conv2d(29, 29, 3, stride=1, padding=0, groups=29, bias=False),
        nn.Conv2d(29, 26, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(26),
        nn.Conv2d(26, 26, 3, stride=1, padding=0, groups=26, bias=False),
        nn.Conv2d(26, 31, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(31),
        nn.Conv2d(31, 31, 3, stride=1, padding=0, groups=31, bias=False),
        nn.Conv2d(31, 49, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(49),
        nn.Conv2d(49, 49, 3, stride=1, padding=0, groups=49, bias=False),
        nn.Conv2d(49, 27, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(27),
        nn.Conv2d(27, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
