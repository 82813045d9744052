"""Why a winner won, with every denominator: reason.json, written and read strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.budget import FINALIST_LAST_EPOCHS
from nas.export import Provenance
from nas.files import read_record
from nas.searches.selection import (
    Finalist,
    behind,
    pareto_front,
    pooled_sd,
    similar_in_size,
    within_one_standard_error,
)

SCORE = f"mean accuracy over the last {FINALIST_LAST_EPOCHS} epochs, percent"
BALANCED_SCORE = SCORE.replace("accuracy", "balanced accuracy")
SPLIT = "validation, a part of the training set for each seed"


@dataclass(frozen=True, kw_only=True)
class FinalistRow:
    """A finalist as it is stored: `Finalist` with the statistics of its scores, in percent."""

    trial: int
    schedule: str
    num_params: int
    macs: int
    brief: float
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    published: str | None
    mean: float
    sd: float | None
    interval: tuple[float, ...] | None
    """95 % interval of the mean, by a pooled sd; Wilson's where seeds do not vary."""


@dataclass(frozen=True, kw_only=True)
class BriefTrial:
    """The best brief trial."""

    trial: int
    value: float | None
    """Validation accuracy in percent."""
    schedule: str


@dataclass(frozen=True, kw_only=True)
class TeacherUse:
    """The teachers that the trainings of a search were distilled from."""

    schedule: str
    num_params: int
    epochs: int
    trained: int
    """Teachers, each without some of the validation splits."""
    splits: int
    seconds: float
    accuracy: float | None = None
    """Their mean accuracy over the last five epochs on validation images that they have not seen, percent."""


@dataclass(frozen=True, kw_only=True)
class SearchReason(Provenance):
    """A search's reason.json; accuracies are percent of validation splits."""

    study: str
    sampler: str
    pruner: str
    seed: int
    max_params: int | None
    max_macs: int | None
    max_flash: int | None = None
    """Bytes that the int8 C code takes, as `max_ram`: with the input image and the logits."""
    max_ram: int | None = None
    target: float | None
    num_validation: int
    verdict: str
    split: str = SPLIT
    score: str = SCORE
    brief_epochs: int
    finalist_epochs: int
    pooled_sd: float | None
    """Pooled over the winner and those similar in size."""
    finalists: tuple[FinalistRow, ...]
    """The winner first."""
    front: tuple[int, ...] | None
    """The trials of the front, smallest first; None in a search for its end alone."""
    best_brief_trial: BriefTrial
    counts: Mapping[str, int]
    trainings: int
    training_seconds: float
    """Time of workers, teachers not included."""
    teacher: TeacherUse | None
    weights_seed: int
    """The seed of the weights in the folder."""

    @property
    def accuracy(self) -> float:
        """Validation accuracy of the winner in percent: mean over seeds, or the brief trial's without finalists."""
        return self.finalists[0].mean if self.finalists else self.best_brief_trial.value or 0.0


def read_reason(folder: Path) -> SearchReason:
    """Return the reason.json of a winner's folder. Raise `StorageError` where it is missing or damaged."""
    return read_record(folder / "reason.json", SearchReason)


def table_of(finalists: Sequence[Finalist], images: int) -> tuple[tuple[FinalistRow, ...], float | None]:
    """Return the rows of finalists scored on so many images, and the pooled sd of the first and its like in size."""
    pooled = [pooled_sd([list(each.scores) for each in similar_in_size(finalists, one)]) for one in finalists]
    rows = tuple(
        FinalistRow(**dataclasses.asdict(one), mean=one.mean, sd=one.sd, interval=one.interval(sd, degrees, images))
        for one, (sd, degrees) in zip(finalists, pooled, strict=True)
    )
    return rows, pooled[0][0] if pooled else None


def front_of(finalists: Sequence[Finalist]) -> tuple[int, ...]:
    """Return the trials whose mean no smaller finalist matches, smallest first."""
    return tuple(one.trial for one in pareto_front(finalists, lambda one: (one.num_params, one.mean)))


def verdict_of(finalists: Sequence[Finalist]) -> str:
    """Return in words why the first of the finalists won."""
    if not finalists:
        return "no finalist was trained: the best brief trial stands in"
    winner = finalists[0]
    last = [each for each in similar_in_size(finalists, winner) if len(each.scores) == len(winner.scores)]
    dropped = behind({each.trial: each.by_seed for each in last})
    even = [each.trial for each in within_one_standard_error(finalists) if each is not winner]
    close = [each.trial for each in last[1:] if each.trial not in (*dropped, *even)]
    verdict = "the best mean of the finalists that came furthest"
    if even:
        verb = "are" if len(even) > 1 else "is"
        others = f"trial{'s' * (len(even) > 1)} {', '.join(map(str, even))}"
        if winner.mean >= max(each.mean for each in last):
            verdict = f"the fewest parameters of a tie, and its best mean: {others} {verb} within one standard error"
        else:
            verdict = f"the fewest parameters of a tie: within one standard error of the best mean, as {verb} {others}"
    if len(winner.scores) == 1:
        verdict += "; with one seed each, which says nothing of chance"
    elif close:
        verdict += f"; not significantly better than trial {', '.join(map(str, close))} (95 %)"
    return verdict
