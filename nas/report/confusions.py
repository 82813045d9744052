"""The confusion matrix of a study's winner: drawn, and stored beside it, so that it is shown again without images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.errors import NasError
from nas.files import read_record, write_json
from nas.report.chart import MatrixChart
from nas.report.findings import Findings

CONFUSION = "confusion.json"
"""The file in a study's folder."""


@dataclass(frozen=True, kw_only=True)
class StoredConfusion:
    """Validation images by label and prediction, and the winner that they are of."""

    schedule: str
    weights_seed: int
    data_hash: str
    counts: tuple[tuple[int, ...], ...]


def matrix(found: Findings, counts: Sequence[Sequence[int]]) -> MatrixChart:
    """Draw the confusion matrix of a study's winner: a row for each label."""
    assert found.reason is not None
    names = found.reason.classes
    right, total = sum(row[place] for place, row in enumerate(counts)), sum(map(sum, counts))
    wrong = [
        (count, -label, -read)
        for label, row in enumerate(counts)
        for read, count in enumerate(row)
        if label != read and count
    ]
    most = ""
    if wrong:
        _, label, read = max(wrong)
        most = f"; most often {names[-label]} is read as {names[-read]}"
    return MatrixChart(
        name="confusion", title="What is taken for what", classes=tuple(names), counts=tuple(map(tuple, counts)),
        alt=f"{right:,} of {total:,} validation images are read right{most}.",
        note=f"{right:,} of {total:,} validation images ({right / total:.2%}) are read right{most}. Weights of seed "
        f"{found.reason.weights_seed}, on the images held out of their training.",
    )  # fmt: skip


def store_confusion(found: Findings, chart: MatrixChart) -> None:
    """Store a matrix that was drawn; where the folder cannot be written to, it is drawn from the images again."""
    assert found.reason is not None
    stored = StoredConfusion(
        schedule=str(found.schedule), weights_seed=found.reason.weights_seed, data_hash=found.reason.data_hash,
        counts=chart.counts,
    )  # fmt: skip
    with contextlib.suppress(NasError):
        write_json(_path(found), dataclasses.asdict(stored))


def stored_confusion(found: Findings) -> MatrixChart | None:
    """Return the stored matrix of a study's winner; None where there is none, or it is of another."""
    if found.reason is None:
        return None
    try:
        stored = read_record(_path(found), StoredConfusion)
    except NasError:
        return None
    winner = (found.schedule, found.reason.weights_seed, found.reason.data_hash)
    size = len(found.reason.classes)
    if (stored.schedule, stored.weights_seed, stored.data_hash) != winner:
        return None
    if [len(row) for row in stored.counts] != [size] * size or not any(map(sum, stored.counts)):
        return None
    return matrix(found, stored.counts)


def _path(found: Findings) -> Path:
    return found.folder / CONFUSION
