"""`FoldedNetwork` -> `IntegerNetwork`: a static quantisation, calibrated on images.

Weights are rounded to signed bytes for each output channel; activations to the range, found on the images, with the
least squared error. Rounded weights shift the mean of each channel a little: the bias takes the shift back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import frexp
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nas.errors import UsageError
from nas.export.calibrate import Activations, equalize, observe
from nas.export.fold import FloatClassifier, FloatConvolution, Floats, FoldedNetwork
from nas.export.integer import (
    TOP,
    IntAdd,
    IntAverage,
    IntClassifier,
    IntConvolution,
    IntegerNetwork,
    Level,
    int_apply,
    largest_sum,
    sums,
)
from nas.footprint import (
    LARGEST_BIAS,
    LARGEST_SUM,
    LARGEST_WEIGHT,
    GlobalAveragePool,
    MaxPool,
    Operation,
    ResidualAdd,
    with_summing_classifier,
)

_LARGEST_FACTOR = 64  # of a byte for a unit of what it is made of: a map that never left 0 has no range
_SHIFT = 20  # bits behind the point of an integer factor, at most


def quantize(folded: FoldedNetwork, images: Tensor) -> IntegerNetwork:
    """Return the network in integers, its ranges and corrected biases from levels (N, C, H, W), some hundreds.

    `folded` has at most one pad value (`fold(..., one_pad_value=True)`). Raises `UsageError` where a sum could leave
    32 bits, or there are no images.
    """
    if not len(images):
        raise UsageError("an int8 export is calibrated on some hundreds of training images, not on none")
    folded = equalize(folded, observe(folded, images))
    seen = observe(folded, images)
    levels = [Level(scale=np.float32(1), zero=_pad_level(folded))]  # of the input of each operation
    operations: list[Operation] = []
    values = [images.double()]
    for operation, activations in zip(with_summing_classifier(folded.operations), seen, strict=True):
        if operation is None:
            continue
        made = _quantized(operation, levels, activations)
        if isinstance(made, IntConvolution | IntClassifier):
            made = replace(made, bias=_corrected_bias(made, values[-1], activations))
            require_32_bits(made)
        operations.append(made)
        levels.append(made.target if isinstance(made, IntConvolution | IntAdd | IntAverage) else levels[-1])
        values.append(int_apply(made, values))
    return IntegerNetwork(operations=tuple(operations), classes=folded.classes, schedule=folded.schedule)


def _quantized(operation: Operation, levels: list[Level], seen: Activations) -> Operation:
    source = levels[-1]
    shapes: dict[str, Any] = {"input_shape": operation.input_shape, "output_shape": operation.output_shape}
    match operation:
        case FloatConvolution():
            bias = operation.bias
            if operation.pad_value is not None:  # the image: what is padded with is subtracted everywhere
                bias = bias + source.zero * operation.weight.sum((1, 2, 3))
            weight, scale = quantize_weight(operation.weight, bias, source)
            least = float(source.scale * scale.max()) / _LARGEST_FACTOR
            return IntConvolution(
                **shapes, source=source, target=_level(*seen.tensor_range(), least), weight=weight, weight_scale=scale,
                bias=_quantize_bias(bias, source.scale * scale), kernel_size=operation.kernel_size,
                stride=operation.stride, padding=operation.padding, groups=operation.groups,
            )  # fmt: skip
        case MaxPool():
            return MaxPool(**shapes)
        case ResidualAdd():
            skip = levels[operation.skip]
            least = float(max(skip.scale, source.scale)) / _LARGEST_FACTOR
            target = _level(*seen.tensor_range(), least)
            ratios = [float(skip.scale) / float(target.scale), float(source.scale) / float(target.scale)]
            factors, shift = _factors(ratios, 2 * TOP)
            offset = (target.zero << shift) + (1 << shift >> 1) - factors[0] * skip.zero - factors[1] * source.zero
            return IntAdd(
                **shapes, target=target, skip=operation.skip, skip_factor=factors[0], factor=factors[1],
                offset=offset, shift=shift,
            )  # fmt: skip
        case GlobalAveragePool():
            target = _level(*seen.tensor_range(), float(source.scale) / _LARGEST_FACTOR)
            count = operation.input_shape[1] * operation.input_shape[2]
            (factor,), shift = _factors([float(source.scale) / float(target.scale) / count], count)
            offset = (target.zero << shift) + (1 << shift >> 1) - factor * count * source.zero
            exact = np.float32(float(source.scale) * (1 << shift) / (factor * count))
            target = replace(target, scale=exact)  # the factor is a small integer: the scale follows it
            return IntAverage(**shapes, target=target, factor=factor, offset=offset, shift=shift)
        case FloatClassifier():
            return _classifier(operation, source)
        case _:
            raise AssertionError(f"no float operation: {operation}")


def _level(low: float, high: float, least: float = 1e-20) -> Level:
    """The level whose bytes span `low` <= 0 to `high` >= 0; its scale is `least` or more."""
    scale = np.float32(max((high - low) / TOP, least))
    return Level(scale=scale, zero=int(np.clip(np.rint(-low / scale), 0, TOP)))


def quantize_weight(weight: Floats, bias: Floats, source: Level) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The weights (O, ...) as bytes, and the scale of each output channel (O,)."""
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    least = np.abs(bias) / (float(source.scale) * LARGEST_BIAS)  # the bias, which shares the scale, fits 32 bits
    scale = np.maximum(np.maximum(largest / LARGEST_WEIGHT, least), 1e-20).astype(np.float32)
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / shaped), -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8), scale


