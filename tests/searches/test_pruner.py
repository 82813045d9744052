"""The pruner: Optuna's median rule, without a database behind it."""

from __future__ import annotations

import optuna
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st
from laws import check_laws, trials
from optuna.pruners import MedianPruner
from optuna.trial import TrialState, create_trial

from nas.searches import Pruner, similar_size
from nas.searches.pruner import LEAST_PEERS, LEAST_TRIALS
from nas.study import ClaimedTrial, TrialTable
from nas.train import Recipe

EPOCHS = 6
accuracies = st.lists(st.sampled_from([float(each) for each in range(40, 60)]), min_size=1, max_size=EPOCHS)
rows = st.lists(st.tuples(accuracies, st.sampled_from(("COMPLETE", "COMPLETE", "PRUNED", "FAIL"))), max_size=25)


def made(number, curve, state, num_params=100):
    values = dict(enumerate(curve, 1))
    attrs = {"loss": 1 - curve[-1] / 100, "num_params": num_params}
    value = curve[-1] if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, intermediate_values=values, user_attrs=attrs)
    trial.number = number
    return trial


def claimed(curve, num_params=100):
    values = dict(enumerate(curve, 1))
    return ClaimedTrial(trial_id=0, number=99, params={}, attrs={"num_params": num_params}, values=values)


@given(rows, accuracies)
def test_it_is_optunas_median_pruner_on_any_history(history, curve):
    study = optuna.create_study(
        direction="maximize", pruner=MedianPruner(n_startup_trials=LEAST_TRIALS, n_warmup_steps=EPOCHS // 3)
    )
    table = TrialTable()
    for number, (values, state) in enumerate(history):
        table.add(made(number, values, TrialState[state]))
        study.add_trial(made(number, values, TrialState[state]))
    running = study.ask()
    for epoch, accuracy in enumerate(curve, 1):
        running.report(accuracy, epoch)
        ours = Pruner(toys.settings(recipe=Recipe(epochs=EPOCHS)))(claimed(curve[:epoch]), table)
        assert ours == running.should_prune()


@given(st.lists(st.tuples(accuracies, st.sampled_from((50, 80, 100, 200, 400))), max_size=25), accuracies)
def test_for_a_front_it_is_the_same_among_those_of_similar_size(history, curve):
    prune = Pruner(toys.settings(recipe=Recipe(epochs=EPOCHS), pareto=True))
    study = optuna.create_study(
        direction="maximize", pruner=MedianPruner(n_startup_trials=LEAST_PEERS, n_warmup_steps=EPOCHS // 3)
    )
    table = TrialTable()
    for number, (values, size) in enumerate(history):
        table.add(made(number, values, TrialState.COMPLETE, size))
        if similar_size(size, 100):
            study.add_trial(made(number, values, TrialState.COMPLETE, size))
    running = study.ask()
    for epoch, accuracy in enumerate(curve, 1):
        running.report(accuracy, epoch)
    assert prune(claimed(curve), table) == running.should_prune()


def test_without_a_pruner_nothing_is_stopped():
    table = TrialTable()
    for number in range(30):
        table.add(made(number, [90.0] * EPOCHS, TrialState.COMPLETE))
    off, on = (Pruner(toys.settings(recipe=Recipe(epochs=EPOCHS), pruner=name)) for name in ("none", "median"))
    assert on(claimed([1.0] * 3), table)
    assert not off(claimed([1.0] * 3), table)


def test_pruned_trials_were_trained():
    store, pool = toys.open_study(), toys.Pool(2)
    toys.run(pool, store=store, trials=24)
    check_laws(store, 24)
    pruned = trials(store, TrialState.PRUNED)
    assert pruned
    assert {trial.number for trial in pruned} == set(pool.stopped)
    for trial in pruned:  # because they were below the median of their epoch
        last = max(trial.intermediate_values)
        assert last < 3
        complete = [other.intermediate_values[last] for other in store.table.complete]
        assert trial.intermediate_values[last] < max(complete)
        assert {"loss", "seconds", "schedule"} <= trial.user_attrs.keys()


@pytest.mark.parametrize("pareto", [False, True])
def test_nothing_is_pruned_before_a_third_of_its_epochs(pareto):
    chosen = {"recipe": Recipe(epochs=9), "trials": 24, "pareto": pareto, "finalists": 1, "finalist_seeds": 1}
    store = toys.open_study(chosen=toys.settings(**chosen))
    toys.run(toys.Pool(2), store=store, **chosen)
    assert min(max(trial.intermediate_values) for trial in trials(store, TrialState.PRUNED)) == 3
