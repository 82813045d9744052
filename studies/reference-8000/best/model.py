"""19 s20 M s22v 19v s25v M s28v G Cb

7,231 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 19, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(19),
        nn.ReLU(),
        nn.Conv2d(19, 19, 3, stride=1, padding=1, groups=19, bias=False),
        nn.Conv2d(19, 20, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 20, 3, stride=1, padding=0, groups=20, bias=False),
        nn.Conv2d(20, 22, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(22),
        nn.ReLU(),
        nn.Conv2d(22, 19, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(19),
        nn.ReLU(),
        nn.Conv2d(19, 19, 3, stride=1, padding=0, groups=19, bias=False),
        nn.Conv2d(19, 25, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(25),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(25, 25, 3, stride=1, padding=0, groups=25, bias=False),
        nn.Conv2d(25, 28, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(28),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(28, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
