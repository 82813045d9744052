"""The weights of a full run, scored on the test split again beside what the run states of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.data import Dataset, Split, find_dataset, imbalanced_counts, open_test
from nas.errors import StorageError
from nas.export import ExportedRun, read_run
from nas.study import OPENINGS
from nas.train import Backend, balanced_accuracy, choose_backend, evaluate

TOLERANCE = 2
"""Numbers of correct test images that agree differ by at most this many: another processor, backend or version sums in
another order, and an image between two classes may fall to the other side."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The weights of a full run scored on the test split again, beside what the run stated of them."""

    run: ExportedRun = dataclasses.field(repr=False)
    dataset: Dataset = dataclasses.field(repr=False)
    loss: float
    correct: int
    count: int
    device: str
    backend: str
    recalls: tuple[float | None, ...]
    """Percent of each class's images that are predicted to be of it; None for a class without images."""
    class_counts: tuple[int, ...] | None
    """Test images of each class, where they differ by more than half."""
    same_images: bool | None
    """True where the test images are those of the run; None where its opening is not on record."""

    @property
    def seed(self) -> int:
        """The typical seed of the run, whose weights they are."""
        return self.run.result.typical_seed

    @property
    def accuracy(self) -> float:
        """Percent of the test images."""
        return 100 * self.correct / self.count

    @property
    def stated_accuracy(self) -> float:
        """Percent of the test images that result.json has for the last epoch of the seed."""
        return self.run.result.final[self.seed]

    @property
    def stated(self) -> int:
        """The same as a number of images."""
        return round(self.stated_accuracy * self.count / 100)

    @property
    def agrees(self) -> bool:
        """True where the numbers of correct images differ by at most `TOLERANCE`."""
        return abs(self.correct - self.stated) <= TOLERANCE


def evaluate_run(folder: Path, *, data_dir: Path | None, device: str, backend: Backend) -> Evaluation:
    """Score the weights of the full run in `folder` on the test split of the data set that they were trained on.

    The opening is recorded beside the one of the full run. Raise `StorageError` for a folder that is damaged,
    `DataError` for a test split that is not to be had.
    """
    run = read_run(folder)
    name, _ = choose_backend(device, backend)
    dataset, test = open_for_evaluation(run, "evaluate", data_dir=data_dir, device=device)
    scores = evaluate(run.network, test, device=device, backend=backend)
    return Evaluation(
        run=run, dataset=dataset, loss=scores.loss, correct=scores.correct, count=len(test), recalls=scores.recalls,
        class_counts=imbalanced_counts(test.labels, dataset.num_classes), device=device, backend=name,
        same_images=_same_images(openings_of(run), run.architecture),
    )  # fmt: skip


def open_for_evaluation(run: ExportedRun, purpose: str, *, data_dir: Path | None, device: str) -> tuple[Dataset, Split]:
    """Open the test split for a full run's weights; the opening is recorded beside that of the full run.

    Raise `StorageError` and `DataError` as `evaluate_run` does.
    """
    architecture, dataset = run.architecture, find_dataset(run.result.dataset)
    if (architecture.input_shape, architecture.num_classes) != (dataset.input_shape, dataset.num_classes):
        raise StorageError(
            f"'{architecture}' does not take the images and classes of {dataset.name}, which "
            f"{run.folder / 'result.json'} names: bring the file back that the run wrote"
        )
    purpose = f"{purpose} {run.folder.resolve().name}, {architecture}"
    test = open_test(dataset, data_dir=data_dir, log=openings_of(run), purpose=purpose, device=device)
    return dataset, test


def openings_of(run: ExportedRun) -> Path:
    """Return the record of openings of a full run: its study's, or its own where a record is one folder."""
    folder = run.folder.resolve()
    own = folder / OPENINGS
    return own if own.is_file() else folder.parent / OPENINGS


def _same_images(log: Path, architecture: Architecture) -> bool | None:
    """Tell whether the latest opening found the images that the full run did; None where that is unknown."""
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        ours, purpose = lines[-1], f"full run of {architecture},"
        trained = [line for line in lines if line["purpose"].startswith(purpose) and line["dataset"] == ours["dataset"]]
        return any(line["sha256"] == ours["sha256"] for line in trained) if trained else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def evaluation_summary(evaluation: Evaluation, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation with its denominators; accuracies in percent."""
    run, inputs = evaluation.run, evaluation.run.network.normalization
    return {
        "schedule": str(run.architecture),
        "num_params": run.architecture.num_params,
        "dataset": evaluation.dataset.name,
        "split": "test",
        "seed": evaluation.seed,
        "epochs": run.result.epochs,
        "correct": evaluation.correct,
        "count": evaluation.count,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "balanced_accuracy": balanced_accuracy(evaluation.recalls),
        "recalls": dict(zip(evaluation.dataset.classes, evaluation.recalls, strict=True)),
        "stated_correct": evaluation.stated,
        "stated_accuracy": evaluation.stated_accuracy,
        "tolerance": TOLERANCE,
        "agrees": evaluation.agrees,
        "same_images": evaluation.same_images,
        **dataclasses.asdict(inputs),
        "backend": evaluation.backend,
        "folder": str(run.folder),
        **environment,
    }
