"""The state of a search, for whoever shows it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nas.space import DISCARDS

RATE_SECONDS, LEAST_RATE_SECONDS = 60.0, 2.0
"""Seconds over which discards are averaged, and below which a rate says nothing."""

STARTING_WORKERS = "starting workers; the first run compiles the kernels (once, half a minute or more)"


@dataclass(kw_only=True)
class WorkerLine:
    """The training that one worker is at."""

    text: str = "idle"
    num_params: int = 0
    step: int = 0
    steps: int = 1
    accuracy: float | None = None  # percent, of the last epoch
    history: list[float] = field(default_factory=list)  # percent, of every epoch of this training


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line worth keeping: a training that ended, or a remark alone."""

    label: str = ""  # "trial 12", "finalist 3"
    state: str = ""  # "", "pruned", "failed"
    accuracy: float | None = None
    loss: float | None = None
    num_params: int = 0
    text: str = ""  # the schedule or the recipe
    note: str = ""
    leads: bool = False  # the best so far

    def __str__(self) -> str:
        if not self.label:
            return self.note
        accuracy = "" if self.accuracy is None else f"{self.accuracy:7.3f} %"
        loss = "" if self.loss is None else f"loss {self.loss:.4f}"
        size = f"{self.num_params:,}" if self.num_params else ""
        note = f"  ({self.note})" if self.note else ""
        mark = "*" if self.leads else " "
        return (
            f"{self.label:<12} {mark} {self.state:<6} {accuracy:>9}  {loss:<11}  {size:>7}  {self.text}{note}".rstrip()
        )


@dataclass(kw_only=True)
class Stage:
    """A part of a run and its work, in epochs of one brief trial."""

    name: str
    work: float
    done: float = 0.0
    paced: bool = True
    """True if its pace tells that of the stages to come: that of teachers does not."""


@dataclass(kw_only=True)
class Progress:
    """The state of a run. `best` is what leads: accuracy in percent, loss, schedule, parameters."""

    title: str  # the budget, in words
    target: float | None
    lines: list[WorkerLine]
    stages: list[Stage] = field(default_factory=list)
    phase: str = "starting"
    note: str = ""  # what is being waited for, such as a first compilation
    counts: dict[str, int] = field(default_factory=dict)
    results: list[tuple[int, float]] = field(default_factory=list)
    """Parameters and accuracy of every complete brief trial, by number."""
    best: tuple[float, float | None, str, int] | None = None
    max_params: int | None = None
    done: int = 0
    total: int = 0
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)  # on the clock
    seconds_left: float | None = None  # of the whole run, not of the phase alone
    _spent: float = 0.0  # seconds in which `_worked` was done, by this process
    _worked: float = 0.0
    _entered: float = 0.0
    _awaiting: float | None = None  # since when workers start
    _answered: bool = False
    _brought: float | None = None  # what was done of the stage when this process entered it
    _discards: deque[tuple[float, int]] = field(default_factory=deque)  # when, and how many by then

    def __post_init__(self) -> None:
        self.began = self.clock()

    def line_of(self, worker: int) -> WorkerLine:
        """Return the line of a worker; a pool may grow."""
        self.lines += [WorkerLine() for _ in range(worker + 1 - len(self.lines))]
        return self.lines[worker]

    def enter(self, name: str) -> None:
        """Begin a phase; the stage of that name, if there is one, is what `advance` speaks of."""
        self._close()
        self.phase, self.done, self.total = name, 0, 0
        self._entered, self._brought = self.clock(), None

    def end(self, phase: str) -> None:
        """State that the run is over, which the phase says how: nothing is under way or left."""
        self.enter(phase)
        self.note, self.seconds_left, self.lines = "", None, []

    def await_workers(self) -> None:
        """Note that workers start, unless they have answered before."""
        if self._awaiting is None and not self._answered:
            self._awaiting, self.note = self.clock(), STARTING_WORKERS

    def workers_answer(self) -> None:
        """Note that workers are there; the time until then, in which no work is done, is left out of estimates."""
        self.note, self._answered = "", True
        if self._awaiting is not None:
            self._entered += self.clock() - max(self._awaiting, self._entered)
            self._awaiting = None

    def count(self, counts: Mapping[str, int]) -> None:
        """State where every schedule went."""
        self.counts, now = dict(counts), self.clock()
        if len(self._discards) > 2 and now - self._discards[-2][0] < 0.5:  # workers answer many times a second
            self._discards.pop()
        self._discards.append((now, sum(counts[reason] for reason in DISCARDS)))
        while len(self._discards) > 2 and self._discards[1][0] <= now - RATE_SECONDS:
            self._discards.popleft()

    @property
    def discards_per_second(self) -> float | None:
        """Schedules discarded each second of the last minute; None while that says nothing."""
        if not self._discards or self.clock() - self._discards[0][0] < LEAST_RATE_SECONDS:
            return None
        (began, before), (_, after) = self._discards[0], self._discards[-1]
        return max(0, after - before) / (self.clock() - began)

    def advance(self, done: float, left: float) -> None:
        """State the work done and left of the current stage, and estimate the whole from the pace so far.

        There is no estimate before trials of this study were trained for as long as half of one takes.
        """
        stage = self._stage()
        if stage is None:
            return
        stage.done, stage.work = done, done + left
        if self._brought is None:
            self._brought = done
        if not stage.paced:
            return
        seconds = self._spent + self.clock() - self._entered
        worked = self._worked + done - self._brought
        rest = sum(max(0.0, each.work - each.done) for each in self.stages)
        self.seconds_left = seconds / worked * rest if worked > 0.5 else None

    def _stage(self) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == self.phase), None)

    def _close(self) -> None:
        stage = self._stage()
        if stage is None:
            return
        if self._brought is None:  # nothing of it was left to do
            stage.done = stage.work
            return
        if stage.paced:
            self._spent += self.clock() - self._entered
            self._worked += stage.done - self._brought
        stage.work = stage.done


View = Callable[[Progress, Event | None], None]
"""Called after every change; the event, where there is one, is a line worth keeping."""
