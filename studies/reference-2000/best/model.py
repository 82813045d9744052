"""7 s6 M s6v 13v s15v s14v G Cb

1,889 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 7, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Conv2d(7, 7, 3, stride=1, padding=1, groups=7, bias=False),
        nn.Conv2d(7, 6, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, stride=1, padding=0, groups=6, bias=False),
        nn.Conv2d(6, 6, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 13, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(13),
        nn.ReLU(),
        nn.Conv2d(13, 13, 3, stride=1, padding=0, groups=13, bias=False),
        nn.Conv2d(13, 15, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(15),
        nn.ReLU(),
        nn.Conv2d(15, 15, 3, stride=1, padding=0, groups=15, bias=False),
        nn.Conv2d(15, 14, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(14, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
