"""Samplers, which propose schedules: guided evolution of the leaders, Optuna's TPE over the space, or chance.

A sampler is a function of the trials so far: it returns a function that draws the n-th point of one proposal. Draws
come from the seed and the number of the trial alone, so that a resumed study does not repeat its first ones.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import InfeasibleError
from nas.searches.settings import SamplerName
from nas.searches.surrogate import GaussianProcess, features
from nas.space import SCREENED_OUT, Params, Proposal, SearchSpace
from nas.study import TrialTable

STARTUP_TRIALS = 16
"""Trials before a sampler learns from them: published designs and random points."""

PARENT_POOL, TOURNAMENT_SIZE, EXTRA_MUTATION_PROBABILITY = 12, 3, 0.5
"""A parent is the best of `TOURNAMENT_SIZE` complete trials, drawn from the `PARENT_POOL` best; after a mutation
another follows with `EXTRA_MUTATION_PROBABILITY`, or all leaders become near relations of two published designs."""

CANDIDATES_PER_TRIAL = 12
"""Proposals of which a guided search trains the one with the lowest predicted loss."""

RECENT_TRIALS = 300
"""Trials that the loss predictor is fitted to at most: fitting takes some 0.4 s then."""

TRIES = 50
"""Proposals of a sampler for one trial, before random ones take their place."""

Draw = Callable[[int], Params]
LossPredictor = Callable[[Proposal], float]


@dataclass(frozen=True, kw_only=True)
class DrawContext:
    """Everything that a sampler draws from, for one trial."""

    space: SearchSpace
    table: TrialTable
    rng: np.random.Generator
    share: float | None  # of the budget, in a search for a front

    def random(self, _: int = 0) -> Params:
        return self.space.random(self.rng, self.share)


Sampler = Callable[[DrawContext], Draw]
Propose = Callable[[TrialTable], Proposal]
"""Returns the next schedule, by the trials so far; raises `InfeasibleError`, with its discards, if none is found."""


def random_sampler(context: DrawContext) -> Draw:
    """Return draws of random points."""
    return context.random


def evolution_sampler(context: DrawContext) -> Draw:
    """Return draws of mutants of the leaders."""
    context.rng.integers(2**31)  # keeps the draws of studies made when every sampler drew a seed first
    parents = _parents(context)

    def draw(attempt: int) -> Params:
        if attempt >= TRIES or not parents:  # what it proposes is there already, or does not fit
            return context.random()
        best = min(int(place) for place in context.rng.integers(len(parents), size=TOURNAMENT_SIZE))
        mutant: Params = parents[best].params
        for _ in range(context.rng.geometric(1 - EXTRA_MUTATION_PROBABILITY)):
            mutant = context.space.mutate(mutant, context.rng, context.share)
        return mutant

    return draw


def tpe_sampler(context: DrawContext) -> Draw:
    """Return draws of Optuna's TPE, filled to most of the budget."""
    study, space = context.table.as_study(), context.space
    tpe = TPESampler(
        n_startup_trials=0, seed=int(context.rng.integers(2**31)), constant_liar=False
    )  # a liar writes to a trial

    def draw(attempt: int) -> Params:
        if attempt >= TRIES:
            return context.random()
        params = tpe.sample_relative(study, create_trial(state=TrialState.RUNNING), space.distributions)
        return space.widen(params, context.rng) if context.share is None else space.fill(params, context.share)

    return draw


SAMPLERS: Mapping[SamplerName, Sampler] = {
    "guided": evolution_sampler,
    "tpe": tpe_sampler,
    "random": random_sampler,
}


@dataclass(frozen=True, kw_only=True)
class Proposer:
    """Proposes the next schedule of a search."""

    space: SearchSpace
    seed: int
    name: SamplerName = "guided"
    pareto: bool = False

    def __call__(self, table: TrialTable) -> Proposal:
        """Return a legal, affordable and new schedule. Raise `InfeasibleError`, with its discards, if none is found."""
        rng = np.random.default_rng((self.seed, len(table)))
        share = self.space.random_share(rng) if self.pareto else None
        context = DrawContext(space=self.space, table=table, rng=rng, share=share)
        early = len(table.learned) < STARTUP_TRIALS
        draw = (random_sampler if early else SAMPLERS[self.name])(context)
        seen = table.seen()
        first = self.space.propose(draw, seen)
        predict = fit_loss_predictor(table) if self.name == "guided" else None
        return first if predict is None else screen(self.space, draw, seen, first, predict)


def screen(space: SearchSpace, draw: Draw, seen: Collection[str], first: Proposal, predict: LossPredictor) -> Proposal:
    """Return the candidate with the lowest predicted loss of up to `CANDIDATES_PER_TRIAL`, `first` among them."""
    candidates = {str(first.architecture): first}
    discards: Counter[str] = Counter(first.discards)
    try:
        while len(candidates) < CANDIDATES_PER_TRIAL:
            candidate = space.propose(draw, {*seen, *candidates})
            candidates[str(candidate.architecture)] = candidate
            discards.update(candidate.discards)
    except InfeasibleError as error:  # there are no more
        discards.update(error.discards)
    discards[SCREENED_OUT] += len(candidates) - 1
    return replace(min(candidates.values(), key=predict), discards=dict(discards))


def fit_loss_predictor(table: TrialTable) -> LossPredictor | None:
    """Fit the log of the validation loss to the trials so far; None before there are enough.

    A pruned trial counts as if it had gone on as the complete ones did on average from that epoch's log error.
    """
    learned = [trial for trial in table.learned if trial.intermediate_values][-RECENT_TRIALS:]
    complete = [trial for trial in learned if trial.state == TrialState.COMPLETE]
    if len(learned) < STARTUP_TRIALS or not complete:
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

    points = np.array([features(trial.user_attrs["schedule"]) for trial in learned])
    process = GaussianProcess(points, np.array([log_loss(trial) for trial in learned]))
    return lambda proposal: process(features(str(proposal.architecture)))


def _parents(context: DrawContext) -> Sequence[FrozenTrial]:
    """Return the best complete trials, best first; for a share of the budget, of those not far above it."""
    complete = context.table.complete
    if context.share is not None:
        most, budget = 1.5 * context.share, context.space.budget
        complete = [
            trial for trial in complete
            if budget.share(trial.user_attrs["num_params"], trial.user_attrs["macs"]) <= most
        ]  # fmt: skip
    return complete[:PARENT_POOL]
