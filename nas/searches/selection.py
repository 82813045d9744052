"""Selection of the winner: statistics over finalists' scores, without any study behind them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit  # Student's t: scipy.stats takes seconds to import

T = TypeVar("T")
Scores = Mapping[int, float]
"""A candidate's scores by seed, in percent of a seed's own validation split."""

NO_WIDTH = 1e-9
"""Half-width in points of percent below which seeds do not vary: it is rounding."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A candidate trained again with several seeds."""

    trial: int
    schedule: str
    num_params: int
    macs: int
    brief: float  # validation accuracy of the brief trial, percent
    seeds: tuple[int, ...]
    scores: tuple[float, ...]  # percent, one for each seed
    published: str | None = None  # the name of a published design

    @property
    def by_seed(self) -> dict[int, float]:
        return dict(zip(self.seeds, self.scores, strict=True))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def interval(self, pooled: float | None, degrees: int, images: int = 0) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean over seeds, by Student's t with a pooled sd; within 0 and 100.

        Where seeds do not vary, it is Wilson's of the share of `images`, those of one seed, that are read right.
        """
        if pooled is None or degrees < 1:
            return None
        half = float(stdtrit(degrees, 0.975)) * pooled / math.sqrt(len(self.scores))
        if half < NO_WIDTH and images:
            return wilson_interval(self.mean, images)
        return max(0.0, self.mean - half), min(100.0, self.mean + half)


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """Return the 95 % score interval of an accuracy on a number of images, in percent; it is never of zero width.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927), 209-212.
    """
    share, z = percent / 100, 1.959964
    middle = share + z * z / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    low, high = (100 * (middle + sign * half) / (1 + z * z / images) for sign in (-1, 1))
    return max(0.0, low), min(100.0, high)


def rank_finalists(finalists: Iterable[Finalist]) -> tuple[Finalist, ...]:
    """Order finalists: the winner, then those that came furthest, best mean first.

    The winner is the smallest of those `within_one_standard_error` of the best.
    """
    found = sorted(finalists, key=lambda each: (-len(each.scores), -each.mean, each.num_params))
    if found:
        winner = min(within_one_standard_error(found), key=lambda each: each.num_params)
        found.sort(key=lambda each: each is not winner)
    return tuple(found)


def within_one_standard_error(finalists: Iterable[Finalist]) -> list[Finalist]:
    """Return, of the finalists that came furthest, the best and those whose mean is within one standard error of it.

    The standard error is that of the difference, with the paired sd of the best one's `similar_in_size`; with one seed
    there is none. Choosing the smallest of them is the rule of Breiman and others ("Classification and Regression
    Trees", 1984): what is not shown to be better does not pay for its size.
    """
    ranking = sorted(finalists, key=lambda each: (-len(each.scores), -each.mean))
    best, seeds = ranking[0], len(ranking[0].scores)
    sd, _ = paired_sd(each.by_seed for each in similar_in_size(ranking, best))
    error = 0.0 if sd is None or seeds == 1 else sd * math.sqrt(2 / seeds)
    return [each for each in ranking if len(each.scores) == seeds and best.mean - each.mean <= error]


def similar_size(a: int, b: int) -> bool:
    """Tell whether two numbers of parameters are within a factor of two: beyond, their spreads differ too."""
    return max(a, b) <= 2 * min(a, b)


def similar_in_size(finalists: Iterable[Finalist], to: Finalist) -> list[Finalist]:
    """Return the finalists of similar size, itself among them: they estimate its spread."""
    return [each for each in finalists if similar_size(each.num_params, to.num_params)]


def pareto_front(items: Iterable[T], key: Callable[[T], tuple[int, float]]) -> list[T]:
    """Return the items, by (parameters, score), that no smaller one matches in its score, smallest first."""
    points: list[T] = []
    for item in sorted(items, key=lambda each: (key(each)[0], -key(each)[1])):
        if not points or key(item)[1] > key(points[-1])[1]:
            points.append(item)
    return points


def pooled_sd(scores: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Return the standard deviation between seeds, pooled over candidates, and its degrees of freedom."""
    degrees = sum(len(each) - 1 for each in scores)
    if degrees < 1:
        return None, 0
    return math.sqrt(sum(statistics.variance(s) * (len(s) - 1) for s in scores if len(s) > 1) / degrees), degrees


def paired_sd(scores: Iterable[Scores]) -> tuple[float | None, int]:
    """Return the standard deviation of what candidate and seed leave unexplained, and its degrees of freedom.

    The residuals are those of the additive model of both, by least squares: a seed's images are harder or easier for
    all, which is no reason to doubt a difference on the same images. On a full table this is the randomized block
    design, and with two candidates the paired t-test.
    """
    cells = [(row, seed, score) for row, each in enumerate(scores) for seed, score in each.items()]
    if not cells:
        return None, 0
    rows, seeds, values = (np.array(column) for column in zip(*cells, strict=True))
    design = np.hstack([rows[:, None] == np.unique(rows), seeds[:, None] == np.unique(seeds)]).astype(float)
    values = values - values.mean()  # so that rounding is far below a hundredth of a point
    solution, _, rank, _ = np.linalg.lstsq(design, values)
    degrees = len(values) - int(rank)
    if degrees < 1:
        return None, 0
    return float(np.linalg.norm(values - design @ solution)) / math.sqrt(degrees), degrees


def better_half(scores: Sequence[Scores]) -> list[Scores]:
    """Return the better half of more than three candidates, by their means, which are independent of the residuals.

    Candidates that nearly fail scatter far more than those there is to choose from.
    """
    ranking = sorted(scores, key=lambda each: statistics.fmean(each.values()), reverse=True)
    return ranking[: max(2, math.ceil(len(ranking) / 2))]


def behind(scores: Mapping[int, Scores], *, spread: Sequence[Scores] | None = None) -> set[int]:
    """Return candidates whose mean is below the leader's by more than chance explains, over the seeds that both have.

    The test is at 95 %, one-sided, with the paired sd of all, or of those in `spread`. Only candidates with two seeds
    or more are tested: one score alone says nothing of its spread.
    """
    tested = {number: each for number, each in scores.items() if len(each) > 1}
    sd, degrees = paired_sd(tested.values() if spread is None else spread)
    if sd is None or not tested:
        return set()
    leader = max(tested.values(), key=lambda each: statistics.fmean(each.values()))
    found = set()
    for number, each in tested.items():
        gaps = [leader[seed] - score for seed, score in each.items() if seed in leader]
        chance = float(stdtrit(degrees, 0.95)) * sd * math.sqrt(2 / max(1, len(gaps)))
        if len(gaps) > 1 and statistics.fmean(gaps) > chance:
            found.add(number)
    return found


def spread_out(items: Sequence[T]) -> list[T]:
    """Return the items in an order whose every beginning is spread over all: ends first, then the farthest."""
    places = [0, len(items) - 1][: len(items)]
    while len(places) < len(items):
        places.append(max(range(len(items)), key=lambda place: min(abs(place - other) for other in places)))
    return [items[place] for place in places]
