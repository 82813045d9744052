"""The teacher of a recipe: trained once on the images at hand, asked once for all of its students, and kept.

`studies/teachers` has a folder for each teacher: its weights, `teacher.json` (what it is and took), and its lessons, a
file for each validation split and number of epochs that a student may have.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nas import export, train
from nas import study as studies
from nas.architecture import Architecture
from nas.data import Dataset, TrainingData
from nas.train import Recipe
from nas.workers import Job, Message, Pool, each

SEED = 10_000
"""No student's, so that none sees its images in its teacher's order."""

LEAST_RATIO = 4
"""A teacher unless said otherwise has at least this many times the parameters of its student."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A teacher's logits (epochs, N, num_classes) float16, and what the teacher is and took."""

    logits: Tensor
    about: dict[str, Any]


def choose(choice: str | None, *, num_params: int, dataset: Dataset) -> str | None:
    """The schedule of the teacher for students of up to `num_params`; None for none.

    `choice` is a schedule, `none`, `auto` for `train.TEACHER`, or None for `auto` on MNIST, where it was measured, and
    none elsewhere. Raises `UsageError` for a bad schedule.
    """
    if choice == "none" or (choice is None and dataset.name != "mnist"):
        return None
    schedule = train.TEACHER if choice in (None, "auto") else str(choice)
    teacher = Architecture.parse(schedule, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    if choice in (None, "auto") and teacher.num_params < LEAST_RATIO * num_params:
        return None
    return schedule


def lessons(
    student: Architecture,
    recipe: Recipe,
    wanted: Mapping[int, int],
    training: TrainingData,
    pool: Pool,
    heard: Callable[[Message], None],
    *,
    epochs: int,
) -> dict[int, Lesson]:
    """A lesson for each fold of `wanted` (0: the images as they are), for as many epochs of a student as it says.

    What is not kept yet is made: the teachers, one for each of `groups`, with `epochs` epochs of their own, all at once
    on the pool's workers, and then their answers. With no validation split, what the pool scores on is a test split,
    and no teacher is scored on that. A file is written when it is whole; killed before, that part is done
    again. `student` gives the images' shape and classes alone. Raises `NasError` when a training fails.
    """
    architecture = train.teacher_of(recipe, student)
    alone = dataclasses.replace(train.teacher_recipe(recipe), epochs=epochs)
    homes = {group: _home(architecture, alone, training, group) for group in groups(wanted, training)}
    jobs = [
        Job(
            key="teacher", architecture=architecture, recipe=alone, seed=SEED, fold=group[0], unseen=group[1:],
            blind=training.validation is None,
        )
        for group, home in homes.items()
        if not (home / "teacher.json").is_file()
    ]  # fmt: skip
    for message in each(jobs, pool, heard):
        assert message.run is not None
        group = (message.job.fold, *message.job.unseen)
        export.write_weights(homes[group] / "weights.safetensors", message.run.state_dict)
        fields = {
            "schedule": str(architecture), "num_params": architecture.num_params, "seed": SEED,
            "last5": message.run.last(5), "last5_of": "training images" if message.job.blind else "validation images",
            "seconds": round(message.run.seconds, 1), "backend": message.run.backend,
            "recipe": dataclasses.asdict(alone), "unseen_splits": () if training.validation is None else group,
        }  # fmt: skip
        export.write_atomic(homes[group] / "teacher.json", json.dumps(fields, indent=1))
    paths = {
        fold: homes[group] / f"lesson-{fold}-{wanted[fold]}-epochs.safetensors" for group in homes for fold in group
    }
    _ask(student, recipe, wanted, paths, pool, heard)
    return {fold: _read(path) for fold, path in paths.items()}


def groups(folds: Collection[int], training: TrainingData) -> list[tuple[int, ...]]:
    """The folds that share a teacher: it has seen the validation images of none of them, but of all images half.

    One for each fold sees more, and takes as much longer: of MNIST's six parts a teacher that saw three, for eight
    epochs, had 99.58 % on validation.
    """
    if training.validation is None:
        return [tuple(folds)]
    parts = (len(training.train) + len(training.validation)) // len(training.validation)
    size, ordered = max(1, parts // 2), sorted(folds)
    return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def _ask(
    student: Architecture,
    recipe: Recipe,
    wanted: Mapping[int, int],
    paths: Mapping[int, Path],
    pool: Pool,
    heard: Callable[[Message], None],
) -> None:
    """Write the lessons that are not kept yet, a path for each fold, with what the asking took."""
    missing = [fold for fold, path in paths.items() if not path.is_file()]
    weights = {fold: load_file(paths[fold].parent / "weights.safetensors") for fold in missing}
    jobs = [
        Job(
            key="lesson", architecture=student, recipe=recipe, seed=0, fold=fold, epoch=epoch, teacher=weights[fold]
        )
        for fold in missing
        for epoch in range(wanted[fold])
    ]  # fmt: skip
    began, answers = time.monotonic(), dict[tuple[int, int], Tensor]()
    for message in each(jobs, pool, heard):
        assert message.answers is not None
        answers[message.job.fold, message.job.epoch] = message.answers
    for fold in missing:
        logits = torch.stack([answers[fold, epoch] for epoch in range(wanted[fold])])
        seconds = torch.tensor((time.monotonic() - began) / len(missing))
        export.write_weights(paths[fold], {"logits": logits, "asked_seconds": seconds})


def _read(path: Path) -> Lesson:
    """A lesson that is kept, its teacher with the seconds that this one was asked for."""
    kept = load_file(path)
    about: dict[str, Any] = json.loads((path.parent / "teacher.json").read_text(encoding="utf-8"))
    return Lesson(logits=kept["logits"], about={**about, "asked_seconds": round(kept["asked_seconds"].item(), 1)})


def _home(architecture: Architecture, recipe: Recipe, training: TrainingData, unseen: tuple[int, ...]) -> Path:
    """Where a teacher is kept: one folder for each network, recipe, data set and part of it."""
    part = [training.dataset.name, training.hash, len(training.train), unseen]
    key = json.dumps([str(architecture), dataclasses.asdict(recipe), *part])
    return studies.studies_dir() / "teachers" / f"{architecture.num_params}-{studies.digest(key)}"
