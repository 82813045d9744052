"""What the tests of the exports share: two networks with weights, and the folders that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas import export
from nas.architecture import Architecture
from nas.data import Normalization
from nas.errors import StorageError
from nas.export import RunResult, Winner
from nas.files import from_json
from nas.model import TrainedNetwork, build

# Between them: valid and padded, separable, strides, residuals, both heads and norm orders, a bias, no norm, odd maps.
PLAIN = Architecture.parse("8vr s10v M 12n s12+ C G")
ODD = Architecture.parse("3x27x29: 8 8k5+ M s12/2r s12b+ i12x2k5+ M 16bn G 12k1 C7b")
WINNER_FILES = [
    "architecture.json",
    "architecture.txt",
    "model.py",
    "reason.json",
    "recipe.json",
    "weights.safetensors",
]
RECIPE = {"optimizer": "soap", "lr": 0.02, "epochs": 15, "rotate": 8.0, "name": "±8°", "clip": None}
REASON = {"dataset": "mnist", "target": 99.4, "runners_up": [{"schedule": "8 G C", "mean": 0.99}]}
LOG = [
    {"seed": 7, "epoch": 1, "loss": 0.25, "accuracy": None},
    {"seed": 7, "epoch": 2, "loss": 1e-05, "accuracy": 99.48, "note": 'a "quoted", one'},
]
STATED: dict[str, Any] = {
    "schedule": str(PLAIN), "num_params": PLAIN.num_params, "macs": PLAIN.macs, "split": "test", "epochs": 15,
    "seeds": [7, 8], "last5_mean": 99.45, "last5_sd": None, "last5": {"7": 99.4, "8": 99.5},
    "final": {"7": 99.4, "8": 99.5}, "lowest_of_last5": 99.3, "target": None, "target_held": None, "typical_seed": 8,
    "seconds": {"7": 60.0, "8": 61.5}, "backend": ["kernels"], "recipe": RECIPE, "teacher": None, "dataset": "mnist",
    "notice": None, "num_train": 60_000, "data_hash": "0f", "data_warning": None, "mean": [0.13], "std": [0.31],
    "classes": list("0123456789"), "by_class": None, "threads": 1,
    "nas": "0.1.0", "python": "3.x", "torch": "2.x", "torchvision": "0.x",
    "optuna": "5.x", "numba": "0.x", "numpy": "2.x", "pandas": "3.x", "platform": "Linux x86_64",
    "processor": "a processor", "cores": 2, "device": "cpu", "command": "nas train-best --seeds 2",
    "time": "2026-01-01T00:00:00+00:00", "opened": "once", "reference": None,
}  # fmt: skip
"""The result.json of a full run of PLAIN."""


def trained(architecture: Architecture, seed: int = 0) -> nn.Sequential:
    """A network in evaluation mode whose running statistics and affines are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    model = build(architecture, seed=seed).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 3.0, generator=generator)
            module.num_batches_tracked.fill_(60_000 // 128)
            nn.init.uniform_(module.weight, 0.5, 2.0, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return model


def network(architecture: Architecture = PLAIN, seed: int = 0, **changes: Any) -> TrainedNetwork:
    """The same with its normalisation and its classes."""
    channels = architecture.input_shape[0]
    fields: dict[str, Any] = {
        "architecture": architecture,
        "state_dict": trained(architecture, seed).state_dict(),
        "normalization": Normalization(mean=(0.13, 0.4, 0.5, 0.6)[:channels], std=(0.31, 0.2, 0.25, 0.3)[:channels]),
        "classes": tuple(map(str, range(architecture.num_classes))),
    }
    return TrainedNetwork(**(fields | changes))


def images(architecture: Architecture, count: int) -> torch.Tensor:
    """Random images, uint8."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *architecture.input_shape), dtype=torch.uint8, generator=generator)


def winner_of(architecture: Architecture = PLAIN, **changes: Any) -> Winner:
    fields = {"architecture": architecture, "recipe": RECIPE, "reason": REASON, "network": network(architecture)}
    return Winner(**(fields | changes))


def write_winner(folder: Path, architecture: Architecture = PLAIN, **changes: Any) -> list[Path]:
    return export.write_winner(folder, winner_of(architecture, **changes))


def result(**changes: Any) -> RunResult:
    return from_json(RunResult, STATED | changes)


def write_run(folder: Path, **changes: Any) -> list[Path]:
    """A full run's folder of PLAIN, with seeds 7 and 8 (typical)."""
    fields = {
        "log": LOG, "state_dicts": {seed: trained(PLAIN, seed).state_dict() for seed in (7, 8)},
        "images": images(PLAIN, 1100), "card": "# A card\n", "result": result(),
    } | changes  # fmt: skip
    return export.write_run(folder, fields.pop("result"), **fields)


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden leftovers included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(error: pytest.ExceptionInfo[StorageError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
