"""The cap check, proposals and their accounts, the published designs, the survey."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from spaces import seeds, space, spaces, uniform
from strategies import architectures

from nas.architecture import Architecture
from nas.budget import Budget
from nas.designs import PUBLISHED_DESIGNS
from nas.errors import InfeasibleError, UsageError
from nas.model import build
from nas.space import DISCARDS, DUPLICATE, ILLEGAL, OVER_CAP, SearchSpace, commuted_head, survey


@given(spaces(), seeds)
def test_a_check_says_why(it, seed):
    rng = np.random.default_rng(seed)
    for params in (it.random(rng), uniform(it, rng)):
        checked = it.check(params, set())
        if isinstance(checked, Architecture):
            assert checked == it.decode(params)
            assert it.budget.admits(checked.num_params, checked.macs)
            assert it.check(params, {str(checked)}) == DUPLICATE
        elif checked == ILLEGAL:
            with pytest.raises(UsageError):
                it.decode(params)
        else:
            assert checked == OVER_CAP
            over = it.decode(params)
            assert over.num_params > (it.budget.max_params or 10**12) or over.macs > (it.budget.max_macs or 10**12)


@given(architectures())
def test_a_commuted_head_is_the_same_network_and_a_duplicate(architecture):
    text = str(architecture)
    other = Architecture.parse(commuted_head(text), input_shape=architecture.input_shape)
    assert commuted_head(str(other)) == text
    assert other.num_params == architecture.num_params
    images = torch.randn(2, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # the same seed draws the same weights
        one, two = (build(each, seed=0).eval()(images) for each in (architecture, other))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    it = space(8000)
    for head, turned in (("C G", "G C"), ("Cb G", "G Cb"), ("G C", "C G")):
        params = it.random(np.random.default_rng(0), 0.5) | {"head": head}
        schedule = str(it.decode(params))
        assert commuted_head(schedule) == schedule.removesuffix(head) + turned
        assert it.check(params, {commuted_head(schedule)}) == DUPLICATE
    assert commuted_head("8 G 9k1bn C") == "8 G 9k1bn C"


def test_a_cap_is_inclusive():
    architecture = Architecture.parse(PUBLISHED_DESIGNS[0].text)
    params = space(8000).encode(architecture)
    for budget, fits in (
        ({"max_params": 7568}, True), ({"max_params": 7567}, False),
        ({"max_macs": architecture.macs}, True), ({"max_macs": architecture.macs - 1}, False),
    ):  # fmt: skip
        it = SearchSpace(budget=Budget(**budget))
        assert it.check(params, set()) == (architecture if fits else OVER_CAP)


def test_a_discard_costs_microseconds():
    """Some 50, where the machine is not busy: rounds go on until one is quick enough, three seconds of work at most."""
    it, rng = space(8000), np.random.default_rng(0)
    points = [it.random(rng) for _ in range(50)]
    best, rounds = float("inf"), 0
    while best >= 300e-6 and rounds < 200:
        began = time.process_time()
        for params in points:
            it.check(params, set())
        best, rounds = min(best, (time.process_time() - began) / len(points)), rounds + 1
    assert best < 300e-6


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

        proposal = it.propose(draw, seen)
        architecture = it.decode(proposal.params)
        assert proposal.architecture == architecture
        assert it.budget.admits(architecture.num_params, architecture.macs)
        assert str(architecture) not in seen
        assert len(draws) == sum(proposal.discards.values()) + 1
        assert set(proposal.discards) <= set(DISCARDS)
        assert proposal.discards == Counter(
            reason for drawn in draws[:-1] if isinstance(reason := it.check(drawn, seen), str)
        )
        assert proposal.shrunk == (proposal.params != draws[-1])
        seen.add(str(architecture))


def test_proposals_never_repeat():
    it, rng = space(8000), np.random.default_rng(0)
    drawn = (it.random(rng) for _ in range(50))
    few = [params for params in drawn if isinstance(it.check(params, ()), Architecture)][:40]
    distinct: set[str] = set()
    for params in few:
        schedule = str(it.decode(params))
        distinct |= set() if commuted_head(schedule) in distinct else {schedule}
    seen: set[str] = set()
    duplicates = 0
    for _ in range(len(distinct)):
        proposal = it.propose(lambda n: few[n % len(few)], seen)
        duplicates += proposal.discards.get(DUPLICATE, 0)
        seen.add(str(proposal.architecture))
    assert {frozenset((text, commuted_head(text))) for text in seen} == {
        frozenset((text, commuted_head(text))) for text in distinct
    }
    assert duplicates > 0
    with pytest.raises(InfeasibleError, match=r"duplicate.*have been tried") as caught:
        it.propose(lambda n: few[n % len(few)], seen, tries=5)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.discards == {DUPLICATE: 21 * 5}  # nothing that was generated is lost to the accounts


def test_what_stays_over_the_cap_is_shrunk():
    it = space(2000)
    wide = it.encode(Architecture.parse("20v 20v 20v M 20v 20v G C"))
    assert wide is not None
    proposal = it.propose(lambda _: wide, set(), tries=7)
    assert proposal.shrunk
    assert proposal.discards == {OVER_CAP: 7}
    assert it.decode(proposal.params).num_params <= 2000
    seen = {str(it.decode(proposal.params))}
    with pytest.raises(InfeasibleError, match=r"147 proposals \(147 over a cap\): 1 have been tried") as caught:
        it.propose(lambda _: wide, seen, tries=7)
    assert caught.value.discards == {OVER_CAP: 147}


def test_the_published_designs_that_fit_come_largest_first():
    found = space(8000).published()
    names = [name for name, _ in found]
    sizes = {design.name: design.num_params for design in PUBLISHED_DESIGNS}
    assert names == sorted((n for n, size in sizes.items() if size <= 8000), key=lambda n: -sizes[n])
    assert [space(8000).decode(params).num_params for _, params in found] == [sizes[name] for name in names]
    assert space(1000).published() == []
    assert space(8000, input_shape=(1, 1, 1)).published() == []  # nothing to pool
    assert len(space(10_000).published()) == len(PUBLISHED_DESIGNS)


def test_published_designs_follow_the_data_set():
    it = space(14_000, input_shape=(1, 26, 26), num_classes=100)
    assert len(it.published()) > 3
    for _, params in it.published():
        architecture = it.decode(params)
        assert (architecture.input_shape, architecture.num_classes) == ((1, 26, 26), 100)
        assert architecture.num_params <= 14_000


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
