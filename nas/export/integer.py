"""A network in integers and its exact result: the reference for the graph and for C.

An activation is an unsigned byte q that stands for scale * (q - zero); a weight is a signed byte, symmetric, with a
scale for each output channel (for all in the classifier, whose outputs are compared with each other). A convolution
adds products in 32 bits, multiplies the sum, as a float, by one float for each channel, and rounds to the nearest
integer, halves to the even one: ONNX's QLinearConv. A residual and an average multiply by integers and shift. The
classifier reads the sums over the map and stays in 32 bits: no rounding between the last convolution and the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.architecture import Shape
from nas.footprint import Classifier, Convolution, GlobalAveragePool, MaxPool, Operation, ResidualAdd

TOP = 255
"""The largest activation."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """The meaning of a byte q: `scale` * (q - `zero`)."""

    scale: np.float32
    zero: int


@dataclass(frozen=True, kw_only=True, eq=False)
class IntConvolution(Convolution):
    """QLinearConv; a ReLU is a zero of 0."""

    source: Level
    target: Level
    weight: NDArray[np.int8]
    """(O, I / groups, k, k)."""
    weight_scale: NDArray[np.float32]
    """(O,)."""
    bias: NDArray[np.int32]
    """(O,)."""

    @property
    def multiplier(self) -> NDArray[np.float32]:
        """The factor of each channel's sum (O,), in the order in which onnxruntime rounds it."""
        return (self.source.scale * self.weight_scale) / self.target.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class IntAdd(ResidualAdd):
    """(skip_factor * skip + factor * q + offset) >> shift, between 0 and 255; `skip` is the input of that operation."""

    target: Level
    skip_factor: int
    factor: int
    offset: int
    shift: int


@dataclass(frozen=True, kw_only=True, eq=False)
class IntAverage(GlobalAveragePool):
    """(factor * sum over the map + offset) >> shift, between 0 and 255."""

    target: Level
    factor: int
    offset: int
    shift: int


@dataclass(frozen=True, kw_only=True, eq=False)
class IntClassifier(Classifier):
    """Weights times the sums over the map, plus bias, in 32 bits; times `scale` these are the logits."""

    weight: NDArray[np.int8]
    """(num_classes, I)."""
    bias: NDArray[np.int32]
    """(num_classes,)."""
    scale: np.float32


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerNetwork:
    """Integer operations in order, from levels 0 to 255 (C, H, W) to 32-bit logits."""

    operations: tuple[Operation, ...]
    classes: tuple[str, ...]
    schedule: str

    @property
    def input_shape(self) -> Shape:
        return self.operations[0].input_shape

    @property
    def logit_scale(self) -> np.float32:
        """The value of one unit of a logit."""
        last = self.operations[-1]
        assert isinstance(last, IntClassifier)
        return last.scale

    def run(self, images: Tensor) -> Tensor:
        """Return 32-bit logits (N, num_classes), as int64, of levels (N, C, H, W): exact, on any machine."""
        values = [images.double()]
        for operation in self.operations:
            values.append(int_apply(operation, values))
        return values[-1].long()


def int_apply(operation: Operation, values: list[Tensor]) -> Tensor:
    """Return the output of `operation`, whose input is the last of `values` (integers, as float64)."""
    x = values[-1]
    match operation:
        case IntConvolution():
            total = sums(operation, x)
            scaled = total.float() * torch.from_numpy(operation.multiplier)[:, None, None]
            zero = operation.target.zero
            rounded: Tensor = scaled.clamp(-zero, TOP - zero).round() + zero
            return rounded.double()
        case MaxPool():
            return F.max_pool2d(x, 2)
        case IntAdd():
            total = operation.skip_factor * values[operation.skip] + operation.factor * x + operation.offset
            return _shifted(total, operation.shift)
        case IntAverage():
            total = operation.factor * x.sum((2, 3), keepdim=True) + operation.offset
            return _shifted(total, operation.shift)
        case IntClassifier():
            return sums(operation, x)
        case _:
            raise AssertionError(f"no integer operation: {operation}")


def sums(operation: IntConvolution | IntClassifier, x: Tensor) -> Tensor:
    """Return the 32-bit sums, bias included and before rounding, of bytes (N, C, H, W), as float64; exact."""
    if isinstance(operation, IntClassifier):
        weight, bias = torch.from_numpy(operation.weight).double(), torch.from_numpy(operation.bias).double()
        return F.linear(x.sum((2, 3)), weight, bias)
    kind = torch.float32 if largest_sum(operation) < 2**24 else torch.float64  # every integer below is a float32
    weight, bias = torch.from_numpy(operation.weight).to(kind), torch.from_numpy(operation.bias).to(kind)
    centred = (x - operation.source.zero).to(kind)
    total = F.conv2d(centred, weight, bias, operation.stride, operation.padding, groups=operation.groups)
    return total.double()


def largest_sum(operation: IntConvolution | IntClassifier) -> int:
    """Return a bound of the absolute value of any sum on the way to a channel's output."""
    each = TOP
    if isinstance(operation, IntClassifier):
        each *= operation.input_shape[1] * operation.input_shape[2]
    weights = np.abs(operation.weight.astype(np.int64)).reshape(len(operation.weight), -1).sum(1)
    return int((np.abs(operation.bias.astype(np.int64)) + 2 * each * weights).max())  # twice: what stands for zero


def _shifted(total: Tensor, shift: int) -> Tensor:
    """The bytes total >> shift, between 0 and 255."""
    return (total / float(1 << shift)).floor().clamp(0, TOP)
