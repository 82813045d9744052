"""A call of every compiled function: run in processes of their own, they fill the folder of the machine code."""

from __future__ import annotations

import sys

import torch
from torch import nn

from nas.architecture import Architecture
from nas.kernels.cache import CANNOT_WRITE, PARTS
from nas.kernels.images import augment, erase_, gather, recolour_
from nas.kernels.network import Network
from nas.kernels.soap import SoapSides, SoapStep


def main(part: str) -> None:
    """Call everything of a part on the smallest network there is; leave with `CANNOT_WRITE` where nothing fits."""
    try:
        dict(zip(PARTS, (_networks, _others), strict=True))[part]()
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        sys.exit(CANNOT_WRITE)


def _networks() -> None:
    smallest = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 10, 1, bias=False),
    )  # fmt: skip
    network = Network(Architecture.parse("2 G C", input_shape=(1, 4, 4)), smallest)
    network.step(torch.zeros(1, 4, 4, 1), torch.zeros(1, dtype=torch.int64))


def _others() -> None:
    images, index = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    batch = augment(images, index, torch.zeros(1, 2, 3), 0.0, 1.0)
    recolour_(batch, torch.zeros(1, 3))
    erase_(batch, torch.zeros(1, 4, dtype=torch.int64))
    gather(images, index, 0.0, 1.0)
    matrix = SoapSides(0, (1, 1), [torch.eye(1), torch.eye(1)], [torch.eye(1), torch.eye(1)])
    SoapStep([torch.zeros(1) for _ in range(5)], [matrix], beta=0.5, eps=1.0)(1.0, 1.0, 1.0)
