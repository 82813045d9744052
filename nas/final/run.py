"""The full run: a network trained on the whole training set with several seeds, measured on the test split."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.budget import LAST_EPOCHS
from nas.data import Split, TrainingData, imbalanced_counts
from nas.errors import StorageError
from nas.export import ClassScores, Provenance, RunResult, read_weights, write_run, write_weights
from nas.files import read_record, write_json
from nas.final.card import card
from nas.final.plan import FullRunPlan
from nas.study import studies_dir
from nas.teachers import TeacherCache, TeacherLogits
from nas.train import Epoch, Run, balanced_accuracy, teacher_recipe
from nas.workers import OnMessage, Pool, RunMessage, TrainJob, run_jobs


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One seed's run; accuracies are percent of the test split."""

    seed: int
    epochs: tuple[Epoch, ...]
    seconds: float
    backend: str

    @property
    def last(self) -> list[float]:
        """Accuracies of the last five epochs."""
        return [epoch.accuracy for epoch in self.epochs[-LAST_EPOCHS:]]

    @property
    def recalls(self) -> tuple[float | None, ...]:
        """Recall of each class in percent, mean of the last five epochs."""
        by_class = zip(*(epoch.recalls for epoch in self.epochs[-LAST_EPOCHS:]), strict=True)
        return tuple(_mean(values) for values in by_class)

    @property
    def last5(self) -> float:
        return statistics.fmean(self.last)

    @property
    def final(self) -> float:
        return self.epochs[-1].accuracy


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """All seeds of a full run, and where its files are."""

    plan: FullRunPlan
    seeds: tuple[SeedResult, ...]
    folder: Path
    result: RunResult

    def __repr__(self) -> str:
        result = self.result
        sd = "" if result.last5_sd is None else f", last5_sd={result.last5_sd:.3f}"
        return (
            f"FullRun(study={self.plan.base.name!r}, schedule={result.schedule!r}, num_params={result.num_params}, "
            f"last5_mean={result.last5_mean:.3f}{sd}, seeds={list(result.seeds)}, folder={str(self.folder)!r})"
        )


def full_run(
    plan: FullRunPlan, training: TrainingData, test: Split, pool: Pool, provenance: Provenance,
    *, opened: str, on_message: OnMessage,
) -> FullRun:  # fmt: skip
    """Train every seed of the plan that is not stored yet, and write the run's folder.

    `pool` must score on `test`. A seed is stored as soon as it ends, and its state after each epoch, so that a run that
    is killed loses at most an epoch. Raise `NasError` when a seed fails, `StorageError` where a stored seed is damaged.
    """
    folder = plan.folder(training)
    stored = StoredSeeds(folder.with_name(folder.name + ".seeds"))
    results = {seed: found for seed in plan.seeds if (found := stored.read(seed)) is not None}
    teacher = _teacher(plan, training, pool, on_message)
    jobs = [
        TrainJob(
            key=seed, architecture=plan.architecture, recipe=plan.recipe, seed=seed,
            teacher_logits=None if teacher is None else teacher.path, checkpoint=stored.checkpoint(seed),
        )
        for seed in plan.seeds
        if seed not in results
    ]  # fmt: skip
    for message in run_jobs(jobs, pool, on_message):
        assert isinstance(message, RunMessage)
        results[message.job.seed] = stored.write(message.job.seed, message.run)
    seeds = tuple(results[seed] for seed in plan.seeds)
    counts = imbalanced_counts(test.labels, plan.architecture.num_classes)
    result = run_result(plan, seeds, teacher, provenance, opened)
    result = dataclasses.replace(result, by_class=None if counts is None else class_scores(counts, seeds))
    write_run(
        folder,
        result,
        state_dicts={seed: stored.weights(seed) for seed in plan.seeds},
        log=[{"seed": s.seed, **_row(e)} for s in seeds for e in s.epochs],
        card=card(result, seeds),
        images=test.images.cpu(),
    )
    return FullRun(plan=plan, seeds=seeds, folder=folder, result=result)


