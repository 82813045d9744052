"""Jobs for workers, and one class for each message that it sends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.architecture import Architecture
from nas.errors import StorageError
from nas.train import Epoch, Recipe, Run


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainJob:
    """One training of a network."""

    key: Any
    """The caller's own name for the job."""
    architecture: Architecture
    recipe: Recipe
    seed: int
    fold: int = 0
    """Validation split to score on, of those of `data.fold`; 0: what the pool scores on."""
    held_out_folds: tuple[int, ...] = ()
    """Further validation splits that are left out of the training images."""
    evaluate_on_train: bool = False
    """Score on training images: the pool may score on the test split, which a teacher must not see."""
    teacher_logits: Path | Tensor | None = None
    """Logits (epochs, N, num_classes) of the recipe's teacher, or their file, which a worker maps into its memory."""
    checkpoint: Path | None = None
    """A file of the training's state, from which it goes on when it was killed; of this machine, and used where workers
    are processes of it that train one network each."""

    @property
    def title(self) -> str:
        """The job in words, for an error message."""
        return f"seed {self.seed} of {self.architecture}"


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitsJob:
    """The logits of a recipe's teacher for the training images as its students see them in one epoch."""

    key: Any
    """The caller's own name for the job."""
    recipe: Recipe
    """The students' recipe, which names the teacher."""
    weights: dict[str, Tensor]
    """The teacher's."""
    fold: int
    epoch: int
    """The epoch, counted from 0."""

    @property
    def title(self) -> str:
        """The job in words, for an error message."""
        return f"epoch {self.epoch + 1} of the logits of {self.recipe.teacher}"


Job = TrainJob | LogitsJob


@dataclass(frozen=True, kw_only=True, eq=False)
class _Message:
    worker: int
    """Number of the worker in its pool."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepMessage(_Message):
    """A training has come to a step; sent twice a second at most."""

    job: TrainJob
    step: int
    steps: int


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochMessage(_Message):
    """A training has ended an epoch and waits for `Pool.answer`."""

    job: TrainJob
    epoch: Epoch


@dataclass(frozen=True, kw_only=True, eq=False)
class RunMessage(_Message):
    """A training has ended, at its last epoch or where it was stopped."""

    job: TrainJob
    run: Run


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitsMessage(_Message):
    """A logits job has ended."""

    job: LogitsJob
    logits: Tensor
    """(N, num_classes) float16, on the CPU."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FailureMessage(_Message):
    """A job has failed for a known reason."""

    job: Job
    reason: str
    killed: bool
    """The worker died, which may be no fault of the network's: killed from outside, or by the system for its memory."""
    lost_node: bool = False
    """Its whole machine went, which says nothing of memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BugMessage(_Message):
    """A job has failed for no known reason; a pool raises it instead of handing it on."""

    job: Job
    traceback: str


FinalMessage = RunMessage | LogitsMessage | FailureMessage
Message = StepMessage | EpochMessage | FinalMessage


def checked(message: Message | BugMessage) -> Message:
    """Return the message; raise `RuntimeError` with the traceback of a bug."""
    if isinstance(message, BugMessage):
        raise RuntimeError(f"a worker failed on {message.job.title}:\n{message.traceback}")
    return message


def read_logits(source: Path | Tensor) -> Tensor:
    """Return the logits of a job, mapped into memory where they are a file; raises `StorageError`."""
    if isinstance(source, Tensor):
        return source
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(source)["logits"]
    except (OSError, KeyError, SafetensorError) as error:
        raise StorageError(f"{source} is no file of teacher logits ({error}): delete it and run again") from error
