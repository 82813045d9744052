"""The memory that a network takes on a device, counted before it is trained, by the planner of the C export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from nas.architecture import Architecture
from nas.budget import Board
from nas.errors import UsageError

if TYPE_CHECKING:
    from nas.export.integer import IntegerNetwork
    from nas.export.plan import Plan
    from nas.model import TrainedNetwork

Kind = Literal["int8", "float32"]

CODE_BYTES: Mapping[Kind, int] = {"int8": 2048, "float32": 2048}
"""Flash for the C code itself, an allowance: what `arm-none-eabi-gcc -Os` makes of nas_net.c for Cortex-M0+, M4 and M7,
tables aside, is below it for every kind of block. The compiler's own library, as for floats on an M0+, comes on top."""


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

    @property
    def flash(self) -> int:
        """Flash in all."""
        return self.weights + self.tables + self.code

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


def footprint(architecture: Architecture, kind: Kind = "int8") -> Footprint:
    """Return what the architecture's C code will take of a device, whatever its weights.

    Norms are taken to have offsets, and factors above zero: a trained norm with a negative factor in front of a
    max-pool, which is rare, becomes one more operation. Raises `UsageError` where there can be no such code.
    """
    from nas.export.c_float import FLOAT_BYTES, float_flash
    from nas.export.c_int8 import INT8_BYTES, int8_flash
    from nas.export.c_text import too_large
    from nas.export.fold import Classifier, Convolution, fold
    from nas.export.plan import make_plan

    plan: Plan
    network = _example(architecture)
    folded = fold(network, one_pad_value=kind == "int8")
    numbers = sum(
        operation.weight.size + operation.bias.size
        for operation in folded.operations
        if isinstance(operation, Convolution | Classifier)
    )
    if kind == "int8":
        plan = make_plan(_integer(network).operations)
        (weights, tables), value_bytes = int8_flash(plan), INT8_BYTES
    else:
        plan = make_plan(folded.operations)
        (weights, tables), value_bytes = float_flash(plan), FLOAT_BYTES
    if problem := too_large(plan):
        raise UsageError(problem)
    channels, height, width = architecture.input_shape
    return Footprint(
        kind=kind, numbers=numbers, weights=weights, tables=tables, code=CODE_BYTES[kind],
        arena=plan.ram(value_bytes), image=channels * height * width, logits=4 * architecture.num_classes,
    )  # fmt: skip


def _integer(network: TrainedNetwork) -> IntegerNetwork:
    import torch

    from nas.export.fold import fold
    from nas.export.quantize import quantize

    generator = torch.Generator().manual_seed(0)
    shape = (2, *network.architecture.input_shape)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return quantize(fold(network, one_pad_value=True), images)


def _example(architecture: Architecture) -> TrainedNetwork:
    """A network of that architecture whose norms, and whose normalisation, are like trained ones."""
    import torch
    from torch import nn

    from nas.data import Normalization
    from nas.model import TrainedNetwork, build

    module = build(architecture, seed=0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.bias.data += torch.linspace(0.1, 0.2, norm.num_features)
            norm.weight.data += torch.linspace(0.1, 0.2, norm.num_features)
    channels = range(architecture.input_shape[0])
    return TrainedNetwork(
        architecture=architecture,
        state_dict=module.state_dict(),
        normalization=Normalization(tuple(0.3 + 0.02 * c for c in channels), tuple(0.3 for _ in channels)),
        classes=tuple(map(str, range(architecture.num_classes))),
    )
