"""The loop: what it claims, beats, gives up, takes over and tries again; on a clock that the test turns."""

from __future__ import annotations

import pytest
import toys
from clock import Clock
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from nas.architecture import Architecture
from nas.errors import StorageError
from nas.study import (
    HEARTBEAT_SECONDS,
    STALE_SECONDS,
    Deadline,
    Event,
    Interrupts,
    Loop,
    Progress,
    WorkerLine,
    loop,
)
from nas.study.ownership import Staleness
from nas.study.progress import STARTING_WORKERS
from nas.study.supervision import MAX_DEATHS
from nas.train import Recipe
from nas.workers import FailureMessage, TrainJob

NETWORK = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
DISTRIBUTIONS = {"x": IntDistribution(0, 99)}


@pytest.fixture
def clock():
    return Clock()


class Trainings:
    """Trials of `parts` trainings each, which end with the number of epochs; a trial goes on until it has all."""

    name = "trainings"
    again = True

    def __init__(self, store, total, parts=1):
        self.store, self.total, self.parts = store, total, parts
        self.between, self.done = [], {}

    def next(self):
        if self.between:
            trial = self.between.pop(0)
        elif (waiting := self.store.claim_waiting()) is not None:
            trial = waiting
        elif self.store.refresh().taken < self.total:
            trial = self.store.claim({"x": len(self.store.table)}, DISTRIBUTIONS, {"schedule": str(NETWORK)})
        else:
            return None
        job = TrainJob(key=trial.number, architecture=NETWORK, recipe=Recipe(epochs=2), seed=trial.params["x"])
        return trial, job, "a line"

    def update(self, progress):
        progress.done = self.store.table.ended
        return self.store.table.ended >= self.total

    def on_epoch(self, trial, job, epoch):
        return False

    def on_run(self, trial, job, run):
        self.done[trial.number] = self.done.get(trial.number, 0) + 1
        if self.done[trial.number] < self.parts:
            self.between.append(trial)
        else:
            self.store.finish(trial, TrialState.COMPLETE, 1.0, loss=0.1, num_params=1)
        return Event(label=f"trial {trial.number}")

    def on_failure(self, trial, job, reason):
        self.store.finish(trial, TrialState.FAIL, reason=reason)
        return Event(label=f"trial {trial.number}", state="failed", note=reason)


def made(pool, clock, events=None, notes=None):
    progress = Progress(title="", target=None, lines=[WorkerLine() for _ in range(len(pool))], clock=clock)

    def view(progress, event):
        if event is not None and events is not None:
            events.append(event)
        if notes is not None:
            notes.append(progress.note)

    return Loop(pool, progress, view, Interrupts())


@pytest.fixture
def store():
    return toys.open_study()


# --- killed workers ---------------------------------------------------------------------------------------------------


def test_workers_start_before_a_trial_is_claimed_and_only_where_something_is_to_do(store, clock):
    """Compiling takes minutes on a busy machine, in which the owner of a trial would show no heartbeat."""

    class Compiling(toys.Pool):
        def start(self):
            super().start()
            begun.append(len(store.refresh()))

    begun, pool = [], Compiling()
    for _ in range(2):
        phase = Trainings(store, 1)
        assert made(pool, clock).run(phase, Deadline())
        assert begun == [0]
    assert len(phase.store.table) == 1


class Killing(toys.Pool):
    """Its workers die of the jobs in `deaths`, so many times each."""

    def __init__(self, count, deaths):
        super().__init__(count)
        self.deaths = dict(deaths)

    def live(self, number, job):
        if self.deaths.get(job.key, 0) > 0:
            self.deaths[job.key] -= 1
            yield from list(super().live(number, job))[:1]
            yield FailureMessage(worker=number, job=job, reason="the worker died (exit code -9)", killed=True)
        else:
            yield from super().live(number, job)


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_worker_costs_its_network_nothing_twice_and_the_third_time_its_trial(store, clock, count):
    """Out of memory, or killed by an operator, is no fault of a network, unless it happens every time."""
    pool, events = Killing(count, {0: 1, 1: MAX_DEATHS, 3: MAX_DEATHS + 1, 4: 99}), []
    phase = Trainings(store, 6)
    assert made(pool, clock, events).run(phase, Deadline())
    assert [trial.state.name for trial in store.refresh().trials()] == [
        "COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "FAIL", "COMPLETE",
    ]  # fmt: skip
    assert {trial.user_attrs["reason"] for trial in store.table.trials(TrialState.FAIL)} == {
        "the worker died (exit code -9), 3 times"
    }
    assert not any(trial.user_attrs.get("interrupted") for trial in store.table.trials())
    trained = [seed for _, seed, _ in pool.trained]
    assert [trained.count(number) for number in range(6)] == [2, 3, 1, 3, 3, 1]
    notes = [event.note for event in events if not event.label]
    again = "trial 3: the worker died (exit code -9); it is tried again"
    assert sum(note.startswith(again) for note in notes) == MAX_DEATHS
    assert all(line == WorkerLine() for line in made(pool, clock).progress.lines)


def test_after_a_death_no_worker_is_shown_at_work_that_is_idle(store, clock):
    pool = Killing(2, {0: 1})
    looped = made(pool, clock)
    seen = []
    looped.view = lambda progress, event: seen.append(
        [line.text for number, line in enumerate(progress.lines) if pool.lives[number] is None]
    )
    looped.run(Trainings(store, 1), Deadline())
    assert {text for texts in seen[1:] for text in texts} <= {"idle", "a line"}
    assert seen[-1] == ["idle", "idle"]


