"""Time limits and estimates, on a clock that the test turns."""

from __future__ import annotations

import math

import pytest
from clock import Clock

from nas.study import Deadline, Event, Progress, Stage, WorkerLine


@pytest.fixture
def clock():
    return Clock(1000.0)


# --- time limits ------------------------------------------------------------------------------------------------------


def test_a_deadline_passes_when_its_seconds_are_over(clock):
    deadline = Deadline.after(10, clock=clock)
    assert (deadline.elapsed, deadline.left, deadline.passed) == (0, 10, False)
    clock.now += 10
    assert (deadline.left, deadline.passed) == (0, False)
    clock.now += 0.5
    assert (deadline.elapsed, deadline.left, deadline.passed) == (10.5, -0.5, True)


def test_a_share_counts_from_the_same_beginning(clock):
    deadline = Deadline.after(10, clock=clock)
    clock.now += 4
    first = deadline.share(0.6)
    assert first.left == pytest.approx(2)
    clock.now += 3
    assert first.passed
    assert not deadline.passed
    assert deadline.share(0.95).left == pytest.approx(2.5)


def test_without_a_limit_nothing_passes(clock):
    for deadline in (
        Deadline.after(None, clock=clock),
        Deadline(clock=clock),
        Deadline.after(None, clock=clock).share(0.6),
    ):
        clock.now += 1e12
        assert deadline.left == math.inf
        assert not deadline.passed


# --- estimates --------------------------------------------------------------------------------------------------------


def progress(clock, *stages):
    return Progress(title="", target=None, lines=[WorkerLine()], stages=list(stages), clock=clock)


def test_the_time_left_is_that_of_the_whole_run_at_the_pace_so_far(clock):
    made = progress(clock, Stage(name="brief trials", work=10), Stage(name="finalists", work=30))
    assert made.began == 1000
    made.enter("brief trials")
    made.advance(0, 10)
    assert made.seconds_left is None  # of nothing done there is no pace
    clock.now += 20
    made.advance(4, 6)
    assert made.seconds_left == pytest.approx(5 * (6 + 30))
    clock.now += 40
    made.advance(10, 0)
    made.enter("finalists")
    made.advance(0, 20)  # fewer than planned
    assert made.seconds_left == pytest.approx(6 * 20)
    clock.now += 20
    made.advance(10, 10)
    assert made.seconds_left == pytest.approx((60 + 20) / (10 + 10) * 10)


def test_what_an_earlier_process_did_says_nothing_of_the_pace_of_this_one(clock):
    made = progress(clock, Stage(name="brief trials", work=100))
    made.enter("brief trials")
    made.advance(90, 10)
    clock.now += 10
    made.advance(90.4, 9.6)
    assert made.seconds_left is None
    made.advance(91, 9)
    assert made.seconds_left == pytest.approx(90)


def test_a_stage_of_which_nothing_was_left_is_done(clock):
    """Teachers that are stored send no message."""
    made = progress(clock, Stage(name="teachers", work=50, paced=False), Stage(name="brief trials", work=10))
    made.enter("teachers")
    made.enter("brief trials")
    made.advance(0, 10)
    clock.now += 20
    made.advance(4, 6)
    assert made.stages[0].done == 50
    assert made.seconds_left == pytest.approx(5 * 6)


def test_a_stage_that_nobody_planned_has_no_estimate(clock):
    made = progress(clock, Stage(name="brief trials", work=10))
    made.enter("something else")
    clock.now += 5
    made.advance(5, 5)
    assert (made.phase, made.seconds_left) == ("something else", None)
    assert made.stages == [Stage(name="brief trials", work=10)]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_an_event_is_one_line():
    event = Event(label="trial 12", accuracy=98.765, loss=0.04321, num_params=7568, text="8 M G C", leads=True)
    assert str(event).split() == ["trial", "12", "*", "98.765", "%", "loss", "0.0432", "7,568", "8", "M", "G", "C"]
    failed = Event(label="trial 3", state="failed", num_params=54, text="8 G C", note="the loss is nan")
    assert str(failed).split()[:3] == ["trial", "3", "failed"]
    assert str(failed).endswith("8 G C  (the loss is nan)")
    assert str(Event(note="a remark alone")) == "a remark alone"
