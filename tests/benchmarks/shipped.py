"""Optuna as it comes, in place of what proposes in a search of `nas`."""

from __future__ import annotations

from collections import Counter

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from nas.architecture import Architecture
from nas.errors import InfeasibleError
from nas.space import Proposal, SearchSpace
from nas.study import TrialTable

TRIES = 10_000


class Shipped:
    """Optuna's default sampler over the same ranges: nothing is drawn again or filled to the budget.

    It has a study of its own. What is over a cap, of an illegal shape or there already is told as pruned, as in the
    examples of Optuna; what is trained is told as the search's study has it.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=seed))
        self.proposed: dict[str, Trial] = {}  # by schedule: in training
        self.told: set[int] = set()

    def __call__(self, table: TrialTable) -> Proposal:
        self._tell(table)
        discards: Counter[str] = Counter()
        for _ in range(TRIES):
            trial = self.study.ask(self.space.distributions)
            checked = self.space.check(trial.params, table.seen())
            if isinstance(checked, Architecture):
                self.proposed[str(checked)] = trial
                return Proposal(params=trial.params, architecture=checked, discards=dict(discards), shrunk=False)
            discards[checked] += 1
            self.study.tell(trial, state=TrialState.PRUNED)
        raise InfeasibleError(f"no new schedule in {TRIES:,} proposals", discards=discards)

    def _tell(self, table: TrialTable) -> None:
        for done in table.learned:
            if done.number not in self.told:
                self.told.add(done.number)
                self._tell_one(done)

    def _tell_one(self, done: FrozenTrial) -> None:
        trial = self.proposed.pop(done.user_attrs["schedule"], None)
        if trial is None:  # a published design, which nobody proposed
            fields = {"params": done.params, "distributions": done.distributions, "value": done.value}
            self.study.add_trial(create_trial(state=done.state, **fields))
            return
        for epoch, accuracy in done.intermediate_values.items():
            trial.report(accuracy, epoch)
        self.study.tell(trial, done.value if done.state == TrialState.COMPLETE else None, state=done.state)
