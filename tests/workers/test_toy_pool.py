"""The pool of the toys, which trains nothing, keeps to what a pool is."""

from __future__ import annotations

import pytest
import toys
from conformance import WILD, WRONG, PoolConformance

from nas.errors import NasError


def score(architecture, seed, epoch):
    if architecture == WILD:
        raise NasError(f"the loss is nan in epoch {epoch}")
    if architecture == WRONG:
        raise TypeError("no such images")
    return toys.luck(architecture, seed, epoch)


@pytest.fixture(scope="module")
def make():
    return lambda count: toys.Pool(count, score=score)


class TestToyPool(PoolConformance):
    pass
