"""The full run: a network trained on the whole training set with several seeds, measured on the test split."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nas import data, export
from nas import study as studies
from nas.architecture import Architecture
from nas.data import Dataset, Split, TrainingData
from nas.errors import NasError, StorageError
from nas.train import Epoch, Recipe, Run
from nas.workers import Job, Message, Pool

LAST = 5
"""The protocol's last-5 accuracy: the mean test accuracy of the last five epochs of a run."""

Heard = Callable[[Message], None]


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
    waiting = [seed for seed in seeds if seed not in results]
    while waiting or pool.jobs:
        while waiting and pool.idle is not None:
            seed = waiting.pop(0)
            pool.submit(Job(key=seed, architecture=architecture, recipe=recipe, seed=seed))
        for message in pool.messages(0.5):
            heard(message)
            if message.epoch is not None:
                pool.answer(message, stop=False)
            elif message.failure is not None:
                raise NasError(f"seed {message.job.seed} of {architecture} failed: {message.failure}")
            elif message.run is not None:
                results[message.job.seed] = _keep_seed(kept, message.job.seed, message.run)
    ordered = tuple(results[seed] for seed in seeds)
    run = FullRun(architecture=architecture, recipe=recipe, seeds=ordered, target=target, folder=folder)
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
        **record,
    }


def card(run: FullRun, record: Mapping[str, Any]) -> str:
    """A short model card in Markdown."""
    n, sd = len(run.seeds), "" if run.sd is None else f" ± {run.sd:.3f}"
    rows = "\n".join(
        f"| {seed.seed} | {seed.last5:.3f} | {min(seed.tail):.2f} | {seed.final:.2f} |" for seed in run.seeds
    )
    notice = "".join(f"\n> {record[key]}\n" for key in ("notice", "data_warning") if record.get(key))
    return f"""# {run.architecture.num_params:,} parameters on {record["dataset"]}

`{run.architecture}`
{notice}
Test accuracy, mean of the last {LAST} of {run.recipe.epochs} epochs: **{run.mean:.3f}{sd} %**
over {n} seed{"s" * (n > 1)}; lowest of those epochs {run.lowest:.2f} %.
{run.architecture.macs:,} multiply-accumulates an image.

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
    try:
        kept.mkdir(parents=True, exist_ok=True)
        partial = kept / f"seed{seed}.partial"
        save_file(run.state_dict, partial)
        partial.replace(_weights(kept, seed))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot write weights to {kept} ({error}): free some space and run again") from error
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
