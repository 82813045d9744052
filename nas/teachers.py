"""Teachers for distillation: each is trained once, and its logits are cached for all of its students.

The cache has a folder for each teacher: its weights, `teacher.json` (what it is and took), and its logits, a file for
each validation split and number of epochs that a student may have.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nas.architecture import Architecture
from nas.data import Dataset, TrainingData
from nas.errors import StorageError, UsageError
from nas.export import write_weights
from nas.files import read_record, short_digest, write_json
from nas.train import TEACHER, Recipe, teacher_recipe
from nas.workers import LogitsJob, OnMessage, Pool, RunMessage, TrainJob, read_logits, run_jobs

RECORD = "teacher.json"

TEACHER_SEED = 10_000
"""Not a student's, so that none sees its images in its teacher's order."""

MIN_TEACHER_RATIO = 4
"""Least parameters of a default teacher, in those of its student."""

TEACHER_RATIO = 10
"""Parameters that a teacher made for a data set has at least, in those of its largest student."""

LEAST_WIDTH, MOST_WIDTH = 12, 128
"""Channels of the first convolution of such a teacher."""

MOST_DOUBLINGS = 2
"""Stages after the first that are twice as wide as the one before."""

MOST_MACS = 400_000_000
"""Most MACs of such a teacher: its training would take days on a CPU."""

WORTH = {"mnist": "worth 0.04 to 0.08 points to networks of 4,500 to 7,600 parameters"}
"""Gains by the default teacher where they were measured, on validation (studies/LOG.md)."""


def describe_teacher(schedule: str, dataset: Dataset) -> str:
    """Return a teacher's schedule, size and worth in words."""
    worth = WORTH.get(dataset.name, "") if schedule == TEACHER else ""
    return f"{schedule} ({_schedule(schedule, dataset)[1]:,} parameters, {worth or 'its worth here is not measured'})"


@dataclass(frozen=True, kw_only=True)
class TeacherRecord:
    """A teacher's network, recipe and cost: its `teacher.json`."""

    schedule: str
    num_params: int
    seed: int
    last5: float
    """Mean accuracy over its last five epochs, percent."""
    last5_of: str
    """The images that `last5` is of: "validation images" or "training images"."""
    seconds: float
    """Time of its training."""
    backend: str
    recipe: Recipe
    held_out_folds: tuple[int, ...]
    """Validation splits that it has not seen; none where there are none."""


@dataclass(frozen=True, kw_only=True)
class TeacherLogits:
    """A teacher's logits for all epochs of a student, in a file; the teacher's record, and what computing them took."""

    path: Path
    record: TeacherRecord
    seconds: float

    @property
    def logits(self) -> Tensor:
        """The logits (epochs, N, num_classes) float16, mapped into memory."""
        return read_logits(self.path)

    def to_dict(self) -> dict[str, Any]:
        """Return the teacher's record with `logits_seconds`, for the record of a run."""
        folds = list(self.record.held_out_folds)  # as JSON gives it back
        return {**dataclasses.asdict(self.record), "held_out_folds": folds, "logits_seconds": self.seconds}


def choose_teacher(choice: str | None, *, num_params: int, dataset: Dataset) -> str | None:
    """Return the schedule of the teacher for students of up to `num_params`, or None for no teacher.

    `choice` is a schedule, `none`, `auto` for one that suits the images, or None for `auto` where it was measured, on
    MNIST, and none elsewhere. Raises `UsageError` for a bad schedule, and for `auto` where nothing suits.
    """
    if choice == "none" or (choice is None and dataset.name not in WORTH):
        return None
    if choice not in (None, "auto"):
        return _schedule(str(choice), dataset)[0]
    schedule, num_params_of_it = _schedule(TEACHER, dataset) if dataset.name == "mnist" else ("", 0)
    if num_params_of_it >= MIN_TEACHER_RATIO * num_params and schedule:
        return schedule
    return None if choice is None else suited_teacher(num_params, dataset)


