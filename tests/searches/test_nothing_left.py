"""Searches that have nothing to train: a finished one that is run again, and one whose time went into its teachers."""

from __future__ import annotations

import os
import time

import pytest
import toys
from clock import Clock

from nas.errors import InfeasibleError, StorageError
from nas.study import Deadline, study_folder, without_winner
from nas.train import Recipe

DISTILLED = Recipe(epochs=3, teacher="8 M 8 G C")


@pytest.fixture(autouse=True)
def folder(studies_folder):
    return studies_folder


def notes_of(**changes):
    notes = []
    toys.run(toys.Pool(), view=lambda progress, event: notes.append(event.note) if event else None, **changes)
    return [note for note in notes if "nothing to train" in note]


def test_a_finished_search_that_is_run_again_says_so():
    assert notes_of() == []
    assert notes_of() == ["all 4 trials and their finalists are done: nothing to train; give more --trials"]
    assert notes_of(trials=5) == []
    assert notes_of(trials=4) == ["all 5 trials and their finalists are done: nothing to train; give more --trials"]


class Slow(toys.Pool):
    """A pool whose clock moves on by a second with every message."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def messages(self, timeout):
        for message in super().messages(timeout):
            self.clock.now += 1
            yield message


@pytest.mark.parametrize(("seconds", "kept"), [(1.5, 0), (7.5, 1)])  # an epoch takes a second, a teacher six
def test_a_time_limit_that_went_into_teachers_says_what_is_kept_and_how_to_go_on(seconds, kept):
    clock = Clock(0.0)
    with pytest.raises(InfeasibleError) as raised:
        toys.run(Slow(clock), recipe=DISTILLED, finalist_seeds=4, deadline=Deadline.after(seconds, clock=clock))
    text = str(raised.value)
    assert "spent on the teachers" in text
    assert f"{kept} of 2 teachers are trained and stored in " in text
    assert "To go on" in text
    assert ": nas" in text
    pool = toys.Pool()
    toys.run(pool, recipe=DISTILLED, finalist_seeds=4)
    assert sum("8 M 8" in schedule for schedule, _, _ in pool.trained) == 2 - kept


def test_a_study_without_a_winner_names_those_that_have_one():
    toys.open_study("empty")
    assert "no other study has one" in without_winner("empty")
    toys.run(toys.Pool())
    later = time.time() + 5
    os.utime(study_folder("empty") / "study.db", (later, later))
    assert without_winner("empty").startswith("the latest study 'empty' has no winner: name one that has (toy)")
    assert without_winner("nobody").startswith(f"no winner in {study_folder('nobody')}: name one")
    code, out, err = toys.nas("train-best")
    assert (code, out) == (StorageError.exit_code, "")
    assert "the latest study 'empty' has no winner: name one that has (toy)" in err
    code, out, err = toys.nas("predict", __file__)
    assert code == StorageError.exit_code
    assert "name one that has (toy)" in err
    code, out, _ = toys.nas("show")
    assert code == 0
    assert "name one that has (toy)" in out
    code, out, err = toys.nas("report")
    assert code == 0
    assert out.strip().endswith("report.html")
    assert "name one that has (toy)" in err.replace("\n", " ")
    for command in ("show", "report"):  # a study that was named is what was wanted
        code, out, err = toys.nas(command, "empty")
        assert "name one that has" not in out + err
