"""The pool of workers of a machine, as large as its memory allows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nas.data import (
    Split,
    TrainingData,
)
from nas.library.machine import Machine
from nas.machine import cores
from nas.report import LiveView
from nas.study import studies_dir
from nas.teachers import TeacherCache
from nas.train import Recipe
from nas.workers import (
    EpochMessage,
    MemoryNeed,
    Message,
    Pool,
    PopulationPool,
    ProcessPool,
    RayPool,
    disconnect,
    fitting_workers,
)


def fitting(
    machine: Machine, training: TrainingData, logits_epochs: int, *, most: int | None = None,
    view: LiveView | None = None,
) -> int | None:  # fmt: skip
    """Return how many workers to start, of `most` that there is use for; None for all that a cluster has room for.

    On this machine's processors no more than its memory has room for, with so many epochs of teacher logits: what they
    need is shown in `view` before they start.
    """
    if machine.cluster is not None:
        return machine.workers if most is None else min(most, machine.workers or most)
    wanted = machine.count if most is None else min(most, machine.count)
    if machine.device != "cpu" or machine.backend == "population":  # all in one process, which backs off by itself
        return wanted
    need = MemoryNeed.of(training, logits_epochs)
    if view is None:
        return fitting_workers(wanted, need, machine.notify)
    view.working(f"memory: {need}")
    with view.paused():
        return fitting_workers(wanted, need, machine.notify)


@contextlib.contextmanager
def open_pool(
    machine: Machine, training: TrainingData, evaluation: Split, count: int | None, *, all_cores: bool = False
) -> Iterator[Pool]:
    """Open a pool of `count` workers, or of as many as a cluster has room for.

    With `all_cores` they share the cores of this machine, for plain torch: kernels have one thread.
    """
    device, backend = machine.device, machine.backend
    if machine.cluster is not None:
        try:
            with RayPool(count, training, evaluation, device=device, backend=backend) as pool:
                yield pool
        finally:
            disconnect()
        return
    count = count or machine.count
    threads = max(1, cores() // count) if all_cores and device == "cpu" else 1
    if backend == "population":
        with PopulationPool(count, training, evaluation, device=device, threads=threads) as population:
            yield population
        return
    with ProcessPool(count, training, evaluation, device=device, backend=backend, threads=threads) as processes:
        yield processes


def recipe_logits(recipe: Recipe, training: TrainingData, pool: Pool, view: LiveView) -> Path | None:
    """Return the logits that all trainings of a recipe study are distilled from; None without a teacher."""
    if recipe.teacher is None:
        return None

    def show(message: Message) -> None:
        if isinstance(message, EpochMessage):
            view.working(f"training the teacher: {message.epoch.number} of {message.job.recipe.epochs} epochs")

    cache = TeacherCache(studies_dir() / "teachers", training, pool, show)
    return cache.logits(recipe, {0: recipe.epochs}, epochs=recipe.epochs)[0].path
