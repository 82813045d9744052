"""The bytes of flash and RAM that a network's C code takes of a device, and the limits of devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas.architecture import Architecture
from nas.budget import Board, Budget
from nas.errors import UsageError
from nas.footprint.operations import Kind, deployed_operations, with_summing_classifier
from nas.footprint.plan import Plan, make_plan, too_large

CODE_BYTES: Mapping[Kind, int] = {"int8": 2048, "float32": 2048}
"""Flash for the C code itself, an allowance: what `arm-none-eabi-gcc -Os` makes of nas_net.c for Cortex-M0+, M4 and M7,
tables aside, is below it for every kind of block. The compiler's own library, as for floats on an M0+, comes on top."""

_VALUE_BYTES: Mapping[Kind, int] = {"int8": 1, "float32": 4}
_CHANNEL_BYTES: Mapping[Kind, int] = {"int8": 8, "float32": 4}
"""Bias and factor of an output channel; the bias."""
_LAYER_BYTES, _STAGE_BYTES, _SPANNING_STAGE_BYTES, _ADD_BYTES = 24, 28, 32, 16


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes that a network's C code takes; closed form, but for the allowance for code."""

    kind: Kind
    numbers: int
    """Weights and biases of the folded network."""
    weights: int
    """Flash for weights, biases and factors."""
    tables: int
    """Flash for the description of layers and stages."""
    code: int
    """Flash allowed for the code."""
    arena: int
    """Static memory: the activations' arena, the pixels between operations, the sums."""
    image: int
    """Memory for the image, one byte a value: the caller's."""
    logits: int
    """Memory for the logits: the caller's."""
    reserve: int = 0
    """Flash that more operations would take where a trained norm has a negative factor in front of a max-pool, which is
    rare; 0 where the weights are known."""

    @property
    def flash(self) -> int:
        """Flash in all, at most."""
        return self.weights + self.tables + self.code + self.reserve

    @property
    def ram(self) -> int:
        """Memory with the image and the logits; the stack and the rest of a program come on top."""
        return self.arena + self.image + self.logits


@dataclass(frozen=True, kw_only=True)
class DeviceLimit:
    """The most bytes of flash and RAM that a device has; None for no limit."""

    title: str
    flash: int | None
    ram: int | None
    required: bool
    """False for a board that is only listed: not to fit it is no failure."""

    @classmethod
    def of_board(cls, board: Board, *, required: bool) -> DeviceLimit:
        return cls(title=f"{board.name}: {board.title}", flash=board.flash, ram=board.ram, required=required)

    def problem(self, footprint: Footprint) -> str:
        """Return what does not fit, or an empty text; a limit is inclusive."""
        parts = []
        if self.flash is not None and footprint.flash > self.flash:
            parts.append(f"{footprint.flash - self.flash:,} bytes of flash too many")
        if self.ram is not None and footprint.ram > self.ram:
            parts.append(f"{footprint.ram - self.ram:,} bytes of RAM too many")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A network's footprint, held against the limits of devices."""

    footprint: Footprint
    limits: tuple[DeviceLimit, ...]

    @property
    def fits(self) -> bool:
        """True if every limit that is required is met."""
        return not any(limit.required and limit.problem(self.footprint) for limit in self.limits)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        found = self.footprint
        limits = [{**asdict(limit), "fits": not limit.problem(found)} for limit in self.limits]
        return {**asdict(found), "flash": found.flash, "ram": found.ram, "limits": limits}


def folded_params(architecture: Architecture) -> int:
    """Return the count of papers that fold norms away: convolution weights, and one bias a channel for norm and bias.

    Of conv-ReLU-norm too, where a deployed network may need the norm as an operation of its own (`Footprint.numbers`).
    """
    total, layers = 0, architecture.layers
    for index, layer in enumerate(layers):
        if layer.op == "conv":
            following = [each.op for each in layers[index + 1 : index + 3]]
            normed = following[:1] == ["norm"] or following == ["relu", "norm"]
            total += layer.num_params - (layer.output_shape[0] if layer.bias and normed else 0)
        elif layer.op == "norm":
            total += layer.output_shape[0]
    return total


def counts(architecture: Architecture, budget: Budget) -> tuple[int, ...]:
    """Return what the budget caps, for its `admits`: parameters and MACs, and flash and RAM where one is capped."""
    if not budget.caps_memory:
        return architecture.num_params, architecture.macs
    found = footprint(architecture)
    return architecture.num_params, architecture.macs, found.flash, found.ram


def footprint(architecture: Architecture, kind: Kind = "int8") -> Footprint:
    """Return what the architecture's C code will take of a device, whatever its weights; some 100 microseconds.

    Norms are taken to have offsets and factors above zero, and `reserve` has room for negative ones. Raises
    `UsageError` where there can be no such code.
    """
    operations, pooled = deployed_operations(architecture, kind)
    if kind == "int8":
        operations = [operation for operation in with_summing_classifier(operations) if operation is not None]
    found = plan_footprint(make_plan(operations, floats=kind == "float32"), kind)
    channel_bytes = _CHANNEL_BYTES[kind] + _VALUE_BYTES[kind]
    return replace(found, reserve=sum(_LAYER_BYTES + channel_bytes * channels for channels in pooled))


def plan_footprint(plan: Plan, kind: Kind) -> Footprint:
    """Return what the C code of a plan takes; raises `UsageError` where there can be no such code."""
    if problem := too_large(plan):
        raise UsageError(problem)
    convolutions, classifier = plan.convolutions, plan.classifier
    num_weights = sum(convolution.num_weights for convolution in convolutions) + classifier.num_weights
    num_channels, classes = sum(each.output_shape[0] for each in convolutions), classifier.output_shape[0]
    levels = sum(each.input_shape[0] for each in convolutions if each.pads_level) if kind == "float32" else 0
    adds = sum(stage.add is not None for stage in plan.stages) if kind == "int8" else 0
    value_bytes, stage_bytes = _VALUE_BYTES[kind], _SPANNING_STAGE_BYTES if plan.spans else _STAGE_BYTES
    channels, height, width = plan.stages[0].input_shape
    return Footprint(
        kind=kind,
        numbers=num_weights + num_channels + classes,
        weights=value_bytes * (num_weights + levels) + _CHANNEL_BYTES[kind] * num_channels + 4 * classes,
        tables=_LAYER_BYTES * len(convolutions) + stage_bytes * len(plan.stages) + _ADD_BYTES * adds,
        code=CODE_BYTES[kind],
        arena=-(-plan.ram(value_bytes) // 4) * 4,  # a linker fills up to whole words
        image=channels * height * width,
        logits=4 * classes,
    )
