"""Findings: all that a report shows of one study, read and never written; the test split stays closed."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.errors import NasError, UsageError
from nas.export import WEIGHTS, RunResult, check_weights, check_winner, read_result
from nas.files import read_json, read_text
from nas.searches import Finalist, SearchReason, finalists_of, read_reason
from nas.study import OPENINGS, StudyStore, study_folder

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import Normalization
    from nas.model import TrainedNetwork


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A full run as far as its folder can be read."""

    folder: Path
    result: RunResult
    curves: Mapping[int, tuple[tuple[int, float], ...]]
    """(epoch, test accuracy in percent) by seed; empty where there is no log."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """The winner's probabilities of the validation images that its weights were not trained on."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor  # int64 (N,)
    probabilities: Tensor  # float32 (N, classes)
    normalization: Normalization


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """A search's study with its finalists, its winner and its full runs."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    target: float | None
    trials: tuple[FrozenTrial, ...]
    """Brief trials, by number."""
    finalist_trials: tuple[FrozenTrial, ...]
    counts: Mapping[str, int]
    finalists: tuple[Finalist, ...]
    """The winner first."""
    reason: SearchReason | None
    """None while no winner has been written, or where its record is damaged."""
    recipe: Mapping[str, Any] | None
    runs: tuple[RunFiles, ...]
    """The latest last."""
    openings: tuple[Mapping[str, Any], ...]
    """The records of the openings of the test split."""
    damaged: tuple[str, ...]
    """A line for each file that cannot be read, the winner's first."""
    data_dir: Path | None

    @property
    def complete(self) -> list[FrozenTrial]:
        """Complete brief trials, by number."""
        done = (trial for trial in self.trials if trial.state == TrialState.COMPLETE)
        return [trial for trial in done if trial.value is not None and "loss" in trial.user_attrs]

    @property
    def schedule(self) -> str | None:
        """The winner's schedule; that of the best brief trial before there is one."""
        if self.reason is not None:
            rows = self.reason.finalists
            return rows[0].schedule if rows else self.reason.best_brief_trial.schedule
        if self.finalists:
            return self.finalists[0].schedule
        best = min(self.complete, key=lambda trial: trial.user_attrs["loss"], default=None)
        return None if best is None else str(best.user_attrs["schedule"])

    @property
    def architecture(self) -> Architecture | None:
        """The winner; None where no trial is complete, or its schedule is none."""
        try:
            return None if self.schedule is None else Architecture.parse(self.schedule)
        except NasError:
            return None

    @property
    def winner_trial(self) -> int | None:
        if self.reason is not None:
            rows = self.reason.finalists
            return rows[0].trial if rows else self.reason.best_brief_trial.trial
        return self.finalists[0].trial if self.finalists else None

    @property
    def run(self) -> RunFiles | None:
        """The latest full run of the winner."""
        return next((run for run in reversed(self.runs) if run.result.schedule == self.schedule), None)

    @property
    def brief_epochs(self) -> int:
        return int(self.settings["recipe.epochs"])

    @cached_property
    def network(self) -> TrainedNetwork | None:
        """The winner with its weights, or that of its full run; None where neither is here."""
        from nas.export import load_trained

        for folder in (self.folder / "best", *([self.run.folder] if self.run else [])):
            try:
                return load_trained(folder)
            except NasError:
                continue
        return None

    @cached_property
    def validation(self) -> Validation | str:
        """The winner on the validation images of its weights' seed, or why there are none."""
        if self.reason is None:
            broken = self.damaged and (self.folder / "best").is_dir()
            return self.damaged[0] if broken else "no winner has been written yet"
        import torch  # takes seconds: a view without images must not wait for it

        from nas.data import find_dataset, load_training_data, with_fold
        from nas.export import load_trained

        try:
            network = load_trained(self.folder / "best")
            training = load_training_data(find_dataset(self.reason.dataset), data_dir=self.data_dir)
        except NasError as error:
            return str(error)
        if training.hash != self.reason.data_hash:
            return "the images here are not those that the search was trained on"
        if training.validation is None or len(training.validation) != self.reason.num_validation:
            return "the search had another validation split"
        # Each finalist's seed has its own split, and only its own images were held out of its training.
        training = with_fold(training, self.reason.weights_seed if self.reason.finalists else 0)
        assert training.validation is not None
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a network this small is slower on several: they wait for each other at every layer
        try:
            probabilities = network.predict(training.validation.images)
        finally:
            torch.set_num_threads(threads)
        return Validation(
            images=training.validation.images, labels=training.validation.labels, probabilities=probabilities,
            normalization=network.normalization,
        )  # fmt: skip


