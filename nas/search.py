"""The search: propose schedules, train them briefly, prune, race the finalists, name the winner.

The parent alone asks, reports, prunes and tells; workers only train. So the database has one writer a search, a trial's
draw depends on nothing but the seed and the trials before it, and killing anything at any time loses at most what was
under way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import optuna
from optuna.distributions import IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from safetensors.torch import load_file
from scipy.stats import t as student
from torch import Tensor

from nas import data, teacher
from nas import study as studies
from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import TrainingData
from nas.errors import InfeasibleError, StorageError
from nas.export import export_winner, read_winner, write_weights
from nas.sampler import Proposer, Sampler, rank
from nas.space import Params, SearchSpace, twin
from nas.train import Recipe, Run
from nas.workers import Job, Message, Pool

Pruner = Literal["median", "none"]
T = TypeVar("T")

WARM_UP, LEAST_TRIALS, LEAST_PEERS = 1 / 3, 10, 5
"""The share of its epochs after which a trial may be pruned, and the trials there must be for that: of its size, on a
front. At the second of thirty epochs on 4,000 images, networks that ended at 98.8 % had anything from 20 to 90."""

STAMP_SECONDS = 20.0
STALE_SECONDS = 180.0

BRIEF_SHARE, FINAL_SHARE = 0.6, 0.95
"""Of a time limit: brief trials end by the first share, finalists by the second; the rest is for the export."""

TEACHER_EPOCHS = 6
"""Of the teachers of a search, which see half of the images: none of the validation splits that they teach for."""

FRONT_TRIALS, POINTS, POINT_SEEDS = 100, 10, 2
"""Of a search for a front, unless said: its trials, the points that are trained again, and the seeds of each."""

FINALIST_LAST = 3
"""A finalist's score is its mean validation accuracy over this many last epochs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search does, resolved."""

    budget: Budget
    dataset: str
    recipe: Recipe
    finalist_epochs: int = 6
    trials: int = 50
    finalists: int = 5
    finalist_seeds: int = 4
    seed: int = 0
    sampler: Sampler = "guided"
    pruner: Pruner = "median"
    known: bool = True
    pareto: bool = False
    timeout: float | None = None

    def shared(self, space: SearchSpace, data_hash: str) -> dict[str, Any]:
        """What a resumed study must have in common, by key."""
        recipe = {f"recipe.{key}": value for key, value in dataclasses.asdict(self.recipe).items()}
        return {
            "max_params": self.budget.max_params,
            "max_macs": self.budget.max_macs,
            "dataset": self.dataset,
            "data_hash": data_hash,
            "space": space.key,
            "finalist_epochs": self.finalist_epochs,
            **({"pareto": True} if self.pareto else {}),
            **recipe,
        }


@dataclass(kw_only=True)
class Line:
    """A worker's line in the live view."""

    text: str = "idle"
    num_params: int = 0
    step: int = 0
    steps: int = 1
    accuracy: float | None = None


@dataclass(kw_only=True)
class Progress:
    """Where a search stands, for whoever shows it."""

    settings: Settings
    lines: list[Line]
    phase: str = "brief trials"
    counts: dict[str, int] = field(default_factory=dict)
    best: tuple[float, str, int] | None = None  # accuracy, schedule, parameters
    done: int = 0
    total: int = 0
    began: float = field(default_factory=time.monotonic)
    phase_began: float = field(default_factory=time.monotonic)
    done_before: int | None = None  # what a resumed study brought to this phase
    seconds_left: float | None = None


View = Callable[[Progress, str | None], None]
"""Told after every change; the text, where there is one, is a line worth keeping."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A candidate trained again with several seeds; scores are percent of a seed's own validation split."""

    trial: int
    schedule: str
    num_params: int
    macs: int
    brief: float
    seeds: tuple[int, ...]
    scores: tuple[float, ...]  # one a seed
    known: str | None = None

    @property
    def by_seed(self) -> dict[int, float]:
        return dict(zip(self.seeds, self.scores, strict=True))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def interval(self, pooled: float | None, degrees: int) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds, by Student's t with a pooled sd; within 0 and 100."""
        if pooled is None or degrees < 1:
            return None
        half = float(student.ppf(0.975, degrees)) * pooled / math.sqrt(len(self.scores))
        return max(0.0, self.mean - half), min(100.0, self.mean + half)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search came to."""

    finalists: tuple[Finalist, ...]  # the winner first
    reason: dict[str, Any]
    folder: Path
    counts: dict[str, int]
    seconds: float
    cut: bool  # the time limit came first


class PeerPruner(optuna.pruners.BasePruner):
    """Stops a trial below the median of its peers at the same epoch: complete trials of half to twice its parameters.

    For a front: against all of them, the small ones would always go. Optuna's own pruners know nothing of size, and
    prune nothing where there are two objectives.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        epoch, size = trial.last_step, trial.user_attrs["num_params"]
        if epoch is None or epoch < self.warm_up:
            return False
        peers = [
            other.intermediate_values[epoch]
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if epoch in other.intermediate_values and alike(size, other.user_attrs["num_params"])
        ]
        return len(peers) >= LEAST_PEERS and trial.intermediate_values[epoch] < statistics.median(peers)


