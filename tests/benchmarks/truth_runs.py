"""The networks of the table of truth and their runs: drawn, trained, and written as rows; see truth.py."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import records
import torch
from rich.console import Console
from torch.nn import functional

from nas import data
from nas.architecture import Architecture, Conv
from nas.budget import LAST_EPOCHS, Budget
from nas.data import Split, TrainingData
from nas.designs import PUBLISHED_DESIGNS
from nas.errors import UsageError
from nas.space import SearchSpace
from nas.train import Recipe
from nas.workers import EpochMessage, FailureMessage, Pool, RunMessage, TrainJob

FOLDER = records.FOLDER / "truth"
CAP, LEAST_SHARE, MOST_MACS = 8000, 0.75, 2_200_000
NEAR = (round(LEAST_SHARE * CAP), CAP)
"""Parameters of the group near the cap: a search proposes schedules that use three quarters of its budget or more."""

TURNS = (None, 8000, None, 1000, 8000, None, 2000, None, 8000, 4000, None, 6000, 8000, None, 10_000)
"""What the networks after the published ones are, over and over: mutants (None), and random points under a cap.

Ten of fifteen are near the cap of 8,000, and every first part of the table has a share of all.
"""

COLUMNS = (
    "schedule", "num_params", "fidelity", "seed", "epochs", "last", "final", "train_loss", "seconds", "backend",
    "accuracies", "losses", "reason",
)  # fmt: skip
DIVERGED = "the loss is"
"""How the reason of a run that diverged begins. Any other failure is the machine's, and no row is written of it."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    epochs: int
    fraction: float = 1.0  # of the training images
    side: int = 28  # pixels


FIDELITIES = {
    "e1": Fidelity(epochs=1), "e2": Fidelity(epochs=2), "e3": Fidelity(epochs=3), "e5": Fidelity(epochs=5),
    "half3": Fidelity(epochs=3, fraction=0.5), "small3": Fidelity(epochs=3, side=22), "full": Fidelity(epochs=15),
}  # fmt: skip


class Task(NamedTuple):
    schedule: str
    fidelity: str
    seed: int

    @property
    def how(self) -> Fidelity:
        return FIDELITIES[self.fidelity]

    @property
    def architecture(self) -> Architecture:
        """Raises `UsageError` where the network's map does not survive the smaller images."""
        return Architecture.parse(self.schedule, input_shape=(1, self.how.side, self.how.side))


progress = Console(stderr=True, soft_wrap=True, highlight=False)


# --- the networks -----------------------------------------------------------------------------------------------------


def draw(count: int, seed: int) -> pd.DataFrame:
    """`count` different schedules, a row each; the same for the same seed."""
    rng = np.random.default_rng(seed)
    found = {known.text: known.name for known in PUBLISHED_DESIGNS}
    parents, steps = itertools.cycle(PUBLISHED_DESIGNS), itertools.cycle(range(2, 7))
    for cap in itertools.cycle(TURNS):
        if (size := len(found)) >= count:
            break
        space = SearchSpace(budget=Budget(max_params=cap or CAP))
        parent, distance = (next(parents), next(steps)) if cap is None else (None, 0)
        origin = f"random under {cap}" if parent is None else f"{parent.name} and {distance} mutations"
        while len(found) == size:
            params = space.random(rng) if parent is None else space.encode(Architecture.parse(parent.text))
            assert params is not None, f"{parent} is not in the space"
            for _ in range(distance):
                params = space.mutate(params, rng)
            architecture = space.check(params, found)
            if isinstance(architecture, str) or architecture.macs > MOST_MACS:
                continue
            if architecture.num_params >= LEAST_SHARE * (cap or CAP):
                found[str(architecture)] = origin
    return pd.DataFrame([_described(schedule, origin) for schedule, origin in list(found.items())[:count]])


def _described(schedule: str, origin: str) -> dict[str, Any]:
    architecture = Architecture.parse(schedule)
    widths = [block.width for block in architecture.blocks if isinstance(block, Conv)]
    counts = {"num_params": architecture.num_params, "macs": architecture.macs, "depth": architecture.depth}
    return {"schedule": schedule, **counts, "smallest_width": min(widths), "origin": origin}


# --- the runs ---------------------------------------------------------------------------------------------------------


def plan(schedules: Sequence[str], runs: pd.DataFrame) -> list[Task]:
    """Every fidelity of seed 0 and another full run, in an order that makes a table cut short useful."""
    phases = [[("e3", 0), ("full", 0)], *([(name, 0)] for name in ("e5", "e1", "e2", "half3", "small3")), [("full", 1)]]
    return [Task(schedule, *each) for phase in phases for schedule in schedules for each in phase]


