"""18r s10r M s43vr s36vr s49vr s30vr C G

7,630 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 18, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(18),
        nn.Conv2d(18, 18, 3, stride=1, padding=1, groups=18, bias=False),
        nn.Conv2d(18, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(10),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 10, 3, stride=1, padding=0, groups=10, bias=False),
        nn.Conv2d(10, 43, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(43),
        nn.Conv2d(43, 43, 3, stride=1, padding=0, groups=43, bias=False),
        nn.Conv2d(43, 36, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(36),
        nn.Conv2d(36, 36, 3, stride=1, padding=0, groups=36, bias=False),
        nn.Conv2d(36, 49, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(49),
        nn.Conv2d(49, 49, 3, stride=1, padding=0, groups=49, bias=False),
        nn.Conv2d(49, 30, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(30),
        nn.Conv2d(30, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
