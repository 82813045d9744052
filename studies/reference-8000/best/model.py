"""16k5 s26 M s26v s38v s29v s28v G 28k1bn C

7,027 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=1, padding=2, groups=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=1, padding=1, groups=16, bias=False),
        nn.Conv2d(16, 26, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(26),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(26, 26, 3, stride=1, padding=0, groups=26, bias=False),
        nn.Conv2d(26, 26, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(26),
        nn.ReLU(),
        nn.Conv2d(26, 26, 3, stride=1, padding=0, groups=26, bias=False),
        nn.Conv2d(26, 38, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(38),
        nn.ReLU(),
        nn.Conv2d(38, 38, 3, stride=1, padding=0, groups=38, bias=False),
        nn.Conv2d(38, 29, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(29),
        nn.ReLU(),
        nn.Conv2d(29, 29, 3, stride=1, padding=0, groups=29, bias=False),
        nn.Conv2d(29, 28, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(28),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(28, 28, 1, stride=1, padding=0, groups=1, bias=True),
        nn.ReLU(),
        nn.Conv2d(28, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
