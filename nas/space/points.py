"""Points of the space and the architectures they stand for: a fixed-slot encoding.

Every schedule has the same parameters with the same fixed ranges, whatever its depth, so that a sampler models one
joint space; those of slots beyond the depth are drawn and have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.architecture import (
    Architecture,
    Block,
    Classifier,
    Conv,
    ConvBlock,
    GlobalPool,
    InvertedBottleneck,
    MaxPool,
    Shape,
)
from nas.budget import Budget
from nas.errors import UsageError
from nas.footprint import counts
from nas.space.ranges import Ranges, derive_ranges

Params = dict[str, Any]
"""A point: a value for each of the space's distributions."""

POOLS = ("first_pool", "second_pool", "third_pool", "fourth_pool", "fifth_pool")
"""The names of the places: each counts the blocks from the pool before, 0 for no pool."""

_conv, _inverted = lru_cache(maxsize=10_000)(Conv), lru_cache(maxsize=10_000)(InvertedBottleneck)
"""Blocks recur from schedule to schedule: taking them from here halves the time of `decode`."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """All schedules within the ranges that follow from the caps, the input and the budget's `[space]`."""

    budget: Budget
    input_shape: Shape = (1, 28, 28)
    num_classes: int = 10

    @cached_property
    def ranges(self) -> Ranges:
        """All that varies."""
        return derive_ranges(self.budget, self.input_shape)

    @property
    def min_depth(self) -> int:
        """Blocks before the head, at least."""
        return self.ranges.depth[0]

    @property
    def slots(self) -> int:
        """Blocks before the head, at most."""
        return self.ranges.depth[1]

    @property
    def stages(self) -> int:
        """Parts between the pools, at most."""
        return self.ranges.pools[1] + 1

    @property
    def min_width(self) -> int:
        """The narrowest layer."""
        return self.ranges.widths[0]

    @property
    def max_width(self) -> int:
        """The widest layer: 50 at a cap of 8,000. Widths are drawn log-uniformly between the two."""
        return self.ranges.widths[1]

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The fixed ranges, in a fixed order."""
        ranges = self.ranges
        width = IntDistribution(self.min_width, self.max_width, log=True)
        fixed: dict[str, BaseDistribution] = {"depth": IntDistribution(*ranges.depth)}
        for number, name in enumerate(POOLS[: ranges.pools[1]]):
            most = ranges.pool_gap if number else ranges.first_pool
            fixed[name] = IntDistribution(int(number < ranges.pools[0]), most)
        fixed |= {
            "down": CategoricalDistribution(ranges.down),
            "first_kernel": CategoricalDistribution(ranges.first_kernel_sizes),
            "order": CategoricalDistribution(ranges.orders),
            "bias": CategoricalDistribution(ranges.bias),
            "residual": CategoricalDistribution(ranges.residual),
            "head": CategoricalDistribution(ranges.heads),
            "dense_width": width,
        }
        if ranges.first_strides != (1,):
            fixed["first_stride"] = CategoricalDistribution(ranges.first_strides)
        if "inverted" in ranges.blocks:
            fixed["expansion"] = CategoricalDistribution(ranges.expansions)
        for stage in range(1, self.stages + 1):
            fixed[f"padded_{stage}"] = CategoricalDistribution(ranges.padded)
        for slot in range(1, self.slots + 1):
            fixed[f"width_{slot}"] = width
            if slot > 1:
                fixed[f"kind_{slot}"] = CategoricalDistribution(ranges.blocks)
                if ranges.kernel_sizes != (3,):
                    fixed[f"kernel_{slot}"] = CategoricalDistribution(ranges.kernel_sizes)
        return fixed

    @property
    def key(self) -> str:
        """Text that a resumed study must share: it changes whenever the same parameters would mean another schedule."""
        return self.ranges.key

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """Return the schedule of a point. Raises `UsageError` if its map shrinks to nothing."""
        depth: int = params["depth"]
        pools = set(accumulate(params[name] for name in POOLS[: self.stages - 1]))
        common = {"bias": params["bias"], "relu_first": params["order"] == "relu-norm"}
        residual, ties = params["residual"], self.ranges.ties_widths
        blocks: list[Block] = []
        stage, width = 1, self.input_shape[0]
        stride, begins = params.get("first_stride", 1), True  # a stage
        for slot in range(1, depth + 1):
            kind = params[f"kind_{slot}"] if slot > 1 else "conv"
            squeeze = kind == "squeeze"
            tied = ties and residual and not begins and not squeeze
            padded = squeeze or tied or params[f"padded_{stage}"]
            before, width = width, width if tied else params[f"width_{slot}"]
            adds = residual and slot > 1 and stride == 1 and padded and width == before and not squeeze
            if kind == "inverted":
                blocks.append(
                    _inverted(
                        width=width,
                        expansion=params["expansion"],
                        kernel_size=params.get(f"kernel_{slot}", self.ranges.kernel_sizes[0]),
                        stride=stride,
                        padded=padded,
                        residual=adds,
                    )
                )
            else:
                kernel = 1 if squeeze else params["first_kernel"] if slot == 1 else 3
                if kind == "separable":
                    kernel = params.get(f"kernel_{slot}", self.ranges.kernel_sizes[0])
                blocks.append(
                    _conv(
                        width=width,
                        separable=kind == "separable",
                        kernel_size=kernel,
                        stride=stride,
                        padded=padded or kernel == 1,
                        residual=adds,
                        **common,
                    )
                )
            stride, begins = 1, False
            if slot in pools and slot < depth:
                stage, begins = stage + 1, True
                if params["down"] == "pool":
                    blocks.append(MaxPool())
                else:
                    stride = 2
        head: str = params["head"]
        if head.startswith("C"):
            blocks += [Classifier(bias="b" in head), GlobalPool()]
        else:
            blocks.append(GlobalPool())
            if "dense" in head:
                blocks.append(_conv(width=params["dense_width"], kernel_size=1, bias=True, norm=False))
            blocks.append(Classifier(bias="b" in head))
        return Architecture(blocks=tuple(blocks), input_shape=self.input_shape, num_classes=self.num_classes)

    def encode(self, architecture: Architecture) -> Params | None:
        """Return a point that decodes to `architecture`, or None if the space has none."""
        body = architecture.blocks[: _head(architecture)]
        convs = [block for block in body if isinstance(block, ConvBlock)]
        if not self.min_depth <= len(convs) <= self.slots:
            return None
        params: Params = {name: choices(distribution)[0] for name, distribution in self.distributions.items()}
        found: Params = {"depth": len(convs), "residual": any(block.residual for block in convs)}
        pools: list[int] = []
        slot, begins = 0, True
        for block in body:
            if isinstance(block, MaxPool):
                pools.append(slot)
                begins = True
                found["down"] = "pool"
            elif isinstance(block, ConvBlock):
                slot += 1
                if slot == 1:
                    found["first_kernel"], found["first_stride"] = block.kernel_size, block.stride
                elif block.stride == 2:
                    pools.append(slot - 1)
                    begins = True
                    found["down"] = "stride"
                found |= _slot(block, slot)
                tied = block.residual and self.ranges.ties_widths and not begins
                if block.kernel_size != 1 and not tied:  # which are padded in any case
                    found[f"padded_{len(pools) + 1}"] = block.padded
                begins = False
        first = next((block for block in convs if isinstance(block, Conv)), None)
        if first is not None:
            found |= {"order": "relu-norm" if first.relu_first else "norm-relu", "bias": first.bias}
        gaps = [place - before for place, before in zip(pools, (0, *pools), strict=False)]
        for name, gap in zip(POOLS, [*gaps, *[0] * len(POOLS)], strict=False):
            if name in params:  # a pool that is not there, where one has to be, is one beyond the last block
                options = choices(self.distributions[name])
                found[name] = gap if gap or 0 in options else max(options)
        tail = architecture.blocks[_head(architecture) :]
        found["head"] = " ".join("dense" if isinstance(block, Conv) else str(block) for block in tail)
        found["dense_width"] = next((b.width for b in tail if isinstance(b, Conv)), params["dense_width"])
        params |= {name: value for name, value in found.items() if name in params}
        if any(params[name] not in choices(distribution) for name, distribution in self.distributions.items()):
            return None
        try:
            return params if self.decode(params) == architecture else None
        except UsageError:
            return None

    def counts(self, architecture: Architecture) -> tuple[int, ...]:
        """Return what the budget caps: parameters and MACs, and flash and RAM where one of them is capped."""
        return counts(architecture, self.budget)

    def share(self, params: Mapping[str, Any]) -> float | None:
        """Return the share of the budget that a point's schedule uses; None if its shape is illegal."""
        try:
            architecture = self.decode(params)
        except UsageError:
            return None
        return self.budget.share(*self.counts(architecture))


def choices(distribution: BaseDistribution) -> Sequence[Any]:
    """Return all values of a distribution of the space, in order."""
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices


def _head(architecture: Architecture) -> int:
    """Return the index of the first block of the head."""
    return next(i for i, block in enumerate(architecture.blocks) if isinstance(block, GlobalPool | Classifier))


def _slot(block: ConvBlock, slot: int) -> Params:
    """Return the parameters of a block alone."""
    if isinstance(block, InvertedBottleneck):
        kind, more = "inverted", {"expansion": block.expansion, f"kernel_{slot}": block.kernel_size}
    elif block.separable:
        kind, more = "separable", {f"kernel_{slot}": block.kernel_size}
    else:
        kind, more = "squeeze" if block.kernel_size == 1 else "conv", {}
    return {f"width_{slot}": block.width, f"kind_{slot}": kind, **more}