def suited_teacher(num_params: int, dataset: Dataset) -> str:
    """Return the schedule of a teacher for students of up to `num_params` on a data set.

    Two convolutions a stage, twice as wide in each of the first, with a pool between, until the image is some seven
    pixels wide; as narrow as ten times the student's parameters allow. Raises `UsageError` where that takes too long to
    train.
    """
    _, height, width = dataset.input_shape
    pools = max(1, round(math.log2(min(height, width) / 7)))
    for first in range(LEAST_WIDTH, MOST_WIDTH + 1, 2):
        widths = [first * 2 ** min(stage, MOST_DOUBLINGS) for stage in range(pools + 1)]
        blocks = [f"{first} {2 * first}", *(f"{wide * 2} {wide * 2}" for wide in widths[1:])]
        schedule = " M ".join(blocks) + " G C"
        teacher = Architecture.parse(schedule, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
        if teacher.macs > MOST_MACS:
            break
        if teacher.num_params >= TEACHER_RATIO * num_params:
            return schedule
    raise UsageError(
        f"no teacher of {TEACHER_RATIO} times {num_params:,} parameters has at most {MOST_WIDTH} channels at first and "
        f"{MOST_MACS:,} MACs on {dataset.title}: name one as --teacher SCHEDULE, or give --teacher none"
    )


def _schedule(text: str, dataset: Dataset) -> tuple[str, int]:
    """Return a schedule that the images suit, and its parameters. Raises `UsageError` for any other."""
    teacher = Architecture.parse(text, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    return text, teacher.num_params


def teacher_groups(folds: Collection[int], training: TrainingData) -> list[tuple[int, ...]]:
    """Return the folds that share a teacher: it has seen the validation images of none of them, but half of all images.

    Or more, as the groups are even: their teachers are trained side by side. One for each fold would see more images,
    and take as many times as long.
    """
    if training.validation is None:
        return [tuple(folds)]
    parts = (len(training.train) + len(training.validation)) // len(training.validation)
    ordered = sorted(folds)
    count = -(-len(ordered) // max(1, parts // 2))
    bounds = [-(-group * len(ordered) // count) for group in range(count + 1)]  # even, as they are trained side by side
    return [tuple(ordered[start:end]) for start, end in itertools.pairwise(bounds)]


@dataclass(frozen=True)
class TeacherCache:
    """The teachers under `folder`; what is missing is computed by the pool, whose messages `on_message` gets."""

    folder: Path
    training: TrainingData
    pool: Pool
    on_message: OnMessage

    def logits(self, recipe: Recipe, epochs_by_fold: Mapping[int, int], *, epochs: int) -> dict[int, TeacherLogits]:
        """Return logits for each fold of `epochs_by_fold` (0: the images as they are), for as many epochs of a student.

        What is not in the cache is made: the teachers, one for each of `teacher_groups`, with `epochs` epochs of their
        own, all at once on the pool's workers, and then their logits. With no validation split, the pool scores on a
        test split, and no teacher is scored on that. A file is written when it is whole; killed before, a teacher
        goes on after its last epoch, and logits are computed again. Raises `NasError` when a training fails,
        `StorageError` for a damaged or unwritable file.
        """
        architecture, alone, homes = self._homes(recipe, epochs_by_fold, epochs)
        self._train(architecture, alone, homes)
        paths = {
            fold: home / f"logits-fold{fold}-{epochs_by_fold[fold]}-epochs.safetensors"
            for group, home in homes.items()
            for fold in group
        }
        self._compute(recipe, epochs_by_fold, paths)
        return {fold: _read(path) for fold, path in paths.items()}

    def stored(self, recipe: Recipe, folds: Collection[int], *, epochs: int) -> tuple[int, int]:
        """Return how many of the teachers that `logits` needs are trained and stored, and how many there are in all."""
        homes = self._homes(recipe, folds, epochs)[-1].values()
        return sum((home / RECORD).is_file() for home in homes), len(homes)

    def _homes(
        self, recipe: Recipe, folds: Collection[int], epochs: int
    ) -> tuple[Architecture, Recipe, dict[tuple[int, ...], Path]]:
        """Return the teachers' network and recipe, and the folder of each by the folds that share it."""
        shape, classes = self.training.dataset.input_shape, self.training.dataset.num_classes
        assert recipe.teacher is not None
        architecture = Architecture.parse(recipe.teacher, input_shape=shape, num_classes=classes)
        alone = dataclasses.replace(teacher_recipe(recipe), epochs=epochs)
        groups = teacher_groups(folds, self.training)
        return architecture, alone, {group: self._home(architecture, alone, group) for group in groups}

    def _train(self, architecture: Architecture, recipe: Recipe, homes: Mapping[tuple[int, ...], Path]) -> None:
        """Train the teachers that have no record yet, and write their weights and then their records."""
        scored_on_train = self.training.validation is None
        jobs = [
            TrainJob(
                key="teacher", architecture=architecture, recipe=recipe, seed=TEACHER_SEED, fold=group[0],
                held_out_folds=group[1:], evaluate_on_train=scored_on_train, checkpoint=_checkpoint(home),
            )
            for group, home in homes.items()
            if not (home / RECORD).is_file()
        ]  # fmt: skip
        for message in run_jobs(jobs, self.pool, self.on_message):
            assert isinstance(message, RunMessage)
            run, group = message.run, (message.job.fold, *message.job.held_out_folds)
            write_weights(homes[group] / "weights.safetensors", run.state_dict)
            record = TeacherRecord(
                schedule=str(architecture), num_params=architecture.num_params, seed=TEACHER_SEED, last5=run.last(5),
                last5_of="training images" if scored_on_train else "validation images",
                seconds=round(run.seconds, 1), backend=run.backend, recipe=recipe,
                held_out_folds=() if scored_on_train else group,
            )  # fmt: skip
            write_json(homes[group] / RECORD, dataclasses.asdict(record))
            _checkpoint(homes[group]).unlink(missing_ok=True)

    def _compute(self, recipe: Recipe, epochs_by_fold: Mapping[int, int], paths: Mapping[int, Path]) -> None:
        """Write the logits that are not cached yet, a path for each fold, with the seconds that they took."""
        missing = [fold for fold, path in paths.items() if not path.is_file()]
        weights = {fold: _load(paths[fold].parent / "weights.safetensors") for fold in missing}
        jobs = [
            LogitsJob(key="teacher logits", recipe=recipe, weights=weights[fold], fold=fold, epoch=epoch)
            for fold in missing
            for epoch in range(epochs_by_fold[fold])
        ]
        began, logits = time.monotonic(), dict[tuple[int, int], Tensor]()
        for message in run_jobs(jobs, self.pool, self.on_message):
            assert not isinstance(message, RunMessage)
            logits[message.job.fold, message.job.epoch] = message.logits
        for fold in missing:
            stacked = torch.stack([logits[fold, epoch] for epoch in range(epochs_by_fold[fold])])
            seconds = torch.tensor((time.monotonic() - began) / len(missing))
            write_weights(paths[fold], {"logits": stacked, "seconds": seconds})

    def _home(self, architecture: Architecture, recipe: Recipe, held_out: tuple[int, ...]) -> Path:
        """Return the folder of a teacher: one for each network, recipe, data set and part of it."""
        part = [self.training.dataset.name, self.training.hash, len(self.training.train), held_out]
        key = json.dumps([str(architecture), recipe.identity, *part])
        return self.folder / f"{architecture.num_params}-{short_digest(key)}"


def _checkpoint(home: Path) -> Path:
    return home / "weights.part.safetensors"


def _read(path: Path) -> TeacherLogits:
    """Return cached logits with the record of their teacher."""
    cached = _load(path)
    if cached.keys() != {"logits", "seconds"} or cached["logits"].ndim != 3 or cached["seconds"].numel() != 1:
        raise _damaged(path, "it lacks the logits or their seconds")
    record = read_record(path.parent / RECORD, TeacherRecord)
    return TeacherLogits(path=path, record=record, seconds=round(cached["seconds"].item(), 1))


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> StorageError:
    return StorageError(f"{path} cannot be used ({why}): delete the folder {path.parent} to train that teacher again")
