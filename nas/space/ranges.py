"""`Ranges`: what a search space lets vary, derived from the input's side and the caps, and narrowed by the user."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from nas.architecture import Shape
from nas.budget import Budget
from nas.errors import UsageError
from nas.space_options import HEADS

SMALL_SIDE, SMALL_PARAMS = 28, 20_000
"""Grey inputs and caps up to which the space is that of the MNIST records."""

LAST_MAP = 4
"""The side, in pixels, that no pool goes below."""

_HUGE = 10**10
"""Parameters beyond any use, whose widths the text form still has words for."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """All that a space lets vary; as in `SpaceOptions`, with the places of the pools beside it."""

    blocks: tuple[str, ...]
    depth: tuple[int, int]
    widths: tuple[int, int]
    pools: tuple[int, int]
    first_pool: int = 3
    """The first pool follows this block at the latest: before it training takes several times as long."""
    pool_gap: int = 3
    """Blocks from a pool to the next, at most."""
    kernel_sizes: tuple[int, ...] = (3,)
    first_kernel_sizes: tuple[int, ...] = (3, 5)
    first_strides: tuple[int, ...] = (1,)
    expansions: tuple[int, ...] = (3,)
    down: tuple[str, ...] = ("pool", "stride")
    orders: tuple[str, ...] = ("norm-relu", "relu-norm")
    padded: tuple[bool, ...] = (False, True)
    residual: tuple[bool, ...] = (False, True)
    bias: tuple[bool, ...] = (False, True)
    heads: tuple[str, ...] = HEADS
    ties_widths: bool = True
    """A residual network's blocks take the width of the stage's first, so that every residual fits; else a residual is
    where two widths happen to be equal."""

    @property
    def key(self) -> str:
        """Text that changes whenever the same point could mean another schedule."""
        if not self.ties_widths:  # of studies before there were other ranges
            return f"slots-1 depth {_span(self.depth)} width {_span(self.widths)}"
        words = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                spans = field.name in ("depth", "widths", "pools")
                value = _span(value) if spans else ",".join(str(each).replace(" ", "_") for each in value)
            words.append(f"{field.name} {value}")
        return f"slots-2 {' '.join(words)}"


def derive_ranges(budget: Budget, input_shape: Shape) -> Ranges:
    """Return the ranges for caps and an input (C, H, W): the user's where the budget has any, else derived ones.

    For grey images up to a side of 28 and caps up to 20,000 parameters they are those of the MNIST records: 5 to 8
    blocks of convolutions, separable blocks and squeezes, one or two pools. For all else,

    * pools halve the map as long as 4 pixels are left, or once less: 2 to 3 times for a side of 32, 3 to 4 for 96;
    * the deepest network has 8 blocks, two more for each pool beyond two, and one more for each doubling of 8,000
      parameters (6 to 16 in all); the shallowest four fewer, but more than 3 and one for each pool;
    * a side over 48 has its first pool after one or two blocks, over 64 after one, and may begin with a stride;
    * inverted bottlenecks, depthwise kernels of 5 and 7, and residuals that fit are among the blocks.

    For a cap on MACs alone, the parameters are those that a network of so many MACs has; for one on flash, a byte each.
    """
    channels, height, side = input_shape
    longest, params = max(height, side), _parameters(budget, input_shape)
    # Five 3x3 layers of width w have about 45 w^2 parameters; single layers of published designs reach 3.75 w.
    most = max(6, round(3.75 * math.sqrt(params / 45)))
    widths = max(2, min(4, most // 6)), most
    given = {} if budget.space is None else budget.space.given()
    if not given and channels == 1 and longest <= SMALL_SIDE and params <= SMALL_PARAMS:
        return Ranges(
            blocks=("conv", "separable", "squeeze"), depth=(5, 8), widths=widths, pools=(1, 2), ties_widths=False
        )
    pools = min(4, max(1, math.floor(math.log2(max(longest, 1) / LAST_MAP)) if longest >= 2 * LAST_MAP else 1))
    deepest = min(16, max(6, pools + 4, 8 + 2 * max(0, pools - 2) + round(math.log2(params / 8000))))
    ranges = Ranges(
        blocks=("conv", "separable", "squeeze", "inverted"),
        depth=(max(4, pools + 1, deepest - 4), deepest),
        widths=widths,
        pools=(max(1, pools - 1), pools),
        first_pool=3 if longest <= 48 else 2 if longest <= 64 else 1,
        kernel_sizes=(3, 5, 7),
        first_kernel_sizes=(3,),
        first_strides=(1,) if longest <= 48 else (1, 2),
        expansions=(2, 3, 4),
        bias=(False,),
    )
    ranges = dataclasses.replace(ranges, **given)
    if ranges.pools[1] >= ranges.depth[0]:
        raise UsageError(
            f"[space] {ranges.pools[1]} pools need more blocks than {ranges.depth[0]}: raise depth or lower pools"
        )
    gap = max(2, min(3, ranges.depth[0] // max(1, ranges.pools[1])))  # so that every pool has its place
    return dataclasses.replace(ranges, pool_gap=gap, first_pool=min(ranges.first_pool, gap))


def _parameters(budget: Budget, input_shape: Shape) -> int:
    """Return the cap on parameters, or about as many as the cap on MACs stands for."""
    _, height, side = input_shape
    params, macs = budget.most_params or _HUGE, budget.max_macs or _HUGE * height * side
    # For a cap on MACs: published designs have 70 to 210 for each parameter at 28x28, and 28 * 28 / 6 is 130.
    return max(1, min(params, macs // max(1, height * side // 6), _HUGE))


def _span(values: tuple[int, int]) -> str:
    return f"{values[0]}-{values[1]}"
