"""Denormal floats: flushed to zero for a while, and then as the caller had them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SMALLEST_NORMAL, _HALF = sys.float_info.min, 0.5


def flushes_denormals() -> bool:
    """Return True if this thread flushes denormals. torch has no getter, but Python's floats obey the same switch."""
    return _SMALLEST_NORMAL * _HALF == 0.0  # two names, not numbers: Python folds constants when it compiles


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Flush denormals in this thread for the block, and leave the thread as it was.

    An operation on a denormal takes a hundred cycles instead of one or four, and what decays towards zero is full of
    them: gradients, moments, averages.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