def pruner(settings: Settings) -> optuna.pruners.BasePruner:
    """Compares a trial's accuracy with the others' at the same epoch.

    That is fair because every trial of a study has the same schedule of epochs.
    """
    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    warm_up = max(1, round(WARM_UP * settings.recipe.epochs))
    if settings.pareto:
        return PeerPruner(warm_up)
    return optuna.pruners.MedianPruner(n_startup_trials=LEAST_TRIALS, n_warmup_steps=warm_up)


def run(
    study: Study, space: SearchSpace, settings: Settings, pool: Pool, view: View, record: Mapping[str, Any],
    *, training: TrainingData | None = None, began: float | None = None,
) -> Outcome:  # fmt: skip
    """Search to `settings.trials` finished trials, race the finalists, export the winner.

    Resumes what the study already holds. `training`, what the pool trains on, is needed where the recipe names a
    teacher. `began`, on the monotonic clock, is where the time limit counts from: now, unless said. Raises
    `InfeasibleError` when no trial completed, `StorageError` when the database fails.
    """
    began = time.monotonic() if began is None else began
    progress = Progress(settings=settings, lines=[Line() for _ in range(len(pool))], began=began)
    deadline = None if settings.timeout is None else began + settings.timeout
    lessons, taught = _lessons(space, settings, pool, view, progress, training, deadline)
    record = {**record, **taught}
    with studies.storage_errors(study.study_name):
        if settings.known:
            enqueue_known(study, space)
        brief_done = _brief(study, space, settings, pool, view, progress, lessons, _share(began, deadline, BRIEF_SHARE))
        candidates = (front if settings.pareto else leaders)(study, settings.finalists)
        if not candidates:
            raise InfeasibleError(
                f"no trial of the study '{study.study_name}' completed: give more --trials or a longer --timeout"
            )
        raced = _race(study, candidates, settings, pool, view, progress, lessons, _share(began, deadline, FINAL_SHARE))
        finalists = finalists_of(study)
        counts = studies.counts(study)
    folder = studies.folder(study.study_name)
    reason = _reason(study, settings, finalists, candidates[0], record)
    _export(folder, settings, finalists, candidates[0], reason)
    return Outcome(
        finalists=finalists, reason=reason, folder=folder / "best", counts=counts,
        seconds=time.monotonic() - began, cut=not (brief_done and raced),
    )  # fmt: skip


def _lessons(
    space: SearchSpace, settings: Settings, pool: Pool, view: View, progress: Progress,
    training: TrainingData | None, deadline: float | None,
) -> tuple[dict[int, Tensor], dict[str, Any]]:  # fmt: skip
    """What a search's trainings learn from their recipe's teachers, by seed, and what a record says of these.

    A full run learns from a teacher, and which networks gain most by that shows in two epochs already: a separable
    network of 7,027 parameters had 99.00 % in a brief trial without and 99.23 with, the starting network 99.12 and
    99.13, and in full runs with a teacher they had 99.58 and 99.47. Raises `InfeasibleError` when the time limit comes
    first.
    """
    if settings.recipe.teacher is None:
        return {}, {}
    assert training is not None, "a teacher is trained on what the pool trains on"
    first = settings.seed + 1
    finalists = {seed: data.fold_number(training, seed) for seed in range(first, first + settings.finalist_seeds)}
    folds = {settings.seed: 0, **finalists}
    wanted = {0: settings.recipe.epochs}
    for fold in finalists.values():  # 0 as well, where the images are too few for another split
        wanted[fold] = max(settings.finalist_epochs, wanted.get(fold, 0))
    teachers = len(teacher.groups(wanted, training))
    progress.phase, progress.total = "teachers and their answers", teachers * TEACHER_EPOCHS + sum(wanted.values())

    def heard(message: Message) -> None:
        line = progress.lines[message.worker]
        line.text = f"{message.job.key} of validation split {message.job.fold}"
        if message.step is not None:
            line.step, line.steps = message.step
        elif message.run is None:  # an epoch of a teacher, or one of a lesson
            progress.done += 1
        if message.step is None and message.epoch is None:
            progress.lines[message.worker] = Line()
        estimate(progress, deadline)
        view(progress, None)
        if past(deadline):
            raise InfeasibleError(
                "the time limit came while the teachers were trained, which are kept once they are: "
                "give a longer --timeout, or --teacher none"
            )

    student = Architecture.parse("2 G C", input_shape=space.input_shape, num_classes=space.num_classes)
    found = teacher.lessons(student, settings.recipe, wanted, training, pool, heard, epochs=TEACHER_EPOCHS)
    progress.phase, progress.done, progress.done_before = "brief trials", 0, None
    about = found[0].about
    distinct = {tuple(lesson.about["unseen_splits"]): lesson.about for lesson in found.values()}.values()
    taught = {
        "schedule": about["schedule"], "num_params": about["num_params"], "epochs": TEACHER_EPOCHS,
        "trained": len(distinct), "splits": len(found),
        "seconds": round(
            sum(each["seconds"] for each in distinct) + sum(each.about["asked_seconds"] for each in found.values()), 1
        ),
    }  # fmt: skip
    return {seed: found[fold].logits for seed, fold in folds.items()}, {"teacher": taught}