def _quantize_bias(bias: NDArray[np.float64] | Floats, scale: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.rint(bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32)


def _classifier(operation: FloatClassifier, source: Level) -> IntClassifier:
    count = operation.input_shape[1] * operation.input_shape[2]
    largest = max(float(np.abs(operation.weight).max()) / LARGEST_WEIGHT, 1e-20)
    least = float(np.abs(operation.bias).max()) * count / (float(source.scale) * LARGEST_BIAS)
    scale = max(largest, least)
    weight = np.rint(operation.weight / scale).astype(np.int8)
    unit = np.float32(scale * float(source.scale) / count)
    bias = np.rint(operation.bias / float(unit)) - count * source.zero * weight.astype(np.int64).sum(1)
    return IntClassifier(
        input_shape=operation.input_shape, output_shape=operation.output_shape, weight=weight,
        bias=bias.astype(np.int32), scale=unit,
    )  # fmt: skip


def _corrected_bias(made: IntConvolution | IntClassifier, x: Tensor, seen: Activations) -> NDArray[np.int32]:
    """The bias with which its outputs' means, over the images, are those of the float network."""
    total = sums(made, x)
    mean = total.mean((0, 2, 3) if total.ndim == 4 else 0).numpy()
    unit = made.scale if isinstance(made, IntClassifier) else made.source.scale * made.weight_scale
    shift = np.clip(np.rint(seen.mean.numpy() / unit - mean), -LARGEST_BIAS, LARGEST_BIAS)
    corrected: NDArray[np.int32] = (made.bias + shift).astype(np.int32)
    return corrected


def require_32_bits(made: IntConvolution | IntClassifier) -> None:
    """Raise `UsageError` where a sum could leave 32 bits."""
    if largest_sum(made) > LARGEST_SUM:
        channels, height, width = made.input_shape
        raise UsageError(
            f"an int8 export adds in 32 bits: {channels} channels of {height}x{width} are too many for one sum; "
            "export the network as ONNX or as float C"
        )


def _factors(ratios: Sequence[float], count: int) -> tuple[list[int], int]:
    """The ratios as integers over 2^shift, so that each times `count` bytes, and all together, stay below 2^30."""
    bits = frexp(sum(ratios) * count * TOP)[1]
    shift = max(1, min(_SHIFT, 30 - bits))
    return [max(1, round(ratio * 2**shift)) for ratio in ratios], shift


def _pad_level(folded: FoldedNetwork) -> int:
    """The level that stands outside the image."""
    for operation in folded.operations:
        if isinstance(operation, FloatConvolution) and operation.pad_value is not None:
            assert np.ptp(operation.pad_value) <= 1, "fold with one_pad_value"
            return int(np.clip(np.rint(operation.pad_value.mean()), 0, TOP))
    return 0
