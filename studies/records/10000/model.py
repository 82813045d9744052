"""26r s13r M 30vr s36vr s36vr s39vr G C

9,764 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 26, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(26),
        nn.Conv2d(26, 26, 3, stride=1, padding=1, groups=26, bias=False),
        nn.Conv2d(26, 13, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(13),
        nn.MaxPool2d(2),
        nn.Conv2d(13, 30, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(30),
        nn.Conv2d(30, 30, 3, stride=1, padding=0, groups=30, bias=False),
        nn.Conv2d(30, 36, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(36),
        nn.Conv2d(36, 36, 3, stride=1, padding=0, groups=36, bias=False),
        nn.Conv2d(36, 36, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(36),
        nn.Conv2d(36, 36, 3, stride=1, padding=0, groups=36, bias=False),
        nn.Conv2d(36, 39, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(39),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(39, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
