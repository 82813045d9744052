"""The smallest schedules of a space, and the caps that none meets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from spaces import SHAPES, choices, space, uniform

from nas.architecture import Architecture
from nas.budget import Budget
from nas.errors import InfeasibleError, UsageError
from nas.space import SearchSpace


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cap", [500, 1000, 8000])
def test_nothing_is_smaller_than_the_smallest(cap, shape):
    """Against random schedules of the least widths, of every depth and layout."""
    it, rng = space(cap, input_shape=shape), np.random.default_rng(cap)
    params, macs = it.smallest()
    for _ in range(500):
        point = uniform(it, rng) | {name: it.min_width for name in it.distributions if "width" in name}
        architecture = it.check(point, ())
        if isinstance(architecture, Architecture):
            assert architecture.num_params >= params
            # Of more kinds of blocks and places of pools than can be tried, the fewest MACs are only nearly so.
            assert architecture.macs >= (0.95 * macs if it.ranges.ties_widths else macs)
            assert it.ranges.ties_widths or any(
                p <= architecture.num_params and m <= architecture.macs for p, m in it._floor
            )


@pytest.mark.parametrize("shape", [(1, 10, 10), (1, 5, 7)])
def test_the_smallest_is_the_smallest_of_all(shape):
    """Against every shallowest schedule of the least widths, at a depth where all can be tried."""
    it = space(500, input_shape=shape)
    fixed = {name: choices(d)[0] for name, d in it.distributions.items()}
    fixed |= {"depth": it.min_depth, "bias": False, "residual": False, "head": "G C"}
    names = ["first_pool", "second_pool", "down", "first_kernel"]
    names += [f"padded_{stage}" for stage in range(1, it.stages + 1)]
    names += [f"kind_{slot}" for slot in range(2, it.min_depth + 1)]
    free = {name: choices(it.distributions[name]) for name in names}
    free["second_pool"] = [value for value in free["second_pool"] if value < it.min_depth]
    rng = np.random.default_rng(0)
    points = list(itertools.product(*free.values()))
    counts = []
    for index in rng.choice(len(points), 4000, replace=False):
        try:
            architecture = it.decode(fixed | dict(zip(free, points[index], strict=True)))
        except UsageError:
            continue
        counts.append((architecture.num_params, architecture.macs))
    assert all(params >= it.smallest()[0] and macs >= it.smallest()[1] for params, macs in counts)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cap_below_the_smallest_is_refused_with_the_smallest(shape):
    for cap, unit in (("max_params", "parameters"), ("max_macs", "MACs")):
        few = SearchSpace(budget=Budget(**{cap: 1}), input_shape=shape)
        with pytest.raises(InfeasibleError) as caught:
            few.require_feasible()
        least = few.smallest()[unit == "MACs"]
        assert f"no schedule of the space has 1 {unit} or fewer: the smallest has {least:,}" in str(caught.value)
        # The message holds: a cap of just that is met by a schedule.
        exact = SearchSpace(budget=Budget(**{cap: least}), input_shape=shape)
        exact.require_feasible()
        assert exact.smallest()[unit == "MACs"] == least
        assert least in {counts[unit == "MACs"] for counts in exact._floor}
        with pytest.raises(InfeasibleError):
            SearchSpace(budget=Budget(**{cap: least - 1}), input_shape=shape).require_feasible()


def test_caps_that_only_fail_together_are_refused():
    """The fewest parameters and the fewest MACs are of two schedules."""
    few = space(500, input_shape=(1, 8, 8))
    least_params, least_macs = few.smallest()
    enough = min(macs for params, macs in few._floor if params == least_params)
    assert enough > least_macs
    with pytest.raises(InfeasibleError, match=f"within the first cap, the smallest has {enough:,} MACs") as caught:
        space(least_params, max_macs=least_macs, input_shape=(1, 8, 8)).require_feasible()
    assert len(str(caught.value).splitlines()) == 1
    space(least_params, max_macs=enough, input_shape=(1, 8, 8)).require_feasible()


def test_the_smallest_cap_is_reachable():
    least = space(1).smallest()[0]
    it, rng = space(least), np.random.default_rng(0)
    assert it.propose(lambda _: it.random(rng), set()).architecture.num_params == least


def test_where_nothing_is_left_the_message_says_what_was_tried():
    it, rng = space(None, max_macs=space(None, max_macs=1).smallest()[1]), np.random.default_rng(0)
    it.require_feasible()
    with pytest.raises(InfeasibleError) as caught:
        it.propose(lambda _: it.random(rng), set(), tries=5)
    assert f"the smallest has {it.budget.max_macs:,} MACs" in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 5), (1, 1, 1)])
def test_a_tiny_image_still_has_its_networks(shape):
    it, rng = space(2000, input_shape=shape, num_classes=3), np.random.default_rng(0)
    it.require_feasible()
    seen: set[str] = set()
    for _ in range(10):
        seen.add(str(it.propose(lambda _: it.random(rng), seen).architecture))
    assert len(seen) == 10