# --- heartbeats -------------------------------------------------------------------------------------------------------


class Turning(toys.Pool):
    """Every look at its messages takes some seconds; the job of `long` never ends by itself."""

    def __init__(self, count, clock, seconds, long=None):
        super().__init__(count)
        self.clock, self.seconds, self.long = clock, seconds, long

    def messages(self, timeout):
        self.clock.now += self.seconds
        yield from super().messages(timeout)

    def live(self, number, job):
        if job.key == self.long:
            while self.clock.now < 10 * STALE_SECONDS:
                yield from ()
                yield toys.EpochMessage(worker=number, job=job, epoch=next(iter(self.epochs(job))))
        yield from super().live(number, job)

    def epochs(self, job):
        for message in toys.Pool().live(0, job):
            if isinstance(message, toys.EpochMessage):
                yield message.epoch


def test_a_long_training_beats_however_often_short_ones_end(store, clock):
    """A job that ends more often than every `HEARTBEAT_SECONDS` once put every beat off."""
    beats = {}
    annotate = store.annotate

    def watched(claimed, **attrs):
        if "heartbeat" in attrs:
            beats.setdefault(claimed.number, []).append(clock.now)
        annotate(claimed, **attrs)

    store.annotate = watched
    made(Turning(2, clock, seconds=HEARTBEAT_SECONDS / 4, long=0), clock).run(Trainings(store, 30), Deadline())
    gaps = [after - before for before, after in zip(beats[0], beats[0][1:], strict=False)]
    assert len(beats[0]) >= 40
    assert max(gaps) <= 2 * HEARTBEAT_SECONDS < STALE_SECONDS
    assert all(len(each) <= 3 for number, each in beats.items() if number)


def test_a_trial_between_two_trainings_is_this_processs_own(store, clock):
    """However long they take and whatever the beats: it is not given up, and not trained beside itself."""
    store.staleness = Staleness(clock=clock)
    pool = Turning(2, clock, seconds=STALE_SECONDS)
    assert made(pool, clock).run(Trainings(store, 3, parts=4), Deadline())
    assert [trial.state.name for trial in store.refresh().trials()] == ["COMPLETE"] * 3
    assert len(pool.trained) == 12


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError, None])
def test_trials_between_two_trainings_are_left_for_the_next_start(store, clock, error):
    class Ending(Trainings):
        def on_run(self, trial, job, run):
            if sum(self.done.values()) == 3:  # of the second of two, while the first waits for its third training
                clock.now += 1000
                if error is not None:
                    raise error("here")
            return super().on_run(trial, job, run)

    deadline = Deadline.after(100, clock=clock)
    phase = Ending(store, 3, parts=3)
    if error is None:
        assert not made(toys.Pool(2), clock).run(phase, deadline)
    else:
        with pytest.raises(error):
            made(toys.Pool(2), clock).run(phase, deadline)
    assert [trial.number for trial in phase.between] == ([0, 1] if error is None else [0])
    assert not store.refresh().running()
    cut = store.table.trials(TrialState.FAIL)
    assert [trial.user_attrs["again_after"] for trial in store.table.waiting()] == [trial.number for trial in cut]
    reasons = {None: "cut by the time limit", KeyboardInterrupt: "interrupted"}
    reason = reasons.get(error, "interrupted (StorageError)")
    assert {trial.user_attrs["reason"] for trial in cut} == {f"{reason}; enqueued again"}
    counts = store.counts()
    assert (counts["interrupted"], counts["fail"]) == (len(cut), 0)
    assert made(toys.Pool(), clock).run(Trainings(store, 3), Deadline())
    assert [trial.params["x"] for trial in store.table.trials(TrialState.COMPLETE)] == [
        0,
        1,
        4,
    ]  # those cut, then a new one


# --- other processes --------------------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_taken_over_at_once(store, clock, dead_owner):
    left = store.claim({"x": 50}, DISTRIBUTIONS, {"schedule": str(NETWORK)})
    store.annotate(left, owner=dead_owner)
    events, pool = [], toys.Pool()
    made(pool, clock, events).run(Trainings(store, 2), Deadline())
    assert [seed for _, seed, _ in pool.trained] == [50, 2]
    assert events[0].note == "trial 0 was interrupted: it is tried again"


def test_a_silent_process_is_waited_for_and_named(store, clock, monkeypatch):
    left = store.claim({"x": 50}, DISTRIBUTIONS, {"schedule": str(NETWORK)})
    store.annotate(left, owner="elsewhere/boot/pid:[1]/7/1/token")
    store.staleness = Staleness(clock=clock)
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        clock.now += 10

    monkeypatch.setattr(loop.time, "sleep", sleep)
    shown, pool = [], toys.Pool()
    made(pool, clock, notes=shown).run(Trainings(store, 1), Deadline())
    assert len(naps) == STALE_SECONDS / 10
    assert [seed for _, seed, _ in pool.trained] == [50]
    assert set(shown) - {"", STARTING_WORKERS} == {
        "waiting for trial 0 of elsewhere (pid 7), taken over if that shows no heartbeat"
    }
