"""The search space: points and the architectures they stand for, the cap check, and what proposes and discards.

One class, a file for each concern: `Points` (encode and decode), `Moves` (random points, mutation), `SearchSpace`.
"""

from __future__ import annotations

from nas.space.points import Params
from nas.space.space import (
    DISCARDS,
    DUPLICATE,
    ILLEGAL,
    OVER_CAP,
    SCREENED_OUT,
    Proposal,
    SearchSpace,
    commuted_head,
    survey,
)

__all__ = [
    "DISCARDS",
    "DUPLICATE",
    "ILLEGAL",
    "OVER_CAP",
    "SCREENED_OUT",
    "Params",
    "Proposal",
    "SearchSpace",
    "commuted_head",
    "survey",
]