def recover(study: Study, view: View, progress: Progress, ours: Collection[int] = ()) -> None:
    """Fail running trials whose owner is gone, and enqueue their schedules again; `ours` are known to run."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number not in ours and studies.is_stale(trial, seconds=STALE_SECONDS):
            _give_up(study, trial, "its process ended before it did")
            view(progress, f"trial {trial.number} was interrupted: its schedule is tried again")


def enqueue_known(study: Study, space: SearchSpace) -> None:
    """Enqueue the published designs that fit and that the study does not hold yet."""
    seen = {trial.user_attrs.get("schedule") for trial in study.get_trials(deepcopy=False)}
    for name, params in space.known():
        schedule = str(space.decode(params))
        if schedule not in seen:
            study.enqueue_trial(params, user_attrs={"enqueued": name, "known": name, "schedule": schedule, **mark()})


def ask(study: Study, space: SearchSpace) -> tuple[Trial, Architecture] | None:
    """A trial with its schedule claimed; None when another process holds that schedule already.

    Raises `InfeasibleError` when the sampler finds no new schedule; the trial that was to have it is failed.
    """
    sampler = study.sampler
    assert isinstance(sampler, Proposer)
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({}, user_attrs=mark())  # drawn when asked for: no trial is ever without an owner
    try:
        trial = study.ask(space.distributions)
    except InfeasibleError as error:
        for key, value in {"reason": str(error), "interrupted": True, "discards": dict(sampler.discards)}.items():
            study._storage.set_trial_user_attr(sampler.trial_id, key, value)
        study.tell(sampler.number, state=TrialState.FAIL)
        raise
    architecture = space.decode(trial.params)
    schedule = str(architecture)
    attributes = {
        **mark(), "schedule": schedule, "num_params": architecture.num_params, "macs": architecture.macs,
        "discards": dict(sampler.discards), "shrunk": sampler.shrunk,
    }  # fmt: skip
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # recovered by another process meanwhile
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        for other in study.get_trials(deepcopy=False):
            same = other.number != trial.number and other.user_attrs.get("schedule") in (schedule, twin(schedule))
            # Of two drawn at once both may yield: neither can know whether the other has looked already.
            first = other.number < trial.number or "enqueued" not in trial.user_attrs
            if same and first and not other.user_attrs.get("interrupted"):
                trial.set_user_attr("reason", f"another process claimed the schedule as trial {other.number}")
                trial.set_user_attr("interrupted", True)
                study.tell(trial, state=TrialState.FAIL)
                return None
        return trial, architecture
    return None


def finished(study: Study) -> int:
    """Trials that ended by themselves: complete, pruned, or failed for a reason of their own."""
    return sum(
        trial.state.is_finished() and not trial.user_attrs.get("interrupted")
        for trial in study.get_trials(deepcopy=False)
    )


def _brief(
    study: Study,
    space: SearchSpace,
    settings: Settings,
    pool: Pool,
    view: View,
    progress: Progress,
    lessons: Mapping[int, Tensor],
    deadline: float | None,
) -> bool:
    """Brief trials until the total is reached; False when the deadline came first."""
    study.sampler = Proposer(space, seed=settings.seed, sampler=settings.sampler, pareto=settings.pareto)
    study.pruner = pruner(settings)
    if leading := ranked(study):
        progress.best = (
            leading[0].value or 0.0,
            leading[0].user_attrs["schedule"],
            leading[0].user_attrs["num_params"],
        )
    running: dict[int, Trial] = {}
    exhausted = False
    try:
        while True:
            recover(study, view, progress, running)
            progress.counts, progress.done = studies.counts(study), finished(study)
            progress.total = settings.trials
            estimate(progress, deadline)
            while pool.idle is not None and not exhausted and not past(deadline):
                if _taken(study) >= settings.trials:
                    break
                try:
                    asked = ask(study, space)
                except InfeasibleError as error:
                    if not running and not ranked(study):
                        raise
                    view(progress, str(error))
                    exhausted = True
                    break
                if asked is None:
                    continue
                trial, architecture = asked
                if _taken(study, before=trial.number) >= settings.trials:  # another process asked at the same time
                    _give_up_all(study, {trial.number: trial}, "the total was reached by another process")
                    break
                job = Job(
                    key=trial.number, architecture=architecture, recipe=settings.recipe, seed=settings.seed,
                    lesson=lessons.get(settings.seed),
                )  # fmt: skip
                progress.lines[pool.submit(job)] = Line(text=str(architecture), num_params=architecture.num_params)
                running[trial.number] = trial
                progress.counts = studies.counts(study)
            view(progress, None)
            if not running and (exhausted or progress.done >= settings.trials):
                return True
            if past(deadline):
                if running:
                    _give_up_all(study, running, "cut by the time limit")
                    pool.restart()
                return False
            if not running:  # another process trains what is left
                time.sleep(1)
                continue
            for message in listen(pool, deadline, progress, view):
                _hear(study, space, settings, pool, view, progress, running, message)
            stamp(running)
    except BaseException:
        with contextlib.suppress(Exception):  # where the database is the trouble, the next start finds them stale
            _give_up_all(study, running, "interrupted")
        raise


def _hear(
    study: Study, space: SearchSpace, settings: Settings, pool: Pool, view: View, progress: Progress,
    running: dict[int, Trial], message: Message,
) -> None:  # fmt: skip
    """Act on a worker's message of a brief trial."""
    number: int = message.job.key
    trial, line = running[number], progress.lines[message.worker]
    label = f"{message.job.architecture.num_params:>6,}  {message.job.architecture}"
    if message.step is not None:
        line.step, line.steps = message.step
    elif message.epoch is not None:
        line.accuracy = message.epoch.accuracy
        trial.report(message.epoch.accuracy, message.epoch.number)
        last = message.epoch.number == settings.recipe.epochs
        pool.answer(message, stop=not last and trial.should_prune())
    else:
        del running[number]
        progress.lines[message.worker] = Line()
        if message.run is None:
            trial.set_user_attr("reason", message.failure)
            study.tell(trial, state=TrialState.FAIL)
            view(progress, f"trial {number:>3}  failed          {label}  ({message.failure})")
            return
        run = message.run
        trial.set_user_attr("seconds", round(run.seconds, 2))
        trial.set_user_attr("backend", run.backend)
        trial.set_user_attr("seed", settings.seed)
        trial.set_user_attr("loss", run.epochs[-1].loss)
        accuracy = run.epochs[-1].accuracy
        if run.stopped:
            study.tell(trial, state=TrialState.PRUNED)
            view(progress, f"trial {number:>3}  pruned  {accuracy:6.2f} %  {label}")
            return
        save_weights(study, number, settings.seed, run, brief=True)
        study.tell(trial, accuracy)
        drop_weights(study)
        if ranked(study)[0].number == number:
            progress.best = (accuracy, str(message.job.architecture), message.job.architecture.num_params)
        view(progress, f"trial {number:>3}          {accuracy:6.2f} %  {label}")


