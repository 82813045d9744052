"""A call of every compiled function: run in a process of its own, it fills the folder of the machine code."""

from __future__ import annotations

import sys

import torch
from torch import nn

from nas.architecture import Architecture
from nas.kernels.cache import CANNOT_WRITE
from nas.kernels.images import augment, erase_, gather, recolour_
from nas.kernels.network import Network


def main() -> None:
    """Call everything on the smallest network there is; leave with `CANNOT_WRITE` where the folder took no more."""
    smallest = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 10, 1, bias=False),
    )  # fmt: skip
    images, index = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    try:
        network = Network(Architecture.parse("2 G C", input_shape=(1, 4, 4)), smallest)
        batch = augment(images, index, torch.zeros(1, 2, 3), 0.0, 1.0)
        recolour_(batch, torch.zeros(1, 3))
        erase_(batch, torch.zeros(1, 4, dtype=torch.int64))
        network.step(batch, index)
        network.logits(gather(images, index, 0.0, 1.0))
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        sys.exit(CANNOT_WRITE)
