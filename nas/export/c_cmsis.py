"""An integer network as C99 that calls CMSIS-NN, Arm's kernels for Cortex-M, and what that computes, exactly.

CMSIS-NN multiplies a sum by an integer over a power of two and rounds twice, where onnxruntime multiplies by a float
and rounds once: a byte may differ by one. A whole map is computed at a time, so that memory is more than with the
exporter's own code: each map beside the one it is made of, and a scratch buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.errors import UsageError
from nas.export.c_text import fill, in_c_order, row, table
from nas.export.integer import (
    TOP,
    IntAdd,
    IntAverage,
    IntClassifier,
    IntConvolution,
    IntegerNetwork,
    int_apply,
    largest_sum,
    sums,
)
from nas.footprint import LARGEST_SUM, MaxPool, Operation

CMSIS_LAYER_BYTES = 36
"""Flash for the description of a layer."""
_SIGN = 128  # from our bytes to signed ones
_LEAST_SHIFT = -31

_SHIFTED = """
static int8_t shifted(int32_t total, int shift)
{
  total = total < 0 ? 0 : total >> shift;
  return (int8_t)((total > 255 ? 255 : total) - 128);
}
"""
_MAX_POOL = """
static int max_pool(const int8_t *in, int8_t *out, int height, int width, int channels)
{
  const cmsis_nn_context context = {0, 0};
  const cmsis_nn_pool_params params = {{2, 2}, {0, 0}, {-128, 127}};
  const cmsis_nn_dims input = {1, height, width, channels}, filter = {1, 2, 2, 1};
  const cmsis_nn_dims output = {1, height / 2, width / 2, channels};

  return arm_max_pool_s8(&context, &params, &input, in, &filter, &output, out);
}
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class CmsisNetwork(IntegerNetwork):
    """An integer network in CMSIS-NN's arithmetic."""

    def run(self, images: Tensor) -> Tensor:
        """Return 32-bit logits (N, num_classes), as int64, of levels (N, C, H, W), as CMSIS-NN's kernels make them."""
        values = [images.double()]
        for operation in self.operations:
            made = _convolved(operation, values[-1]) if isinstance(operation, IntConvolution) else None
            values.append(int_apply(operation, values) if made is None else made)
        return values[-1].long()


def cmsis_network(integer: IntegerNetwork) -> CmsisNetwork:
    """Return the same network in CMSIS-NN's arithmetic; raises `UsageError` where a sum is too large for it."""
    for operation in integer.operations:
        if isinstance(operation, IntConvolution):
            _, shifts = _fixed_factors(operation)
            if largest_sum(operation) << max(0, int(shifts.max())) > LARGEST_SUM:
                raise UsageError("CMSIS-NN shifts a sum of this network out of 32 bits: leave --cmsis-nn out")
    return CmsisNetwork(operations=integer.operations, classes=integer.classes, schedule=integer.schedule)


