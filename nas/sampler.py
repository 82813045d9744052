"""What proposes schedules: guided or plain evolution of the leaders, Optuna's TPE over the space, or chance."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.errors import InfeasibleError
from nas.space import OUTRANKED, Params, SearchSpace
from nas.surrogate import Surface, features

Sampler = Literal["guided", "evolution", "tpe", "random"]

STARTUP_TRIALS = 16
"""Trials before a sampler learns from them: published designs and random points."""

PARENTS, CONTEST, AGAIN = 12, 3, 0.5
"""Evolution mutates the best of `CONTEST` complete trials, drawn from the `PARENTS` best, and `AGAIN` a mutant: with
one mutation each, all leaders were near relations of two published designs."""

MUTANTS = 12
"""Of which a guided search trains the one that its trials so far foretell the lowest loss. In eight studies of plain
evolution, from 1,000 to 10,000 parameters, what trials before it foretold of a trial had a Spearman correlation of 0.2
to 0.6 with what it came to."""

RECENT = 300
"""Trials that are learnt from at most: fitting takes some 0.4 s then."""

TRIES = 50
"""Proposals of a sampler's for one trial, TPE's at some 3 ms each, before random ones take their place."""


def rank(trial: FrozenTrial) -> tuple[float, int, int]:
    """What orders complete trials, the best first: the validation loss; of equals, the one with fewer parameters.

    Near a cap of 8,000, three epochs rank by their loss as full runs do by their accuracy with Spearman's 0.78, by
    their accuracy with 0.71; two and five epochs gain as much (48 networks of `studies/truth`): accuracy counts the few
    images near a boundary, the loss weighs all.
    """
    return trial.user_attrs["loss"], trial.user_attrs["num_params"], trial.number


def forecast(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Callable[[Params], float] | None:
    """What the trials so far foretell of a point: the log of its validation loss. None before they are enough.

    A pruned trial counts as if it had gone on as the complete ones did on average from that epoch's log error.
    """
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    learnt = [trial for trial in trials if trial.state in ended and trial.intermediate_values][-RECENT:]
    complete = [trial for trial in learnt if trial.state == TrialState.COMPLETE]
    if len(learnt) < STARTUP_TRIALS or not complete:
        return None

    def log_error(trial: FrozenTrial, epoch: int) -> float:
        return math.log(max(100 - trial.intermediate_values[epoch], 0.01))

    @cache
    def still_to_come(epoch: int) -> float:
        return statistics.fmean(log_loss(trial) - log_error(trial, epoch) for trial in complete)

    def log_loss(trial: FrozenTrial) -> float:
        if trial.state == TrialState.COMPLETE:
            return math.log(max(trial.user_attrs["loss"], 1e-6))
        last = max(trial.intermediate_values)
        return log_error(trial, last) + still_to_come(last)

    points = np.array([features(space.decode(trial.params)) for trial in learnt])
    surface = Surface(points, np.array([log_loss(trial) for trial in learnt]))
    return lambda params: surface(features(space.decode(params)))


class Proposer(BaseSampler):
    """Optuna's sampler interface over a search space: draws until a schedule is legal, affordable and new.

    Draws come from the seed and the trial's number alone, so that a resumed study does not repeat its first ones. The
    inner sampler sees real trials only: what is discarded here never becomes one.
    """

    def __init__(self, space: SearchSpace, *, seed: int, sampler: Sampler, pareto: bool = False) -> None:
        self.space, self.seed, self.sampler, self.pareto = space, seed, sampler, pareto
        self.discards: Counter[str] = Counter()
        self.shrunk = False
        self.number = self.trial_id = -1  # of the trial asked for last

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.discards, self.shrunk = Counter(), False
        self.number, self.trial_id = trial.number, trial._trial_id
        if "enqueued" in trial.user_attrs:  # its parameters are fixed
            return {}
        trials = study.get_trials(deepcopy=False)
        seen = {other.user_attrs["schedule"] for other in trials if "schedule" in other.user_attrs}
        rng = np.random.default_rng((self.seed, trial.number))
        draw = self._draw(study, trial, trials, rng)
        params, self.shrunk = self._propose(draw, seen)
        loss = forecast(self.space, trials) if self.sampler == "guided" else None
        if loss is None:
            return params
        rivals = {str(self.space.decode(params)): (params, self.shrunk)}
        with contextlib.suppress(InfeasibleError):  # there are no more
            while len(rivals) < MUTANTS:
                rival, shrunk = self._propose(draw, seen | rivals.keys())
                rivals[str(self.space.decode(rival))] = rival, shrunk
        self.discards[OUTRANKED] += len(rivals) - 1
        params, self.shrunk = min(rivals.values(), key=lambda rival: loss(rival[0]))
        return params

    def _propose(self, draw: Callable[[int], Params], seen: Collection[str]) -> tuple[Params, bool]:
        """A new point and whether it was shrunk; what was discarded before it is counted, even where there is none."""
        drawn: list[Params] = []

        def recorded(attempt: int) -> Params:
            drawn.append(draw(attempt))
            return drawn[-1]

        try:
            params, discards, shrunk = self.space.propose(recorded, seen)
        except InfeasibleError:
            self.discards.update(reason for params in drawn if (reason := self.space.check(params, seen)[1]))
            raise
        self.discards.update(discards)
        return params, shrunk

    def _draw(
        self, study: Study, trial: FrozenTrial, trials: list[FrozenTrial], rng: np.random.Generator
    ) -> Callable[[int], Params]:
        """What proposes the n-th point of a trial."""
        learnt = [other for other in trials if other.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        share = self.space.random_share(rng) if self.pareto else None
        if self.sampler == "random" or len(learnt) < STARTUP_TRIALS:
            return lambda _: self.space.random(rng, share)
        tpe = TPESampler(n_startup_trials=0, seed=int(rng.integers(2**31)))
        parents = self._parents(learnt, share)

        def draw(attempt: int) -> Params:
            if attempt >= TRIES or (self.sampler != "tpe" and not parents):
                return self.space.random(rng, share)  # what it proposes is there already, or does not fit
            if self.sampler == "tpe":
                params = tpe.sample_relative(study, trial, self.space.distributions)
                return self.space.widen(params, rng) if share is None else self.space.fill(params, share)
            best = min(int(place) for place in rng.integers(len(parents), size=CONTEST))
            mutant = parents[best].params
            for _ in range(rng.geometric(1 - AGAIN)):
                mutant = self.space.mutate(mutant, rng, share)
            return mutant

        return draw

    def _parents(self, learnt: list[FrozenTrial], share: float | None) -> list[FrozenTrial]:
        """The best complete trials, the best first; for a share of the budget, of those not far above it."""
        complete = [other for other in learnt if other.state == TrialState.COMPLETE]
        if share is not None:
            counts = {other.number: (other.user_attrs["num_params"], other.user_attrs["macs"]) for other in complete}
            complete = [other for other in complete if self.space.budget.share(*counts[other.number]) <= 1.5 * share]
        return sorted(complete, key=rank)[:PARENTS]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} was not drawn with the others")
