"""8r s11r M s9vr s10vr M s10vr G Cb

997 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, stride=1, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 11, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(11),
        nn.MaxPool2d(2),
        nn.Conv2d(11, 11, 3, stride=1, padding=0, groups=11, bias=False),
        nn.Conv2d(11, 9, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(9),
        nn.Conv2d(9, 9, 3, stride=1, padding=0, groups=9, bias=False),
        nn.Conv2d(9, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(10),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 10, 3, stride=1, padding=0, groups=10, bias=False),
        nn.Conv2d(10, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(10),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(10, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
