"""8vr s6vr s5vr M s12vr s17vr G Cb

969 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, stride=1, padding=0, groups=8, bias=False),
        nn.Conv2d(8, 6, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 3, stride=1, padding=0, groups=6, bias=False),
        nn.Conv2d(6, 5, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(5),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 5, 3, stride=1, padding=0, groups=5, bias=False),
        nn.Conv2d(5, 12, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 3, stride=1, padding=0, groups=12, bias=False),
        nn.Conv2d(12, 17, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(17),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(17, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
