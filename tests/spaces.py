"""Search spaces and their points, for the property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas.budget import Budget
from nas.space import SearchSpace

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
