"""Brief trials: what is drawn, counted, trained, pruned, and when they end."""

from __future__ import annotations

import itertools
import threading
from collections import Counter

import numpy as np
import pytest
import toys
from laws import check_account, check_laws, schedules, trials
from optuna.trial import TrialState, create_trial

from nas.architecture import Architecture
from nas.errors import InfeasibleError, NasError
from nas.searches import BriefTrials, leaders
from nas.space import DISCARDS, SearchSpace
from nas.study import Deadline, TrialTable, study_folder

# --- counts and draws -------------------------------------------------------------------------------------------------


def test_every_draw_is_accounted_for(monkeypatch):
    drawn, draw = [], SearchSpace.random
    monkeypatch.setattr(SearchSpace, "random", lambda self, rng, share=None: drawn.append(1) or draw(self, rng))
    store = toys.open_study()
    result = toys.run(toys.Pool(2), store=store, trials=9)
    counts = check_account(store)
    assert result.reason.counts == counts
    discarded = sum(counts[reason] for reason in DISCARDS)
    assert counts["generated"] == len(drawn) == counts["complete"] + discarded
    assert discarded > 0
    toys.run(toys.Pool(2), store=store, trials=19)  # a surrogate screens from the 17th on
    check_laws(store, 19)
    assert store.counts()["screened out"] > 0


def test_the_total_counts_and_a_finished_study_trains_nothing():
    pool, store = toys.Pool(), toys.open_study()
    first = toys.run(pool, store=store, trials=4)
    assert len(pool.trained) == 4 + 2 * 2
    assert store.refresh().ended == 4
    again = toys.Pool()
    second = toys.run(again, store=toys.open_study(), trials=4)
    assert again.trained == []
    assert (second.finalists, second.reason) == (first.finalists, first.reason)
    more = toys.Pool()
    toys.run(more, store=store, trials=7)
    brief = [schedule for schedule, _, epochs in more.trained if epochs == 3]
    assert len(brief) == 3
    assert not {schedule for schedule, _, epochs in pool.trained if epochs == 3} & set(brief)
    check_laws(store, 7)


def test_draws_depend_on_seed_and_trial_number_alone():
    """Five trials at once, or three and then two more, by different numbers of workers: the same schedules."""
    whole, halves, other = toys.open_study("whole"), toys.open_study("halves"), toys.open_study("other")
    toys.run(toys.Pool(3), store=whole, trials=5)
    toys.run(toys.Pool(1), store=halves, trials=3)
    toys.run(toys.Pool(2), store=halves, trials=5)
    toys.run(toys.Pool(1), store=other, trials=5, seed=1)
    assert schedules(whole) == schedules(halves)
    assert not set(schedules(whole)) & set(schedules(other))


def few_points(monkeypatch, count, tries=10):
    """Stands for the few schedules under a tiny cap: a space of so many points, and no more."""
    space, rng = toys.space(), np.random.default_rng(0)
    drawn = (space.random(rng) for _ in range(500))
    points = list(itertools.islice((p for p in drawn if isinstance(space.check(p, ()), Architecture)), count))
    propose = SearchSpace.propose
    monkeypatch.setattr(SearchSpace, "propose", lambda *args: propose(*args, tries=tries))
    monkeypatch.setattr(SearchSpace, "random", lambda self, rng, share=None: points[rng.integers(len(points))])
    return points


def test_a_space_that_is_used_up_goes_on_to_its_finalists_and_says_so(monkeypatch):
    points, notes = few_points(monkeypatch, 6), []
    store = toys.open_study()

    def view(progress, event):
        notes.append(event.note if event else "")

    result = toys.run(toys.Pool(), store=store, trials=500, view=view)
    assert len(result.finalists) == 2
    assert not result.cut
    assert any("no new schedule" in note for note in notes)
    check_laws(store, len(points))
    # What was drawn in vain is accounted for as well, with no trial that never was.
    assert not trials(store, TrialState.FAIL)
    assert sum(store.attrs["discards_without_trial"].values()) == 21 * 10
    duplicates = store.counts()["duplicate"]
    assert duplicates >= 21 * 10
    toys.run(toys.Pool(), store=store, trials=500)
    assert store.counts()["duplicate"] == result.reason.counts["duplicate"] + 21 * 10
    check_account(store)


def test_a_space_with_nothing_to_propose_says_why(monkeypatch):
    propose = SearchSpace.propose
    monkeypatch.setattr(SearchSpace, "propose", lambda *args: propose(*args, tries=1))
    store = toys.open_study(chosen=toys.settings(54))
    for times in (1, 2):
        with pytest.raises(InfeasibleError, match="no new schedule of at most 54 parameters"):
            toys.run(toys.Pool(), store=store, cap=54)
        assert check_account(store)["generated"] == 21 * times
    assert trials(store) == []


