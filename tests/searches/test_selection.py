"""Who wins: the statistics of finalists' scores, against independent definitions; no study is needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import finalist
from scipy import stats

from nas.searches import (
    behind,
    paired_sd,
    pareto_front,
    pooled_sd,
    rank_finalists,
    similar_in_size,
    similar_size,
    within_one_standard_error,
)
from nas.searches.selection import better_half, spread_out


def residuals(table):
    """Of the additive model of a full table of candidates and seeds: with its row and column means taken out."""
    return table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()


def test_pooled_sd_is_that_of_the_residuals():
    scores = [[99.1, 99.3, 99.2], [98.0, 98.4], [97.0]]
    sd, degrees = pooled_sd(scores)
    rest = np.concatenate([np.array(each) - np.mean(each) for each in scores])
    assert degrees == 3
    assert sd == pytest.approx(math.sqrt((rest**2).sum() / 3))
    assert pooled_sd([[99.0], [98.0]]) == (None, 0)
    assert pooled_sd([]) == (None, 0)


def test_paired_sd_is_that_of_the_additive_model():
    table = 99 + np.random.default_rng(0).normal(0, 0.05, (4, 3))
    rows = [dict(enumerate(row)) for row in table]
    expected = math.sqrt((residuals(table) ** 2).sum() / (3 * 2))
    assert paired_sd(rows) == (pytest.approx(expected), 6)
    # Harder images for all, with one seed, and better candidates change nothing; a single score explains itself.
    moved = [{seed: score - seed + number for seed, score in row.items()} for number, row in enumerate(rows)]
    assert paired_sd([*moved, {0: 10.0}, {7: 1.0}]) == (pytest.approx(expected), 6)
    assert paired_sd([{0: 99.0, 1: 98.0}]) == (None, 0)
    assert paired_sd([]) == (None, 0)


def test_paired_sd_is_what_least_squares_leaves_of_any_table():
    rng = np.random.default_rng(3)
    for _ in range(20):
        mask = rng.random((5, 4)) < 0.7
        cells = [(i, j, 99 + rng.normal()) for i, j in zip(*np.nonzero(mask), strict=True)]
        design = np.array([np.r_[np.eye(5)[i], np.eye(4)[j]] for i, j, _ in cells])
        values = np.array([value for *_, value in cells])
        rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        degrees = len(cells) - np.linalg.matrix_rank(design)
        rows = [{int(j): value for i, j, value in cells if i == row} for row in range(5)]
        sd, found = paired_sd(rows)
        assert found == max(0, degrees)
        assert sd == (pytest.approx(math.sqrt((rest**2).sum() / degrees)) if degrees > 0 else None)


def test_behind_is_the_one_sided_paired_t_test():
    """With two candidates it is scipy's paired test at 5 %, one-sided."""
    rng, verdicts = np.random.default_rng(0), set()
    for _ in range(200):
        images = rng.normal(0, 0.3, int(rng.integers(2, 5)))
        a = images + 99 + rng.normal(0, 0.05, len(images))
        b = images + 99 - rng.uniform(0, 0.2) + rng.normal(0, 0.05, len(images))
        leader, other = (a, b) if np.mean(a) >= np.mean(b) else (b, a)
        expected = {1} if stats.ttest_rel(leader, other, alternative="greater").pvalue < 0.05 else set()
        assert behind({0: dict(enumerate(leader)), 1: dict(enumerate(other))}) == expected
        verdicts.add(bool(expected))
    assert verdicts == {True, False}
    clear = {1: 99.0, 2: 99.1, 3: 99.2}
    assert behind({0: clear, 1: {1: 10.0}}) == set()  # one score says nothing of its spread
    assert behind({0: clear, 1: {2: 10.0, 4: 11.0}}) == set()  # nor two of other seeds
    assert behind({0: clear, 1: {1: 10.0, 2: 11.0, 3: 10.0}}) == {1}
    assert behind({}) == set()


