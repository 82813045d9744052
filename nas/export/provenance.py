"""The part of every result that states its images and its machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from nas.data import Dataset, TrainingData


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The images a network was trained on, and where: versions, hardware, command, time."""

    dataset: str
    notice: str | None
    num_train: int
    data_hash: str
    data_warning: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    threads: int
    nas: str
    python: str
    torch: str
    torchvision: str
    optuna: str
    numba: str
    numpy: str
    pandas: str
    platform: str
    processor: str
    cores: int
    device: str
    command: str
    time: str

    @classmethod
    def of(cls, training: TrainingData, dataset: Dataset, environment: Mapping[str, Any]) -> Self:
        """Return the provenance of results on `training`; `environment` is that of `nas.machine`."""
        import torch

        return cls(
            dataset=dataset.name,
            notice=dataset.notice,
            num_train=len(training.train),
            data_hash=training.hash,
            data_warning=training.warning,
            mean=training.normalization.mean,
            std=training.normalization.std,
            classes=dataset.classes,
            threads=torch.get_num_threads(),
            **environment,
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields of the provenance alone, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Provenance)}
