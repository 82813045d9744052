"""A full run's folder of a tiny, untrained network on the synthetic set, for tests of what takes a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture
from nas.data import Normalization
from nas.export import write_run
from nas.export.run import RunResult
from nas.files import from_json
from nas.model import TrainedNetwork, build
from nas.train import Recipe

TINY = Architecture.parse("1x16x16: 4vr s6v M 6 G C4")
STRIPES = ("horizontal", "vertical", "rising", "falling")


def tiny_network(architecture: Architecture = TINY, classes: tuple[str, ...] = STRIPES) -> TrainedNetwork:
    """Untrained, with norms that do something."""
    generator = torch.Generator().manual_seed(0)
    module = build(architecture, seed=0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.bias.data.normal_(generator=generator)
            norm.running_mean.normal_(generator=generator)
    channels = architecture.input_shape[0]
    normalization = Normalization(mean=(0.3,) * channels, std=(0.2,) * channels)
    return TrainedNetwork(
        architecture=architecture, state_dict=module.state_dict(), normalization=normalization, classes=classes
    )  # fmt: skip


def write_tiny_run(folder: Path, *, dataset: str = "synthetic", **changes: Any) -> Path:
    """Write the run's folder and return it."""
    network = tiny_network(**changes)
    architecture = network.architecture
    stated: dict[str, Any] = {
        "schedule": str(architecture), "num_params": architecture.num_params, "macs": architecture.macs,
        "split": "test", "epochs": 2, "seeds": [0], "last5_mean": 50.0, "last5_sd": None, "last5": {"0": 50.0},
        "final": {"0": 50.0}, "lowest_of_last5": 50.0, "target": None, "target_held": None, "typical_seed": 0,
        "seconds": {"0": 1.0}, "backend": ["torch"], "recipe": dataclasses.asdict(Recipe(epochs=2)), "teacher": None,
        "dataset": dataset, "notice": None, "num_train": 1200, "data_hash": "0f", "data_warning": None,
        "mean": list(network.normalization.mean), "std": list(network.normalization.std),
        "classes": list(network.classes), "threads": 1, "nas": "0", "python": "3", "torch": "2", "torchvision": "0",
        "optuna": "5", "numba": "0", "numpy": "2", "pandas": "3", "platform": "Linux", "processor": "p", "cores": 1,
        "device": "cpu", "command": "nas train-best", "time": "2026-01-01T00:00:00+00:00", "opened": "once",
        "reference": None,
    }  # fmt: skip
    log = [{"seed": 0, "epoch": 1, "loss": 0.5}]
    state_dicts = {0: network.state_dict}
    write_run(folder, from_json(RunResult, stated), state_dicts=state_dicts, log=log, card="# A card\n", images=None)
    return folder
