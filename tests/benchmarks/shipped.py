"""Optuna as it comes, in place of what proposes in a search of `nas`."""

from __future__ import annotations

import statistics
from collections import Counter

import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from nas.architecture import Architecture
from nas.errors import InfeasibleError
from nas.space import DUPLICATE, Proposal, SearchSpace, commuted_head
from nas.study import TrialTable


class Shipped:
    """Optuna's default sampler over the same ranges: nothing is drawn again or filled to the budget.

    It has a study of its own. What is over a cap, of an illegal shape or there already is told as pruned, as in the
    examples of Optuna; what is trained is told as the search's study has it.
    """

    tries = 10_000
    """Draws for one trial."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.study = optuna.create_study(direction="maximize", sampler=self.sampler(seed))
        self.proposed: dict[str, Trial] = {}  # by schedule: in training
        self.told: set[int] = set()

    def sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed)

    def __call__(self, table: TrialTable) -> Proposal:
        self._tell(table)
        discards: Counter[str] = Counter()
        for _ in range(self.tries):
            trial = self.study.ask(self.space.distributions)
            checked = self.space.check(trial.params, table.seen())
            if isinstance(checked, Architecture):
                self.proposed[str(checked)] = trial
                return Proposal(params=trial.params, architecture=checked, discards=dict(discards), shrunk=False)
            discards[checked] += 1
            self.reject(trial, checked)
        raise InfeasibleError(f"no new schedule in {self.tries:,} proposals", discards=discards)

    def reject(self, trial: Trial, reason: str) -> None:
        """Tell the study of a point that is not trained."""
        self.study.tell(trial, state=TrialState.PRUNED)

    def accept(self, trial: Trial, done: FrozenTrial) -> None:
        """Tell the study of a point that was trained."""
        for epoch, accuracy in done.intermediate_values.items():
            trial.report(accuracy, epoch)
        self.study.tell(trial, done.value if done.state == TrialState.COMPLETE else None, state=done.state)

    def add(self, done: FrozenTrial) -> None:
        """Tell the study of a point that it did not propose."""
        fields = {"params": done.params, "distributions": done.distributions, "value": done.value}
        self.study.add_trial(create_trial(state=done.state, **fields))

    def _tell(self, table: TrialTable) -> None:
        for done in table.learned:
            if done.number not in self.told:
                self.told.add(done.number)
                self._tell_one(done)

    def _tell_one(self, done: FrozenTrial) -> None:
        trial = self.proposed.pop(done.user_attrs["schedule"], None)
        if trial is None:  # a published design, which nobody proposed
            self.add(done)
        else:
            self.accept(trial, done)


class Multivariate(Shipped):
    """TPE of all parameters together, as OptunaHub's AutoSampler sets it up.

    AutoSampler takes it where a range is categorical, as the kinds of blocks are here, once a trial is complete; over
    numbers alone it takes the Gaussian process. It is downloaded when a script first names it, so that its choice
    stands here in its place.
    """

    def sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


class GaussianProcess(Shipped):
    """Optuna's Gaussian process, with the cap as a constraint.

    It learns from complete trials alone. Told as pruned, what is over the cap would teach it nothing, and it would
    propose the like again. So that is told with its constraint, its excess over the cap as a share of it (an illegal
    shape as one over it by half), and the mean of those trained, as it has no accuracy of its own. A network that is
    there already is told with the accuracy that it had.
    """

    tries = 100  # some seconds each
    excess_of_illegal = 0.5

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space, seed)
        self.values: dict[str, float] = {}  # by schedule

    def sampler(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed)

    def reject(self, trial: Trial, reason: str) -> None:
        value = statistics.fmean(self.values.values()) if self.values else None
        if reason == DUPLICATE:
            schedule = str(self.space.decode(trial.params))
            value = self.values.get(schedule, self.values.get(commuted_head(schedule)))
        if value is None:  # none is complete yet, or not this one
            super().reject(trial, reason)
        else:
            self._constrain(trial)
            self.study.tell(trial, value)

    def accept(self, trial: Trial, done: FrozenTrial) -> None:
        if done.state == TrialState.COMPLETE and done.value is not None:
            self.values[done.user_attrs["schedule"]] = done.value
        self._constrain(trial)
        super().accept(trial, done)

    def add(self, done: FrozenTrial) -> None:
        """Leave it away: Optuna adds no trial with a constraint, and wants one of each."""

    def _constrain(self, trial: Trial) -> None:
        share = self.space.share(trial.params)
        trial.set_constraint("cap", self.excess_of_illegal if share is None else share - 1)
