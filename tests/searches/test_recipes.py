"""The recipe study's laws, on a pool whose scores depend on the recipe: what is drawn, stored, pruned and resumed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killing import impatient, instants, kill_at
from optuna.trial import TrialState
from recipe_toys import DEFAULT, Pool, as_dict, by_lr, distance, facts, open_study, outcome, over, run, settings

from nas.architecture import Architecture
from nas.errors import InfeasibleError, NasError, StorageError, UsageError
from nas.export import read_winner
from nas.searches import RecipeTrials, recipes
from nas.searches.recipes import DISTRIBUTIONS, decode, encode
from nas.study import Deadline, Interrupted, StudyStore
from nas.train import Recipe


@pytest.fixture(autouse=True)
def _early(monkeypatch):
    monkeypatch.setattr(recipes, "STARTUP_TRIALS", 4)  # TPE draws in short studies as well


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_the_default_is_a_point_of_the_ranges():
    point = encode(Recipe())
    assert decode(point, Recipe()) == Recipe()
    assert point.keys() == DISTRIBUTIONS.keys()
    for name, value in point.items():
        range_ = DISTRIBUTIONS[name]
        assert value in range_.choices if hasattr(range_, "choices") else range_.low <= value <= range_.high


@given(st.fixed_dictionaries(
    {
        name: st.sampled_from(range_.choices) if hasattr(range_, "choices") else st.floats(range_.low, range_.high)
        for name, range_ in DISTRIBUTIONS.items()
    }
))  # fmt: skip
def test_every_point_is_a_recipe(point):
    recipe = decode(point, DEFAULT)
    assert recipe.peak_lr == pytest.approx(point["lr_at_128"] * (point["batch_size"] / 128) ** 0.5, rel=1e-3)
    affine = {"degrees", "translate", "scale", "shear"}
    for name in affine:
        assert getattr(recipe, name) == pytest.approx(getattr(DEFAULT, name) * point["augmentation"], rel=1e-3)
    drawn = {"batch_size", "peak_lr", "warmup_fraction", "weight_decay", "ema_horizon", "label_smoothing"}
    rest = {field.name for field in dataclasses.fields(Recipe)} - drawn - affine
    assert all(getattr(recipe, name) == getattr(DEFAULT, name) for name in rest)
    assert Recipe.from_dict(json.loads(json.dumps(as_dict(recipe)))) == recipe


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_best_recipe_is_found_and_written(folder):
    reason = run(Pool(2), trials=18)
    store = open_study(trials=18)
    first, *rest = over(store)
    assert first.user_attrs["recipe"] == as_dict(DEFAULT)
    assert [trial.user_attrs["default"] for trial in (first, *rest)] == [True] + [False] * 17
    (chosen,) = [row for row in reason["recipes"] if row["chosen"]]
    assert reason["verdict"] == f"trial {chosen['trial']} is better than the default"
    assert chosen["trial"] == store.study.best_trial.number
    assert chosen["difference"] > 0.5
    assert chosen["interval"][0] > 0
    winner = read_winner(folder / "toy" / "best")
    assert winner.architecture == settings().architecture
    assert winner.recipe == chosen["recipe"]
    assert winner.reason == json.loads(json.dumps(reason))
    assert distance(Recipe.from_dict(winner.recipe)) < 0.5
    gaps = [abs(np.log(trial.params["lr_at_128"] / 0.004)) for trial in rest]  # TPE goes where the score is
    assert np.mean(gaps[-8:]) < np.mean(gaps[:8])


def test_draws_depend_on_seed_and_number_and_the_total_counts():
    whole = run(Pool(), "whole", trials=7)
    for trials in (3, 6, 7):
        parts = run(Pool(), "parts", trials=trials)
    assert facts(open_study("whole")) == facts(open_study("parts"))
    assert parts["recipes"] == whole["recipes"]
    again = Pool()
    assert run(again, "whole", trials=7)["recipes"] == whole["recipes"]
    assert again.pairs == []
    run(Pool(), "other", trials=7, seed=1)
    draws = [
        {str(trial.params) for trial in over(open_study(name, seed=seed))[1:]}
        for name, seed in (("whole", 0), ("other", 1))
    ]
    assert not draws[0] & draws[1]
    assert len(draws[0]) == 6


def test_what_is_clearly_behind_gets_no_more_seeds_and_the_default_gets_all():
    pool = Pool(2, score=lambda recipe, seed: by_lr(recipe, seed) - 50 * (recipe == DEFAULT))
    reason = run(pool, trials=14, num_seeds=4)
    store = open_study(trials=14, num_seeds=4)
    trials = over(store)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert len(pruned) >= 4
    for trial in pruned:
        scores = trial.user_attrs["scores"]
        assert 2 <= len(scores) < 4
        assert list(trial.intermediate_values.items()) == [
            (n, pytest.approx(np.mean(scores[:n]))) for n in range(1, len(scores) + 1)
        ]
    assert trials[0].state == TrialState.COMPLETE
    best = max(trial.value for trial in trials if trial.state == TrialState.COMPLETE)
    assert all(np.mean(trial.user_attrs["scores"]) < best for trial in pruned)
    assert reason["counts"]["pruned"] == len(pruned)
    assert reason["trainings"] == len(pool.pairs) < 14 * 4
    assert Counter(seed for _, seed in pool.pairs)[1] == 14


def test_one_seed_proves_nothing():
    reason = run(Pool(), num_seeds=1)
    assert [row["default"] for row in reason["recipes"] if row["chosen"]] == [True]
    assert "one seed says nothing" in reason["verdict"]
    assert all(row["interval"] is None for row in reason["recipes"])


def test_a_failure_of_its_own_ends_a_trial():
    def score(recipe, seed):
        if recipe.batch_size != DEFAULT.batch_size and seed == 2:
            raise NasError("the loss is nan in epoch 1")
        return by_lr(recipe, seed)

    reason = run(Pool(score=score), trials=8)
    failed = [trial for trial in over(open_study(trials=8)) if trial.state == TrialState.FAIL]
    assert failed
    assert all(trial.user_attrs["reason"] == "the loss is nan in epoch 1" for trial in failed)
    assert all(len(trial.user_attrs["scores"]) == 1 for trial in failed)
    assert not {row["trial"] for row in reason["recipes"] if row["chosen"]} & {trial.number for trial in failed}
    assert sum(reason["counts"].values()) == 8
    again = Pool(score=score)
    run(again, trials=8)
    assert again.pairs == []


# --- killed, cut, shared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_killed_before_any_write_and_run_again(seed):
    """With one worker it comes out as if it had never been killed, and only what was under way is trained again."""
    expected = run(whole := Pool(), "whole")
    pools, kills = [], 0

    def go():
        pools.append(Pool())
        return run(pools[-1], impatient(open_study()))

    for write in instants(seed, 4, 24):
        kills += not kill_at(write, go)
    reason = go()
    assert kills >= 2
    assert facts(open_study()) == facts(open_study("whole"))
    assert outcome(reason) == outcome(expected)
    jobs = Counter(pair for pool in pools for pair in pool.pairs)
    assert jobs.keys() == set(whole.pairs)
    assert sum(jobs.values()) <= len(whole.pairs) + kills
    for before, after in itertools.pairwise(pools):  # none but the last one before a kill is trained again
        assert not set(before.pairs[:-1]) & set(after.pairs)


@pytest.mark.parametrize("score", [by_lr, lambda recipe, seed: by_lr(recipe, seed) - 50 * (recipe == DEFAULT)])
def test_several_workers_killed_lose_no_seed_and_the_default_stays_the_default(score):
    """Whatever the number of the trial that takes its place: it is not pruned, and all others are compared with it."""
    pools = [Pool(3, score=score), Pool(3, score=score)]
    assert not kill_at(12, lambda: run(pools[0]))
    stored = {str(trial.params): trial.user_attrs.get("scores", []) for trial in open_study().refresh().trials()}
    assert any(stored.values())
    assert open_study().refresh().running()
    reason = run(pools[1], impatient(open_study()))
    trials = over(open_study())
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(trials) == 5
    for trial in trials:
        before = stored.get(str(trial.params), [])
        assert trial.user_attrs["scores"][: len(before)] == before
    assert len(pools[1].pairs) == reason["trainings"] - sum(map(len, stored.values()))
    (default,) = [trial for trial in trials if trial.user_attrs["default"]]
    assert default.user_attrs["recipe"] == as_dict(DEFAULT)
    assert (default.number > 0, default.state, len(default.user_attrs["scores"])) == (True, TrialState.COMPLETE, 3)
    (row,) = [row for row in reason["recipes"] if row["default"]]
    assert row["trial"] == default.number
    assert all((row["difference"] is None) == row["default"] for row in reason["recipes"])


def test_a_trial_killed_when_it_had_all_its_seeds_is_ended():
    class Killed(BaseException):
        pass

    store, pool = open_study(), Pool()
    finish = store.finish

    def dying(trial, *args, **attrs):
        raise Killed

    store.finish = dying
    with pytest.raises(Killed):
        run(pool, store)
    store.finish = finish
    assert [len(trial.user_attrs["scores"]) for trial in store.refresh().waiting()] == [3]
    again = Pool()
    run(again, store)
    assert not set(pool.pairs) & set(again.pairs)
    run(Pool(), "whole")
    assert facts(store) == facts(open_study("whole"))


def test_an_interruption_and_the_time_limit_leave_what_runs_to_the_next_start():
    class Interrupting(Pool):
        def messages(self, timeout):
            if len(self.pairs) == 3:
                raise Interrupted(2)
            yield from super().messages(timeout)

    with pytest.raises(Interrupted):
        run(Interrupting())
    assert not open_study().refresh().running()
    (left,) = open_study().refresh().waiting()
    assert len(left.user_attrs["scores"]) == 2
    over_ = Deadline(began=0.0, seconds=1.0, clock=lambda: 2.0)
    reason = run(Pool(), deadline=over_)
    assert reason["cut"]
    assert "has all its seeds" in reason["verdict"]
    assert [row["chosen"] for row in reason["recipes"]] == [True]
    last = run(pool := Pool())
    assert not last["cut"]
    assert len(pool.pairs) == last["trainings"] - 2
    run(Pool(), "whole")
    assert facts(open_study()) == facts(open_study("whole"))
    with pytest.raises(InfeasibleError, match="longer --timeout"):
        run(Pool(), "none", deadline=over_)


def test_a_living_process_keeps_its_trials():
    one, two = open_study(), open_study()
    ours, _, _ = RecipeTrials(one, settings()).next()
    theirs, _, _ = RecipeTrials(two, settings()).next()
    assert (ours.number, theirs.number) == (0, 1)
    assert ours.params != theirs.params
    assert two.stale({theirs.number: theirs}) == []


def test_two_parents_train_no_recipe_twice_and_keep_the_total():
    gate = threading.Barrier(2)

    class Late(Pool):
        def submit(self, job):
            if not self.pairs:
                gate.wait(60)
            return super().submit(job)

    pools, errors = [Late(2), Late(2)], []

    def parent(pool):
        try:
            run(pool, open_study(trials=8), trials=8)
        except BaseException as error:
            errors.append(error)

    open_study(trials=8)
    threads = [threading.Thread(target=parent, args=(pool,), daemon=True) for pool in pools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)
    store = open_study(trials=8)
    assert len(over(store)) - len(store.table.waiting()) == 8
    assert not store.table.running()
    assert max(Counter(pair for pool in pools for pair in pool.pairs).values()) == 1
    assert [trial.user_attrs["default"] for trial in over(store)].count(True) == 1


def test_the_place_or_recipe_that_another_process_took_is_yielded():
    store, other = open_study(), open_study()
    phase = RecipeTrials(store, settings())
    table = store.refresh()
    RecipeTrials(other, settings()).next()
    late = phase._new(table)  # the default too: it had read that there is no trial
    assert late.params == encode(DEFAULT)
    assert phase._yields(late)
    following, _, _ = phase.next()
    assert following.params != encode(DEFAULT)


# --- what is refused and shown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("--architecture", {"architecture": Architecture.parse("4v M 8 G C", input_shape=(1, 16, 16), num_classes=4)}),
        ("--dataset mnist, the study has synthetic", {"dataset": "mnist"}),
        ("--epochs 3, the study has ", {"recipe": Recipe(epochs=3)}),
        ("seeds", {"num_seeds": 2}),
        ("seeds", {"seed": 5}),
    ],
)
def test_a_study_made_otherwise_is_refused_by_name(words, changes):
    open_study()
    with pytest.raises(UsageError, match=f"was made otherwise: {words}.* or another --name NAME"):
        open_study(**changes)
    with pytest.raises(UsageError, match="training images of sha256 other"):
        StudyStore.create("toy", None, settings().identity("other"), {})


@pytest.mark.parametrize("changes", [{"trials": 0}, {"num_seeds": 0}])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(UsageError, match="whole number of 1 or more"):
        settings(**changes)


def test_the_view_sees_every_seed():
    events, seen = [], []

    def view(progress, event):
        events.append(event)
        seen.append((progress.done, progress.total, progress.best))

    reason = run(Pool(2), view=view)
    texts = [event.text for event in events if event is not None]
    assert (
        sum(text.startswith("seed") for text in texts) + sum(text.startswith("mean") for text in texts)
        == (reason["trainings"])
    )
    assert sum(text.startswith("mean of") for text in texts) == 5
    assert all(done <= total for done, total, _ in seen)
    assert seen[-1][0] == seen[-1][1] == reason["trainings"]
    assert seen[-1][2][0] == pytest.approx(max(row["mean"] for row in reason["recipes"] if row["state"] == "complete"))


def test_a_trial_given_up_by_another_process_ends_in_one_line():
    store = open_study()

    class Robbed(Pool):
        def messages(self, timeout):
            for trial in open_study().refresh().running():
                open_study().fail_interrupted(trial, "silent", again=False)
            yield from super().messages(timeout)

    with pytest.raises(StorageError, match="given up by another process"):
        run(Robbed(), store)
