"""When a brief trial is stopped: Optuna's median rule, over the trials in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import cast

from optuna.pruners import MedianPruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.searches.selection import similar_size
from nas.searches.settings import Settings
from nas.study import ClaimedTrial, TrialTable

WARM_UP = 1 / 3
"""The share of its epochs after which a trial may be stopped: before, accuracies say little of where they will end."""

MANY_PEERS = 1000
"""Complete trials that one is compared with in a search for a front, the latest: looking at all takes ever longer."""

LEAST_TRIALS, LEAST_PEERS = 10, 5
"""Complete trials before the first is stopped; of a similar size, in a search for a front."""


class Pruner:
    """Stops a trial whose best accuracy so far is below the median of the complete ones at the same epoch.

    That is fair because every trial of a study has the same schedule of epochs. In a search for a front a trial is
    compared with those of half to twice its parameters: against all of them, the small ones would always go.
    """

    def __init__(self, settings: Settings) -> None:
        self.by_size = settings.pareto
        self.active = settings.pruner == "median"
        self._least = LEAST_PEERS if self.by_size else LEAST_TRIALS
        warm_up = max(1, round(WARM_UP * settings.recipe.epochs))
        self._rule = MedianPruner(n_startup_trials=0, n_warmup_steps=warm_up)

    def __call__(self, trial: ClaimedTrial, table: TrialTable) -> bool:
        if not self.active or not trial.values:
            return False
        peers = _similar(trial, table) if self.by_size else table.complete
        if len(peers) < self._least:
            return False
        epoch = max(trial.values)
        if not self.by_size:  # the median of the middle values is that of all: the rule need not look at every trial
            accuracies = table.curves.get(epoch, [])
            middle = accuracies[(len(accuracies) - 1) // 2 : len(accuracies) // 2 + 1] if accuracies else []
            peers = [create_trial(state=TrialState.COMPLETE, value=0.0, intermediate_values={epoch: accuracy})
                     for accuracy in middle]  # fmt: skip
        current = create_trial(state=TrialState.RUNNING, intermediate_values=dict(trial.values))
        return self._rule.prune(cast(Study, _Peers(peers)), current)


def _similar(trial: ClaimedTrial, table: TrialTable) -> list[FrozenTrial]:
    """List the latest complete trials that are of a similar size."""
    complete = (other for other in reversed(table.learned) if other.state == TrialState.COMPLETE)
    size = trial.attrs["num_params"]
    return [
        other for other in islice(complete, MANY_PEERS)
        if "loss" in other.user_attrs and similar_size(size, other.user_attrs["num_params"])
    ]  # fmt: skip


class _Peers:
    """The part of a study that a pruner of Optuna reads, without a database behind it."""

    direction = StudyDirection.MAXIMIZE

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._trials = list(trials)

    def get_trials(self, deepcopy: bool = True, states: object = None) -> list[FrozenTrial]:
        return self._trials