def repeat(schedules: Sequence[str], runs: pd.DataFrame) -> list[Task]:
    """The brief runs with a second seed."""
    return [Task(schedule, name, 1) for name in FIDELITIES if name != "full" for schedule in schedules]


def due(tasks: Sequence[Task], runs: pd.DataFrame) -> list[Task]:
    """What of it there is no row of, and whose network has a map left."""
    done = set(zip(runs["schedule"], runs["fidelity"], runs["seed"], strict=True))
    left = []
    for task in tasks:
        with contextlib.suppress(UsageError):
            if task not in done and task.architecture:
                left.append(task)
    return left


def load(path: Path, *, repair: bool = False) -> pd.DataFrame:
    """The runs of a file; a last line without its end is left out, and cut off to `repair` it."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        progress.print(f"{path.name}: its last line was cut short and does not count", style="yellow")
        if repair:
            os.truncate(path, len(whole))
    return pd.read_csv(io.BytesIO(whole)) if whole else pd.DataFrame(columns=list(COLUMNS))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row, in one write that is on the disk when this returns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    with path.open("ab") as file:
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def row_of(message: RunMessage | FailureMessage) -> dict[str, Any]:
    """The row of a run that ended or diverged; exits on a failure that says nothing of the network."""
    assert isinstance(message.job, TrainJob)
    task: Task = message.job.key
    architecture, epochs = message.job.architecture, message.job.recipe.epochs
    row = {**task._asdict(), "num_params": architecture.num_params, "epochs": epochs}
    if isinstance(message, RunMessage):
        run = message.run
        return row | {
            "last": round(run.last(LAST_EPOCHS if task.fidelity == "full" else 1), 3),
            "final": round(run.epochs[-1].accuracy, 2),
            "train_loss": round(run.epochs[0].train_loss, 4),
            "seconds": round(run.seconds, 1),
            "backend": run.backend,
            "accuracies": " ".join(f"{epoch.accuracy:.2f}" for epoch in run.epochs),
            "losses": " ".join(f"{epoch.loss:.4f}" for epoch in run.epochs),
        }
    if not message.reason.startswith(DIVERGED):
        raise SystemExit(f"{task}: {message.reason}; what is done is in the table: run the same command again")
    return row | {"reason": message.reason}


def material(fraction: float, side: int, data_dir: Path | None) -> TrainingData:
    """The search's own split: a part of its training images, or all images averaged over areas to `side` pixels."""
    found = data.prepare_dataset("mnist", data_dir=data_dir)
    training = data.load_training_data(found, data_dir=data_dir)
    assert training.validation is not None
    if fraction < 1:
        # The generator goes on from the validation split, whose draw is repeated here.
        generator, classes = torch.Generator().manual_seed(0), found.num_classes
        whole = data.load_training_data(found, data_dir=data_dir, validation=None).train
        train, _ = data.stratified_split(whole, len(training.validation), classes, generator)
        _, part = data.stratified_split(train, round(fraction * len(train)), classes, generator)
        normalization = data.Normalization.from_images(part.images)
        training = dataclasses.replace(training, train=part, normalization=normalization)
    if (1, side, side) == found.input_shape:
        return training

    def shrink(split: Split) -> Split:
        images = functional.interpolate(split.images.float(), size=(side, side), mode="area")
        return Split(images.round().to(split.images.dtype), split.labels)

    found = dataclasses.replace(found, input_shape=(1, side, side))
    train, validation = shrink(training.train), shrink(training.validation)
    return dataclasses.replace(training, dataset=found, train=train, validation=validation)


def fill(path: Path, tasks: Sequence[Task], pool: Pool, past: Callable[[], bool]) -> None:
    """Train the tasks and write their rows; once it is `past` the time, none is begun."""
    waiting, left = deque(tasks), len(tasks)
    while True:
        while waiting and pool.idle is not None and not past():
            task = waiting.popleft()
            recipe = Recipe(epochs=task.how.epochs, translate=Recipe.translate * task.how.side / 28)
            fold = task.seed if task.fidelity == "full" else 0
            pool.submit(TrainJob(key=task, architecture=task.architecture, recipe=recipe, seed=task.seed, fold=fold))
        if not pool.jobs:
            return
        for message in pool.messages(1.0):
            if isinstance(message, EpochMessage):
                pool.answer(message, stop=False)
            elif isinstance(message, RunMessage | FailureMessage):
                row, left = row_of(message), left - 1
                append(path, row)
                score = row.get("reason") or f"{row['last']:6.2f} %  {row['seconds']:6.1f} s"
                progress.print(f"{row['fidelity']:>6}  seed {row['seed']}  {score}  {row['schedule']}  ({left} to go)")
