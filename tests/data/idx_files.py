"""A small MNIST as files, for the tests of this folder."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from torch import Tensor

from nas import data

MNIST = data.DATASETS["mnist"]
CLASSES = 10
FILES = [f"{s}-{p}-ubyte" for s in ("train", "t10k") for p in ("images-idx3", "labels-idx1")]


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_toy(folder: Path, *, prefixes=("train", "t10k"), shape=(28, 28)) -> None:
    """200 training images in uneven classes and 50 test images, all of them different."""
    rng = np.random.default_rng(0)
    for prefix, count in zip(prefixes, (200, 50), strict=True):
        labels = np.minimum(np.arange(count) % 13, CLASSES - 1)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (count, *shape)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", rng.permutation(labels))


def rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}