def read_findings(name: str, storage: str | None = None, *, data_dir: Path | None = None) -> Findings:
    """Read a study for a report. Raise `UsageError` for one that is no search of this version of nas."""
    return findings_of(StudyStore.open(name, storage, read_only=True), data_dir=data_dir)


def findings_of(store: StudyStore, *, data_dir: Path | None = None) -> Findings:
    """Return what `read_findings` reads of an open study."""
    if not store.is_ours:
        raise UsageError(
            f"'{store.name}' was not made by this version of nas: there is no report of it; nas show lists its trials"
        )
    attrs = store.attrs
    if "architecture" in attrs["settings"]:
        raise UsageError(
            f"'{store.name}' is a study of recipes, and a report is of a search: nas show lists its trials"
        )
    trials = store.refresh()
    second = store.open_finalists()
    folder, broken = study_folder(store.base), list[str]()
    reason = recipe = None
    if (folder / "best").is_dir():
        try:
            reason, recipe = read_reason(folder / "best"), read_json(folder / "best" / "recipe.json")
            check_winner(folder / "best")
        except NasError as error:
            broken.append(f"{error}: {_named(attrs['command'], store.base)}" if "command" in attrs else str(error))
    return Findings(
        name=store.name, folder=folder, settings=attrs["settings"], target=attrs.get("target"),
        trials=tuple(trials.trials()), finalist_trials=() if second is None else tuple(second.refresh().trials()),
        counts=store.counts(), finalists=() if second is None else finalists_of(trials, second.table), reason=reason,
        recipe=recipe, runs=_runs(folder, broken), openings=_openings(folder / OPENINGS, broken),
        damaged=tuple(broken), data_dir=data_dir,
    )  # fmt: skip


def _named(command: str, study: str) -> str:
    """Return a search's command with the name that its study has now: one that was copied or renamed has another."""
    words = shlex.split(command)
    named = next((place for place, word in enumerate(words) if re.match("--study(=|$)", word)), len(words))
    rest = words[named + 1 + (words[named : named + 1] == ["--study"]) :]
    return shlex.join([*words[:named], "--study", study, *rest])


def _runs(folder: Path, broken: list[str]) -> tuple[RunFiles, ...]:
    found = []
    for path in sorted(folder.glob("full-run-*/result.json")):
        try:
            result = read_result(path.parent)
            found.append(RunFiles(folder=path.parent, result=result, curves=_curves(path.parent / "log.csv", result)))
            if (weights := path.parent / WEIGHTS).is_file():
                check_weights(weights)
        except NasError as error:
            broken.append(str(error))
    return tuple(sorted(found, key=lambda run: run.result.time))


def _curves(path: Path, result: RunResult) -> dict[int, tuple[tuple[int, float], ...]]:
    """Return the epochs of each seed of a run; none where the log is missing or not as it was written."""
    curves: dict[int, list[tuple[int, float]]] = {seed: [] for seed in result.seeds}
    try:
        for row in csv.DictReader(io.StringIO(read_text(path))):
            if row["seed"].isdecimal() and int(row["seed"]) in curves:
                curves[int(row["seed"])].append((int(row["number"]), float(row["accuracy"])))
    except (NasError, KeyError, TypeError, ValueError, AttributeError, csv.Error):
        return {}
    return {seed: tuple(sorted(points)) for seed, points in curves.items() if points}


def _openings(path: Path, broken: list[str]) -> tuple[Mapping[str, Any], ...]:
    if not path.is_file():
        return ()
    try:
        lines = [json.loads(line) for line in read_text(path).splitlines() if line.strip()]
    except (NasError, ValueError, RecursionError):
        broken.append(f"{path.name} cannot be read")
        return ()
    return tuple(line for line in lines if isinstance(line, dict))
