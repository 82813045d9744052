"""23vr s24vr M s43vr s25vr s43vr G Cb

5,732 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 23, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(23),
        nn.Conv2d(23, 23, 3, stride=1, padding=0, groups=23, bias=False),
        nn.Conv2d(23, 24, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(24),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 24, 3, stride=1, padding=0, groups=24, bias=False),
        nn.Conv2d(24, 43, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(43),
        nn.Conv2d(43, 43, 3, stride=1, padding=0, groups=43, bias=False),
        nn.Conv2d(43, 25, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(25),
        nn.Conv2d(25, 25, 3, stride=1, padding=0, groups=25, bias=False),
        nn.Conv2d(25, 43, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(43),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(43, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
