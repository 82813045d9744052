"""The search space: fixed ranges, the cap check and its accounts, and what the ranges make of a budget."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from strategies import architectures

from nas.architecture import KNOWN, Architecture
from nas.budget import Budget
from nas.errors import InfeasibleError, UsageError
from nas.model import build
from nas.space import (
    DISCARDS,
    DUPLICATE,
    ILLEGAL,
    LEAST_SHARE,
    MIN_DEPTH,
    OVER_CAP,
    PLAIN,
    SLOTS,
    STAGES,
    SearchSpace,
    survey,
    twin,
)

SHAPES = ((1, 28, 28), (3, 32, 32), (1, 16, 16), (1, 4, 4), (2, 9, 13), (1, 1, 1))


def space(max_params: int | None = 8000, **fields) -> SearchSpace:
    shape = {name: fields.pop(name) for name in ("input_shape", "num_classes") if name in fields}
    return SearchSpace(budget=Budget(max_params=max_params, **fields), **shape)


def choices(distribution) -> list:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution)
    return list(range(distribution.low, distribution.high + 1))


def uniform(it: SearchSpace, rng: np.random.Generator) -> dict:
    """A point with every parameter drawn evenly, as no sampler of ours draws it."""
    return {name: choices(d)[int(rng.integers(len(choices(d))))] for name, d in it.distributions.items()}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    max_params = draw(st.none() | st.integers(500, 100_000))
    max_macs = draw(st.none() if max_params else st.integers(200_000, 10_000_000))
    if max_params and draw(st.booleans()):
        max_macs = draw(st.integers(300_000, 10_000_000))
    return space(max_params, max_macs=max_macs, input_shape=draw(st.sampled_from(SHAPES[:2])))


seeds = st.integers(0, 2**32)


# Ranges


@given(spaces(), seeds)
def test_the_ranges_are_fixed_whatever_the_schedule(it, seed):
    rng = np.random.default_rng(seed)
    before = it.distributions
    for params in (it.random(rng), uniform(it, rng)):
        assert list(params) == list(before)
        for name, distribution in before.items():
            assert params[name] in choices(distribution)
            assert type(params[name]) in (int, bool, str)  # nothing of numpy reaches the study
        it.check(params, set())
    assert it.distributions == before == SearchSpace(
        budget=it.budget, input_shape=it.input_shape, num_classes=it.num_classes
    ).distributions  # fmt: skip


def test_the_ranges_follow_the_cap_and_the_key_tells():
    widths = {cap: space(cap).max_width for cap in (500, 1000, 2000, 4000, 8000, 100_000)}
    assert list(widths.values()) == sorted(set(widths.values()))
    assert widths[8000] == 50  # the widest layer of the published designs
    assert len({space(cap).key for cap in widths}) == len(widths)
    assert space(8000).key == space(8000, target=90.0).key
    assert space(10**400).max_width == space(None, max_macs=10**400).max_width <= 99_999
    assert space(1).max_width > space(1).min_width


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_a_cap_on_macs_scales_with_the_image(shape):
    """The ranges are those of about the parameters that a network of as many MACs has."""
    _, height, side = shape
    macs = space(None, max_macs=8000 * (height * side // 6), input_shape=shape)
    assert macs.max_width == space(8000).max_width


# Points and architectures


@pytest.mark.parametrize("design", KNOWN, ids=lambda design: design.name)
def test_a_known_design_is_a_point_of_the_space(design):
    it = space(10_000)
    architecture = Architecture.parse(design.text)
    params = it.encode(architecture)
    assert params is not None
    assert it.decode(params) == architecture
    assert it.check(params, set()) == (architecture, None)


@settings(max_examples=100)
@given(spaces(), seeds)
def test_every_schedule_of_the_space_encodes_to_itself(it, seed):
    rng = np.random.default_rng(seed)
    for params in (it.random(rng), uniform(it, rng)):
        try:
            architecture = it.decode(params)
        except UsageError:
            continue
        again = it.encode(architecture)
        assert again is not None
        assert it.decode(again) == architecture
        assert MIN_DEPTH <= architecture.depth - (params["head"] == "G dense C") <= SLOTS


@settings(max_examples=100)
@given(architectures())
def test_what_encodes_decodes_to_the_same(architecture):
    it = space(500_000, input_shape=architecture.input_shape, num_classes=architecture.num_classes)
    params = it.encode(architecture)
    assert params is None or it.decode(params) == architecture


@pytest.mark.parametrize(
    "text",
    ["8 8 8 8 M M 8 G C", "M 8 8 8 8 G C", "8 8k5 8 8 G C", "8k1 8 8 8 8 G C", "8 8b 8 8 G C", "8 8r 8 8 G C",
     "8n 8n 8n 8n G C", "8 8 8 8 M G C", "8 G C", "8 8 8 8 G 8k1 C", "8 8 8 8 G 8k1bn Cb", "8 M 8 8/2 8 G C",
     "8/2 8 8 8 G C", "8 8+ M 8 8 8 G C", "90000 8 8 8 G C", "8 8 8 8 8 8 8 8 8 8 G C", "G C"],
)  # fmt: skip
def test_what_the_space_does_not_hold_has_no_point(text):
    it = space(8000)
    architecture = Architecture.parse(text)
    params = it.encode(architecture)
    assert params is None, it.decode(params)


# The cap check


@given(spaces(), seeds)
def test_a_check_says_why(it, seed):
    rng = np.random.default_rng(seed)
    for params in (it.random(rng), uniform(it, rng)):
        architecture, reason = it.check(params, set())
        assert (architecture is None) == (reason is not None)
        if architecture is not None:
            assert it.budget.admits(architecture.num_params, architecture.macs)
            assert it.check(params, {str(architecture)}) == (None, DUPLICATE)
        elif reason == ILLEGAL:
            with pytest.raises(UsageError):
                it.decode(params)
        else:
            assert reason == OVER_CAP
            over = it.decode(params)
            assert over.num_params > (it.budget.max_params or 10**12) or over.macs > (it.budget.max_macs or 10**12)


@given(architectures())
def test_a_twin_is_the_same_network_and_a_duplicate(architecture):
    text = str(architecture)
    other = Architecture.parse(twin(text), input_shape=architecture.input_shape)
    assert twin(str(other)) == text
    assert other.num_params == architecture.num_params
    images = torch.randn(2, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # the same seed draws the same weights
        one, two = (build(each, seed=0).eval()(images) for each in (architecture, other))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    it = space(None, max_macs=10**9)
    for head, turned in (("C G", "G C"), ("Cb G", "G Cb"), ("G C", "C G")):
        params = it.random(np.random.default_rng(0)) | {"head": head}
        schedule = str(it.decode(params))
        assert twin(schedule) == schedule.removesuffix(head) + turned
        assert it.check(params, {twin(schedule)}) == (None, DUPLICATE)
    assert twin("8 G 9k1bn C") == "8 G 9k1bn C"


def test_a_cap_is_inclusive():
    architecture = Architecture.parse(KNOWN[0].text)
    params = space(8000).encode(architecture)
    for budget, fits in (
        ({"max_params": 7568}, True), ({"max_params": 7567}, False),
        ({"max_macs": architecture.macs}, True), ({"max_macs": architecture.macs - 1}, False),
    ):  # fmt: skip
        it = SearchSpace(budget=Budget(**budget))
        assert (it.check(params, set())[1] is None) == fits


def test_a_discard_costs_microseconds():
    """The best of many, as the machine may be busy; some 50 where it is not."""
    it, rng = space(8000), np.random.default_rng(0)
    points = [it.random(rng) for _ in range(50)]
    best = float("inf")
    for _ in range(30):
        began = time.process_time()
        for params in points:
            it.check(params, set())
        best = min(best, (time.process_time() - began) / len(points))
    assert best < 300e-6


# Proposals


@settings(max_examples=40)
@given(spaces(), seeds)
def test_a_proposal_is_new_within_the_caps_and_accounted_for(it, seed):
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    for _ in range(5):
        draws = []

        def draw(n: int, draws: list = draws) -> dict:
            assert n == len(draws)
            draws.append(it.random(rng))
            return draws[-1]

        params, discards, shrunk = it.propose(draw, seen)
        architecture = it.decode(params)
        assert it.budget.admits(architecture.num_params, architecture.macs)
        assert str(architecture) not in seen
        assert len(draws) == discards.total() + 1
        assert set(discards) <= set(DISCARDS)
        assert discards == Counter(reason for drawn in draws[:-1] if (reason := it.check(drawn, seen)[1]) is not None)
        assert shrunk == (params != draws[-1])
        seen.add(str(architecture))


def test_proposals_never_repeat():
    it, rng = space(8000), np.random.default_rng(0)
    few = [params for params in (it.random(rng) for _ in range(50)) if it.check(params, ())[1] is None][:40]
    distinct: set[str] = set()
    for params in few:
        schedule = str(it.decode(params))
        distinct |= set() if twin(schedule) in distinct else {schedule}
    seen: set[str] = set()
    duplicates = 0
    for _ in range(len(distinct)):
        params, discards, _ = it.propose(lambda n: few[n % len(few)], seen)
        duplicates += discards[DUPLICATE]
        seen.add(str(it.decode(params)))
    assert {frozenset((text, twin(text))) for text in seen} == {frozenset((text, twin(text))) for text in distinct}
    assert duplicates > 0
    with pytest.raises(InfeasibleError, match=r"duplicate.*have been tried") as caught:
        it.propose(lambda n: few[n % len(few)], seen, tries=5)
    assert len(str(caught.value).splitlines()) == 1


def test_what_stays_over_the_cap_is_shrunk():
    it = space(2000)
    wide = it.encode(Architecture.parse("20v 20v 20v M 20v 20v G C"))
    assert wide is not None
    params, discards, shrunk = it.propose(lambda _: wide, set(), tries=7)
    assert shrunk
    assert discards == {OVER_CAP: 7}
    assert it.decode(params).num_params <= 2000
    seen = {str(it.decode(params))}
    with pytest.raises(InfeasibleError, match=r"147 proposals \(147 over a cap\): 1 have been tried"):
        it.propose(lambda _: wide, seen, tries=7)


@given(spaces(), seeds)
def test_a_shrunk_schedule_fits_and_is_narrower(it, seed):
    params = uniform(it, np.random.default_rng(seed))
    try:
        it.decode(params)
    except UsageError:
        assume(False)
    before = dict(params)
    shrunk = it.shrink(params)
    assert params == before
    if shrunk is None:
        return
    architecture = it.decode(shrunk)
    assert it.budget.admits(architecture.num_params, architecture.macs)
    assert all(shrunk[name] in choices(d) for name, d in it.distributions.items())
    assert {name for name in params if shrunk[name] != params[name]} <= {
        "depth", *PLAIN, *(name for name in params if "width" in name)
    }  # fmt: skip
    assert all(shrunk[name] <= params[name] for name in params if "width" in name or name == "depth")
    assert it.shrink(shrunk) == shrunk
    if it.check(params, ())[1] is None:
        assert shrunk == params


def test_shrinking_ends_where_nothing_is_left_to_shrink():
    it = space(60)
    params = it.encode(Architecture.parse("6 6 6 M 6 6 G C"))
    assert params is not None
    assert it.shrink(params) is None


@given(spaces(), seeds)
def test_a_seed_draws_the_same_points(it, seed):
    one, other = ([it.random(rng) for _ in range(3)] for rng in (np.random.default_rng(seed) for _ in range(2)))
    assert one == other


@pytest.mark.parametrize("cap", [500, 700, 1000, 1500, 2000, 4000, 8000, 20_000, 50_000, 100_000])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_a_fair_share_of_random_schedules_fits_and_uses_the_budget(cap, shape):
    it, rng = space(cap, input_shape=shape), np.random.default_rng(0)
    found = [it.check(it.random(rng), ()) for _ in range(200)]
    fitting = [architecture for architecture, _ in found if architecture is not None]
    assert len(fitting) >= 0.5 * len(found)
    assert np.median([architecture.num_params for architecture in fitting]) >= 0.75 * cap
    assert len({str(architecture) for architecture in fitting}) >= 0.9 * len(fitting)
    assert {architecture.depth for architecture in fitting} >= set(range(MIN_DEPTH, SLOTS + 1))


# Known designs


@pytest.mark.parametrize(("cap", "share"), [(1000, None), (8000, None), (100_000, None), (8000, 0.3), (100_000, 0.3)])
def test_random_schedules_fill_the_share_of_the_budget_they_are_to(cap, share):
    it, rng = space(cap), np.random.default_rng(0)
    used = [used for _ in range(300) if (used := it._share(it.random(rng, share))) is not None]
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


def test_the_known_designs_that_fit_come_largest_first():
    found = space(8000).known()
    names = [name for name, _ in found]
    sizes = {design.name: design.num_params for design in KNOWN}
    assert names == sorted((n for n, size in sizes.items() if size <= 8000), key=lambda n: -sizes[n])
    assert [space(8000).decode(params).num_params for _, params in found] == [sizes[name] for name in names]
    assert space(1000).known() == []
    assert space(8000, input_shape=(1, 1, 1)).known() == []  # nothing to pool
    assert len(space(10_000).known()) == len(KNOWN)


def test_known_designs_follow_the_data_set():
    it = space(12_000, input_shape=(3, 32, 32), num_classes=100)
    for _, params in it.known():
        architecture = it.decode(params)
        assert (architecture.input_shape, architecture.num_classes) == ((3, 32, 32), 100)
        assert architecture.num_params <= 12_000


# The smallest


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cap", [500, 1000, 8000])
def test_nothing_is_smaller_than_the_smallest(cap, shape):
    """Against random schedules of the least widths, of every depth and layout."""
    it, rng = space(cap, input_shape=shape), np.random.default_rng(cap)
    params, macs = it.smallest()
    for _ in range(500):
        point = uniform(it, rng) | {name: it.min_width for name in it.distributions if "width" in name}
        architecture, reason = it.check(point, ())
        if reason is None:
            assert architecture.num_params >= params
            assert architecture.macs >= macs
            assert any(p <= architecture.num_params and m <= architecture.macs for p, m in it._floor)


@pytest.mark.parametrize("shape", [(1, 10, 10), (1, 5, 7)])
def test_the_smallest_is_the_smallest_of_all(shape):
    """Against every shallowest schedule of the least widths, at a depth where all can be tried."""
    it = space(500, input_shape=shape)
    fixed = {name: choices(d)[0] for name, d in it.distributions.items()}
    fixed |= {"depth": MIN_DEPTH, "bias": False, "residual": False, "head": "G C"}
    names = ["first_pool", "second_pool", "down", "first_kernel"]
    names += [f"padded_{stage}" for stage in range(1, STAGES + 1)]
    names += [f"kind_{slot}" for slot in range(2, MIN_DEPTH + 1)]
    free = {name: choices(it.distributions[name]) for name in names}
    free["second_pool"] = [value for value in free["second_pool"] if value < MIN_DEPTH]
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
        # The message is kept: a cap of just that is met by a schedule.
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
    params, _, _ = it.propose(lambda _: it.random(rng), set())
    assert it.decode(params).num_params == least


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
        params, _, _ = it.propose(lambda _: it.random(rng), seen)
        seen.add(str(it.decode(params)))
    assert len(seen) == 10


# The survey


def test_a_survey_counts_what_it_draws():
    it = space(2000)
    found = survey(it, samples=200, seed=0)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert sum(found["depths"].values()) == pytest.approx(1)
    assert found["num_params"] == sorted(found["num_params"])
    assert found["smallest"] == it.smallest()[0]
    assert all(Architecture.parse(text).num_params == count <= 2000 for text, count in found["examples"])
    again = survey(it, samples=200, seed=0)
    assert {key: again[key] for key in again if key != "per_second"} == {
        key: found[key] for key in found if key != "per_second"
    }
    assert survey(space(10), samples=20, seed=0)["shares"]["fit"] == 0


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


# Mutation


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
    (parent,) = (params for name, params in it.known() if name == "start-7568")
    changed, feasible = Counter(), 0
    for _ in range(500):
        mutant = it.mutate(parent, rng)
        architecture, _ = it.check(mutant, {str(it.decode(parent))})
        feasible += architecture is not None
        if architecture is not None:
            changed[abs(architecture.depth - it.decode(parent).depth)] += 1
    assert feasible > 400
    assert max(changed) <= 3
    assert changed[0] > changed[1] > changed[2]


@given(seeds, st.integers(1, SLOTS))
def test_a_block_is_put_in_and_taken_out_where_it_says(seed, place):
    it = space()
    params = it.random(np.random.default_rng(seed))
    depth = params["depth"]
    slot = min(place, depth)

    def blocks(point: dict) -> list[tuple[int, str]]:
        return [(point[f"width_{n}"], point.get(f"kind_{n}", "conv")) for n in range(1, point["depth"] + 1)]

    before, longer, shorter = blocks(params), blocks(it._lengthen(params, slot)), blocks(it._shorten(params, slot))
    if depth < SLOTS:
        widths = [width for width, _ in before]
        assert [width for width, _ in longer] == [*widths[:slot], widths[slot - 1], *widths[slot:]]
        assert longer[slot + 1 :] == before[slot:]
    else:
        assert longer == before
    if depth > MIN_DEPTH:
        assert [w for w, _ in shorter] == [w for w, _ in before[: slot - 1] + before[slot:]]
        assert shorter[slot:] == before[slot + 1 :]
    else:
        assert shorter == before
