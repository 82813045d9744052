"""Moves: random points, filling, mutation and shrinking."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from spaces import SHAPES, choices, seeds, space, spaces, uniform

from nas.architecture import Architecture
from nas.budget import Budget
from nas.errors import UsageError
from nas.space import SearchSpace
from nas.space.moves import LEAST_SHARE
from nas.space_options import SpaceOptions


@given(spaces(), seeds)
def test_a_seed_draws_the_same_points(it, seed):
    one, other = ([it.random(rng) for _ in range(3)] for rng in (np.random.default_rng(seed) for _ in range(2)))
    assert one == other


CAPS = (500, 700, 1000, 1500, 2000, 4000, 8000, 20_000, 50_000, 100_000)
FAIR = [(cap, shape) for cap in CAPS for shape in SHAPES[:2]]
FAIR += [(700, (3, 16, 16)), (8000, (3, 16, 16)), (4000, (3, 96, 96)), (50_000, (3, 96, 96)), (60_000, (1, 28, 28))]


@pytest.mark.parametrize(("cap", "shape"), FAIR)
def test_a_fair_share_of_random_schedules_fits_and_uses_the_budget(cap, shape):
    it, rng = space(cap, input_shape=shape), np.random.default_rng(0)
    found = [it.check(it.random(rng), ()) for _ in range(200)]
    fitting = [checked for checked in found if isinstance(checked, Architecture)]
    assert len(fitting) >= (0.4 if it.ranges.ties_widths and cap < 1000 else 0.5) * len(found)
    assert np.median([architecture.num_params for architecture in fitting]) >= 0.75 * cap
    assert len({str(architecture) for architecture in fitting}) >= 0.9 * len(fitting)
    assert {architecture.depth for architecture in fitting} >= set(range(it.min_depth, it.slots + 1))


@pytest.mark.parametrize(("cap", "share"), [(1000, None), (8000, None), (100_000, None), (8000, 0.3), (100_000, 0.3)])
def test_random_schedules_fill_the_share_of_the_budget_they_are_to(cap, share):
    it, rng = space(cap), np.random.default_rng(0)
    used = [used for _ in range(300) if (used := it.share(it.random(rng, share))) is not None]
    low, middle, high = np.percentile(used, (10, 50, 90))
    if share is None:  # between 85 % and a little more than all of it
        assert 0.8 < low < 0.9 < middle < 0.97 < high < 1.05
    else:
        assert 0.25 < low < middle < high < 0.36


def test_random_schedules_lean_to_one_kind_of_block():
    it, rng = space(8000), np.random.default_rng(0)
    shares = []
    for _ in range(500):
        point = it.random(rng)
        kinds = [point[f"kind_{slot}"] for slot in range(2, point["depth"] + 1)]
        shares.append(kinds.count("separable") / len(kinds))
    assert 0.2 < np.mean(np.array(shares) == 1) < 0.4  # by fixed odds of a half it were one in fifty
    assert 0.1 < np.mean(np.array(shares) == 0) < 0.2
    assert 0.5 < np.mean(shares) < 0.7


@given(seeds)
def test_a_widened_point_has_no_biases_and_uses_most_of_the_budget(seed):
    it, rng = space(8000), np.random.default_rng(seed)
    params = uniform(it, rng)
    before, widened = dict(params), it.widen(params, rng)
    assert params == before
    assert not widened["bias"]
    assert all(widened[name] in choices(d) for name, d in it.distributions.items())
    assert {name for name in params if widened[name] != params[name]} <= {
        "bias", *(name for name in params if "width" in name)
    }  # fmt: skip
    try:
        narrow, wide = (it.decode(point | {"bias": False}).num_params for point in (params, widened))
    except UsageError:  # an illegal shape stays one
        return
    if narrow < LEAST_SHARE * 8000:
        assert wide > narrow
    else:
        assert wide == narrow


@given(spaces(), seeds)
def test_a_mutant_is_a_point_of_the_space_without_biases(it, seed):
    rng = np.random.default_rng(seed)
    parent = it.random(rng)
    mutant = it.mutate(parent, rng)
    assert list(mutant) == list(parent) == list(it.distributions)
    for name, distribution in it.distributions.items():
        assert mutant[name] in choices(distribution)
        assert type(mutant[name]) in (int, bool, str)
    assert mutant["bias"] is False


def test_mutants_are_near_their_parent_and_mostly_feasible():
    it, rng = space(), np.random.default_rng(0)
    (parent,) = (params for name, params in it.published() if name == "start-7568")
    changed, feasible = Counter(), 0
    for _ in range(500):
        mutant = it.mutate(parent, rng)
        architecture = it.check(mutant, {str(it.decode(parent))})
        feasible += isinstance(architecture, Architecture)
        if isinstance(architecture, Architecture):
            changed[abs(architecture.depth - it.decode(parent).depth)] += 1
    assert feasible > 400
    assert max(changed) <= 3
    assert changed[0] > changed[1] > changed[2]


@given(seeds, st.integers(1, 8))
def test_a_block_is_put_in_and_taken_out_where_it_says(seed, place):
    it = space()
    params = it.random(np.random.default_rng(seed))
    depth = params["depth"]
    slot = min(place, depth)

    def blocks(point: dict) -> list[tuple[int, str]]:
        return [(point[f"width_{n}"], point.get(f"kind_{n}", "conv")) for n in range(1, point["depth"] + 1)]

    before, longer, shorter = blocks(params), blocks(it._lengthen(params, slot)), blocks(it._shorten(params, slot))
    if depth < it.slots:
        widths = [width for width, _ in before]
        assert [width for width, _ in longer] == [*widths[:slot], widths[slot - 1], *widths[slot:]]
        assert longer[slot + 1 :] == before[slot:]
    else:
        assert longer == before
    if depth > it.min_depth:
        assert [w for w, _ in shorter] == [w for w, _ in before[: slot - 1] + before[slot:]]
        assert shorter[slot:] == before[slot + 1 :]
    else:
        assert shorter == before


@given(spaces(), seeds)
def test_a_shrunk_schedule_fits_and_is_narrower(it, seed):
    params = uniform(it, np.random.default_rng(seed))
    try:
        it.decode(params)
    except UsageError:
        assume(False)
    before = dict(params)
    found = it.shrink(params)
    assert params == before
    if found is None:
        return
    shrunk, architecture = found
    assert architecture == it.decode(shrunk)
    assert it.budget.admits(architecture.num_params, architecture.macs)
    assert all(shrunk[name] in choices(d) for name, d in it.distributions.items())
    assert {name for name in params if shrunk[name] != params[name]} <= {
        "depth", *it.plain, *(name for name in params if "width" in name)
    }  # fmt: skip
    assert all(shrunk[name] <= params[name] for name in params if "width" in name or name == "depth")
    assert it.shrink(shrunk) == found
    if isinstance(it.check(params, ()), Architecture):
        assert shrunk == params


def test_shrinking_ends_where_nothing_is_left_to_shrink():
    it = space(60)
    params = it.encode(Architecture.parse("6 6 6 M 6 6 G C"))
    assert params is not None
    assert it.shrink(params) is None


@pytest.mark.parametrize(
    ("shape", "cap"),
    [((3, 32, 32), 11_400), ((3, 32, 32), 100_000), ((1, 28, 28), 60_000), ((3, 96, 96), 50_000), ((3, 16, 16), 1000)],
)
def test_regular_schedules_fill_a_derived_space(shape, cap):
    it = space(cap, input_shape=shape)
    found = it.regular()
    assert [name for name, _ in found] == ["regular separable 5x5", "regular separable 3x3", "regular conv 3x3"]
    for _, params in found:
        assert params.keys() == it.distributions.keys()
        assert all(params[name] in choices(distribution) for name, distribution in it.distributions.items())
        architecture = it.check(params, set())
        assert isinstance(architecture, Architecture)
        assert 0.8 * cap < architecture.num_params <= cap
    assert "+" in str(it.decode(found[0][1]))


def test_regular_schedules_are_of_the_kinds_that_a_space_has():
    assert space().regular() == []  # the published designs are of its kind
    given = SpaceOptions(blocks=("conv",), residual=(False,))
    narrow = SearchSpace(budget=Budget(max_params=8000, space=given), input_shape=(3, 32, 32))
    assert [name for name, _ in narrow.regular()] == ["regular conv 3x3"]
    assert SearchSpace(budget=Budget(max_params=8000, space=SpaceOptions(blocks=("inverted",)))).regular() == []
    tight = space(300, input_shape=(3, 32, 32))
    assert all(tight.decode(params).num_params <= 300 for _, params in tight.regular())
