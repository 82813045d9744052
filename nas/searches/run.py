"""The search from end to end: teachers, brief trials, finalists, winner."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

from nas.data import TrainingData, fold_number
from nas.errors import InfeasibleError
from nas.export import Provenance
from nas.machine import command_line
from nas.searches.brief import BriefTrials, front, leaders
from nas.searches.finalists import Finalists
from nas.searches.reason import TeacherUse
from nas.searches.samplers import Propose
from nas.searches.settings import Settings
from nas.searches.winner import Context, SearchResult, write_best
from nas.space import SearchSpace
from nas.study import (
    ENDED,
    INTERRUPTED,
    Deadline,
    Event,
    Interrupts,
    Loop,
    Observe,
    Presence,
    Progress,
    Stage,
    StudyStore,
    View,
    WorkerLine,
    studies_dir,
    study_folder,
)
from nas.teachers import TeacherCache, teacher_groups
from nas.train import teacher_architecture
from nas.workers import EpochMessage, LogitsMessage, Message, Pool, RunMessage, StepMessage

BRIEF_SHARE, FINAL_SHARE = 0.6, 0.95
"""Shares of a time limit: brief trials end by the first, finalists by the second; the rest is for the export."""

TEACHER_EPOCHS = 6
"""Epochs of the teachers of a search, which see half of the images: none of the validation splits they are used on."""


class Search:
    """A search of one study on one pool; `run` resumes what the study holds.

    `propose`, if given, draws the schedules in place of `settings.sampler`; `observe` gets every message of a training.
    """

    def __init__(
        self, store: StudyStore, space: SearchSpace, settings: Settings, pool: Pool, view: View,
        *, propose: Propose | None = None, observe: Observe | None = None,
    ) -> None:  # fmt: skip
        self.store, self.space, self.settings, self.pool, self.view = store, space, settings, pool, view
        self.propose, self.observe = propose, observe
        lines = [WorkerLine() for _ in range(len(pool))]
        self.progress = Progress(
            title=str(settings.budget), target=settings.target, lines=lines, max_params=settings.budget.max_params
        )
        self.presence = Presence(store, self.progress, settings.trials)

    def run(self, training: TrainingData, provenance: Provenance, *, deadline: Deadline | None = None) -> SearchResult:
        """Search to `settings.trials` finished trials, race the finalists, export the winner.

        `training` is what the pool trains on. `deadline` counts from now unless given. Raise `InfeasibleError` when no
        trial completed, `StorageError` when the database fails, `Interrupted` on a signal.
        """
        settings, store = self.settings, self.store
        deadline, before = deadline or Deadline.after(settings.timeout), self._finished()
        with Interrupts() as interrupts, self._ends():
            self._plan()
            self.presence.enter(_TeacherProgress.NAME)
            self._live()
            with interrupts.allowed():
                logits, teacher = self._teachers(training, deadline, interrupts)
            loop = Loop(
                self.pool, self.progress, self.view, interrupts, observe=self.observe, live=self._live
            )  # fmt: skip
            brief = BriefTrials(store, self.space, settings, logits, self.propose)
            if settings.published:
                brief.enqueue_designs()
            if by_hand := len(store.refresh().by_hand()):
                note = f"left alone, as they are no points of the space: {by_hand} enqueued with Optuna"
                self.view(self.progress, Event(note=note))
            self.presence.enter(BriefTrials.name)
            brief_done = loop.run(brief, deadline.share(BRIEF_SHARE))
            if brief.ended_early:
                self.view(self.progress, Event(note=brief.ended_early))
            candidates = (front if settings.pareto else leaders)(store.refresh(), settings.finalists)
            if not candidates:
                more = "more --trials" if brief_done else "a longer --timeout"
                raise InfeasibleError(f"no trial of the study '{store.name}' completed: give {more}")
            self.presence.enter(Finalists.name)
            raced = loop.run(Finalists(store, candidates, settings, logits), deadline.share(FINAL_SHARE))
            if brief_done and raced and self._finished() == before:
                ended = store.table.ended
                note = f"all {ended} trials and their finalists are done: nothing to train; give more --trials"
                self.view(self.progress, Event(note=note))
            num_validation = 0 if training.validation is None else len(training.validation)
            context = Context(settings=settings, provenance=provenance, num_validation=num_validation, teacher=teacher)
            finalists, reason = write_best(store, candidates[0], context)
        return SearchResult(
            finalists=finalists, reason=reason, folder=study_folder(store.base) / "best", seconds=deadline.elapsed,
            cut=not (brief_done and raced),
        )  # fmt: skip

    def _finished(self) -> int:
        """Return how many trainings of the study have ended, finalists' included."""
        return sum(len(each.refresh().finished) for each in self.store.with_finalists())

    def _plan(self) -> None:
        """State the work of brief trials and finalists; that of teachers is known once it begins."""
        settings = self.settings
        trainings = sum(map(settings.places, range(settings.finalist_seeds)))
        final_work = trainings * settings.finalist_epochs / settings.recipe.epochs
        self.progress.stages = [
            Stage(name=BriefTrials.name, work=float(settings.trials)), Stage(name=Finalists.name, work=final_work)
        ]  # fmt: skip

    def _live(self) -> None:
        """Show others that this search lives, and the user once who else is at work."""
        for other in self.presence.beat():
            note = f"another search is at work on this study, {other.name}: the two share its trials"
            self.view(self.progress, Event(note=note))

    @contextlib.contextmanager
    def _ends(self) -> Iterator[None]:
        """Write at the end, whatever it is, that this search runs no more."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # where the database is the trouble, it stays unwritten
                self.presence.enter(INTERRUPTED)
            raise
        self.presence.enter(ENDED)

    def _teachers(
        self, training: TrainingData, deadline: Deadline, interrupts: Interrupts
    ) -> tuple[dict[int, Path], TeacherUse | None]:
        """Return the logits that the trainings are distilled from, by seed, and what a record says of their teachers.

        A full run is distilled, and which networks gain most by that shows in brief trials already.
        """
        settings = self.settings
        if settings.recipe.teacher is None:
            return {}, None
        folds, epochs = distilled_folds(settings, training)
        watch = _TeacherProgress(self.progress, self._watch, deadline, interrupts)
        trained = len(teacher_groups(epochs, training)) * TEACHER_EPOCHS * training.dataset.epoch_factor
        watch.plan(trained + sum(epochs.values()), self._relative_cost(training))
        cache = TeacherCache(studies_dir() / "teachers", training, self.pool, watch)
        teacher_epochs = TEACHER_EPOCHS * training.dataset.epoch_factor
        try:
            found = cache.logits(settings.recipe, epochs, epochs=teacher_epochs)
        except _TimeSpent:
            stored, of = cache.stored(settings.recipe, epochs, epochs=teacher_epochs)
            raise InfeasibleError(
                f"the time limit was spent on the teachers, and no trial was begun; {stored} of {of} teachers are "
                f"trained and stored in {cache.folder}: those are not trained again. To go on, with a longer --timeout "
                f"or without one: {command_line()}"
            ) from None
        distinct = list({tuple(each.record.held_out_folds): each.record for each in found.values()}.values())
        seconds = sum(each.seconds for each in distinct) + sum(each.seconds for each in found.values())
        first = distinct[0]
        teacher = TeacherUse(
            schedule=first.schedule, num_params=first.num_params, epochs=teacher_epochs, trained=len(distinct),
            splits=len(found), seconds=round(seconds, 1),
            accuracy=statistics.fmean(record.last5 for record in distinct),
        )  # fmt: skip
        return {seed: found[fold].path for seed, fold in folds.items()}, teacher

    def _watch(self, progress: Progress, event: Event | None) -> None:
        self._live()
        self.view(progress, event)

    def _relative_cost(self, training: TrainingData) -> float:
        """Estimate an epoch of the teacher in brief trials: by the square root of its parameters."""
        teacher = teacher_architecture(self.settings.recipe, training.dataset)
        size = self.settings.budget.most_params or teacher.num_params
        return max(1.0, math.sqrt(teacher.num_params / size)) / self.settings.recipe.epochs


def distilled_folds(settings: Settings, training: TrainingData) -> tuple[dict[int, int], dict[int, int]]:
    """Return the fold of each seed of a search, and for how many epochs each fold needs teacher logits."""
    seeds = range(settings.seed + 1, settings.seed + 1 + settings.finalist_seeds)
    folds = {settings.seed: 0, **{seed: fold_number(training, seed) for seed in seeds}}
    epochs = {0: settings.recipe.epochs}
    for seed in seeds:  # fold 0 as well, where the images are too few for another split
        epochs[folds[seed]] = max(settings.finalist_epochs, epochs.get(folds[seed], 0))
    return folds, epochs


class _TimeSpent(Exception):
    """The time limit came before the teachers were done."""


class _TeacherProgress:
    """Shows how far the teachers are; raises `_TimeSpent` when the time limit comes first."""

    NAME = "teachers and their logits"

    def __init__(self, progress: Progress, view: View, deadline: Deadline, interrupts: Interrupts) -> None:
        self.progress, self.view, self.deadline, self.interrupts = progress, view, deadline, interrupts
        self.cost = 1.0

    def plan(self, total: int, cost: float) -> None:
        """Enter the stage, of so many epochs of teachers and of their logits together."""
        self.cost = cost
        self.progress.stages.insert(0, Stage(name=self.NAME, work=total * cost, paced=False))
        self.progress.enter(self.NAME)
        self.progress.total = total
        self.progress.await_workers()
        self.view(self.progress, None)

    def __call__(self, message: Message) -> None:
        self.interrupts.check()  # Python may swallow what a handler raises, in a destructor
        self.progress.workers_answer()
        line, whole = self.progress.line_of(message.worker), False
        match message:
            case StepMessage(step=step, steps=steps):
                line.step, line.steps = step, steps
                line.text = f"teacher, validation split {message.job.fold}"
            case EpochMessage():
                self.progress.done += 1
            case LogitsMessage():
                self.progress.done += 1
                line.text = f"teacher logits, validation split {message.job.fold}"
            case _:
                self.progress.lines[message.worker] = WorkerLine()
                whole = isinstance(message, RunMessage)  # a teacher that is about to be stored
        done = self.progress.done * self.cost
        self.progress.advance(done, max(0.0, self.progress.total * self.cost - done))
        self.view(self.progress, None)
        if self.deadline.passed and not whole:
            raise _TimeSpent
