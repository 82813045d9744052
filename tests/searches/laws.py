"""What holds for every search that came to its end, however often it was killed or interrupted on the way."""

from __future__ import annotations

from typing import Any

import toys
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.searches import Finalist
from nas.space import DISCARDS
from nas.study import StudyStore

OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def trials(store: StudyStore, *states: TrialState) -> list[FrozenTrial]:
    return store.refresh().trials(*states)


def schedules(store: StudyStore, *states: TrialState) -> list[str]:
    return [trial.user_attrs["schedule"] for trial in trials(store, *states)]


def check_account(store: StudyStore) -> dict[str, int]:
    """Every schedule that was drawn is accounted for."""
    store.refresh()
    counts = store.counts()
    states = [*(state.name.lower() for state in TrialState), "interrupted"]
    drawn = counts["generated"] + counts["tried again"]
    assert counts["unaccounted"] == drawn - sum(counts[key] for key in (*DISCARDS, *states)) == 0
    assert sum(counts[state] for state in states) == len(store.study.get_trials(deepcopy=False))
    return counts


def check_laws(store: StudyStore, total: int, cap: int = toys.CAP) -> None:
    assert check_account(store)["running"] == 0
    assert store.table.ended == total
    ended = [trial for trial in trials(store, *OVER) if not trial.user_attrs.get("interrupted")]
    texts = [trial.user_attrs["schedule"] for trial in ended]
    assert len(texts) == len(set(texts)), "an architecture was trained twice"
    space = toys.space(cap)
    for trial in ended:
        architecture = Architecture.parse(trial.user_attrs["schedule"], input_shape=(1, 16, 16), num_classes=4)
        assert architecture.num_params == trial.user_attrs["num_params"] <= cap
        assert architecture.macs == trial.user_attrs["macs"]
        assert architecture == space.decode(trial.params)
    every = trials(store)
    assert [trial.number for trial in every] == list(range(len(every)))
    for trial in every:
        assert trial.distributions == space.distributions
        if trial.state == TrialState.PRUNED:
            assert trial.intermediate_values, "pruned without training"
        if trial.state == TrialState.FAIL:
            assert trial.user_attrs["reason"]
    second = store.finalists()
    assert not trials(second, TrialState.RUNNING, TrialState.WAITING)
    pairs = [tuple(sorted(trial.params.items())) for trial in trials(second, TrialState.COMPLETE)]
    assert len(pairs) == len(set(pairs)), "a finalist's seed was trained twice"


def finalist(trial: int, num_params: int, *scores: float, **fields: Any) -> Finalist:
    made: dict[str, Any] = {
        "trial": trial, "schedule": "", "num_params": num_params, "macs": 1, "brief": 99.0,
        "seeds": tuple(range(len(scores))), "scores": scores,
    }  # fmt: skip
    return Finalist(**(made | fields))
