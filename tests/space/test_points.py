"""Points: fixed ranges, and the way to an architecture and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from spaces import SHAPES, choices, seeds, space, spaces, uniform
from strategies import architectures

from nas.architecture import Architecture
from nas.designs import PUBLISHED_DESIGNS
from nas.errors import UsageError
from nas.space import SearchSpace


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
    assert space(10**29).max_width == space(None, max_macs=10**29).max_width <= 99_999
    assert space(1).max_width > space(1).min_width


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_a_cap_on_macs_scales_with_the_image(shape):
    """The ranges are those of about the parameters that a network of as many MACs has."""
    _, height, side = shape
    macs = space(None, max_macs=8000 * (height * side // 6), input_shape=shape)
    assert macs.max_width == space(8000).max_width


@pytest.mark.parametrize("design", PUBLISHED_DESIGNS, ids=lambda design: design.name)
def test_a_published_design_is_a_point_of_the_space(design):
    it = space(10_000)
    architecture = Architecture.parse(design.text)
    params = it.encode(architecture)
    assert params is not None
    assert it.decode(params) == architecture
    assert it.check(params, set()) == architecture


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
        assert it.min_depth <= architecture.depth - (params["head"] == "G dense C") <= it.slots


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