def _fixed_factors(convolution: IntConvolution) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The multiplier of each channel as an integer over 2^31 and a shift to the left."""
    mantissa, exponent = np.frexp(convolution.multiplier.astype(np.float64))
    fixed = np.rint(mantissa * 2**31).astype(np.int64)
    carried = fixed == 2**31
    fixed, exponent = np.where(carried, 2**30, fixed), exponent + carried
    lost = exponent < _LEAST_SHIFT  # less than half a byte, whatever the sum
    return np.where(lost, 0, fixed), np.where(lost, 0, exponent)


def _convolved(convolution: IntConvolution, x: Tensor) -> Tensor:
    """`arm_nn_requantize` of the sums: a rounded high product, then a rounded shift, halves away from zero."""
    factors = [np.asarray(part, np.int64)[:, None, None] for part in _fixed_factors(convolution)]
    fixed, exponents = map(torch.from_numpy, factors)
    total = sums(convolution, x).long() << exponents.clamp(min=0)
    high, right = (total * fixed + 2**30) >> 31, (-exponents).clamp(min=0)
    mask = (torch.ones_like(right) << right) - 1
    result = high >> right
    result = result + ((high & mask) > (mask >> 1) + (result < 0))
    return (result + convolution.target.zero).clamp(0, TOP).double()


def cmsis_source(network: IntegerNetwork, header: str) -> tuple[str, int]:
    """Return nas_net.c but for the class names, and the bytes of its static memory: arena and scratch."""
    operations, classifier = network.operations[:-1], network.operations[-1]
    assert isinstance(classifier, IntClassifier)
    places, arena = _places(operations, network)
    convolutions = [each for each in operations if isinstance(each, IntConvolution)]
    scratch = max([1, *(_scratch(each) for each in convolutions)])
    kinds = {type(operation) for operation in operations}
    channels, height, width = network.input_shape
    features, rows, columns = classifier.input_shape
    source = fill(
        "cmsis.c",
        {
            "HEADER": header,
            "FEATURES": features,
            "PIXELS": rows * columns,
            "TABLES": _tables(operations, places, classifier),
            "ARENA": arena,
            "SCRATCH": scratch,
            "FUNCTIONS": (_SHIFTED if kinds & {IntAdd, IntAverage} else "") + (_MAX_POOL if MaxPool in kinds else ""),
            "IMAGE": channels * height * width,
            "IMAGE_AT": places[0],
            "OPERATIONS": "\n".join(_calls(operations, places)),
            "FEATURES_AT": places[-1],
        },
    )
    return source, arena + 2 * scratch


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def _scratch(convolution: IntConvolution) -> int:
    """The 16-bit numbers that a kernel unrolls its input into: two columns, or one of a depthwise convolution."""
    column = convolution.kernel_size**2 * convolution.input_shape[0]
    return column if convolution.depthwise else 2 * column


def _places(operations: Sequence[Operation], network: IntegerNetwork) -> tuple[list[int], int]:
    """The place of each map in the arena, the image first, each the lowest that is free; and the size of the arena."""
    shapes = [network.input_shape, *(operation.output_shape for operation in operations)]
    last = list(range(len(shapes)))  # the operation that reads a map last, by its number
    for index, operation in enumerate(operations):
        if isinstance(operation, IntAdd):
            last[operation.skip] = index
    places: list[int] = []
    for index, shape in enumerate(shapes):
        alive = [other for other in range(index) if last[other] >= index - 1]
        taken = sorted((places[other], places[other] + _size(shapes[other])) for other in alive)
        place = 0
        for start, end in taken:
            if place + _size(shape) > start:
                place = max(place, end)
        places.append(place)
    return places, max(place + _size(shape) for place, shape in zip(places, shapes, strict=True))


def _calls(operations: Sequence[Operation], places: Sequence[int]) -> list[str]:
    lines, layer = [], 0
    for index, operation in enumerate(operations):
        source, target = places[index], places[index + 1]
        channels, height, width = operation.input_shape
        match operation:
            case IntConvolution():
                lines.append(f"  if (convolve(&layers[{layer}])) return -1;")
                layer += 1
            case MaxPool():
                arguments = f"arena + {source}, arena + {target}, {height}, {width}, {channels}"
                lines.append(f"  if (max_pool({arguments})) return -1;")
            case IntAdd():
                skip = places[operation.skip]
                lines.append(
                    f"  for (int i = 0; i < {_size(operation.input_shape)}; i++)\n"
                    f"    arena[{target} + i] = shifted({operation.skip_factor} * (arena[{skip} + i] + 128) + "
                    f"{operation.factor} * (arena[{source} + i] + 128) + {operation.offset}, {operation.shift});"
                )
            case IntAverage():
                lines.append(
                    f"  for (int c = 0; c < {channels}; c++) {{\n    int32_t sum = 0;\n"
                    f"    for (int i = 0; i < {height * width}; i++) "
                    f"sum += arena[{source} + {channels} * i + c] + 128;\n"
                    f"    arena[{target} + c] = shifted({operation.factor} * sum + {operation.offset}, "
                    f"{operation.shift});\n  }}"
                )
            case _:
                raise AssertionError(f"no integer operation: {operation}")
    return lines


def _tables(operations: Sequence[Operation], places: Sequence[int], classifier: IntClassifier) -> str:
    weights: list[str] = []
    rows: list[str] = []
    channels: list[tuple[int, int, int]] = []
    for index, each in enumerate(operations):
        if isinstance(each, IntConvolution):
            (inputs, height, width), (outputs, rows_out, columns_out) = each.input_shape, each.output_shape
            rows.append(row([
                places[index], places[index + 1], len(weights), len(channels), height, width, inputs, rows_out,
                columns_out, outputs, each.kernel_size, each.stride, each.padding, int(each.depthwise),
                _SIGN - each.source.zero, each.target.zero - _SIGN,
            ]))  # fmt: skip
            weights += map(str, in_c_order(each))
            channels += zip(each.bias.tolist(), *(part.tolist() for part in _fixed_factors(each)), strict=True)
    biases, multipliers, shifts = zip(*channels, strict=True) if channels else ((0,), (0,), (0,))
    return "\n\n".join([
        table("int8_t", "layer_weights", weights or ["0"]),
        table("int32_t", "layer_bias", map(str, biases)),
        table("int32_t", "multipliers", map(str, multipliers)),
        table("int32_t", "shifts", map(str, shifts)),
        table("struct layer", "layers", rows or ["{0}"]),
        table("int8_t", "class_weight", map(str, classifier.weight.ravel())),
        table("int32_t", "class_bias", map(str, classifier.bias)),
    ])  # fmt: skip
