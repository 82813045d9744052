"""33vr s24vr s31vr M s54vr s56vr G Cb

8,775 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 33, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(33),
        nn.Conv2d(33, 33, 3, stride=1, padding=0, groups=33, bias=False),
        nn.Conv2d(33, 24, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 24, 3, stride=1, padding=0, groups=24, bias=False),
        nn.Conv2d(24, 31, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(31),
        nn.MaxPool2d(2),
        nn.Conv2d(31, 31, 3, stride=1, padding=0, groups=31, bias=False),
        nn.Conv2d(31, 54, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(54),
        nn.Conv2d(54, 54, 3, stride=1, padding=0, groups=54, bias=False),
        nn.Conv2d(54, 56, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(56),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(56, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
