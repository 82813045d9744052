"""Workers that die or hang, trainings that fail, and two parents at once: what the search does about them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
import toys
from clock import Clock
from optuna.trial import TrialState

from nas.errors import NasError
from nas.study import StudyStore, supervision
from nas.study.supervision import (
    DEATHS_PER_WORKER,
    FIRST_HANG_SECONDS,
    HANG_FACTOR,
    LEAST_ENDED,
    LEAST_HANG_SECONDS,
    MostFailed,
    Supervisor,
)
from nas.workers import EpochMessage, FailureMessage, ProcessPool


def notes_of(events):
    return [event.note for event in events if not event.label]


def seen(events):
    return lambda progress, event: events.append(event) if event is not None else None


# --- hanging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("longest", "limit"),
    [(None, FIRST_HANG_SECONDS), (1.0, LEAST_HANG_SECONDS), (100.0, 100 * HANG_FACTOR)],
)
def test_a_worker_hangs_that_is_silent_for_much_longer_than_any_training(longest, limit):
    clock = Clock()
    supervisor = Supervisor(clock)
    if longest is not None:
        supervisor.ended(longest)
    supervisor.alive(0)
    clock.now = 10
    supervisor.alive(1)
    clock.now = limit
    assert supervisor.hanging([0, 1]) == []
    clock.now = limit + 1
    assert supervisor.hanging([0, 1]) == [0]
    assert supervisor.hanging([1]) == []  # an idle worker is silent, and does not hang
    supervisor.alive(0)
    assert supervisor.hanging([0, 1]) == []


def test_a_stopped_worker_is_ended_and_its_trial_tried_again(monkeypatch):
    """SIGSTOP stands for a driver that never comes back."""

    def limit(seconds):
        monkeypatch.setattr(supervision, "FIRST_HANG_SECONDS", seconds)

    class Stopping(ProcessPool):
        stopped = 0

        def messages(self, timeout):
            for message in super().messages(timeout):
                if isinstance(message, EpochMessage) and not self.stopped:
                    self.stopped = self._workers[message.worker].process.pid
                    os.kill(self.stopped, signal.SIGSTOP)
                    limit(1.0)
                yield message

        def end(self, worker):
            super().end(worker)
            limit(FIRST_HANG_SECONDS)  # a new worker takes seconds to start

    training, events = toys.synthetic(), []
    with Stopping(1, training, training.validation, device="cpu", backend="torch") as pool:
        result = toys.run(pool, view=seen(events), trials=1, finalists=1, finalist_seeds=1, published=False)
    assert result.finalists[0].seeds == (1,)
    assert pool.stopped
    notes = notes_of(events)
    assert sum("worker 1 has hung on" in note for note in notes) == 1
    assert sum("it is tried again" in note for note in notes) == 1
    trials = StudyStore.open("toy").refresh().trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE]
    with pytest.raises(ProcessLookupError):
        os.kill(pool.stopped, 0)


# --- dying ------------------------------------------------------------------------------------------------------------


class Dying(toys.Pool):
    """The first `deaths` trials lose their worker, once each; `most` are the most at once after each death."""

    def __init__(self, count, deaths):
        super().__init__(count)
        self.left, self.most, self.lost = deaths, [0], set()

    def submit(self, job):
        number = super().submit(job)
        self.most[-1] = max(self.most[-1], len(self.jobs))
        return number

    def live(self, number, job):
        if self.left > 0 and job.key not in self.lost:
            self.left -= 1
            self.lost.add(job.key)
            self.most.append(len(self.jobs) - 1)
            yield FailureMessage(worker=number, job=job, reason="the worker died (exit code -9)", killed=True)
        else:
            yield from super().live(number, job)


@pytest.mark.parametrize(("deaths", "left"), [(0, 4), (2, 4), (3, 3), (6, 2), (9, 1), (12, 1)])
def test_repeated_deaths_lower_the_number_of_workers_with_a_word(deaths, left):
    assert DEATHS_PER_WORKER == 3
    pool, events = Dying(4, deaths), []
    result = toys.run(pool, view=seen(events), trials=16, finalists=1, finalist_seeds=1)
    assert result.reason.counts["complete"] + result.reason.counts["pruned"] == 16
    assert result.reason.counts["fail"] == 0
    assert pool.most[-1] == left
    words = [note for note in notes_of(events) if "at once" in note]
    assert any(f"from now on {left} at once" in note for note in words) == (left < 4)


# --- failing ----------------------------------------------------------------------------------------------------------


def failing(reason, good):
    """A score that is fine for the first networks, then fails with `reason`, in which {} is a number."""
    known = {}

    def score(architecture, seed, epoch):
        place = known.setdefault(str(architecture), len(known))
        if place >= good:
            raise NasError(reason.format(place))
        return toys.luck(architecture, seed, epoch)

    return score


def test_a_search_in_which_most_trials_fail_for_one_reason_stops_with_it():
    pool = toys.Pool(score=failing("out of memory: tried to allocate {} bytes", good=2))
    with pytest.raises(
        MostFailed, match=r"4 of 6 trainings failed \(out of memory: tried to allocate 5 bytes\)"
    ) as error:
        toys.run(pool, trials=40)
    assert error.value.exit_code == 4
    table = StudyStore.open("toy").refresh()
    assert len(table.trials(TrialState.FAIL)) == 4 == LEAST_ENDED - 2
    assert not table.running()
    with pytest.raises(MostFailed):  # the cause is still there: a resumed search says so as well
        toys.run(pool, store=toys.open_study(), trials=40)


def test_the_command_leaves_with_a_line_and_a_code_that_is_not_zero(monkeypatch, folder):
    pool = toys.Pool(score=failing("the loss is not a number at step {}", good=1))
    monkeypatch.setattr("nas.library.pools.ProcessPool", lambda *_, **__: pool)
    code, out, err = toys.nas(*toys.TINY_SEARCH, "--trials", "30", "-q")
    assert (code, out) == (4, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: 5 of 6 trainings failed (the loss is not a number")
    assert last.endswith("remove the cause, then run the same command again")


def test_some_failures_or_many_reasons_do_not_stop_a_search():
    """A few bad networks are what a search is for; different reasons are no one cause."""
    supervisor = Supervisor(Clock())
    for number in range(20):
        supervisor.ended(1.0)
        supervisor.failed(f"out of memory at {number}")
    reasons = Supervisor(Clock())
    for number in range(20):
        reasons.failed("abcdefghijklmnopqrstuvwxyz"[number])


# --- two parents ------------------------------------------------------------------------------------------------------

PARENT = """
import sys, time, toys
class Pool(toys.Pool):
    def messages(self, timeout):
        time.sleep(0.002)  # so that neither has had all before the other begins
        yield from super().messages(timeout)
pool = Pool(2)
print("ready", flush=True)
input()
toys.run(pool, store=toys.open_study("shared"), trials=24, sampler="random")
print(*("|".join(map(str, each)) for each in pool.trained), sep="\\n")
"""


def test_two_processes_share_a_study_on_one_sqlite_file(folder):
    """None is trained twice, the total is exact, and the accounts close."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    parents = [
        subprocess.Popen(
            [sys.executable, "-c", PARENT], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for parent in parents:
        assert parent.stdout.readline() == "ready\n"
    for parent in parents:
        parent.stdin.write("\n")
        parent.stdin.flush()
    done = [parent.communicate(timeout=120) for parent in parents]
    assert [(parent.returncode, err) for parent, (_, err) in zip(parents, done, strict=True)] == [(0, "")] * 2
    trained = [out.splitlines() for out, _ in done]
    assert all(trained)
    assert max(Counter(line for lines in trained for line in lines).values()) == 1
    store = toys.open_study("shared")
    table = store.refresh()
    assert (table.ended, table.running()) == (24, [])
    assert store.counts()["unaccounted"] == 0
    schedules = [t.user_attrs["schedule"] for t in table.learned]
    assert len(set(schedules)) == len(schedules) == 24