# --- when they end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_patience_ends_the_trials_when_no_new_best_one_comes(workers):
    """Of ever worse networks the first stays the best; so many more are trained, and what runs beside them."""
    order, notes = {}, []

    def worse(architecture, seed, epoch):
        return 90 - order.setdefault(str(architecture), len(order))

    def view(progress, event):
        notes.append(event.note if event else "")

    store = toys.open_study()
    changes = {"trials": 50, "patience": 4, "pruner": "none"}
    toys.run(toys.Pool(workers, score=worse), store=store, view=view, **changes)
    assert 5 <= store.refresh().ended <= 5 + workers
    ended = store.table.ended
    assert "the last 4 trials brought no new best one: the brief trials end here" in notes
    again = toys.Pool(workers, score=worse)
    toys.run(again, store=store, **changes)
    assert again.trained == []
    check_laws(store, ended)
    toys.run(toys.Pool(workers, score=worse), store=store, **changes | {"patience": 6})
    assert store.refresh().ended >= 7


def test_patience_starts_anew_with_every_best_one_and_does_not_count_what_was_cut():
    def trial(number, loss, **attrs):
        state = TrialState.FAIL if attrs else TrialState.COMPLETE
        attrs |= {"loss": loss, "num_params": 1}
        made = create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None, user_attrs=attrs)
        made.number = number
        return made

    phase = BriefTrials(toys.open_study(), toys.space(), toys.settings(patience=2, trials=9), {})
    table = TrialTable()
    expected = []
    for each in (trial(0, 0.5), trial(1, 0.6), trial(2, 0.4), trial(3, 0.7), trial(4, 0.1, interrupted=True)):
        table.add(each)
        expected.append(phase.stands_still(table))
    assert expected == [False] * 5
    table.add(trial(5, 0.9, reason="the loss is nan"))
    assert phase.stands_still(table)
    assert not BriefTrials(phase.store, phase.space, toys.settings(trials=9), {}).stands_still(table)


def test_time_limit_in_the_brief_trials():
    class Stalls(toys.Pool):
        def messages(self, timeout):
            if len(self.trained) > 3 and not self.restarts:  # the fourth job and the one beside it never end
                now[0] += 1
                return
            yield from super().messages(timeout)

    now, store, pool = [0.0], toys.open_study(), Stalls(2)
    deadline = Deadline.after(100, clock=lambda: now[0])
    result = toys.run(pool, store=store, trials=10_000, deadline=deadline, pruner="none")
    assert 60 <= result.seconds <= 62
    assert result.cut
    cut = trials(store, TrialState.FAIL)
    assert len(cut) == 2
    assert all(trial.user_attrs["reason"] == "cut by the time limit; enqueued again" for trial in cut)
    assert pool.restarts == 1
    assert result.finalists
    assert (result.folder / "weights.safetensors").is_file()
    done = store.table.ended
    toys.run(toys.Pool(2), store=store, trials=done + 3, pruner="none")
    check_laws(store, done + 3)
    assert {trial.user_attrs["schedule"] for trial in cut} <= set(schedules(store, TrialState.COMPLETE))


def test_time_limit_before_any_finalist_exports_the_best_brief_trial():
    def score(architecture, seed, epoch):
        return 90.0  # all alike: of equals, the one with fewer parameters leads

    class Stuck(toys.Pool):
        def messages(self, timeout):
            if self.trained[-1][1] > 0:  # a finalist's seed
                now[0] += 1
                return
            yield from super().messages(timeout)

    now, store = [0.0], toys.open_study()
    deadline = Deadline.after(100, clock=lambda: now[0])
    result = toys.run(Stuck(score=score), store=store, trials=4, deadline=deadline)
    assert result.cut
    assert result.finalists == ()
    leader = min(trials(store, TrialState.COMPLETE), key=lambda trial: trial.user_attrs["num_params"])
    assert result.reason.best_brief_trial.trial == leader.number
    assert "stands in" in result.reason.verdict
    assert (result.folder / "architecture.txt").read_text().strip() == leader.user_attrs["schedule"]
    (weights,) = (study_folder("toy") / "weights").iterdir()
    assert weights.name == f"brief-{leader.number}.safetensors"
    (cut,) = trials(store.finalists())
    assert (cut.state, cut.user_attrs["reason"]) == (TrialState.FAIL, "cut by the time limit")
    later = toys.run(toys.Pool(score=score), store=store, trials=4)
    assert len(later.finalists) == 2
    assert not later.cut
    check_laws(store, 4)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_of_its_own_is_a_finished_trial_with_its_reason():
    calls = []

    def score(architecture, seed, epoch):
        calls.append(seed)
        if len(calls) == 4:  # the second trial, in its first epoch
            raise NasError("the loss is nan in epoch 1")
        return toys.luck(architecture, seed, epoch)

    store = toys.open_study()
    result = toys.run(toys.Pool(score=score), store=store)
    (failed,) = trials(store, TrialState.FAIL)
    assert (failed.number, failed.user_attrs["reason"]) == (1, "the loss is nan in epoch 1")
    assert result.reason.counts["fail"] == 1
    check_laws(store, 4)


