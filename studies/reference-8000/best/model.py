"""19k5vbr 10vbr M 17vbr s12vbr 24vbr C G

7,150 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 19, 5, stride=1, padding=0, groups=1, bias=True),
        nn.ReLU(),
        nn.BatchNorm2d(19),
        nn.Conv2d(19, 10, 3, stride=1, padding=0, groups=1, bias=True),
        nn.ReLU(),
        nn.BatchNorm2d(10),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 17, 3, stride=1, padding=0, groups=1, bias=True),
        nn.ReLU(),
        nn.BatchNorm2d(17),
        nn.Conv2d(17, 17, 3, stride=1, padding=0, groups=17, bias=False),
        nn.Conv2d(17, 12, 1, stride=1, padding=0, groups=1, bias=True),
        nn.ReLU(),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 24, 3, stride=1, padding=0, groups=1, bias=True),
        nn.ReLU(),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
