"""26v s21v s17v M s50v s39v s36v G Cb

7,466 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 26, 3, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(26),
        nn.ReLU(),
        nn.Conv2d(26, 26, 3, stride=1, padding=0, groups=26, bias=False),
        nn.Conv2d(26, 21, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(21),
        nn.ReLU(),
        nn.Conv2d(21, 21, 3, stride=1, padding=0, groups=21, bias=False),
        nn.Conv2d(21, 17, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(17),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(17, 17, 3, stride=1, padding=0, groups=17, bias=False),
        nn.Conv2d(17, 50, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(50),
        nn.ReLU(),
        nn.Conv2d(50, 50, 3, stride=1, padding=0, groups=50, bias=False),
        nn.Conv2d(50, 39, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(39),
        nn.ReLU(),
        nn.Conv2d(39, 39, 3, stride=1, padding=0, groups=39, bias=False),
        nn.Conv2d(39, 36, 1, stride=1, padding=0, groups=1, bias=False),
        nn.BatchNorm2d(36),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(36, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
