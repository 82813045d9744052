"""Trials read in plain queries: those that Optuna reads, once each."""

from __future__ import annotations

import math

import optuna
import pytest
import toys
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import get_storage
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from nas.study import StudyStore
from nas.study.reader import TrialReader
from nas.study.storage import open_storage

SPACES = {
    "x": IntDistribution(0, 9), "y": FloatDistribution(0.1, 10, log=True), "z": CategoricalDistribution(["a", None, 3]),
}  # fmt: skip


def trial(state=TrialState.COMPLETE, **fields):
    value = {"value": 1.5} if state == TrialState.COMPLETE and "values" not in fields else {}
    return create_trial(state=state, **value, **fields)


KINDS = [
    trial(params={"x": 3, "y": 0.25, "z": None}, distributions=SPACES, user_attrs={"a": [1, {"b": "\u2603"}]}),
    trial(params={"z": "a", "x": 0}, distributions={key: SPACES[key] for key in "zx"}, system_attrs={"s": 1}),
    trial(values=[-math.inf]),
    trial(TrialState.PRUNED, intermediate_values={1: 0.5, 3: math.nan, 2: math.inf}),
    trial(TrialState.FAIL, user_attrs={"reason": "x"}),
    trial(TrialState.WAITING, params={"x": 9}, distributions={"x": SPACES["x"]}),
    trial(TrialState.RUNNING),
]  # fmt: skip


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def opened(request, folder):
    """A storage, and its reader of a study that has another one before and after it."""
    folder.mkdir()
    places = {"sqlite": lambda: folder / "x.db", "journal": lambda: folder / "x.log",
              "postgresql": lambda: request.getfixturevalue("postgres").url}  # fmt: skip
    backend = open_storage(str(places[request.param]()), "x", create=True)
    storage = get_storage(backend)
    for summary in optuna.get_all_study_summaries(storage):  # of the test before, on the same server
        optuna.delete_study(study_name=summary.study_name, storage=storage)
    assert (TrialReader(storage, backend, 1)._engine is None) == (request.param == "journal")
    for name in ("before", "x", "after"):
        study = optuna.create_study(study_name=name, storage=storage)
        study.add_trials(KINDS[:2])
    study_id = storage.get_study_id_from_name("x")
    return storage, study_id, TrialReader(storage, backend, study_id)


def described(trials):
    return {each.number: repr(each) for each in trials}


def test_the_first_reading_is_optunas_own(opened):
    storage, study_id, reader = opened
    for kind in KINDS[2:]:
        storage.create_new_trial(study_id, kind)
    found = reader.read()
    assert described(found) == described(storage.get_all_trials(study_id))
    assert [each.number for each in found] == list(range(len(KINDS)))
    assert reader.count() == len(KINDS)


def test_afterwards_what_is_new_or_was_unfinished_is_read(opened):
    storage, study_id, reader = opened
    for kind in KINDS[2:]:
        storage.create_new_trial(study_id, kind)
    reader.read()
    assert {each.number for each in reader.read()} == {5, 6}
    running = storage.get_trial_id_from_study_id_trial_number(study_id, 6)
    storage.set_trial_user_attr(running, "owner", "me")
    storage.create_new_trial(storage.get_study_id_from_name("before"), KINDS[0])
    storage.create_new_trial(study_id, KINDS[0])
    found = {each.number: each for each in reader.read()}
    assert found.keys() == {5, 6, 7}
    assert found[6].user_attrs == {"owner": "me"}
    storage.set_trial_state_values(running, TrialState.COMPLETE, [2.0])
    assert {each.number: each.state for each in reader.read()} == {5: TrialState.WAITING, 6: TrialState.COMPLETE}
    assert {each.number for each in reader.read()} == {5}


def test_more_unfinished_trials_than_a_query_takes(opened, monkeypatch):
    storage, study_id, reader = opened
    monkeypatch.setattr("nas.study.reader.MANY", 3)
    for _ in range(7):
        storage.create_new_trial(study_id, KINDS[6])
    assert len(reader.read()) == 9
    assert sorted(each.number for each in reader.read()) == list(range(2, 9))


def test_a_trial_whose_id_comes_late_is_read(opened):
    """Two processes may be given ids and end their writes in another order, on a server."""
    storage, study_id, reader = opened
    assert len(reader.read()) == 2
    if reader._engine is None:
        pytest.skip("a journal has no ids of its own")
    ids = [storage.create_new_trial(study_id, kind) for kind in KINDS[2:4]]
    elsewhere = storage.get_study_id_from_name("after")
    move = "UPDATE trials SET study_id = {} WHERE trial_id = {}".format
    with reader._engine.begin() as connection:
        connection.exec_driver_sql(move(elsewhere, ids[0]))
    assert [each.number for each in reader.read()] == [3]
    with reader._engine.begin() as connection:
        connection.exec_driver_sql(move(study_id, ids[0]))
    assert {each.number for each in reader.read()} >= {2}


def test_reading_waits_for_no_writer(folder):
    """A report of a study reads it while a search holds the lock for a write."""
    store = toys.open_study()
    toys.run(toys.Pool(), store=store, trials=2)
    other = toys.open_study()
    with store._backend.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET study_name = study_name")
        assert len(other._reader.read()) == 2


@pytest.mark.parametrize("read_only", [True, False])
def test_all_queries_of_a_reading_are_one_transaction_that_takes_no_writers_lock(folder, read_only):
    """Else a trial that ends between two of them is read as finished, and without its last attributes."""
    toys.run(toys.Pool(1), store=(store := toys.open_study()), trials=2)
    reading = StudyStore.open("toy", read_only=read_only)
    seen = []

    def note(connection, *_):
        raw = connection.connection.dbapi_connection
        seen.append(raw.in_transaction)
        if len(seen) == 1:
            store.set_attr("written", "meanwhile")  # would wait for a minute

    event.listen(reading._backend.engine, "before_cursor_execute", note)
    assert len(reading.refresh().complete) == 2
    assert len(seen) > 5
    assert all(seen)
