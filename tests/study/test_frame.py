"""A study as a table: the same however it is read."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import toys

import nas
from nas.architecture import Architecture
from nas.errors import UsageError
from nas.study import StudyStore, frame, latest_study, study_names


def failing():
    calls = []

    def score(architecture, seed, epoch):
        calls.append(1)
        if len(calls) == 5:
            raise UsageError("made to fail")
        return toys.luck(architecture, seed, epoch)

    return toys.Pool(score=score)


def test_a_reopened_study_is_the_same_frame(folder):
    toys.run(failing(), trials=14)
    first, second = nas.load_study("toy"), nas.load_study()
    pd.testing.assert_frame_equal(first, second)
    assert list(first["number"]) == list(range(14))
    assert set(first["state"]) == {"COMPLETE", "PRUNED", "FAIL"}
    assert first.columns[:9].tolist() == [
        "number", "state", "value", "schedule", "num_params", "macs", "loss", "epochs", "seconds",
    ]  # fmt: skip
    for row in first.itertuples():
        assert Architecture.parse(row.schedule).num_params == row.num_params
        assert (row.state == "FAIL") == (row.reason == "made to fail")
        assert row.epochs == 3 or row.state != "COMPLETE"
    path = folder / "toy" / "study.db"
    for storage in (str(path), f"sqlite:///{path}"):
        pd.testing.assert_frame_equal(nas.load_study("toy", storage), first)


def test_an_empty_study_has_an_empty_frame_and_counts():
    store = toys.open_study()
    table = frame(store)
    assert len(table) == 0
    assert {"number", "state", "value", "schedule", "epochs"} <= set(table.columns)
    store.refresh()
    assert set(store.counts().values()) == {0}


def test_the_latest_study_is_the_one_written_last(folder):
    for when, name in enumerate(("b", "a")):
        toys.open_study(name)
        _touch(folder / name / "study.db", 1000 + when)
    assert (study_names(), latest_study()) == (["b", "a"], "a")
    _touch(folder / "b" / "study.db", 2000)
    assert (study_names(), latest_study()) == (["a", "b"], "b")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "study.db").touch()
    (folder / "no study").mkdir()
    assert study_names() == ["a", "b"]
    with pytest.raises(UsageError):
        StudyStore.open(".hidden")


def _touch(path, seconds):
    os.utime(path, (seconds, seconds))
