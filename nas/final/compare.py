"""Telling two full runs apart on the test split: a paired bootstrap over images and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data import Dataset, find_dataset
from nas.errors import UsageError
from nas.export import ExportedRun, read_run, read_seeds
from nas.final.evaluate import open_for_evaluation
from nas.train import Backend, correct_mask

RESAMPLES = 10_000
CHUNK = 250
"""Resamples at a time: of 10,000 images they take 10 MB."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two full runs by the weights at the end of each seed; accuracies and differences in points of percent."""

    dataset: Dataset
    runs: tuple[ExportedRun, ExportedRun]
    correct: tuple[NDArray[np.bool_], NDArray[np.bool_]]  # (seeds, images): which test images each seed has right
    differences: NDArray[np.float64]  # (resamples,): of the mean over seeds, the first run's less the second's

    @property
    def accuracies(self) -> tuple[float, float]:
        first, second = (100 * float(correct.mean()) for correct in self.correct)
        return first, second

    @property
    def difference(self) -> float:
        return self.accuracies[0] - self.accuracies[1]

    @property
    def interval(self) -> tuple[float, float]:
        """The central 95 % of the resampled differences."""
        low, high = np.quantile(self.differences, (0.025, 0.975))
        return float(low), float(high)

    @property
    def told_apart(self) -> bool:
        low, high = self.interval
        return low > 0 or high < 0


def compare_runs(folders: tuple[Path, Path], *, data_dir: Path | None, device: str, backend: Backend) -> Comparison:
    """Score the weights of every seed of two full runs on the test split, and resample images and seeds.

    Both openings are recorded, each beside its run. Raise `UsageError` for runs on two data sets, `StorageError` for
    damaged folders, `DataError` for a test split that is not to be had.
    """
    first, second = (read_run(folder) for folder in folders)
    names = [run.result.dataset for run in (first, second)]
    if names[0] != names[1]:
        raise UsageError(f"the runs are on {names[0]} and {names[1]}: only those on one data set have the same images")
    networks = [read_seeds(run) for run in (first, second)]
    correct = []
    for run, seeds in zip((first, second), networks, strict=True):
        _, test = open_for_evaluation(run, "evaluate every seed of", data_dir=data_dir, device=device)
        rows = [correct_mask(each, test, device=device, backend=backend).numpy() for each in seeds.values()]
        correct.append(np.stack(rows))
    return Comparison(
        dataset=find_dataset(names[0]), runs=(first, second), correct=(correct[0], correct[1]),
        differences=resample(correct[0], correct[1]),
    )  # fmt: skip


def resample(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, times: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return differences of mean accuracy, in points of percent, over resampled seeds and images.

    The images are the same for both, as they are the same test split; the seeds are drawn for each run by itself, as
    one seed starts two networks in ways that have nothing in common. `first` and `second` are (seeds, images).
    """
    rng, found = np.random.default_rng(seed), []
    images = first.shape[1]
    tables = [correct.astype(np.float32) for correct in (first, second)]
    for start in range(0, times, CHUNK):
        count = min(CHUNK, times - start)
        means = [_seed_weights(len(correct), count, rng) @ correct for correct in tables]
        weights = rng.multinomial(images, np.full(images, 1 / images), count)
        found.append(100 * ((means[0] - means[1]) * weights).sum(1) / images)
    return np.concatenate(found)


def _seed_weights(seeds: int, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(count, seeds): how much each seed weighs in a resample."""
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), count)
    return (drawn / seeds).astype(np.float32)


def comparison_summary(comparison: Comparison, environment: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison with its denominators; accuracies and differences in points of percent."""
    low, high = comparison.interval
    runs = [
        {
            "schedule": str(run.architecture), "num_params": run.architecture.num_params, "folder": str(run.folder),
            "seeds": len(correct), "accuracy": accuracy, "last5_mean": run.result.last5_mean,
            "sd": statistics.stdev(100 * correct.mean(1)) if len(correct) > 1 else None,
        }
        for run, correct, accuracy in zip(comparison.runs, comparison.correct, comparison.accuracies, strict=True)
    ]  # fmt: skip
    return {
        "runs": runs, "split": "test", "count": comparison.correct[0].shape[1], "difference": comparison.difference,
        "low": low, "high": high, "level": 0.95, "resamples": len(comparison.differences),
        "told_apart": comparison.told_apart, **environment,
    }  # fmt: skip