def test_the_better_half_estimates_the_spread():
    """Of more than three: candidates that nearly fail scatter far more than those there is to choose from."""
    rng = np.random.default_rng(2)
    table = np.array([99 - i / 10 + rng.normal(0, 0.02, 4) for i in range(6)] + [[60.0, 90.0, 10.0, 80.0]])
    rows = [dict(enumerate(row)) for row in table]
    assert better_half(rows[::-1]) == rows[:4]
    sd, degrees = paired_sd(better_half(rows))
    assert (sd, degrees) == (pytest.approx(math.sqrt((residuals(table[:4]) ** 2).sum() / 9)), 9)
    assert [len(better_half(rows[:count])) for count in (1, 2, 3, 4, 5)] == [1, 2, 2, 2, 3]
    even = {0: 98.7, 1: 98.72, 2: 98.71, 3: 98.7}  # clearly behind, by the spread of the better half alone
    by_number = dict(enumerate([*rows, even]))
    assert 7 not in behind(by_number)
    assert 7 in behind(by_number, spread=better_half(list(by_number.values())))


def test_interval_is_students():
    one = finalist(0, 1, 99.1, 99.2, 99.4)
    low, high = one.interval(one.sd, 2)
    expected = stats.t.interval(0.95, 2, loc=np.mean(one.scores), scale=stats.sem(one.scores))
    assert (low, high) == pytest.approx(expected)
    assert one.interval(None, 0) is None
    assert one.sd == pytest.approx(np.std(one.scores, ddof=1))
    assert finalist(0, 1, 99.0).sd is None
    assert finalist(5, 800, 99.9, 90.1).interval(5.0, 3)[1] == 100


def test_an_interval_is_never_of_zero_width():
    """Seeds that do not vary say nothing of the images; Wilson's interval of their share does."""
    for right in (44, 40):
        score = 100 * right / 44
        low, high = finalist(0, 1, score, score, score).interval(0.0, 4, 44)
        expected = stats.binomtest(right, 44).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high))
        assert high - low > 5
    varied = finalist(0, 1, 99.1, 99.2, 99.4)
    assert varied.interval(varied.sd, 2, 10_000) == varied.interval(varied.sd, 2)
    assert finalist(0, 1, 100.0).interval(None, 0, 44) is None


def test_a_tie_is_what_is_within_one_standard_error_of_the_best():
    scores = np.array([[99.40, 99.54], [99.43, 99.47], [99.31, 99.49]])
    best, near, far = (finalist(trial, 8000 - trial, *row) for trial, row in enumerate(scores))
    short = finalist(3, 5000, 99.9)
    error = math.sqrt((residuals(scores) ** 2).sum() / 2) * math.sqrt(2 / 2)
    assert best.mean - near.mean < error < best.mean - far.mean
    for order in ([best, near, far, short], [short, far, near, best]):
        assert [each.trial for each in within_one_standard_error(order)] == [0, 1]  # what came less far is no rival
        assert [each.trial for each in rank_finalists(order)] == [1, 0, 2, 3]  # the smallest of them, then by mean
    one = finalist(0, 8000, 99.4)
    assert within_one_standard_error([one, finalist(1, 7000, 99.3)]) == [one]
    assert len(within_one_standard_error([one, finalist(1, 7000, 99.4)])) == 2
    assert rank_finalists([]) == ()


def test_chance_is_estimated_from_networks_of_the_same_size():
    """Of a front on MNIST: two seeds of the smallest are 23 points apart, which says nothing of the largest."""
    tiny, small = finalist(0, 522, 95.64, 72.36), finalist(1, 593, 96.63, 95.69)
    large = [finalist(2, 6419, 99.29, 99.34), finalist(3, 7568, 99.277, 99.357), finalist(4, 7878, 99.43, 99.394)]
    assert within_one_standard_error([tiny, small, *large]) == within_one_standard_error(large)
    assert similar_in_size([tiny, small, *large], tiny) == [tiny, small]
    assert [similar_size(100, other) for other in (49, 50, 200, 201)] == [False, True, True, False]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6).map(float)), max_size=12))
def test_the_front_is_what_no_smaller_one_matches(points):
    found = pareto_front(points, lambda point: point)
    expected = {
        (size, score) for size, score in points
        if not any((s < size and t >= score) or (s == size and t > score) for s, t in points)
    }  # fmt: skip
    assert set(found) == expected
    assert found == sorted(expected)


@pytest.mark.parametrize("count", range(9))
def test_every_beginning_is_spread_over_the_whole(count):
    order = spread_out(list(range(count)))
    assert sorted(order) == list(range(count))
    assert order[:2] == [0, count - 1][:count]
    for length in range(3, count):
        gaps = np.diff(sorted(order[:length]))
        assert max(gaps) <= 2 * min(gaps) + 1
