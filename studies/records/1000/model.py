"""7vr s7vr M s12vr s8vr s16vr G Cb

996 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 7, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(7),
        nn.Conv2d(7, 7, 3, stride=1, padding=0, groups=7, bias=False),
        nn.Conv2d(7, 7, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(7),
        nn.MaxPool2d(2),
        nn.Conv2d(7, 7, 3, stride=1, padding=0, groups=7, bias=False),
        nn.Conv2d(7, 12, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 3, stride=1, padding=0, groups=12, bias=False),
        nn.Conv2d(12, 8, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, stride=1, padding=0, groups=8, bias=False),
        nn.Conv2d(8, 16, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(16, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
