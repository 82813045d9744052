"""`Machine`: what trainings run on, and the data sets that are found there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.budget import Budget
from nas.data import (
    Dataset,
    FolderOptions,
    TrainingData,
    find_dataset,
    own_source,
    prepare_dataset,
)
from nas.export import (
    Provenance,
)
from nas.machine import environment
from nas.report import ImageBar, make_console
from nas.train import Backend, choose_device, require_device_name
from nas.values import Positive, require_fields
from nas.workers import (
    cluster_device,
    connect,
    default_workers,
    describe_cluster,
)

Notify = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The device, the backend and the number of workers that trainings run on."""

    data_dir: Path | None = None
    """The folder of the data sets (default: NAS_DATA_DIR, else the user's cache)."""
    device: str = "auto"
    backend: Backend = "auto"
    workers: Positive | None = None
    """Parallel trainings (default: one per core, 4 on a GPU, 32 as a population)."""
    cluster: str | None = None
    """A Ray cluster to train on: "ray", or "ray://HOST:PORT"; `workers` is then the most that are used of it."""
    images: FolderOptions = dataclasses.field(default_factory=FolderOptions)
    """How own images are read, where the data set is a folder of them."""
    quiet: bool = False
    notify: Notify = print
    """Called with what the user has to be told about the data."""

    def __post_init__(self) -> None:
        require_fields(self)
        require_device_name(self.device)

    @property
    def count(self) -> int:
        """The parallel trainings of a device that is there."""
        return self.workers or default_workers(self.device, self.backend)

    def resolved(self) -> Machine:
        """Return the same with a device that is there, of the cluster if there is one, which is then connected to.

        Raise `UsageError` where it is not there, `ClusterError` for a cluster that does not answer.
        """
        if self.cluster is not None:
            connect(self.cluster)
            return dataclasses.replace(self, device=cluster_device(self.device))
        return dataclasses.replace(self, device=choose_device(self.device))

    def provenance(self, training: TrainingData, dataset: Dataset) -> Provenance:
        """Return what a result states of its data and machine."""
        return Provenance.of(training, dataset, environment_of(self))


def environment_of(machine: Machine) -> dict[str, Any]:
    """Return versions and hardware for the record, the GPU's name included."""
    import torch

    if machine.cluster is not None:
        return environment(machine.device, describe_cluster())
    gpu = torch.cuda.get_device_name(machine.device) if machine.device.startswith("cuda") else None
    return environment(machine.device, gpu)


def as_budget(budget: Budget | int | str) -> Budget:
    """Return the budget of a number of parameters or of a track's name."""
    from nas.budget import read_budget

    if isinstance(budget, Budget):
        return budget
    return Budget(max_params=budget) if isinstance(budget, int) else read_budget(budget)


def ready_dataset(name: str | None, machine: Machine) -> Dataset:
    """Return the data set, there and ready; its notice, if any, is passed on."""
    with ImageBar(make_console(), quiet=machine.quiet) as bar:
        found = prepare_dataset(name, data_dir=machine.data_dir, options=machine.images, progress=bar)
    if found.notice:
        machine.notify(found.notice)
    return found


def planned_dataset(name: str, machine: Machine) -> Dataset:
    """Return the data set of a plan, there and ready; own images were read when it was planned."""
    return find_dataset(name) if own_source(name) is not None else ready_dataset(name, machine)


def dataset_named(name: str | None, machine: Machine | None = None) -> Dataset:
    """Return what is known of a data set, without looking for its files; own images are read, as the files tell all."""
    if name is not None and own_source(name) is not None:
        return ready_dataset(name, machine or Machine())
    return find_dataset(name or "mnist")


def warn(training: TrainingData, machine: Machine) -> None:
    """Pass on what is wrong with the training images."""
    if training.warning:
        machine.notify(f"warning: {training.warning}")
