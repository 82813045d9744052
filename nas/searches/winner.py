"""The winner of what is in a study, and its files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial

from nas.architecture import Architecture
from nas.data import Normalization
from nas.errors import StorageError
from nas.export import Provenance, Winner, read_weights, write_winner
from nas.model import TrainedNetwork
from nas.searches.brief import brief_weights
from nas.searches.finalists import finalist_weights, finalists_of
from nas.searches.reason import (
    BriefTrial,
    SearchReason,
    TeacherUse,
    front_of,
    read_reason,
    table_of,
    verdict_of,
)
from nas.searches.selection import Finalist
from nas.searches.settings import Settings
from nas.study import StudyStore, study_folder


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A finished search."""

    finalists: tuple[Finalist, ...]
    """The winner first."""
    reason: SearchReason
    folder: Path
    """The winner's files."""
    seconds: float
    cut: bool
    """True where a time limit came first."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The part of a winner's record that is not in the study."""

    settings: Settings
    provenance: Provenance
    num_validation: int
    teacher: TeacherUse | None


def write_best(store: StudyStore, best: FrozenTrial, context: Context) -> tuple[tuple[Finalist, ...], SearchReason]:
    """Choose the winner, and write its folder; `best` stands in where no finalist was trained.

    Raise `StorageError` where the weights are not on this machine.
    """
    second = store.finalists()
    finalists = finalists_of(store.refresh(), second.refresh())
    seed, path = _weights(store.base, finalists, best)
    reason = _reason((store, second), finalists, best, context, seed)
    schedule = finalists[0].schedule if finalists else best.user_attrs["schedule"]
    network = TrainedNetwork(
        architecture=Architecture.parse(schedule), state_dict=read_weights(path),
        normalization=Normalization(mean=reason.mean, std=reason.std), classes=reason.classes,
    )  # fmt: skip
    settings = context.settings
    recipe = dataclasses.replace(settings.recipe, epochs=settings.full_epochs)
    winner = Winner(
        architecture=network.architecture, recipe=dataclasses.asdict(recipe), reason=dataclasses.asdict(reason),
        network=network,
    )  # fmt: skip
    write_winner(study_folder(store.base) / "best", winner)
    return finalists, reason


def _reason(
    stores: tuple[StudyStore, StudyStore], finalists: tuple[Finalist, ...], best: FrozenTrial, context: Context,
    seed: int,
) -> SearchReason:  # fmt: skip
    settings, store = context.settings, stores[0]
    trials = [trial for each in stores for trial in each.table.finished.values()]
    spent = [trial.user_attrs["seconds"] for trial in trials if "seconds" in trial.user_attrs]
    rows, pooled = table_of(finalists)
    return SearchReason(
        study=store.name,
        sampler=settings.sampler,
        pruner=settings.pruner,
        seed=settings.seed,
        max_params=settings.budget.max_params,
        max_macs=settings.budget.max_macs,
        target=settings.target,
        num_validation=context.num_validation,
        verdict=verdict_of(finalists),
        brief_epochs=settings.recipe.epochs,
        finalist_epochs=settings.finalist_epochs,
        pooled_sd=pooled,
        finalists=rows,
        front=front_of(finalists) if settings.pareto else None,
        best_brief_trial=BriefTrial(trial=best.number, value=best.value, schedule=best.user_attrs["schedule"]),
        counts=store.counts(),
        trainings=len(spent),
        training_seconds=round(sum(spent), 1),
        teacher=context.teacher,
        weights_seed=seed,
        **_provenance(store.base, len(spent), context.provenance).fields(),
    )


def _provenance(study: str, trainings: int, ours: Provenance) -> Provenance:
    """Return the provenance; where the winner written before is of as many trainings, with command and time as then."""
    try:
        before = read_reason(study_folder(study) / "best")
    except StorageError:  # none, or damaged: it is written anew
        return ours
    return before if before.trainings == trainings else ours


def _weights(study: str, finalists: tuple[Finalist, ...], best: FrozenTrial) -> tuple[int, Path]:
    """Return the winner's middle seed whose weights are here, and their file."""
    if finalists:
        winner = finalists[0]
        by_score = [seed for _, seed in sorted(zip(winner.scores, winner.seeds, strict=True))]
        paths = {seed: finalist_weights(study, winner.trial, seed) for seed in by_score}
        number = winner.trial
    else:
        number = best.number
        by_score = [best.user_attrs["seed"]]
        paths = {by_score[0]: brief_weights(study, number)}
    # Processes on other machines, with a storage in common, have the weights of what they trained.
    here = [seed for seed in by_score if paths[seed].is_file()]
    if not here:
        raise StorageError(
            f"the weights of the winner, trial {number}, are not in {paths[by_score[0]].parent}: "
            "run this on the machine that trained it, or bring that folder here"
        )
    seed = here[(len(here) - 1) // 2]
    return seed, paths[seed]
