"""Caps on flash and RAM: what is proposed is within them, and nothing is smaller than the smallest."""

from __future__ import annotations

import numpy as np
import pytest
from spaces import space, uniform

from nas.architecture import Architecture
from nas.budget import read_budget
from nas.errors import InfeasibleError
from nas.footprint import footprint
from nas.space import SearchSpace
from nas.space.space import OVER_CAP


@pytest.mark.parametrize(("flash", "ram"), [(16_384, 8192), (4096, 3072), (12_288, None), (12_288, 2048)])
def test_every_proposal_fits_and_every_discard_is_counted(flash, ram):
    it, rng = space(None, max_flash=flash, max_ram=ram), np.random.default_rng(0)
    seen: set[str] = set()
    over = 0
    for _ in range(8):
        proposal = it.propose(lambda _: it.random(rng), seen, tries=40)
        counted = footprint(proposal.architecture)
        assert counted.flash <= flash
        assert ram is None or counted.ram <= ram
        assert it.counts(proposal.architecture)[2:] == (counted.flash, counted.ram)
        seen.add(str(proposal.architecture))
        over += proposal.discards.get(OVER_CAP, 0)
    assert over > 0


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 13)])
def test_nothing_takes_less_memory_than_the_smallest(shape):
    it, rng = space(None, max_flash=8000, max_ram=8000, input_shape=shape), np.random.default_rng(0)
    smallest = it.smallest()
    for _ in range(300):
        point = uniform(it, rng) | {name: it.min_width for name in it.distributions if "width" in name}
        architecture = it.check(point, ())
        if isinstance(architecture, Architecture):
            assert all(count >= least for count, least in zip(it.counts(architecture), smallest, strict=True))


def test_a_cap_below_the_smallest_is_refused_with_the_smallest():
    for flash, ram, words in ((2000, None, "2,000 bytes of flash"), (16_384, 1000, "1,000 bytes of RAM")):
        with pytest.raises(InfeasibleError, match=f"no schedule of the space has {words} or fewer: the smallest has"):
            space(None, max_flash=flash, max_ram=ram).require_feasible()


def test_published_designs_over_the_memory_are_left_out():
    names = {name for name, _ in space(None, max_flash=65_536, max_ram=65_536).published()}
    fewer = {name for name, _ in space(None, max_flash=65_536, max_ram=8192).published()}
    assert fewer < names


@pytest.mark.parametrize("track", ["m0", "m4"])
def test_the_tracks_of_devices_have_schedules(track):
    it = SearchSpace(budget=read_budget(track))
    it.require_feasible()
    rng = np.random.default_rng(0)
    assert it.propose(lambda _: it.random(rng), set()).architecture.num_params > 100


def test_without_caps_on_memory_none_is_counted():
    it = space(8000)
    assert len(it.counts(Architecture.parse("8 G C"))) == 2
    assert len(it.smallest()) == 2
