"""Samplers, which propose schedules: guided evolution of the leaders, Optuna's TPE over the space, or chance.

A sampler is a function of the trials so far: it returns a function that draws the n-th point of one proposal. Draws
come from the seed and the number of the trial alone, so that a resumed study does not repeat its first ones.
"""

from __future__ import annotations

import math
import statistics
from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice
from typing import Any

import numpy as np
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import InfeasibleError
from nas.searches.settings import SamplerName
from nas.searches.surrogate import Array, GaussianProcess, features
from nas.space import SCREENED_OUT, Params, Proposal, SearchSpace
from nas.study import TrialTable

STARTUP_TRIALS = 16
"""Trials before a sampler learns from them: published designs and random points."""

PARENT_POOL, TOURNAMENT_SIZE, EXTRA_MUTATION_PROBABILITY = 12, 3, 0.5
"""A parent is the best of `TOURNAMENT_SIZE` complete trials, drawn from the `PARENT_POOL` best; after a mutation
another follows with `EXTRA_MUTATION_PROBABILITY`, or all leaders become near relations of two published designs."""

CANDIDATES_PER_TRIAL = 12
"""Proposals of which a guided search trains the one with the lowest predicted loss."""

RECENT_TRIALS, REFIT_TRIALS = 300, 50
"""Trials that the loss predictor is fitted to at most; from then on its length and noise, which take forty times the
work of the rest, are chosen anew with every so many trials."""

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


def screen(
    space: SearchSpace, draw: Draw, seen: MutableMapping[str, Any], first: Proposal, predict: LossPredictor
) -> Proposal:
    """Return the candidate with the lowest predicted loss of up to `CANDIDATES_PER_TRIAL`, `first` among them."""
    candidates = {str(first.architecture): first}
    discards: Counter[str] = Counter(first.discards)
    try:
        while len(candidates) < CANDIDATES_PER_TRIAL:
            candidate = space.propose(draw, ChainMap[str, Any](candidates, seen))
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
    learned = _latest(table.learned, RECENT_TRIALS)
    if len(learned) < STARTUP_TRIALS or not any(trial.state == TrialState.COMPLETE for trial in learned):
        return None
    kernel = None
    if len(table.learned) > RECENT_TRIALS:
        last = _latest(table.learned[: len(table.learned) // REFIT_TRIALS * REFIT_TRIALS], RECENT_TRIALS)
        kernel = _kernel(*(array.tobytes() for array in _points_and_losses(last)))
    process = GaussianProcess(*_points_and_losses(learned), kernel=kernel)
    return lambda proposal: process(features(str(proposal.architecture)))


def _points_and_losses(learned: Sequence[FrozenTrial]) -> tuple[Array, Array]:
    """Return the features (n, features) and the log losses (n,) of trials."""
    complete = [trial for trial in learned if trial.state == TrialState.COMPLETE]

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
    return points, np.array([log_loss(trial) for trial in learned])


@lru_cache(maxsize=4)
def _kernel(points: bytes, losses: bytes) -> tuple[float, float]:
    """Return the length and noise of the process of these trials; a resumed search finds the same."""
    values = np.frombuffer(losses)
    process = GaussianProcess(np.frombuffer(points).reshape(len(values), -1), values)
    return process.length, process.noise


def _latest(learned: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """Return the latest trials that came to the end of an epoch, by number."""
    return list(islice((trial for trial in reversed(learned) if trial.intermediate_values), count))[::-1]


def _parents(context: DrawContext) -> Sequence[FrozenTrial]:
    """Return the best complete trials, best first; for a share of the budget, of those not far above it."""
    complete = context.table.complete
    if context.share is not None:
        most, budget = 1.5 * context.share, context.space.budget
        near = (
            trial for trial in complete
            if budget.share(*(trial.user_attrs.get(name, 0) for name in ("num_params", "macs", "flash", "ram"))) <= most
        )  # fmt: skip
        return list(islice(near, PARENT_POOL))
    return complete[:PARENT_POOL]