def leaders(study: Study, count: int) -> list[FrozenTrial]:
    """The best complete trials, and the best of the published designs besides, in the last place or a second one."""
    complete = ranked(study)
    chosen = complete[:count]
    known = next((trial for trial in complete if trial.user_attrs.get("known")), None)
    if known is not None and known not in chosen:
        chosen = [*chosen[: max(1, count - 1)], known]
    return chosen


def front(study: Study, count: int) -> list[FrozenTrial]:
    """The complete trials that no smaller one matches; of more than `count`, evenly by their rank.

    The ends come first, the best before the smallest, and then the middles of what is between, so that those trained
    when a time limit comes are of the whole front.
    """
    points = _undominated(ranked(study), lambda trial: (trial.user_attrs["num_params"], -trial.user_attrs["loss"]))
    points.reverse()
    if len(points) > count:
        points = [points[round(place * (len(points) - 1) / max(1, count - 1))] for place in range(count)]
    return _from_the_ends(points)


def _from_the_ends(items: list[T]) -> list[T]:
    """In an order whose every beginning is spread over all: the ends, then whatever is farthest from those before."""
    places = [0, len(items) - 1][: len(items)]
    while len(places) < len(items):
        places.append(max(range(len(items)), key=lambda place: min(abs(place - other) for other in places)))
    return [items[place] for place in places]


def ranked(study: Study) -> list[FrozenTrial]:
    """The complete trials, the best first."""
    return sorted((each for each in study.get_trials(deepcopy=False) if each.state == TrialState.COMPLETE), key=rank)


