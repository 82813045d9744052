"""18vr 12vr M s29r s23r M s41vr s43vr Cb G

7,544 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 18, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(18),
        nn.Conv2d(18, 12, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(12),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 12, 3, stride=1, padding=1, groups=12, bias=False),
        nn.Conv2d(12, 29, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(29),
        nn.Conv2d(29, 29, 3, stride=1, padding=1, groups=29, bias=False),
        nn.Conv2d(29, 23, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(23),
        nn.MaxPool2d(2),
        nn.Conv2d(23, 23, 3, stride=1, padding=0, groups=23, bias=False),
        nn.Conv2d(23, 41, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(41),
        nn.Conv2d(41, 41, 3, stride=1, padding=0, groups=41, bias=False),
        nn.Conv2d(41, 43, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(43),
        nn.Conv2d(43, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