def test_nothing_complete_is_infeasible_and_says_so():
    def score(architecture, seed, epoch):
        raise NasError("the loss is nan")

    with pytest.raises(InfeasibleError, match="no trial of the study 'toy' completed"):
        toys.run(toys.Pool(score=score))


# --- two parents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_two_parents_at_once_share_a_study(kind, folder):
    """In a space with few schedules, where both soon draw the same: none is trained twice, and the total is exact."""
    storage = str(folder.parent / ("shared.db" if kind == "sqlite" else "shared.log"))
    cap, total = 250, 12
    gate = threading.Barrier(2)

    class Late(toys.Pool):
        def submit(self, job):
            if not self.trained:
                gate.wait(60)  # else one may have had them all before the other has begun
            return super().submit(job)

    pools, errors = [Late(2), Late(2)], []

    def parent(pool):
        try:
            store = toys.open_study("shared", storage, toys.settings(cap))
            toys.run(pool, store=store, cap=cap, trials=total, sampler="random")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=parent, args=(pool,), daemon=True) for pool in pools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)
    store = toys.open_study("shared", storage, toys.settings(cap))
    check_laws(store, total, cap)
    jobs = Counter(job for pool in pools for job in pool.trained)
    assert max(jobs.values()) == 1
    assert all(pool.trained for pool in pools)


def test_a_schedule_or_its_commuted_head_held_by_another_process_is_yielded():
    """What a process has drawn that read the study a moment earlier."""
    store, other = toys.open_study(), toys.open_study()
    phase = BriefTrials(store, toys.space(), toys.settings(), {})
    assert not phase._yields(store.claim({}, {}, {"schedule": "1x16x16: 4v M 6 G C4"}))
    for schedule in ("1x16x16: 4v M 6 G C4", "1x16x16: 4v M 6 C4 G"):
        assert phase._yields(other.claim({}, {}, {"schedule": schedule}))
    assert not phase._yields(other.claim({}, {}, {"schedule": "1x16x16: 4v M 7 C4 G"}))
    assert [trial.user_attrs["reason"] for trial in trials(store, TrialState.FAIL)] == [
        "another process claimed its point as trial 0"
    ] * 2
    assert store.table.ended == 0


def test_the_place_that_another_process_took_is_yielded_and_left_for_a_longer_search():
    store, space = toys.open_study(), toys.space()
    phase = BriefTrials(store, space, toys.settings(trials=1), {})
    read = store.refresh()
    toys.open_study().claim({}, {}, {"schedule": "of another"})  # after this one had read that there is a place
    late = phase._draw(read)
    assert phase._yields(late)
    assert [trial.user_attrs["again_after"] for trial in store.refresh().waiting()] == [late.number]
    assert phase.next() is None


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_view_sees_counts_and_the_time_left():
    seen, now = [], [0.0]

    class Slow(toys.Pool):
        def messages(self, timeout):
            now[0] += 1
            yield from super().messages(timeout)

    def view(progress, event):
        progress.clock = lambda: now[0]
        seen.append((progress.phase, progress.done, progress.total, progress.seconds_left, dict(progress.counts)))

    toys.run(Slow(1), view=view)
    assert {phase for phase, *_ in seen} == {"brief trials", "finalists"}
    assert max(done for phase, done, *_ in seen if phase == "finalists") == 4
    assert all(done <= total for _, done, total, _, _ in seen)
    assert all(not counts or counts["unaccounted"] == 0 for *_, counts in seen)


def test_what_leads_is_shown():
    shown, events = [], []

    def view(progress, event):
        shown.append(progress.best)
        if event is not None:
            events.append(event)

    result = toys.run(toys.Pool(), view=view)
    winner = result.finalists[0]
    assert shown[0] is None
    assert shown[-1] == (winner.mean, None, winner.schedule, winner.num_params)
    assert sum(event.label.startswith("finalist") for event in events) == sum(len(f.scores) for f in result.finalists)
    assert [event.leads for event in events if event.label == "trial 0"] == [True]


def test_leaders_on_toy_numbers():
    table = TrialTable()
    rows = [
        (90.0, 400, None, "COMPLETE"), (95.0, 400, None, "COMPLETE"), (95.0, 300, None, "COMPLETE"),
        (70.0, 100, "old", "COMPLETE"), (80.0, 100, "good", "COMPLETE"), (99.0, 10, None, "PRUNED"),
    ]  # fmt: skip
    for number, (score, num_params, published, state) in enumerate(rows):
        attrs = {"num_params": num_params, "loss": 1 - score / 100} | ({"published": published} if published else {})
        value = score if state == "COMPLETE" else None
        trial = create_trial(state=TrialState[state], value=value, user_attrs=attrs)
        trial.number = number
        table.add(trial)
    expected = {4: [2, 1, 0, 4], 3: [2, 1, 4], 1: [2, 4], 9: [2, 1, 0, 4, 3]}
    assert {count: [trial.number for trial in leaders(table, count)] for count in expected} == expected
