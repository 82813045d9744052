"""When a brief trial is stopped: Optuna's median rule, over the trials in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from optuna.pruners import MedianPruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.searches.selection import similar_size
from nas.searches.settings import Settings
from nas.study import ClaimedTrial, TrialTable

WARM_UP = 1 / 3
"""The share of its epochs after which a trial may be stopped: before, accuracies say little of where they will end."""

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
        least = LEAST_PEERS if self.by_size else LEAST_TRIALS
        warm_up = max(1, round(WARM_UP * settings.recipe.epochs))
        self._rule = MedianPruner(n_startup_trials=least, n_warmup_steps=warm_up)

    def __call__(self, trial: ClaimedTrial, table: TrialTable) -> bool:
        if not self.active:
            return False
        peers = table.complete
        if self.by_size:
            size = trial.attrs["num_params"]
            peers = [other for other in peers if similar_size(size, other.user_attrs["num_params"])]
        current = create_trial(state=TrialState.RUNNING, intermediate_values=dict(trial.values))
        return self._rule.prune(cast(Study, _Peers(peers)), current)


class _Peers:
    """The part of a study that a pruner of Optuna reads, without a database behind it."""

    direction = StudyDirection.MAXIMIZE

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._trials = list(trials)

    def get_trials(self, deepcopy: bool = True, states: object = None) -> list[FrozenTrial]:
        return self._trials
