"""The winner of what is in a study, and its files."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.data import Normalization, own_options
from nas.errors import StorageError
from nas.export import Provenance, Winner, read_weights, write_winner
from nas.files import replace_folder
from nas.model import TrainedNetwork
from nas.searches.brief import brief_weights
from nas.searches.finalist_scores import finalists_of
from nas.searches.finalists import finalist_weights
from nas.searches.reason import (
    BALANCED_SCORE,
    SCORE,
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
from nas.study import StudyStore, fetch_artifact, fetch_file, interruptible, share_file, study_folder

WINNER = "winner"
"""The study's attribute with the artifact of the winner's folder, and of how many trainings it is."""


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

    def __repr__(self) -> str:
        schedule = self.finalists[0].schedule if self.finalists else self.reason.best_brief_trial.schedule
        return (
            f"SearchResult(study={self.reason.study!r}, winner={schedule!r}, "
            f"num_params={Architecture.parse(schedule).num_params}, validation={self.reason.accuracy:.2f}, "
            f"cut={self.cut}, folder={str(self.folder)!r})"
        )


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
    seed, path = _weights((store, second), finalists, best)
    reason = _reason((store, second), finalists, best, context, seed)
    schedule = finalists[0].schedule if finalists else best.user_attrs["schedule"]
    network = TrainedNetwork(
        architecture=Architecture.parse(schedule), state_dict=read_weights(path),
        normalization=Normalization(mean=reason.mean, std=reason.std), classes=reason.classes,
        preparation=own_options(reason.dataset),
    )  # fmt: skip
    settings = context.settings
    recipe = dataclasses.replace(settings.recipe, epochs=settings.full_epochs)
    winner = Winner(
        architecture=network.architecture, recipe=dataclasses.asdict(recipe), reason=dataclasses.asdict(reason),
        network=network,
    )  # fmt: skip
    with interruptible():  # it trains nothing, but checks the files, for seconds on a busy machine
        write_winner(study_folder(store.base) / "best", winner)
    _share(store, reason)
    return finalists, reason


def bring_winner(study: str, storage: str) -> None:
    """Bring the winner of a study in a storage that machines share here, where a search on another one wrote it.

    A winner of as many trainings or more that is here already stays.
    """
    store = StudyStore.open(study, storage)
    shared = store.attrs.get(WINNER)
    folder = study_folder(study) / "best"
    if store.artifacts is None or shared is None or _trainings(folder) >= shared["trainings"]:
        return
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "best.zip"
        if not fetch_artifact(store, shared["artifact"], archive):
            raise StorageError(f"the winner of '{study}' is not in {store.artifacts}: run the search again")
        with replace_folder(folder) as new:
            shutil.unpack_archive(archive, new)


def _share(store: StudyStore, reason: SearchReason) -> None:
    """Copy the winner's folder to where all machines of the study find it, if it has such a place."""
    if store.artifacts is None:
        return
    shared = store.attrs.get(WINNER)
    if shared is not None and shared["trainings"] >= reason.trainings:
        return
    with tempfile.TemporaryDirectory() as temporary:
        archive = shutil.make_archive(str(Path(temporary) / "best"), "zip", study_folder(store.base) / "best")
        artifact = share_file(store, Path(archive))
    store.set_attr(WINNER, {"artifact": artifact, "trainings": reason.trainings})


def _trainings(folder: Path) -> int:
    """Return the number of trainings behind the winner of a folder; -1 without one."""
    try:
        return read_reason(folder).trainings
    except StorageError:
        return -1


def _reason(
    stores: tuple[StudyStore, StudyStore], finalists: tuple[Finalist, ...], best: FrozenTrial, context: Context,
    seed: int,
) -> SearchReason:  # fmt: skip
    settings, store = context.settings, stores[0]
    trials = [trial for each in stores for trial in each.table.finished.values()]
    spent = [trial.user_attrs["seconds"] for trial in trials if "seconds" in trial.user_attrs]
    rows, pooled = table_of(finalists, context.num_validation)
    return SearchReason(
        study=store.name,
        sampler=settings.sampler,
        pruner=settings.pruner,
        seed=settings.seed,
        max_params=settings.budget.max_params,
        max_macs=settings.budget.max_macs,
        max_flash=settings.budget.max_flash,
        max_ram=settings.budget.max_ram,
        target=settings.target,
        num_validation=context.num_validation,
        verdict=verdict_of(finalists),
        score=SCORE if settings.metric == "accuracy" else BALANCED_SCORE,
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


def _weights(
    stores: tuple[StudyStore, StudyStore], finalists: tuple[Finalist, ...], best: FrozenTrial
) -> tuple[int, Path]:
    """Return the winner's middle seed whose weights are here or shared, and their file."""
    store, second = stores
    if finalists:
        winner = finalists[0]
        number, by_score = winner.trial, [seed for _, seed in sorted(zip(winner.scores, winner.seeds, strict=True))]
        trained = {trial.params["seed"]: trial for trial in second.table.trials(TrialState.COMPLETE)
                   if trial.params["candidate"] == number}  # fmt: skip
        paths = {seed: finalist_weights(store.base, number, seed) for seed in by_score}
        here = [seed for seed in by_score if fetch_file(second, paths[seed], trained[seed])]
    else:
        number, by_score = best.number, [best.user_attrs["seed"]]
        paths = {by_score[0]: brief_weights(store.base, number)}
        here = [seed for seed in by_score if fetch_file(store, paths[seed], best)]
    if not here:  # on another machine, with a storage in common
        raise StorageError(
            f"the weights of the winner, trial {number}, are not in {paths[by_score[0]].parent}: run this on the "
            "machine that trained it, or give all of them --artifacts; where they are lost, "
            f"'nas train-best --study {store.base} --pick {number}' trains it anew"
        )
    seed = here[(len(here) - 1) // 2]
    return seed, paths[seed]
