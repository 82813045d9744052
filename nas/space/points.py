"""Points of the space and the architectures they stand for: a fixed-slot encoding.

Every schedule has the same parameters with the same fixed ranges, whatever its depth, so that a sampler models one
joint space; those of slots beyond the depth are drawn and have no effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.architecture import Architecture, Block, Classifier, Conv, GlobalPool, MaxPool, Shape
from nas.budget import Budget
from nas.errors import UsageError

Params = dict[str, Any]
"""A point: a value for each of the space's distributions."""

MIN_DEPTH, SLOTS = 5, 8
"""Blocks before the head, at least and at most."""

STAGES = 3

LAST_POOL = 3
"""A pool or a stride follows one of the first three blocks: without one, training takes several times as long."""

KINDS = ("conv", "separable", "squeeze")
HEADS = ("C G", "Cb G", "G C", "G Cb", "G dense C")

_HUGE = 10**10
"""Parameters beyond any use, whose widths the text form still has words for."""

_conv = lru_cache(maxsize=10_000)(Conv)
"""Blocks recur from schedule to schedule: taking them from here halves the time of `decode`."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """All schedules of five to eight blocks in up to three stages, at widths that suit the budget.

    Widths are drawn log-uniformly between `min_width` and `max_width`, which follow the cap.
    """

    budget: Budget
    input_shape: Shape = (1, 28, 28)
    num_classes: int = 10

    @cached_property
    def max_width(self) -> int:
        """The widest layer: 50 at a cap of 8,000."""
        _, height, side = self.input_shape
        params, macs = self.budget.max_params or _HUGE, self.budget.max_macs or _HUGE * height * side
        # For a cap on MACs: published designs have 70 to 210 for each parameter at 28x28, and 28 * 28 / 6 is 130.
        params = min(params, macs // max(1, height * side // 6), _HUGE)
        # Five 3x3 layers of width w have about 45 w^2 parameters; single layers of published designs reach 3.75 w.
        return max(6, round(3.75 * math.sqrt(params / 45)))

    @cached_property
    def min_width(self) -> int:
        """The narrowest layer."""
        return max(2, min(4, self.max_width // 6))

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The fixed ranges, in a fixed order."""
        width = IntDistribution(self.min_width, self.max_width, log=True)
        fixed: dict[str, BaseDistribution] = {
            "depth": IntDistribution(MIN_DEPTH, SLOTS),
            "first_pool": IntDistribution(1, LAST_POOL),
            "second_pool": IntDistribution(0, LAST_POOL),
            "down": CategoricalDistribution(("pool", "stride")),
            "first_kernel": CategoricalDistribution((3, 5)),
            "order": CategoricalDistribution(("norm-relu", "relu-norm")),
            "bias": CategoricalDistribution((False, True)),
            "residual": CategoricalDistribution((False, True)),
            "head": CategoricalDistribution(HEADS),
            "dense_width": width,
        }
        for stage in range(1, STAGES + 1):
            fixed[f"padded_{stage}"] = CategoricalDistribution((False, True))
        for slot in range(1, SLOTS + 1):
            fixed[f"width_{slot}"] = width
            if slot > 1:
                fixed[f"kind_{slot}"] = CategoricalDistribution(KINDS)
        return fixed

    @property
    def key(self) -> str:
        """Text that a resumed study must share: it changes whenever the same parameters would mean another schedule."""
        return f"slots-1 depth {MIN_DEPTH}-{SLOTS} width {self.min_width}-{self.max_width}"

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """Return the schedule of a point. Raises `UsageError` if its map shrinks to nothing."""
        depth: int = params["depth"]
        pools = {params["first_pool"]}
        if params["second_pool"]:
            pools.add(params["first_pool"] + params["second_pool"])
        common = {"bias": params["bias"], "relu_first": params["order"] == "relu-norm"}
        blocks: list[Block] = []
        stage, width = 1, self.input_shape[0]
        stride = 1
        for slot in range(1, depth + 1):
            kind = params[f"kind_{slot}"] if slot > 1 else "conv"
            squeeze = kind == "squeeze"
            padded = squeeze or params[f"padded_{stage}"]
            kernel = 1 if squeeze else params["first_kernel"] if slot == 1 else 3
            plain = slot > 1 and stride == 1 and padded and width == params[f"width_{slot}"]
            width = params[f"width_{slot}"]
            blocks.append(
                _conv(
                    width=width,
                    separable=kind == "separable",
                    kernel_size=kernel,
                    stride=stride,
                    padded=padded,
                    residual=params["residual"] and plain and not squeeze,
                    **common,
                )
            )
            stride = 1
            if slot in pools and slot < depth:
                stage += 1
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
        convs = [block for block in architecture.blocks[: _head(architecture)] if isinstance(block, Conv)]
        if not MIN_DEPTH <= len(convs) <= SLOTS:
            return None
        params: Params = {name: choices(distribution)[0] for name, distribution in self.distributions.items()}
        params["depth"] = len(convs)
        pools: list[int] = []
        slot = 0
        for block in architecture.blocks[: _head(architecture)]:
            if isinstance(block, MaxPool):
                pools.append(slot)
            elif isinstance(block, Conv):
                slot += 1
                if block.stride == 2:
                    pools.append(slot - 1)
                    params["down"] = "stride"
                params[f"width_{slot}"] = block.width
                if slot == 1:
                    params["first_kernel"] = block.kernel_size
                else:
                    params[f"kind_{slot}"] = (
                        "separable" if block.separable else "squeeze" if block.kernel_size == 1 else "conv"
                    )
                if block.kernel_size != 1 and len(pools) < STAGES:
                    params[f"padded_{len(pools) + 1}"] = block.padded
                params["residual"] = params["residual"] or block.residual
        params["order"] = "relu-norm" if convs[0].relu_first else "norm-relu"
        params["bias"] = convs[0].bias
        params["first_pool"] = pools[0] if pools else LAST_POOL
        params["second_pool"] = pools[1] - pools[0] if len(pools) > 1 else 0
        tail = architecture.blocks[_head(architecture) :]
        params["head"] = " ".join("dense" if isinstance(block, Conv) else str(block) for block in tail)
        params["dense_width"] = next((b.width for b in tail if isinstance(b, Conv)), params["dense_width"])
        if any(params[name] not in choices(distribution) for name, distribution in self.distributions.items()):
            return None
        try:
            return params if self.decode(params) == architecture else None
        except UsageError:
            return None

    def share(self, params: Mapping[str, Any]) -> float | None:
        """Return the share of the budget that a point's schedule uses; None if its shape is illegal."""
        try:
            architecture = self.decode(params)
        except UsageError:
            return None
        return self.budget.share(architecture.num_params, architecture.macs)


def choices(distribution: BaseDistribution) -> Sequence[Any]:
    """Return all values of a distribution of the space, in order."""
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices


def _head(architecture: Architecture) -> int:
    """Return the index of the first block of the head."""
    return next(i for i, block in enumerate(architecture.blocks) if isinstance(block, GlobalPool | Classifier))
