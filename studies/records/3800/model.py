"""15 s20 M s18v s24v s18v s28v C G

3,544 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 15, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(15),
        nn.ReLU(),
        nn.Conv2d(15, 15, 3, stride=1, padding=1, groups=15, bias=False),
        nn.Conv2d(15, 20, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 20, 3, stride=1, padding=0, groups=20, bias=False),
        nn.Conv2d(20, 18, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(18),
        nn.ReLU(),
        nn.Conv2d(18, 18, 3, stride=1, padding=0, groups=18, bias=False),
        nn.Conv2d(18, 24, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, stride=1, padding=0, groups=24, bias=False),
        nn.Conv2d(24, 18, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(18),
        nn.ReLU(),
        nn.Conv2d(18, 18, 3, stride=1, padding=0, groups=18, bias=False),
        nn.Conv2d(18, 28, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(28),
        nn.ReLU(),
        nn.Conv2d(28, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
