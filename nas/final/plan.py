"""The plan of a full run: it trains a study's winner, one of its trials, a committed record, or any schedule."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.data import Dataset, TrainingData, find_dataset
from nas.errors import StorageError, UsageError
from nas.export import find_run, read_run, read_winner
from nas.files import short_digest
from nas.searches import MNIST_TARGET
from nas.study import RECORDS, StudyStore, require_winner, studies_dir, study_at, study_folder, study_names
from nas.teachers import choose_teacher
from nas.train import Recipe, teacher_recipe


@dataclass(frozen=True, kw_only=True)
class FullRunPlan:
    """A full run that is to be made; `base` is the study's folder that it is stored in."""

    architecture: Architecture
    recipe: Recipe
    dataset: str
    seeds: tuple[int, ...] = (0,)
    target: float | None = None
    base: Path
    reference: dict[str, Any] | None = None  # what a committed run of the same states of itself
    searched: bool = False  # the recipe is that of a search, whose teacher, or none, is its choice

    @classmethod
    def of_winner(cls, study: str) -> FullRunPlan:
        """Plan a full run of a study's winner. Raise `StorageError` where the study has none."""
        base = study_folder(study)
        require_winner(study)
        winner = read_winner(base / "best", weights=False)
        return cls(
            architecture=winner.architecture, recipe=Recipe.from_dict(dict(winner.recipe)), dataset=winner.dataset,
            target=winner.target, base=base, searched=True,
        )  # fmt: skip

    @classmethod
    def of_trial(cls, study: str, number: int, storage: str | None = None) -> FullRunPlan:
        """Plan a full run of one trial of a study that has its winner, such as another point of its front.

        Raise `UsageError` for a number that no trial with a schedule has, `StorageError` as `of_winner` does.
        """
        plan = cls.of_winner(study)
        trials = StudyStore.open(study, storage).refresh().trials()
        schedules = {trial.number: trial.user_attrs["schedule"] for trial in trials if "schedule" in trial.user_attrs}
        if number not in schedules:
            raise UsageError(
                f"the study '{study}' has no trial {number}: nas show --study {shlex.quote(study)} --csv lists them"
            )
        return dataclasses.replace(plan, architecture=Architecture.parse(schedules[number]))

    @classmethod
    def of_schedule(cls, schedule: str, dataset: Dataset, study: str) -> FullRunPlan:
        """Plan a full run of a schedule with the default recipe, stored in the folder of that study."""
        return cls(
            architecture=Architecture.parse(
                schedule, input_shape=dataset.input_shape, num_classes=dataset.num_classes
            ),
            recipe=Recipe.for_dataset(dataset, epochs=dataset.full_epochs * dataset.epoch_factor), dataset=dataset.name,
            target=MNIST_TARGET if dataset.name == "mnist" else None, base=study_folder(study),
        )  # fmt: skip

    @classmethod
    def of_reference(cls, cap: str) -> FullRunPlan:
        """Plan the full run of a committed record once more: the same network, recipe, data set and seeds.

        `cap` names the record, such as 8000, 8k or fashion-mnist-8k. The new run goes to `reproduction-CAP`: nothing
        committed is written to. Raise `StorageError` where the record is not there or damaged.
        """
        cap, known, records = _digits(cap), _records(), studies_dir() / RECORDS
        if cap not in known:
            raise StorageError(
                f"no record '{cap}' in {records} ({', '.join(known) or 'none there'}): run in a clone of the "
                "repository, which holds them, or set NAS_STUDIES to its studies folder"
            )
        run = read_run(records / cap)
        result = run.result
        stated = ("seeds", "last5_mean", "last5_sd", "epochs", "data_hash", "device", "torch")
        return cls(
            architecture=run.architecture, recipe=Recipe.from_dict(dict(result.recipe)), dataset=result.dataset,
            seeds=result.seeds, target=result.target, base=study_folder(f"reproduction-{cap}"),
            reference={
                **{key: getattr(result, key) for key in stated}, "name": f"{RECORDS}/{cap}",
                "seeds": list(result.seeds),
            },
        )  # fmt: skip

    def with_teacher(self, choice: str | None) -> FullRunPlan:
        """Return the plan with a teacher, by `choose_teacher`; with None, that of a record, search or recipe stays.

        Raise `UsageError` for a bad schedule, and for augmentation that its teacher's factor takes too far.
        """
        if choice is None and (self.reference is not None or self.searched) and self.recipe.teacher is None:
            return self
        choice = choice or self.recipe.teacher  # that of a recipe is checked as well, before any data is opened
        chosen = choose_teacher(choice, num_params=self.architecture.num_params, dataset=find_dataset(self.dataset))
        recipe = dataclasses.replace(self.recipe, teacher=chosen)
        if chosen is not None:
            teacher_recipe(recipe)
        return dataclasses.replace(self, recipe=recipe)

    def with_augmentation(self, augmentation: Mapping[str, float] | None, dataset: Dataset) -> FullRunPlan:
        """Return the plan with other augmentation, by the recipe's names; None changes nothing. Raise `UsageError`."""
        if augmentation is None:
            return self
        if self.reference is not None:
            raise UsageError("--reference names the recipe too: give it without --mirror and --augment")
        fields = dataclasses.asdict(self.recipe)
        rest = {name: value for name, value in fields.items() if name not in augmentation}
        return dataclasses.replace(self, recipe=Recipe.for_dataset(dataset, augmentation, **rest))

    def with_recipe(self, **fields: float | None) -> FullRunPlan:
        """Return the plan with other values of its recipe, by name; None leaves one as it is. Raise `UsageError`."""
        given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        if given and self.reference is not None:
            option = next(iter(given)).replace("_", "-")
            raise UsageError(f"--reference names the recipe too: give it without --{option}")
        return dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, **given))

    def changed(
        self, *, recipe: Recipe | None = None, epochs: int | None = None, seeds: int | None = None,
        target: float | None = None,
    ) -> FullRunPlan:  # fmt: skip
        """Return the plan with another recipe, number of epochs or seeds, or target; None changes nothing."""
        changed = self if recipe is None else dataclasses.replace(self, recipe=recipe, searched=False)
        if epochs is not None:
            changed = dataclasses.replace(changed, recipe=dataclasses.replace(changed.recipe, epochs=epochs))
        if seeds is not None:
            if seeds < 1:
                raise UsageError(f"seeds is a whole number of 1 or more, not {seeds}")
            changed = dataclasses.replace(changed, seeds=tuple(range(seeds)))
        return changed if target is None else dataclasses.replace(changed, target=target)

    def folder(self, training: TrainingData) -> Path:
        """Return where the run is stored: one folder for each architecture, recipe and data set."""
        key = json.dumps([str(self.architecture), self.recipe.identity, training.dataset.name, training.hash])
        return self.base / f"full-run-{self.architecture.num_params}-{short_digest(key)}"


def locate_run(name: str | None) -> Path:
    """Return the full run meant by a folder, a study's name, or a record's cap; the latest of all without one.

    A word that names both a study and a folder here, such as that of its images, is the study. Raise `StorageError`
    where there is none.
    """
    if name is None:
        return find_run(studies_dir())
    name = study_at(name)
    if name not in study_names() and os.path.isdir(name):  # noqa: PTH112  pathlib raises for a name that is too long
        return find_run(Path(name))
    cap = _digits(Path(name).name)
    return studies_dir() / RECORDS / cap if cap in _records() else find_run(study_folder(name))


def _digits(cap: str) -> str:
    """Return the name of a record: `8k` is 8000, `fashion-mnist-8k` is fashion-mnist-8000."""
    return re.sub(r"(\d)k$", r"\g<1>000", cap)


def _records() -> list[str]:
    """List the records by their caps, smallest first."""
    return sorted((path.name for path in (studies_dir() / RECORDS).glob("*/")), key=lambda name: (len(name), name))
