"""The ask-and-tell loop, once: claim what is due, hand it to a worker, act on what the workers send, recover.

A `Phase` says what is due and what to do with an epoch and a run; brief trials, finalists and recipes are three of
them. The parent alone writes, so the database has one writer for each search, and killing anything at any time loses at
most the trainings under way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from nas.study.batch import batch
from nas.study.deadline import Deadline
from nas.study.interrupts import Interrupted, Interrupts
from nas.study.ownership import HEARTBEAT_SECONDS, owner_name
from nas.study.progress import Event, Progress, View, WorkerLine
from nas.study.store import ClaimedTrial, StudyStore
from nas.study.supervision import Supervisor
from nas.train import Epoch, Run
from nas.workers import MAX_DEATHS, EpochMessage, FailureMessage, Message, Pool, RunMessage, StepMessage, TrainJob

Observe = Callable[[ClaimedTrial, Message], None]
"""Called with every message of a training, before it is acted on."""


class Phase(Protocol):
    """A part of a search: what is due, and what becomes of it. `name` is that of its stage."""

    name: str
    store: StudyStore
    again: bool  # enqueue a trial once more that was interrupted

    def next(self) -> tuple[ClaimedTrial, TrainJob, str] | None:
        """Claim what is due next: its trial, its job, and the text of its worker's line; None where nothing is due."""
        ...

    def update(self, progress: Progress) -> bool:
        """State what is done and left; return whether the phase is complete, in every process."""
        ...

    def on_epoch(self, trial: ClaimedTrial, job: TrainJob, epoch: Epoch) -> bool:
        """Record an epoch; return True to stop the training there."""
        ...

    def on_run(self, trial: ClaimedTrial, job: TrainJob, run: Run) -> Event:
        """Record a finished training."""
        ...

    def on_failure(self, trial: ClaimedTrial, job: TrainJob, reason: str) -> Event:
        """Record a training that failed for a reason of its own."""
        ...


