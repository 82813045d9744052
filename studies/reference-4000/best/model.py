"""21k5r 21k1r M s34vr s15vr s30vr G Cb

3,822 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 21, 5, stride=1, padding=2, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(21),
        nn.Conv2d(21, 21, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(21),
        nn.MaxPool2d(2),
        nn.Conv2d(21, 21, 3, stride=1, padding=0, groups=21, bias=False),
        nn.Conv2d(21, 34, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(34),
        nn.Conv2d(34, 34, 3, stride=1, padding=0, groups=34, bias=False),
        nn.Conv2d(34, 15, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(15),
        nn.Conv2d(15, 15, 3, stride=1, padding=0, groups=15, bias=False),
        nn.Conv2d(15, 30, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(30),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(30, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
