"""14vr s16vr M s17vr s21vr s24vr C G

2,519 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 14, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(14),
        nn.Conv2d(14, 14, 3, stride=1, padding=0, groups=14, bias=False),
        nn.Conv2d(14, 16, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, stride=1, padding=0, groups=16, bias=False),
        nn.Conv2d(16, 17, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(17),
        nn.Conv2d(17, 17, 3, stride=1, padding=0, groups=17, bias=False),
        nn.Conv2d(17, 21, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(21),
        nn.Conv2d(21, 21, 3, stride=1, padding=0, groups=21, bias=False),
        nn.Conv2d(21, 24, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