def run_result(
    plan: FullRunPlan, seeds: tuple[SeedResult, ...], teacher: TeacherLogits | None, provenance: Provenance, opened: str
) -> RunResult:
    """Return everything needed to make the run again, and what it came to."""
    lowest = min(accuracy for seed in seeds for accuracy in seed.last)
    ordered = sorted(seeds, key=lambda seed: seed.last5)
    scores = [seed.last5 for seed in seeds]
    return RunResult(
        schedule=str(plan.architecture),
        num_params=plan.architecture.num_params,
        macs=plan.architecture.macs,
        split="test",
        epochs=plan.recipe.epochs,
        seeds=tuple(seed.seed for seed in seeds),
        last5_mean=statistics.fmean(scores),
        last5_sd=statistics.stdev(scores) if len(scores) > 1 else None,
        last5={seed.seed: seed.last5 for seed in seeds},
        final={seed.seed: seed.final for seed in seeds},
        lowest_of_last5=lowest,
        target=plan.target,
        target_held=None if plan.target is None else lowest >= plan.target,
        typical_seed=ordered[(len(ordered) - 1) // 2].seed,  # the middle one (the lower of two): not the luckiest
        seconds={seed.seed: round(seed.seconds, 1) for seed in seeds},
        backend=tuple(sorted({seed.backend for seed in seeds})),
        recipe=dataclasses.asdict(plan.recipe),
        teacher=None if teacher is None else teacher.to_dict(),
        opened=opened,
        reference=plan.reference,
        **provenance.fields(),
    )


def class_scores(counts: tuple[int, ...], seeds: tuple[SeedResult, ...]) -> ClassScores | None:
    """Return the scores class by class; None where a seed was stored before these were."""
    recalls = [seed.recalls for seed in seeds]
    if not all(recalls):
        return None
    balanced = [balanced_accuracy(each) for each in recalls]
    return ClassScores(
        counts=counts, recalls=tuple(_mean(each) for each in zip(*recalls, strict=True)),
        balanced_mean=statistics.fmean(balanced),
        balanced_sd=statistics.stdev(balanced) if len(balanced) > 1 else None,
    )  # fmt: skip


def _mean(values: tuple[float | None, ...]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def _row(epoch: Epoch) -> dict[str, Any]:
    """Return an epoch as a row of the log: one number a column."""
    fields = {name: value for name, value in vars(epoch).items() if name not in ("balanced_loss", "recalls")}
    return {**fields, "accuracy": epoch.accuracy}


class StoredSeeds:
    """Finished seeds of a run that is not whole yet: weights first, then the JSON that says they are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, seed: int, run: Run) -> SeedResult:
        result = SeedResult(seed=seed, epochs=run.epochs, seconds=run.seconds, backend=run.backend)
        write_weights(self._weights(seed), run.state_dict)
        write_json(self._json(seed), dataclasses.asdict(result))
        self.checkpoint(seed).unlink(missing_ok=True)
        return result

    def read(self, seed: int) -> SeedResult | None:
        """Return a stored seed; None where it is not there, or not whole. Raise `StorageError` where it is damaged."""
        if not self._json(seed).is_file() or not self._weights(seed).is_file():
            return None
        result = read_record(self._json(seed), SeedResult)
        if not result.epochs or result.seed != seed:
            raise StorageError(f"{self._json(seed)} is damaged: it is not of seed {seed}; delete it and run again")
        self.weights(seed)  # damaged ones are named now, not after the other seeds are trained
        return result

    def weights(self, seed: int) -> Mapping[str, Tensor]:
        return read_weights(self._weights(seed))

    def checkpoint(self, seed: int) -> Path:
        """Return the file of a seed that is under way."""
        return self.folder / f"seed{seed}.part.safetensors"

    def _json(self, seed: int) -> Path:
        return self.folder / f"seed{seed}.json"

    def _weights(self, seed: int) -> Path:
        return self.folder / f"seed{seed}.safetensors"


def _teacher(plan: FullRunPlan, training: TrainingData, pool: Pool, on_message: OnMessage) -> TeacherLogits | None:
    """Return what the plan's seeds are distilled from; the teacher is trained first where it is not stored."""
    if plan.recipe.teacher is None:
        return None
    cache = TeacherCache(studies_dir() / "teachers", training, pool, on_message)
    recipe = plan.recipe
    return cache.logits(recipe, {0: recipe.epochs}, epochs=teacher_recipe(recipe).epochs)[0]