def _race(
    study: Study, candidates: list[FrozenTrial], settings: Settings, pool: Pool, view: View, progress: Progress,
    lessons: Mapping[int, Tensor], deadline: float | None,
) -> bool:  # fmt: skip
    """Train the candidates again seed by seed, fewer each time; False when the deadline came first.

    Each seed has another validation split than the brief trials and the seeds before: 10,000 images have a luck of
    their own, some 0.06 points between two networks, that no number of seeds on the same images takes away.
    """
    second = studies.finalists(study)
    second.sampler = optuna.samplers.RandomSampler(seed=settings.seed)  # every parameter is given
    recipe = dataclasses.replace(settings.recipe, epochs=settings.finalist_epochs)
    progress.phase, progress.best, progress.done_before = "finalists", _leading(study), None
    by_number = {trial.number: trial for trial in candidates}
    planned = sum(_places(len(candidates), turn, settings) for turn in range(settings.finalist_seeds))
    running: dict[int, Trial] = {}
    try:
        while True:
            for stale in second.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if stale.number not in running and studies.is_stale(stale, seconds=STALE_SECONDS):
                    _give_up(second, stale, "its process ended before it did", again=False)
            waiting = _due(second, candidates, settings)
            progress.done = _scored(second)
            progress.total = max(planned, progress.done + len(waiting))
            estimate(progress, deadline)
            for number, seed in waiting:
                if pool.idle is None or past(deadline):
                    break
                trial = _claim(second, by_number[number], seed)
                if trial is None:
                    continue
                architecture = Architecture.parse(by_number[number].user_attrs["schedule"])
                job = Job(
                    key=trial.number, architecture=architecture, recipe=recipe, seed=seed, fold=seed,
                    lesson=lessons.get(seed),
                )  # fmt: skip
                line = Line(text=f"{architecture}  seed {seed}", num_params=architecture.num_params)
                progress.lines[pool.submit(job)] = line
                running[trial.number] = trial
            view(progress, None)
            if not running and not waiting:
                return True
            if past(deadline):
                _give_up_all(second, running, "cut by the time limit", again=False)
                return False
            if not running:  # another process trains what is left
                time.sleep(1)
                continue
            for message in listen(pool, deadline, progress, view):
                _hear_finalist(study, second, pool, view, progress, running, message)
            stamp(running)
    except BaseException:
        with contextlib.suppress(Exception):
            _give_up_all(second, running, "interrupted", again=False)
        raise


def _claim(second: Study, candidate: FrozenTrial, seed: int) -> Trial | None:
    """A running trial of a finalist's seed; None when another one is running or complete.

    It is made whole in one step, so that of two processes the one with the lower number always sees no other.
    """
    params = {"candidate": candidate.number, "seed": seed}

    def holder() -> int | None:
        states = (TrialState.RUNNING, TrialState.COMPLETE)
        same = (trial.number for trial in second.get_trials(deepcopy=False, states=states) if trial.params == params)
        return min(same, default=None)

    if holder() is not None:
        return None
    attributes = {key: candidate.user_attrs[key] for key in ("schedule", "num_params", "macs")}
    template = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions={"candidate": IntDistribution(0, 10**6), "seed": IntDistribution(0, 2**32)},
        user_attrs={**attributes, "seed": seed, **mark()},
    )
    trial = Trial(second, second._storage.create_new_trial(second._study_id, template_trial=template))
    if holder() != trial.number:
        trial.set_user_attr("reason", "another process claimed this seed first")
        trial.set_user_attr("interrupted", True)
        second.tell(trial, state=TrialState.FAIL)
        return None
    return trial


def _hear_finalist(
    study: Study, second: Study, pool: Pool, view: View, progress: Progress, running: dict[int, Trial], message: Message
) -> None:
    """Act on a worker's message of a finalist."""
    trial, line = running[message.job.key], progress.lines[message.worker]
    if message.step is not None:
        line.step, line.steps = message.step
    elif message.epoch is not None:
        line.accuracy = message.epoch.accuracy
        trial.report(message.epoch.accuracy, message.epoch.number)
        pool.answer(message, stop=False)
    else:
        del running[trial.number]
        progress.lines[message.worker] = Line()
        label = f"{message.job.architecture.num_params:>6,}  {message.job.architecture}  seed {message.job.seed}"
        if message.run is None:
            trial.set_user_attr("reason", message.failure)
            second.tell(trial, state=TrialState.FAIL)
            view(progress, f"finalist {trial.params['candidate']:>3}  failed    {label}  ({message.failure})")
            return
        trial.set_user_attr("seconds", round(message.run.seconds, 2))
        trial.set_user_attr("backend", message.run.backend)
        score = message.run.last(FINALIST_LAST)
        save_weights(study, trial.params["candidate"], message.job.seed, message.run)
        second.tell(trial, score)
        progress.best = _leading(study)
        view(progress, f"finalist {trial.params['candidate']:>3}  {score:6.2f} %  {label}")


def _leading(study: Study) -> tuple[float, str, int] | None:
    """The finalist that would win now: mean accuracy, schedule, parameters; None before the first score."""
    return next(((first.mean, first.schedule, first.num_params) for first in finalists_of(study)), None)


def _scored(second: Study) -> int:
    return sum(t.state == TrialState.COMPLETE for t in second.get_trials(deepcopy=False))


def _scores(second: Study) -> dict[int, dict[int, float]]:
    """Scores of what is complete: candidate -> seed -> score."""
    scores: dict[int, dict[int, float]] = {}
    for trial in second.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            scores.setdefault(trial.params["candidate"], {})[trial.params["seed"]] = trial.value
    return scores


