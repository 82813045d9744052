"""How far the logits of an export may be from those of its network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEAST, SHARE = 1e-4, 1e-5


def tolerance_of(logits: Tensor) -> float:
    """Return the largest difference of a logit that is rounding: 1e-4, or more for logits over 10: 1e-5 of the largest.

    Float32 rounds in proportion (by 6e-8, at each of some dozens of sums), and a softmax leaves it open what all logits
    have in common: networks with logits up to 13 came to 4e-6, one with logits up to 340 to 1.8e-4.
    """
    return max(LEAST, SHARE * float(logits.abs().max()))
