"""19r M 11k1r 13vr 18vr 19k1r s16vr 18vr G Cb

7,600 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 19, 3, stride=1, padding=1, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(19),
        nn.MaxPool2d(2),
        nn.Conv2d(19, 11, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(11),
        nn.Conv2d(11, 13, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(13),
        nn.Conv2d(13, 18, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(18),
        nn.Conv2d(18, 19, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(19),
        nn.Conv2d(19, 19, 3, stride=1, padding=0, groups=19, bias=False),
        nn.Conv2d(19, 16, 1, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 18, 3, stride=1, padding=0, groups=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(18),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(18, 10, 1, stride=1, padding=0, groups=1, bias=True),
        nn.Flatten(),
    )
