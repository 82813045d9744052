"""The memory of a search: what it takes, and how many workers fit into what there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nas.data import TrainingData
from nas.errors import UsageError
from nas.machine import available_memory

WORKER_BYTES = 390_000_000
"""The memory of a worker on a CPU beside its data: Python with torch, and the machine code of the kernels."""

LOGIT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """The bytes that a search still takes when its images are loaded."""

    images: int
    """The copy that the workers share."""
    logits: int
    """The answers of the teacher, which arrive one epoch after another."""
    worker: int
    """Each worker."""

    @classmethod
    def of(cls, training: TrainingData, logits_epochs: int) -> MemoryNeed:
        """Return the need of a search with so many epochs of teacher logits."""
        splits = [split for split in (training.train, training.validation) if split is not None]
        return cls(
            images=sum(split.images.nbytes + split.labels.nbytes for split in splits),
            logits=logits_epochs * len(training.train) * training.dataset.num_classes * LOGIT_BYTES,
            worker=WORKER_BYTES + 2 * training.train.images.nbytes,  # measured: 462 MB on MNIST
        )

    def total(self, workers: int) -> int:
        """Return the bytes with so many workers."""
        return self.images + self.logits + workers * self.worker

    def __str__(self) -> str:
        return f"{_mb(self.images)} images, {_mb(self.logits)} teacher logits, {_mb(self.worker)} for each worker"


def fitting_workers(
    wanted: int, need: MemoryNeed, notify: Callable[[str], None], *, available: int | None = None
) -> int:  # fmt: skip
    """Return the number of workers, at most `wanted`, that the memory has room for; a smaller one is told of.

    `available` is in bytes (default: what the machine, and the limits around this process, leave). Raise `UsageError`
    with the figures where not even one fits.
    """
    available = available_memory() if available is None else available
    if available is None or need.total(wanted) <= available:
        return wanted
    if need.total(1) > available:
        raise UsageError(
            f"one worker does not fit into the memory: {need}, {_mb(need.total(1))} in all, of {_mb(available)} left: "
            "raise the limit, end other programs, or give --teacher none or a smaller --image-size"
        )
    count = (available - need.total(0)) // need.worker
    notify(f"warning: memory for {count} of {wanted} workers: {need}; {_mb(available)} left")
    return count


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
