"""The primitive layers of an architecture, with their shapes and exact counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from nas.architecture.blocks import Block, Classifier, Conv, ConvBlock, GlobalPool, InvertedBottleneck, MaxPool
from nas.errors import UsageError

Shape = tuple[int, int, int]
"""(channels, height, width)."""


class Layer(NamedTuple):  # not a dataclass: a candidate makes some 25 of them, and a frozen one costs far more
    """One primitive operation of an architecture, with its exact counts; shapes are (C, H, W) of one image."""

    op: Literal["conv", "norm", "relu", "add", "maxpool", "globalpool"]
    name: str
    input_shape: Shape
    output_shape: Shape
    num_params: int = 0
    macs: int = 0
    kernel_size: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    skip: int = -1
    """For an "add": the index of the layer whose input is added to this layer's input."""


_POINTWISE = (1, 1, 0)
"""Kernel, stride and padding of a 1x1 convolution."""

_TORCH_NAMES = {
    "conv": "Conv2d", "norm": "BatchNorm2d", "relu": "ReLU", "add": "Add", "maxpool": "MaxPool2d",
    "globalpool": "AdaptiveAvgPool2d",
}  # fmt: skip


def make_layers(blocks: Iterable[Block], input_shape: Shape, num_classes: int) -> tuple[Layer, ...]:
    """Return the layers of blocks in order. Raises `UsageError` where shapes do not fit."""
    layers: list[Layer] = []
    shape = input_shape

    def append(op: Any, output: Shape, *by_position: Any, **by_name: Any) -> None:  # by name takes twice as long
        nonlocal shape
        layers.append(Layer(op, f"{_TORCH_NAMES[op]}-{len(layers) + 1}", shape, output, *by_position, **by_name))
        shape = output

    def conv(block: Block, width: int, geometry: tuple[int, int, int], groups: int, bias: bool) -> None:
        kernel, stride, padding = geometry
        channels, height, side = shape
        if min(height, side) + 2 * padding < kernel:
            raise UsageError(
                f"the map shrinks to nothing: '{block}' meets {height}x{side}; pad, pool less or drop a block"
            )
        rows, columns = (height + 2 * padding - kernel) // stride + 1, (side + 2 * padding - kernel) // stride + 1
        weights = width * (channels // groups) * kernel * kernel
        num_params, macs = weights + width * bias, weights * rows * columns
        append("conv", (width, rows, columns), num_params, macs, kernel, stride, padding, groups, bias)

    for block in blocks:
        first, (channels, height, side) = len(layers), shape
        match block:
            case MaxPool():
                if min(height, side) < 2:
                    raise UsageError(f"the map shrinks to nothing: 'M' meets {height}x{side}; pool less")
                append("maxpool", (channels, height // 2, side // 2), 0, 0, 2, 2)
            case GlobalPool():
                append("globalpool", (channels, 1, 1))
            case Classifier():
                conv(block, num_classes, _POINTWISE, 1, block.bias)
            case Conv():
                geometry = block.kernel_size, block.stride, block.padding
                if block.separable:
                    conv(block, channels, geometry, channels, False)
                    conv(block, block.width, _POINTWISE, 1, block.bias)
                else:
                    conv(block, block.width, geometry, 1, block.bias)
                for op in ("relu", "norm") if block.relu_first else ("norm", "relu"):
                    if op == "relu":
                        append("relu", shape)
                    elif block.norm:
                        append("norm", shape, 2 * block.width)
            case InvertedBottleneck():
                hidden = block.expansion * channels
                geometry = block.kernel_size, block.stride, block.padding
                for width, place, groups in (
                    (hidden, _POINTWISE, 1), (hidden, geometry, hidden), (block.width, _POINTWISE, 1),
                ):  # fmt: skip
                    conv(block, width, place, groups, False)
                    append("norm", shape, 2 * width)
                    if len(layers) - first < 6:  # not after the last
                        append("relu", shape)
        if isinstance(block, ConvBlock) and block.residual:
            if shape != (channels, height, side):
                raise UsageError(
                    f"a residual needs equal shapes: '{block}' makes {shape} of {(channels, height, side)}"
                )
            append("add", shape, skip=first)
    return tuple(layers)