class Loop:
    """Runs phases on a pool; one for a whole search, so that progress and interruption are handled in one place."""

    def __init__(
        self, pool: Pool, progress: Progress, view: View, interrupts: Interrupts,
        *, observe: Observe | None = None, live: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.pool, self.progress, self.view, self.interrupts = pool, progress, view, interrupts
        self.observe = observe or (lambda trial, message: None)
        self.live = live or (lambda: None)  # called often, to show that this process lives
        self.running: dict[int, ClaimedTrial] = {}  # of this process: in training, or between two trainings
        self._supervisor = Supervisor(progress.clock)
        self._postponed: list[tuple[TrainJob, str]] = []
        self._clock = progress.clock
        self._next_beat = 0.0
        self._listened = 0.0

    def run(self, phase: Phase, deadline: Deadline) -> bool:
        """Train until the phase is complete; return False where the deadline came first."""
        self.running, self._postponed, self._listened = {}, [], self._clock()
        self._next_beat = self._listened + HEARTBEAT_SECONDS
        self._supervisor = Supervisor(self._clock)
        self.progress.enter(phase.name)
        try:
            self._start(phase, deadline)
            while True:
                self.interrupts.check()
                self.live()
                phase.store.refresh()
                self._recover(phase)
                self._fill(phase, deadline)
                complete = phase.update(self.progress)
                self.view(self.progress, None)
                if complete and not self.running:
                    self.progress.note = ""
                    return True
                if deadline.passed:
                    self._give_up(phase, "cut by the time limit")
                    return False
                if self.pool.jobs:
                    self._listen(phase, deadline)
                else:
                    self._wait(phase)
        except BaseException as error:
            with contextlib.suppress(Exception):  # where the database is the trouble, the next start finds them stale
                self._give_up(phase, _cause(error))
            raise

    def _start(self, phase: Phase, deadline: Deadline) -> None:
        """Start the workers where there is something to do.

        Before a trial is claimed: kernels may take minutes to compile on a busy machine, without a heartbeat.
        """
        phase.store.refresh()
        if phase.update(self.progress) or deadline.passed:
            return
        if not self.pool.jobs:
            self.progress.await_workers()
            self.view(self.progress, None)
        with self.interrupts.allowed():
            self.pool.start()

    def _recover(self, phase: Phase) -> None:
        """Fail running trials whose owner is gone, and enqueue their points again where the phase wants that."""
        for trial in phase.store.stale(self.running):
            phase.store.fail_interrupted(trial, "its process ended before it did", again=phase.again)
            again = ": it is tried again" if phase.again else ""
            self.view(self.progress, Event(note=f"trial {trial.number} was interrupted{again}"))
            phase.store.refresh()

    def _fill(self, phase: Phase, deadline: Deadline) -> None:
        """Hand out jobs while there are idle workers and something is due."""
        while self._has_room and not deadline.passed:
            if self._postponed:
                self._submit(*self._postponed.pop(0))
                continue
            due = phase.next()
            if due is None:
                return
            trial, job, text = due
            self.running[trial.number] = trial
            self._submit(job, text)
            self.interrupts.check()

    def _submit(self, job: TrainJob, text: str) -> None:
        if not self.pool.jobs:
            self.progress.note = ""
            self.progress.await_workers()
            self.view(self.progress, None)
        with self.interrupts.allowed():  # after a restart it starts processes: seconds
            number = self.pool.submit(job)
        self._supervisor.alive(number)
        self.progress.line_of(number)
        self.progress.lines[number] = WorkerLine(text=text, num_params=job.architecture.num_params)

    def _listen(self, phase: Phase, deadline: Deadline) -> None:
        """Act on messages until a job ends, the deadline passes, or it is time for a heartbeat.

        The database is not read meanwhile: doing so at every message cost the parent an eighth of a core.
        """
        jobs = len(self.pool.jobs)
        while len(self.pool.jobs) == jobs and self._clock() < self._next_beat and not deadline.passed:
            self._supervisor.excuse(self._clock() - self._listened)  # a database may have been away
            with self.interrupts.allowed():
                messages = list(self.pool.messages(0.5))
            self._listened = self._clock()
            for message in messages:
                self.progress.workers_answer()
                self._supervisor.alive(message.worker)
                self._act(phase, message)
                self.interrupts.check()
            phase.store.write_epochs()
            self._end_hanging()
            self.live()
            phase.update(self.progress)
            self.view(self.progress, None)
        if self._clock() >= self._next_beat:  # whatever ended meanwhile: a long training shows its owner too
            phase.store.heartbeat(self.running.values())
            self._next_beat = self._clock() + HEARTBEAT_SECONDS

    def _act(self, phase: Phase, message: Message) -> None:
        job, line = message.job, self.progress.lines[message.worker]
        assert isinstance(job, TrainJob), "a phase trains; teachers have answered before"
        trial = self.running[job.key]
        self.observe(trial, message)
        match message:
            case StepMessage(step=step, steps=steps):
                line.step, line.steps = step, steps
            case EpochMessage(epoch=epoch):
                line.accuracy = epoch.accuracy
                line.history.append(epoch.accuracy)
                self.pool.answer(message, stop=phase.on_epoch(trial, job, epoch))
            case RunMessage(run=run):
                self._end(phase, message, phase.on_run(trial, job, run))
                self._supervisor.ended(run.seconds)
            case FailureMessage(reason=reason, killed=killed, lost_node=lost_node):
                self.progress.lines[message.worker] = WorkerLine()
                if killed and self._supervisor.died(trial.number, lost_node=lost_node):
                    self._again(job, reason, line.text)
                else:
                    reason = f"{reason}, {MAX_DEATHS + 1} times" if killed else reason
                    self._end(phase, message, phase.on_failure(trial, job, reason))
                    self._supervisor.failed(reason)
            case _:
                raise AssertionError(f"a training sends no {type(message).__name__}")

    def _end(self, phase: Phase, message: Message, event: Event) -> None:
        if message.job.key in phase.store.table.finished:  # else its next training is due
            del self.running[message.job.key]
        self.progress.lines[message.worker] = WorkerLine()
        self.view(self.progress, event)

    @property
    def _has_room(self) -> bool:
        return self.pool.idle is not None and len(self.pool.jobs) < self._at_once

    @property
    def _at_once(self) -> int:
        return max(1, len(self.pool) - self._supervisor.fewer)

    def _again(self, job: TrainJob, reason: str, text: str) -> None:
        """Train once more what lost its worker, at once or, where fewer may run now, when another has ended."""
        fewer = ""
        if self._at_once < len(self.pool):
            fewer = f"; from now on {self._at_once} at once"
        self.view(self.progress, Event(note=f"trial {job.key}: {reason}; it is tried again{fewer}"))
        if self._has_room:
            self._submit(job, text)
        else:
            self._postponed.append((job, text))

    def _end_hanging(self) -> None:
        """End workers that have been silent for too long; each is then reported as killed."""
        busy = [number for number, line in enumerate(self.progress.lines) if line.text != WorkerLine().text]
        for number in self._supervisor.hanging(busy):
            text = self.progress.lines[number].text
            self.view(self.progress, Event(note=f"worker {number + 1} has hung on {text}: it is ended"))
            self._supervisor.alive(number)
            self.pool.end(number)

    def _wait(self, phase: Phase) -> None:
        """Wait for trainings of other processes, and say for whom."""
        if foreign := phase.store.foreign(self.running):
            trial, _ = max(foreign, key=lambda each: each[1])
            owner = owner_name(trial.user_attrs)
            self.progress.note = f"waiting for trial {trial.number} of {owner}, taken over if that shows no heartbeat"
            self.view(self.progress, None)
        with self.interrupts.allowed():
            time.sleep(1)

    def _give_up(self, phase: Phase, reason: str) -> None:
        """End the trainings under way, and leave their trials for the next start."""
        if not self.running:
            return
        if self.pool.jobs:
            self.pool.restart()
        with phase.store.errors(), batch:
            for trial in self.running.values():
                phase.store.fail_interrupted(trial, reason, again=phase.again)
        self.running = {}


def _cause(error: BaseException) -> str:
    """Return in words what ended the trainings under way: a signal by its name, as `Interrupted` has it."""
    if isinstance(error, KeyboardInterrupt):
        return error.reason if isinstance(error, Interrupted) else "interrupted"
    return f"interrupted ({type(error).__name__})"
