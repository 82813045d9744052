"""Event files for TensorBoard: scalars of every epoch, and the hyperparameters of every training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import StorageError, UsageError
from nas.study import ClaimedTrial
from nas.workers import EpochMessage, FailureMessage, Message, RunMessage, TrainJob

SECONDS = "seconds"


class TensorBoard:
    """Writes a folder for each training, as TensorBoard names its runs. `close` it in the end.

    Raise `UsageError` where the tensorboard package is missing, `StorageError` for a folder that cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("--tensorboard needs the tensorboard package: pip install 'nas[tensorboard]'") from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make {folder} ({error.strerror}): give another folder to --tensorboard"
            ) from error
        self.folder, self._make = folder, SummaryWriter
        self._writers: dict[str, Any] = {}
        self._told: dict[str, set[tuple[int, float]]] = {}

    def trial(self, trial: ClaimedTrial, message: Message) -> None:
        """Write what a training of a search sends, on validation images."""
        final = "candidate" in trial.params
        name = f"finalist-{trial.params['candidate']}-seed-{trial.params['seed']}" if final else f"trial-{trial.number}"
        self._write(name, "validation", message)

    def beside(self, view: Callable[[Message], None]) -> Callable[[Message], None]:
        """Return what hands every message of a full run to the view, and writes those of trainings."""

        def both(message: Message) -> None:
            view(message)
            job = message.job
            if isinstance(job, TrainJob):
                teacher = job.key == "teacher"
                self._write("teacher" if teacher else f"seed-{job.seed}", "train" if teacher else "test", message)

        return both

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _write(self, name: str, split: str, message: Message) -> None:
        if isinstance(message, EpochMessage):
            epoch = message.epoch
            scalars = {"train/loss": epoch.train_loss, "train/accuracy": epoch.train_accuracy}
            if split != "train":
                scalars |= {f"{split}/loss": epoch.loss, f"{split}/accuracy": epoch.accuracy}
            scalars[SECONDS] = epoch.seconds  # the last one: an epoch that has it is there as a whole
            writer = self._writer(name)
            if (epoch.number, float(np.float32(epoch.seconds))) in self._told[name]:
                return  # a training that was taken up again tells its earlier epochs once more
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, epoch.number)
        elif isinstance(message, RunMessage):
            job, last = message.job, message.run.epochs[-1]
            assert isinstance(job, TrainJob)
            metrics = {"hparam/loss": last.loss, "hparam/accuracy": last.accuracy}
            self._writer(name).add_hparams(hyperparameters(job), metrics, run_name=".")
            self._writers.pop(name).close()
        elif isinstance(message, FailureMessage) and name in self._writers:
            self._writers.pop(name).close()

    def _writer(self, name: str) -> Any:
        if name not in self._writers:
            self._told[name] = _told(self.folder / name)
            self._writers[name] = self._make(log_dir=str(self.folder / name))
        return self._writers[name]


def _told(folder: Path) -> set[tuple[int, float]]:
    """Return the epochs that a folder holds already, each with its seconds, which no two measurements share."""
    if not folder.is_dir():
        return set()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    found = events.Scalars(SECONDS) if SECONDS in events.Tags()["scalars"] else []
    return {(event.step, event.value) for event in found}


def hyperparameters(job: TrainJob) -> dict[str, float | str | bool]:
    """Return what of a training a table of hyperparameters can hold: its recipe, its network, its seed."""
    network = job.architecture
    own = {"schedule": str(network), "num_params": network.num_params, "macs": network.macs, "seed": job.seed}
    every = dataclasses.asdict(job.recipe) | own
    return {key: value if isinstance(value, int | float | str) else str(value) for key, value in every.items()}