def _due(second: Study, candidates: list[FrozenTrial], settings: Settings) -> list[tuple[int, int]]:
    """The (candidate, seed) pairs to train next: a round has one seed, and three fifths of those of the last.

    A candidate that failed for a reason of its own, or is clearly behind, is not tried with more seeds.
    """
    scores = _scores(second)
    failed = {
        trial.params["candidate"]
        for trial in second.get_trials(deepcopy=False)
        if trial.state == TrialState.FAIL and not trial.user_attrs.get("interrupted")
    }
    live = [trial.number for trial in candidates if trial.number not in failed]
    first = settings.seed + 1  # the brief trials had the seed itself
    seeds = range(first, first + settings.finalist_seeds)
    for turn, seed in enumerate(seeds):  # of equals the better brief trial stays: they come in that order
        missing = [(number, seed) for number in live if seed not in scores.get(number, {})]
        if missing:
            return missing
        if settings.pareto:  # the points of a front are no rivals
            continue
        so_far = {number: {each: scores[number][each] for each in seeds[: turn + 1]} for number in live}
        live = sorted(live, key=lambda number: -statistics.fmean(so_far[number].values()))
        live = live[: _places(len(candidates), turn + 1, settings)]
        live = [number for number in live if number not in behind(so_far)]
        if len(live) == 1 < len(candidates):
            break  # clearly ahead
    return []


def _places(candidates: int, turn: int, settings: Settings) -> int:
    """How many of the candidates are trained with the seed of a turn, at most: 5, 3, 2, 2 of five."""
    for _ in range(0 if settings.pareto else turn):
        candidates = max(min(2, candidates), math.ceil(0.6 * candidates))
    return candidates


def alike(one: int, other: int) -> bool:
    """Whether two numbers of parameters are within a factor of two: networks further apart differ in their luck too.

    On a front, two seeds of 522 parameters had 72 and 96 %, two of 7,878 had 99.39 and 99.43.
    """
    return max(one, other) <= 2 * min(one, other)


def peers(finalists: Iterable[Finalist], of: Finalist) -> list[Finalist]:
    """The finalists of its size, itself among them: what chance does to it is judged by theirs."""
    return [finalist for finalist in finalists if alike(finalist.num_params, of.num_params)]


def pooled_sd(scores: list[list[float]]) -> tuple[float | None, int]:
    """The standard deviation between seeds, pooled over candidates, and its degrees of freedom."""
    degrees = sum(len(each) - 1 for each in scores)
    if degrees < 1:
        return None, 0
    return math.sqrt(sum(statistics.variance(s) * (len(s) - 1) for s in scores if len(s) > 1) / degrees), degrees


def paired_sd(scores: Iterable[Mapping[int, float]]) -> tuple[float | None, int]:
    """The standard deviation of what candidate and seed leave unexplained, and its degrees of freedom.

    `scores` are by seed, one mapping a candidate. The residuals are those of the additive model of both: a seed's
    images are harder or easier for all, which is no reason to doubt a difference on the same images.
    """
    cells = [(row, seed, score) for row, each in enumerate(scores) for seed, score in each.items()]
    if not cells:
        return None, 0
    rows, seeds, values = (np.array(column) for column in zip(*cells, strict=True))
    design = np.hstack([rows[:, None] == np.unique(rows), seeds[:, None] == np.unique(seeds)]).astype(float)
    values = values - values.mean()  # so that rounding is far below a hundredth of a point
    solution, _, rank, _ = np.linalg.lstsq(design, values)
    degrees = len(values) - int(rank)
    if degrees < 1:
        return None, 0
    return float(np.linalg.norm(values - design @ solution)) / math.sqrt(degrees), degrees


def behind(scores: Mapping[int, Mapping[int, float]]) -> set[int]:
    """Candidates whose mean is below the leader's by more than chance explains, over the seeds that both have.

    `scores` are by candidate and seed. The test is at 95 %, one-sided, with the paired sd of all; of two candidates it
    is the paired t-test. Judged from two seeds of each on: one score alone says nothing of its spread.
    """
    judged = {number: each for number, each in scores.items() if len(each) > 1}
    sd, degrees = paired_sd(judged.values())
    if sd is None:
        return set()
    leader = max(judged.values(), key=lambda each: statistics.fmean(each.values()))
    found = set()
    for number, each in judged.items():
        gaps = [leader[seed] - score for seed, score in each.items() if seed in leader]
        chance = float(student.ppf(0.95, degrees)) * sd * math.sqrt(2 / max(1, len(gaps)))
        if len(gaps) > 1 and statistics.fmean(gaps) > chance:
            found.add(number)
    return found


def finalists_of(study: Study) -> tuple[Finalist, ...]:
    """The trials with at least one score as a finalist: the winner, then those that came furthest, the best mean first.

    The winner is the smallest of those `tied` at the top. Finalists of earlier, shorter searches of the study are among
    them: what they won they keep.
    """
    scores = _scores(studies.finalists(study))
    found = [
        Finalist(
            trial=trial.number,
            schedule=trial.user_attrs["schedule"],
            num_params=trial.user_attrs["num_params"],
            macs=trial.user_attrs["macs"],
            brief=trial.value or 0.0,
            seeds=tuple(sorted(scores[trial.number])),
            scores=tuple(score for _, score in sorted(scores[trial.number].items())),
            known=trial.user_attrs.get("known"),
        )
        for trial in ranked(study)
        if trial.number in scores
    ]
    found.sort(key=lambda finalist: (-len(finalist.scores), -finalist.mean, finalist.num_params))
    if found:
        winner = min(tied(found), key=lambda finalist: finalist.num_params)
        found.sort(key=lambda finalist: finalist is not winner)
    return tuple(found)


