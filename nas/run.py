"""The full run: a network trained on the whole training set with several seeds, measured on the test split.

What it wrote can be scored again from its weights (`evaluate`), or trained again from its recipe (`reference_plan`).
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nas import data, export, teacher, train
from nas import study as studies
from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import Dataset, Split, TrainingData
from nas.errors import StorageError, UsageError
from nas.train import Backend, Epoch, Recipe, Run
from nas.workers import Job, Message, Pool, each

LAST = 5
"""The protocol's last-5 accuracy: the mean test accuracy of the last five epochs of a run."""

TOLERANCE = 2
"""Weights scored again agree with their run when the numbers of correct test images differ by at most this many:
another processor, backend or version sums in another order, and an image between two classes may fall to the other
side."""

OPENINGS = "test-openings.jsonl"
"""In a study's folder, the record of every opening of the test split."""

Heard = Callable[[Message], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a full run is to train, and the study's folder that keeps it."""

    architecture: Architecture
    recipe: Recipe
    dataset: str
    seeds: tuple[int, ...]
    target: float | None
    base: Path
    reference: dict[str, Any] | None = None  # what a kept full run of the same says of itself


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The weights of a full run scored on the test split again, beside what the run stated of them."""

    run: export.ExportedRun
    dataset: Dataset
    loss: float
    correct: int
    count: int
    device: str
    backend: str
    same_images: bool | None
    """Whether the test images are those of the run; None where its opening is not on record."""

    @property
    def seed(self) -> int:
        """The typical seed of the run, whose weights they are."""
        return int(self.run.result["typical_seed"])

    @property
    def epochs(self) -> int:
        """The epochs that the weights were trained for."""
        return int(self.run.result["epochs"])

    @property
    def accuracy(self) -> float:
        """Percent of the test images."""
        return 100 * self.correct / self.count

    @property
    def stated_accuracy(self) -> float:
        """What result.json has for the last epoch of the seed, percent of the test images."""
        return float(self.run.result["final"][str(self.seed)])

    @property
    def stated(self) -> int:
        """The same as a number of images."""
        return round(self.stated_accuracy * self.count / 100)

    @property
    def agrees(self) -> bool:
        """Whether the numbers of correct images differ by at most `TOLERANCE`."""
        return abs(self.correct - self.stated) <= TOLERANCE


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One seed's run; accuracies are percent of the test split."""

    seed: int
    epochs: tuple[Epoch, ...]
    seconds: float
    backend: str

    @property
    def tail(self) -> list[float]:
        return [epoch.accuracy for epoch in self.epochs[-LAST:]]

    @property
    def last5(self) -> float:
        return statistics.fmean(self.tail)

    @property
    def final(self) -> float:
        return self.epochs[-1].accuracy


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """All seeds of a full run, and where its files are."""

    architecture: Architecture
    recipe: Recipe
    seeds: tuple[SeedResult, ...]
    target: float | None
    folder: Path
    teacher: dict[str, Any] | None = None  # what the recipe's teacher is and took

    @property
    def mean(self) -> float:
        """Mean last-5 accuracy over seeds, percent."""
        return statistics.fmean(seed.last5 for seed in self.seeds)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation of last-5 over seeds; None with one."""
        return statistics.stdev(seed.last5 for seed in self.seeds) if len(self.seeds) > 1 else None

    @property
    def lowest(self) -> float:
        """The lowest single epoch among the last five of every seed."""
        return min(accuracy for seed in self.seeds for accuracy in seed.tail)

    @property
    def held(self) -> bool | None:
        """Whether every one of the last five epochs of every seed reached the target; None without a target."""
        return None if self.target is None else self.lowest >= self.target

    @property
    def typical(self) -> SeedResult:
        """The seed in the middle by last-5 accuracy (the lower of two): not the luckiest."""
        ordered = sorted(self.seeds, key=lambda seed: seed.last5)
        return ordered[(len(ordered) - 1) // 2]


def folder_of(base: Path, architecture: Architecture, recipe: Recipe, training: TrainingData) -> Path:
    """Where a run is kept: one folder for each architecture, recipe and data set, so that none replaces another."""
    key = json.dumps([str(architecture), dataclasses.asdict(recipe), training.dataset.name, training.hash])
    return base / f"full-run-{architecture.num_params}-{studies.digest(key)}"


def winner_plan(name: str) -> Plan:
    """A full run of a study's winner with seed 0. Raises `StorageError` when the study has none."""
    base = studies.folder(name)
    winner = export.read_winner(base / "best")
    return Plan(
        architecture=winner.architecture, recipe=Recipe.from_dict(winner.recipe), dataset=winner.reason["dataset"],
        seeds=(0,), target=winner.reason["target"], base=base,
    )  # fmt: skip


def trial_plan(name: str, number: int) -> Plan:
    """A full run of one trial of a study that has its winner, such as another point of its front, with seed 0.

    Raises `UsageError` for a number that no trial with a schedule has, `StorageError` as `winner_plan` does.
    """
    plan = winner_plan(name)
    trials = studies.open_study(name).get_trials(deepcopy=False)
    schedules = {trial.number: trial.user_attrs["schedule"] for trial in trials if "schedule" in trial.user_attrs}
    if number not in schedules:
        raise UsageError(f"the study '{name}' has no trial {number}: 'nas show --study {name} --csv' lists them")
    return dataclasses.replace(plan, architecture=Architecture.parse(schedules[number]))


def with_teacher(plan: Plan, choice: str | None) -> Plan:
    """The plan with a teacher, by `teacher.choose`; unless said, a committed run and a winner keep what they had.

    Raises `UsageError` for a bad schedule, and for maps that its teacher's stretch takes too far.
    """
    if choice is None and (plan.reference is not None or plan.recipe.teacher is not None):
        return plan
    chosen = teacher.choose(choice, num_params=plan.architecture.num_params, dataset=data.named(plan.dataset))
    recipe = dataclasses.replace(plan.recipe, teacher=chosen)
    train.teacher_recipe(recipe)
    return dataclasses.replace(plan, recipe=recipe)


def schedule_plan(schedule: str, dataset: Dataset, name: str) -> Plan:
    """A full run of a schedule with the default recipe and seed 0, kept in the study's folder of that name."""
    return Plan(
        architecture=Architecture.parse(schedule, input_shape=dataset.input_shape, num_classes=dataset.num_classes),
        recipe=Recipe(epochs=Budget.full_epochs * dataset.epoch_factor), dataset=dataset.name, seeds=(0,),
        target=Budget.target if dataset.name == "mnist" else None, base=studies.folder(name),
    )  # fmt: skip


def reference_plan(name: str) -> Plan:
    """The full run of a committed reference once more: the same network, recipe, data set and seeds.

    `name` is what follows `reference-` in a folder of studies, where 8k is 8000. The new run goes to `reproduction-`
    and the name: nothing committed is written to. Raises `StorageError` when the reference is not there or damaged.
    """
    name = re.sub(r"^(\d+)k$", r"\g<1>000", name.removeprefix("reference-"))
    folder = studies.folder(f"reference-{name}")
    if not folder.is_dir():
        known = sorted(path.name.removeprefix("reference-") for path in studies.studies_dir().glob("reference-*"))
        raise StorageError(
            f"no reference '{name}': {folder.resolve()} is not there (references in that place: "
            f"{', '.join(known) or 'none'}): run in a clone of the repository, which holds them, or set NAS_STUDIES"
        )
    run = export.read_run(export.find_run(folder))
    stated = ("seeds", "last5_mean", "last5_sd", "epochs", "data_hash", "device", "torch")
    return Plan(
        architecture=run.architecture, recipe=Recipe.from_dict(run.result["recipe"]), dataset=run.result["dataset"],
        seeds=tuple(run.result["seeds"]), target=run.result["target"], base=studies.folder(f"reproduction-{name}"),
        reference={"name": folder.name, **{key: run.result[key] for key in stated}},
    )  # fmt: skip


def find(name: str | None) -> Path:
    """The full run meant by a folder or a study's name: itself, or its latest; the latest of all studies without one.

    Raises `StorageError` where there is none.
    """
    if name is None:
        return export.find_run(studies.studies_dir())
    return export.find_run(Path(name) if Path(name).is_dir() else studies.studies_dir() / name)


def evaluate(folder: Path, *, data_dir: Path | None, device: str, backend: Backend) -> Evaluation:
    """Score the weights of the full run in `folder` on the test split of the data set that they were trained on.

    Images are normalised with the mean and the standard deviation in result.json, so the training files are not needed.
    The opening is recorded beside the one of the full run. Raises `StorageError` for a folder that is damaged,
    `DataError` for a test split that is not to be had.
    """
    run = export.read_run(folder)
    name, _ = train.choose_backend(device, backend)
    training, test = reopen(run, "evaluate", data_dir=data_dir, device=device)
    loss, correct = train.evaluate(run.architecture, run.state_dict, training, test, device=device, backend=backend)
    return Evaluation(
        run=run, dataset=training.dataset, loss=loss, correct=correct, count=len(test), device=device, backend=name,
        same_images=_same_images(folder.resolve().parent / OPENINGS, run.architecture),
    )  # fmt: skip


def reopen(run: export.ExportedRun, purpose: str, *, data_dir: Path | None, device: str) -> tuple[TrainingData, Split]:
    """The test split for a full run's weights, and what its images are normalised with; no training image.

    The opening is recorded beside that of the full run. Raises `StorageError` and `DataError` as `evaluate` does.
    """
    architecture, dataset = run.architecture, data.named(run.result["dataset"])
    if (architecture.input_shape, architecture.num_classes) != (dataset.input_shape, dataset.num_classes):
        raise StorageError(
            f"'{architecture}' does not take the images and classes of {dataset.name}, which "
            f"{run.folder / 'result.json'} names: bring the file back that the run wrote"
        )
    folder = run.folder.resolve()
    purpose = f"{purpose} {folder.name}, {architecture}"
    test = data.open_test(dataset, data_dir=data_dir, log=folder.parent / OPENINGS, purpose=purpose, device=device)
    nothing = Split(test.images[:0], test.labels[:0])  # only the mean and the deviation are used
    training = TrainingData(
        dataset=dataset, train=nothing, validation=None, mean=tuple(run.result["mean"]), std=tuple(run.result["std"]),
        hash="", warning=None,
    )  # fmt: skip
    return training, test


def _same_images(log: Path, architecture: Architecture) -> bool | None:
    """Whether the latest opening found the images that the full run of the network did; None where that is unknown."""
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        ours, purpose = lines[-1], f"full run of {architecture},"
        trained = [line for line in lines if line["purpose"].startswith(purpose) and line["dataset"] == ours["dataset"]]
        return any(line["sha256"] == ours["sha256"] for line in trained) if trained else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def evaluation_summary(evaluation: Evaluation, environment: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation with its denominators; accuracies in percent."""
    run = evaluation.run
    return {
        "schedule": str(run.architecture),
        "num_params": run.architecture.num_params,
        "dataset": evaluation.dataset.name,
        "split": "test",
        "seed": evaluation.seed,
        "epochs": evaluation.epochs,
        "correct": evaluation.correct,
        "count": evaluation.count,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "stated_correct": evaluation.stated,
        "stated_accuracy": evaluation.stated_accuracy,
        "tolerance": TOLERANCE,
        "agrees": evaluation.agrees,
        "same_images": evaluation.same_images,
        "mean": run.result["mean"],
        "std": run.result["std"],
        "backend": evaluation.backend,
        "folder": str(run.folder),
        **environment,
    }


def full_run(
    architecture: Architecture,
    recipe: Recipe,
    seeds: Sequence[int],
    training: TrainingData,
    test: Split,
    *,
    base: Path,
    pool: Pool,
    target: float | None,
    record: Mapping[str, Any],
    heard: Heard,
) -> FullRun:
    """Train every seed that `base` does not hold yet, and write the run's folder.

    `pool` must score on `test`. A seed is kept as soon as it ends, so that an interrupted run loses at most the seeds
    under way. Raises `NasError` when a seed fails.
    """
    folder = folder_of(base, architecture, recipe, training)
    kept = folder.with_name(folder.name + ".seeds")
    results = {seed: result for seed in seeds if (result := _read_seed(kept, seed)) is not None}
    about = lesson = None
    if recipe.teacher is not None:
        taught = teacher.lessons(
            architecture, recipe, {0: recipe.epochs}, training, pool, heard, epochs=recipe.epochs
        )[0]  # fmt: skip
        about, lesson = taught.about, taught.logits
    jobs = [
        Job(key=seed, architecture=architecture, recipe=recipe, seed=seed, lesson=lesson)
        for seed in seeds
        if seed not in results
    ]
    for message in each(jobs, pool, heard):
        assert message.run is not None
        results[message.job.seed] = _keep_seed(kept, message.job.seed, message.run)
    ordered = tuple(results[seed] for seed in seeds)
    run = FullRun(
        architecture=architecture, recipe=recipe, seeds=ordered, target=target, folder=folder,
        teacher=about,
    )  # fmt: skip
    _export(run, kept, training, test, record)
    return run


def summary(run: FullRun, record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything needed to make the run again, and what it came to; accuracies in percent."""
    return {
        "schedule": str(run.architecture),
        "num_params": run.architecture.num_params,
        "macs": run.architecture.macs,
        "split": "test",
        "epochs": run.recipe.epochs,
        "seeds": [seed.seed for seed in run.seeds],
        "last5_mean": run.mean,
        "last5_sd": run.sd,
        "last5": {str(seed.seed): seed.last5 for seed in run.seeds},
        "final": {str(seed.seed): seed.final for seed in run.seeds},
        "lowest_of_last5": run.lowest,
        "target": run.target,
        "target_held": run.held,
        "typical_seed": run.typical.seed,
        "seconds": {str(seed.seed): round(seed.seconds, 1) for seed in run.seeds},
        "backend": sorted({seed.backend for seed in run.seeds}),
        "recipe": dataclasses.asdict(run.recipe),
        "teacher": run.teacher,
        **record,
    }


def card(run: FullRun, record: Mapping[str, Any]) -> str:
    """A short model card in Markdown."""
    n, sd = len(run.seeds), "" if run.sd is None else f" ± {run.sd:.3f}"
    rows = "\n".join(
        f"| {seed.seed} | {seed.last5:.3f} | {min(seed.tail):.2f} | {seed.final:.2f} |" for seed in run.seeds
    )
    taught = ""
    if run.teacher is not None:
        taught = (
            f"\nDistilled from `{run.teacher['schedule']}` ({run.teacher['num_params']:,} parameters),\n"
            f"trained before on the same images with the same recipe but for maps {run.recipe.teacher_stretch:g} "
            f"times as strong,\nin {run.teacher['seconds']:.0f} s, and asked in {run.teacher['asked_seconds']:.0f} s, "
            f"once for all seeds:\nthese see the images moved in the same ways.\n"
        )
    notice = "".join(f"\n> {record[key]}\n" for key in ("notice", "data_warning") if record.get(key))
    return f"""# {run.architecture.num_params:,} parameters on {record["dataset"]}

`{run.architecture}`
{notice}
Test accuracy, mean of the last {LAST} of {run.recipe.epochs} epochs: **{run.mean:.3f}{sd} %**
over {n} seed{"s" * (n > 1)}; lowest of those epochs {run.lowest:.2f} %.
{run.architecture.macs:,} multiply-accumulates an image.
{taught}
| seed | last-{LAST} | lowest of them | final |
|-|-|-|-|
{rows}

Trained on the whole training set ({record["num_train"]:,} images); test split opened {record["opened"]}.
Weights: exponential moving average of seed {run.typical.seed}, the middle one. Device {record["device"]}
({record["processor"]}), torch {record["torch"]}, {", ".join(sorted({seed.backend for seed in run.seeds}))}.

    {record["command"]}

`model.py` needs torch alone. Input: images scaled to 0..1, less the mean {list(record["mean"])}, over the standard
deviation {list(record["std"])}.
"""


def _export(run: FullRun, kept: Path, training: TrainingData, test: Split, record: Mapping[str, Any]) -> None:
    log = [
        {"seed": seed.seed, **dataclasses.asdict(epoch), "accuracy": epoch.accuracy}
        for seed in run.seeds
        for epoch in seed.epochs
    ]
    export.export_run(
        run.folder,
        architecture=run.architecture,
        result=summary(run, record),
        log=log,
        state_dicts={seed.seed: load_file(_weights(kept, seed.seed)) for seed in run.seeds},
        typical_seed=run.typical.seed,
        images=data.normalise(test.images.cpu(), training.mean, training.std),
        card=card(run, record),
    )


def _keep_seed(kept: Path, seed: int, run: Run) -> SeedResult:
    """Weights first, then the JSON that says they are there."""
    result = SeedResult(seed=seed, epochs=run.epochs, seconds=run.seconds, backend=run.backend)
    export.write_weights(_weights(kept, seed), run.state_dict)
    export.write_atomic(kept / f"seed{seed}.json", json.dumps(dataclasses.asdict(result), indent=1))
    return result


def _read_seed(kept: Path, seed: int) -> SeedResult | None:
    path = kept / f"seed{seed}.json"
    if not path.is_file() or not _weights(kept, seed).is_file():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    return SeedResult(**{**fields, "epochs": tuple(Epoch(**epoch) for epoch in fields["epochs"])})


def _weights(kept: Path, seed: int) -> Path:
    return kept / f"seed{seed}.safetensors"


def record_of(dataset: Dataset, training: TrainingData, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says of its data and machine."""
    return {
        "dataset": dataset.name,
        "notice": dataset.notice,
        "num_train": len(training.train),
        "data_hash": training.hash,
        "data_warning": training.warning,
        "mean": training.mean,
        "std": training.std,
        "threads": torch.get_num_threads(),
        **environment,
    }
