"""Networks for the tests of the deployed forms: small random ones of every kind of block, and the committed records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.data import Normalization
from nas.export.fold import fold
from nas.export.integer import IntegerNetwork
from nas.export.quantize import quantize
from nas.model import TrainedNetwork, build

STUDIES = Path(__file__).resolve().parents[2] / "studies"
RECORDS = (1000, 2600, 8000)

ARCHITECTURES = (
    "1x9x9: 4v 5v G C",
    "1x9x9: 4vr s6vr M 5r C G",  # norm after ReLU: folded forward, or an operation of its own before padding
    "1x8x7: 4r s6r M 6r+ G 5k1 5k1+ C",  # residuals, one of them after the pool
    "3x9x9: M 3+ s6/2 G Cb",  # a pool first; the image's norm before a residual
    "3x8x8: 6/2b s4k5r 4+ 8k1n C3b G",
    "2x6x6: s4k3 s4+ s4r+ M C2 G",
    "1x5x5: 4 4k1 6k1r 3k1 M G C",  # several 1x1 in a row, then pool and sum together
    "4x3x3: G 6k1 4k1bn C2",
    "1x4x4: G C",
    "1x1x1: 2k1 C1 G",
    "1x2x5: M 1n C G",
    "3x11x6: 5k7 s7k5/2 5k1/2 G C100",
    "3x8x9: 4r i4x2+ i4x3k5+ 4+ i5x2/2 i5x2+ G C",  # residuals over two stages, before blocks and the sum
    "1x7x8: 4 i4x2+ M i4x1k7+ G C",  # and before a pool
    "2x6x6: i2x2+ 3k1 i3x2+ C2 G",  # of the image, and before a 1x1
)


def random_network(architecture: Architecture, seed: int = 0) -> TrainedNetwork:
    """Untrained, with norms that do something, factors of either sign, and channels of unlike normalisation."""
    generator = torch.Generator().manual_seed(seed)
    module = build(architecture, seed=seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data = torch.randn(norm.num_features, generator=generator)
            norm.bias.data = torch.randn(norm.num_features, generator=generator)
            norm.running_mean = torch.randn(norm.num_features, generator=generator)
            norm.running_var = torch.rand(norm.num_features, generator=generator) + 0.5
    channels = range(architecture.input_shape[0])
    mean, std = tuple(0.1 + 0.1 * c for c in channels), tuple(0.2 + 0.02 * c for c in channels)
    return TrainedNetwork(
        architecture=architecture,
        state_dict=module.state_dict(),
        normalization=Normalization(mean=mean, std=std),
        classes=tuple(f'"{number}" ??/é\\' for number in range(architecture.num_classes)),
    )


def random_images(architecture: Architecture, count: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *architecture.input_shape), dtype=torch.uint8, generator=generator)


def record_folder(cap: int) -> Path:
    """The full run of a committed record, wherever studies/ keeps it."""
    for pattern in (f"records/{cap}/full-run-*", f"records/{cap}", f"reference-{cap}/full-run-*"):
        for folder in sorted(STUDIES.glob(pattern)):
            if (folder / "weights.safetensors").is_file():
                return folder
    pytest.skip(f"no record of {cap} parameters in {STUDIES}")


def record(cap: int) -> TrainedNetwork:
    folder = record_folder(cap)
    result = json.loads((folder / "result.json").read_text())
    normalization = result.get("normalization", result)
    return TrainedNetwork(
        architecture=Architecture.from_json((folder / "architecture.json").read_text()),
        state_dict=load_file(folder / "weights.safetensors"),
        normalization=Normalization(mean=tuple(normalization["mean"]), std=tuple(normalization["std"])),
        classes=tuple("0123456789"),
    )


def mnist(root: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images (count, 1, 28, 28) and labels of "train" or "t10k"."""
    images = (root / "MNIST" / "raw" / f"{split}-images-idx3-ubyte").read_bytes()[16 : 16 + 784 * count]
    labels = (root / "MNIST" / "raw" / f"{split}-labels-idx1-ubyte").read_bytes()[8 : 8 + count]
    return (
        torch.frombuffer(bytearray(images), dtype=torch.uint8).reshape(-1, 1, 28, 28),
        torch.frombuffer(bytearray(labels), dtype=torch.uint8).long(),
    )


def integer_network(network: TrainedNetwork, images: Tensor) -> IntegerNetwork:
    return quantize(fold(network, one_pad_value=True), images)


def need(tool: str, package: str) -> str:
    """The path of a tool; skips where it is missing."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"no {tool}: apt-get install {package}")
    return path