def tied(finalists: Iterable[Finalist]) -> list[Finalist]:
    """Of the finalists that came furthest the best, and those whose mean is within one standard error of the best.

    The standard error is that of the difference, with the paired sd of the best one's peers; of one seed each there is
    none.
    Choosing the smallest of them is the rule of Breiman and others ("Classification and Regression
    Trees", 1984): what is not shown to be better does not pay for its size.
    """
    ranking = sorted(finalists, key=lambda finalist: (-len(finalist.scores), -finalist.mean))
    best, seeds = ranking[0], len(ranking[0].scores)
    sd, _ = paired_sd(finalist.by_seed for finalist in peers(ranking, best))
    error = 0.0 if sd is None or seeds == 1 else sd * math.sqrt(2 / seeds)
    return [each for each in ranking if len(each.scores) == seeds and best.mean - each.mean <= error]


def front_of(finalists: tuple[Finalist, ...]) -> list[int]:
    """The trials of the finalists that no smaller one matches by its mean, the smallest first."""
    points = _undominated(finalists, lambda finalist: (finalist.num_params, finalist.mean))
    return [finalist.trial for finalist in points]


def _undominated(items: Iterable[T], place: Callable[[T], tuple[int, float]]) -> list[T]:
    """The items, by (parameters, score), that no smaller one matches in its score, the smallest first."""
    points: list[T] = []
    for item in sorted(items, key=lambda item: (place(item)[0], -place(item)[1])):
        if not points or place(item)[1] > place(points[-1])[1]:
            points.append(item)
    return points


def save_weights(study: Study, number: int, seed: int, run: Run, *, brief: bool = False) -> None:
    """Keep a run's averaged weights beside the study, so that a resumed search can still export them.

    They are there before the trial is told: a complete trial has its weights, whatever is killed when.
    """
    folder = studies.folder(study.study_name) / "weights"
    write_weights(weights_path(folder, number, seed, brief=brief), run.state_dict)


