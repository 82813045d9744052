"""Killed at any write or event, interrupted at any call, and run again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import time

import pytest
import toys
from killing import calls_of, dead_owner, impatient, instants, interrupt_at, kill_at, kill_at_event, writes_of
from laws import check_account, check_laws, schedules, trials
from optuna.trial import TrialState

from nas.errors import NasError
from nas.export import read_winner
from nas.searches import read_reason
from nas.study import StudyStore, study_folder, study_names

TOTAL = 4
FILE_EVENTS = frozenset(("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"))


def go(pools, total=TOTAL):
    """A search with two workers, to its end."""
    pools.append(toys.Pool(2))
    return toys.run(pools[-1], store=impatient(toys.open_study()), trials=total)


def finished(name="toy"):
    """What is finished: trials by study and number."""
    found = {}
    if name not in study_names():
        return found
    try:
        store = StudyStore.open(name)
    except NasError:  # killed before its tables were made
        return found
    names = {each.study_name for each in store.storage.get_all_studies()}
    for each in (store, *([store.finalists()] if f"{name}/finalists" in names else [])):
        for trial in trials(each, TrialState.COMPLETE, TrialState.PRUNED):
            found[each.name, trial.number] = (trial.state, trial.value, trial.params, trial.intermediate_values)
    return found


def check_resumed(before, pools, result, total=TOTAL):
    """The laws, and that what was finished before is as it was and was not trained again."""
    store = toys.open_study()
    check_laws(store, total)
    assert finished().items() >= before.items()
    assert [len(finalist.scores) for finalist in result.finalists][:2] == [2, 2]
    # Every schedule that was claimed and cut off is tried again, and nothing that ended is.
    cut = {trial.user_attrs["schedule"] for trial in trials(store) if trial.user_attrs.get("interrupted")}
    waiting = set(schedules(store, TrialState.WAITING))
    assert cut <= set(schedules(store, TrialState.COMPLETE, TrialState.PRUNED)) | waiting
    brief = {schedule for schedule, _, epochs in pools[-1].trained if epochs == 3}
    known = {number for study, number in before if study == "toy"}
    assert not brief & {trial.user_attrs["schedule"] for trial in trials(store) if trial.number in known}
    winner = read_winner(study_folder("toy") / "best")
    assert str(winner.architecture) == result.finalists[0].schedule
    assert read_reason(study_folder("toy") / "best").counts == result.reason.counts


@pytest.fixture(scope="module")
def writes():
    with toys.quick_folder() as quick, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_STUDIES", str(quick))
        return writes_of(lambda: go([]))


@pytest.mark.parametrize("seed", range(3))
def test_killed_before_any_write_and_run_again(seed, writes):
    before, pools = {}, []
    for write in instants(seed, 4, writes):
        kill_at(write, lambda: go(pools))
        now = finished()
        assert now.items() >= before.items()  # what is finished stays as it is
        before = now
    check_resumed(before, pools, go(pools))


def test_killed_while_a_waiting_trial_starts_its_owner_is_unknown_and_it_is_taken_over():
    """On a server its start is three writes, of which the first starts it; the owner comes after that."""
    pools = []
    kill_at(10, lambda: go(pools))
    store = impatient(toys.open_study())
    for trial in store.refresh() and store.stale({}):
        store.fail_interrupted(trial, "its process ended", again=True)
    waiting = store.refresh().waiting()[0]
    assert store.storage.set_trial_state_values(store.study.get_trials()[waiting.number]._trial_id, TrialState.RUNNING)
    check_resumed(finished(), pools, go(pools))


@pytest.mark.parametrize("place", range(3))
def test_killed_at_any_step_of_the_export_and_run_again(place):
    """The folder of the winner is the old one or the new one at every instant, and the next start makes it new."""
    pools = []
    go(pools)
    old = json.loads((study_folder("toy") / "best" / "reason.json").read_text())
    lived = kill_at_event(
        instants(place, 3, 60)[place], lambda: toys.run(toys.Pool(2), trials=TOTAL + 1), events=FILE_EVENTS
    )
    folder = study_folder("toy") / "best"
    if folder.is_dir():  # else it is in the gap of a swap, which the next start closes
        found = json.loads((folder / "reason.json").read_text())
        assert found["counts"]["complete"] in (old["counts"]["complete"], TOTAL + 1)
    check_resumed(finished(), pools, go(pools, TOTAL + 1), TOTAL + 1)
    assert not lived


@pytest.fixture(scope="module")
def calls():
    with toys.quick_folder() as quick, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_STUDIES", str(quick))
        go([])
        patch.setenv("NAS_STUDIES", str(quick / "again"))
        return calls_of(lambda: go([]))


@pytest.mark.parametrize("seed", range(2))
def test_a_signal_at_any_instant_leaves_at_once_and_the_search_goes_on(seed, calls):
    """In brief trials, in finalists, inside the database and while waiting."""
    before, pools, interrupted = {}, [], 0
    for call in instants(seed, 4, calls):
        began = time.monotonic()
        interrupted += not interrupt_at(call, lambda: go(pools))
        assert time.monotonic() - began < 50  # a lock of its own was waited for for 60 s
        store = toys.open_study()
        assert not trials(store, TrialState.RUNNING)
        check_account(store)
        assert finished().items() >= before.items()
        before = finished()
    assert interrupted >= 2
    check_resumed(before, pools, go(pools))


def test_an_interruption_fails_what_runs_and_enqueues_it_again():
    class Interrupting(toys.Pool):
        def messages(self, timeout):
            if len(self.trained) == 3:
                raise KeyboardInterrupt
            yield from super().messages(timeout)

    store = toys.open_study()
    with pytest.raises(KeyboardInterrupt):
        toys.run(Interrupting(1), store=store)
    (cut,) = trials(store, TrialState.FAIL)
    assert cut.user_attrs["reason"] == "interrupted; enqueued again"
    assert store.table.ended == 2
    assert schedules(store, TrialState.WAITING) == [cut.user_attrs["schedule"]]
    toys.run(toys.Pool(1), store=store)
    check_laws(store, 4)
    assert schedules(store, TrialState.COMPLETE)[2] == cut.user_attrs["schedule"]


def test_a_killed_parent_is_known_to_be_dead():
    kill_at(10, lambda: go([]))
    (trial, *_) = trials(toys.open_study(), TrialState.RUNNING)
    assert trial.user_attrs["owner"].rpartition("/")[0] == dead_owner().rpartition("/")[0]
