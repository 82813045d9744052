"""The table of trials, against what its definitions say of any history."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.space import DISCARDS
from nas.study import TrialTable, rank

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@st.composite
def histories(draw: st.DrawFn) -> list[FrozenTrial]:
    """Trials as a search writes them, by number."""
    made = []
    for number in range(draw(st.integers(0, 12))):
        state = draw(st.sampled_from(list(TrialState)))
        attrs = {
            "schedule": draw(st.sampled_from("abcdef")), "num_params": draw(st.integers(1, 3)),
            "loss": draw(st.sampled_from((0.1, 0.2, 0.3))), "shrunk": draw(st.booleans()),
        }  # fmt: skip
        discards = draw(st.dictionaries(st.sampled_from(DISCARDS), st.integers(1, 9)))
        if number and draw(st.booleans()):
            attrs["again_after"] = number - 1
        else:
            attrs |= {"discards": discards, "generated": sum(discards.values()) + 1}
        if state == TrialState.FAIL and draw(st.booleans()):
            attrs["interrupted"] = True
        trial = create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None, user_attrs=attrs)
        trial.number = number
        made.append(trial)
    return made


def table_of(history, order):
    table = TrialTable()
    for trial in order:
        if trial.state in FINISHED:
            table.add(trial)
            table.add(trial)  # a second time it is left as it is
    table.open = {trial.number: trial for trial in history if trial.state not in FINISHED}
    return table


@given(histories(), st.randoms(use_true_random=False))
def test_every_sum_is_that_of_the_trials_whatever_their_order(history, random):
    order = history[:]
    random.shuffle(order)
    table = table_of(history, order)
    assert table.trials() == history
    assert len(table) == len(history)
    for state in TrialState:
        assert table.trials(state) == [trial for trial in history if trial.state == state]
    complete = [trial for trial in history if trial.state == TrialState.COMPLETE]
    assert table.complete == sorted(complete, key=rank)
    assert table.learned == [trial for trial in history if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    over = [trial for trial in history if trial.state in FINISHED and not trial.user_attrs.get("interrupted")]
    assert table.ended == len(over)
    for number in (-1, 0, len(history) // 2, len(history)):
        assert table.ended_after(number) == sum(trial.number > number for trial in over)
        begun = [*over, *(trial for trial in history if trial.state == TrialState.RUNNING)]
        assert table.begun_before(number) == sum(trial.number < number for trial in begun)
    assert table.taken == len(over) + sum(trial.state == TrialState.RUNNING for trial in history)
    assert table.waiting() == table.trials(TrialState.WAITING)
    assert sorted(trial.number for trial in table.running()) == [t.number for t in table.trials(TrialState.RUNNING)]
    assert set(table.seen()) == {trial.user_attrs["schedule"] for trial in history}


@given(histories(), st.dictionaries(st.sampled_from(DISCARDS), st.integers(1, 9)))
def test_every_schedule_is_accounted_for(history, without_trial):
    counts = table_of(history, history).counts(without_trial)
    drawn = [trial for trial in history if "generated" in trial.user_attrs]
    for reason in DISCARDS:
        expected = sum(trial.user_attrs["discards"].get(reason, 0) for trial in drawn)
        assert counts[reason] == expected + without_trial.get(reason, 0)
    assert counts["generated"] == sum(t.user_attrs["generated"] for t in drawn) + sum(without_trial.values())
    assert counts["tried again"] == len(history) - len(drawn)
    assert counts["shrunk to fit"] == sum(trial.user_attrs["shrunk"] for trial in history)
    states = Counter(
        "interrupted" if trial.user_attrs.get("interrupted") else trial.state.name.lower() for trial in history
    )
    for state in ("interrupted", *(state.name.lower() for state in TrialState)):
        assert counts[state] == states[state]
    assert counts["unaccounted"] == 0


def test_a_lost_schedule_shows():
    trial = create_trial(state=TrialState.FAIL, user_attrs={"generated": 5, "discards": {DISCARDS[0]: 2}})
    trial.number = 0
    assert table_of([trial], [trial]).counts()["unaccounted"] == 5 - 2 - 1


def test_trials_are_ranked_by_loss_then_parameters_then_number():
    rows = [(0.2, 5), (0.1, 9), (0.1, 7), (0.1, 7), (0.3, 1)]
    made = []
    for number, (loss, num_params) in enumerate(rows):
        attrs = {"loss": loss, "num_params": num_params}
        trial = create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs=attrs)
        trial.number = number
        made.append(trial)
    order = [made[int(place)] for place in np.random.default_rng(0).permutation(len(made))]
    assert [trial.number for trial in table_of(made, order).complete] == [2, 3, 1, 0, 4]