def drop_weights(study: Study) -> None:
    """Delete the weights of the brief trials but the best, which is exported when a time limit leaves no finalist."""
    running = {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    kept = {ranked(study)[0].number, *running}
    for path in (studies.folder(study.study_name) / "weights").glob("brief-*.safetensors"):
        if int(path.stem.split("-")[1]) not in kept:
            path.unlink(missing_ok=True)


def weights_path(folder: Path, number: int, seed: int, *, brief: bool = False) -> Path:
    return folder / f"{'brief' if brief else 'finalist'}-{number}-seed{seed}.safetensors"


def _reason(
    study: Study, settings: Settings, finalists: tuple[Finalist, ...], best: FrozenTrial, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Why the winner won, with every denominator."""
    cost = _cost(study)
    pooled = [pooled_sd([list(each.scores) for each in peers(finalists, finalist)]) for finalist in finalists]
    table = [
        {
            **dataclasses.asdict(finalist),
            "mean": finalist.mean,
            "sd": finalist.sd,
            "interval": finalist.interval(sd, degrees),
        }
        for finalist, (sd, degrees) in zip(finalists, pooled, strict=True)
    ]
    verdict = "no finalist was trained: the best brief trial stands in"
    if finalists:
        winner = finalists[0]
        last = [each for each in peers(finalists, winner) if len(each.scores) == len(winner.scores)]
        dropped = behind({each.trial: each.by_seed for each in last})
        even = [each.trial for each in tied(finalists) if each is not winner]
        close = [each.trial for each in last[1:] if each.trial not in (*dropped, *even)]
        verdict = "the best mean of the finalists that came furthest"
        if even:
            listed = ", ".join(map(str, even))
            verdict = f"the fewest parameters of a tie: within one standard error of the best mean, as trial {listed}"
        if len(winner.scores) == 1:
            verdict += "; of one seed each, which says nothing of chance"
        elif close:
            verdict += f"; within chance of it: trial {', '.join(map(str, close))}"
    return {
        "study": study.study_name,
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "seed": settings.seed,
        "verdict": verdict,
        "split": "validation, a part of the training set for each seed",
        "finalist_epochs": settings.finalist_epochs,
        "score": f"mean accuracy over the last {FINALIST_LAST} epochs, percent",
        "pooled_sd": pooled[0][0] if pooled else None,  # of the winner and its peers
        "finalists": table,
        **({"front": front_of(finalists)} if settings.pareto else {}),
        "best_brief_trial": {"trial": best.number, "value": best.value, "schedule": best.user_attrs["schedule"]},
        "counts": studies.counts(study),
        **cost,
        **_as_it_was(record, studies.folder(study.study_name) / "best", cost["trainings"]),
    }


def _as_it_was(record: Mapping[str, Any], folder: Path, trainings: int) -> dict[str, Any]:
    """The record, where the winner in `folder` is of as many trainings, with command, time and machine as they were.

    Its target is of now: no training depends on that.
    """
    try:
        before = read_winner(folder).reason
    except StorageError:  # none, or damaged: it is written anew
        return dict(record)
    if before.get("trainings") != trainings:
        return dict(record)
    return {key: value if key == "target" else before.get(key, value) for key, value in record.items()}


def _cost(study: Study) -> dict[str, Any]:
    """What the trainings of a study took so far: brief trials and finalists, a worker's seconds; not their teachers."""
    trials = (*study.get_trials(deepcopy=False), *studies.finalists(study).get_trials(deepcopy=False))
    spent = [trial.user_attrs["seconds"] for trial in trials if "seconds" in trial.user_attrs]
    return {"trainings": len(spent), "training_seconds": round(sum(spent), 1)}


def _export(
    folder: Path, settings: Settings, finalists: tuple[Finalist, ...], best: FrozenTrial, reason: dict[str, Any]
) -> None:
    """Write the winner's folder, with the weights of its middle seed."""
    weights = folder / "weights"
    recipe = dataclasses.replace(settings.recipe, epochs=settings.budget.full_epochs)
    if finalists:
        winner = finalists[0]
        number, schedule = winner.trial, winner.schedule
        by_score = [seed for _, seed in sorted(zip(winner.scores, winner.seeds, strict=True))]
    else:
        number, schedule, by_score = best.number, best.user_attrs["schedule"], [best.user_attrs["seed"]]
    paths = {seed: weights_path(weights, number, seed, brief=not finalists) for seed in by_score}
    # Processes on other machines, with a storage in common, have the weights of what they trained.
    here = [seed for seed in by_score if paths[seed].is_file()]
    if not here:
        raise StorageError(
            f"the weights of the winner, trial {number}, are not in {weights}: "
            "run this on the machine that trained it, or bring that folder here"
        )
    seed = here[(len(here) - 1) // 2]
    reason["weights_seed"] = seed
    export_winner(
        folder / "best",
        architecture=Architecture.parse(schedule),
        recipe=dataclasses.asdict(recipe),
        reason=reason,
        state_dict=load_file(paths[seed]),
    )


def _give_up(study: Study, trial: FrozenTrial, reason: str, *, again: bool = True) -> None:
    """Fail a trial that did not end by itself and, where it has a schedule, enqueue that once more.

    In this order: killed in between, it is given up again, and of a schedule enqueued twice the second yields.
    """
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process was quicker
        study._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
        if again and "schedule" in trial.user_attrs:
            kept: dict[str, Any] = {
                key: trial.user_attrs[key] for key in ("schedule", "known") if key in trial.user_attrs
            }
            again_after = f"again, after trial {trial.number}"
            study.enqueue_trial(_params(trial), user_attrs={"enqueued": again_after, **kept, **mark()})
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _give_up_all(study: Study, running: Mapping[int, Trial], reason: str, *, again: bool = True) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number in running:
            _give_up(study, trial, reason, again=again)


def _params(trial: FrozenTrial) -> Params:
    """All the parameters of a trial: of one enqueued that was cut before it had them, those it was to have."""
    fixed: Params = trial.system_attrs.get("fixed_params", {})
    return {**fixed, **trial.params}


def mark() -> dict[str, str]:
    """Who runs a trial, and when it was last heard of."""
    return {"owner": studies.owner(), "stamp": studies.now()}


def _taken(study: Study, before: int | None = None) -> int:
    """Trials under way in any process and those that ended by themselves; `before` a number, only the earlier ones.

    Of one reading of the database: between two, a trial that ends would be missed by both.
    """
    trials = study.get_trials(deepcopy=False)
    return sum(
        trial.state != TrialState.WAITING and not trial.user_attrs.get("interrupted")
        for trial in trials
        if before is None or trial.number < before
    )


def listen(pool: Pool, deadline: float | None, progress: Progress, view: View) -> Iterator[Message]:
    """What the workers say until a job ends, the deadline passes, or it is time to stamp the running trials again.

    The database is not asked meanwhile: asking it at every message cost the parent an eighth of a core.
    """
    jobs, until = len(pool.jobs), time.monotonic() + STAMP_SECONDS
    while len(pool.jobs) == jobs and time.monotonic() < until and not past(deadline):
        yield from pool.messages(0.5)
        estimate(progress, deadline)
        view(progress, None)


def stamp(running: Mapping[int, Trial]) -> None:
    """Say that this process still runs its trials."""
    for trial in running.values():
        trial.set_user_attr("stamp", studies.now())


def _share(began: float, deadline: float | None, share: float) -> float | None:
    return None if deadline is None else began + share * (deadline - began)


def past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def estimate(progress: Progress, deadline: float | None) -> None:
    """Time left of the phase, from its pace so far."""
    if progress.done_before is None:
        progress.done_before, progress.phase_began = progress.done, time.monotonic()
    elapsed = time.monotonic() - progress.phase_began
    done = progress.done - progress.done_before + sum(line.step / line.steps for line in progress.lines)
    left = elapsed / done * (progress.total - progress.done_before - done) if done > 0.5 else None
    if deadline is not None:
        limit = deadline - time.monotonic()
        left = limit if left is None else min(left, limit)
    progress.seconds_left = left
