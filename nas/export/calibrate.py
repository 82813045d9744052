"""The numbers that a static quantisation takes from images: ranges of activations, and channels made equal.

Eight bits are shared by all channels of a map, so a channel that stays small would get few of them. A convolution's
output channel may be multiplied by any positive number, if what reads it divides by the same: ReLU and pools let it
through. So each channel is brought to the same range first, where no residual also reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.export.fold import FloatClassifier, FloatConvolution, FoldedNetwork, apply
from nas.footprint import GlobalAveragePool, MaxPool, Operation, ResidualAdd

SAMPLES = 16_384
"""Values per channel on which the range is chosen."""
_CHUNK = 100  # images at a time: every map of them is alive at once
_FRACTIONS = np.linspace(0.5, 1, 26)  # of the whole range, from which the one with the least squared error is taken
_STEPS = 255


@dataclass(frozen=True, kw_only=True, eq=False)
class Activations:
    """The values of one operation's output, seen on calibration images."""

    low: Tensor
    """The least value of each channel (C,), at most 0."""
    high: Tensor
    """The largest (C,), at least 0."""
    sample: Tensor
    """Some values of each channel (C, n)."""
    mean: Tensor
    """The mean of each channel before its ReLU (C,)."""

    def channel_range(self) -> tuple[Tensor, Tensor]:
        """Return the range of each channel (C,), (C,) whose 256 steps have the least squared error."""
        return _best_range(self.sample, self.low, self.high)

    def tensor_range(self) -> tuple[float, float]:
        """Return the same for all channels together."""
        low, high = _best_range(self.sample.reshape(1, -1), self.low.min()[None], self.high.max()[None])
        return float(low), float(high)


def observe(folded: FoldedNetwork, images: Tensor) -> list[Activations]:
    """Return what each operation's output is on levels (N, C, H, W)."""
    seen: list[list[Activations]] = [[] for _ in folded.operations]
    for start in range(0, len(images), _CHUNK):
        values = [images[start : start + _CHUNK].float()]
        for operation, parts in zip(folded.operations, seen, strict=True):
            before = apply(operation, values, relu=False)
            relu = isinstance(operation, FloatConvolution) and operation.relu
            values.append(before.relu() if relu else before)
            parts.append(_activations(before, values[-1], len(images)))
    return [_joined(parts, len(images)) for parts in seen]


def equalize(folded: FoldedNetwork, seen: list[Activations]) -> FoldedNetwork:
    """Return the same function with the channels of each map brought to one range, where nothing else reads the map."""
    operations: list[Operation] = list(folded.operations)
    for writer, reader in _pairs(folded):
        low, high = seen[writer].channel_range()
        largest = torch.maximum(high, -low).double().numpy()
        silent = largest <= 1e-6 * largest.max()
        factor = np.where(silent, 1.0, largest.max() / np.where(silent, 1.0, largest))
        operations[writer] = _scale_outputs(operations[writer], factor)
        operations[reader] = _scale_inputs(operations[reader], 1 / factor)
    return replace(folded, operations=tuple(operations))


def _pairs(folded: FoldedNetwork) -> Iterator[tuple[int, int]]:
    """Each convolution, and the one operation with weights that alone reads it, maybe through pools."""
    operations = folded.operations
    skips = {operation.skip for operation in operations if isinstance(operation, ResidualAdd)}
    for writer, operation in enumerate(operations):
        if isinstance(operation, FloatConvolution):
            reader = writer + 1
            while reader not in skips and isinstance(operations[reader], MaxPool | GlobalAveragePool):
                reader += 1
            if reader not in skips and isinstance(operations[reader], FloatConvolution | FloatClassifier):
                yield writer, reader


def _scale_outputs(operation: Operation, factor: NDArray[np.float64]) -> Operation:
    assert isinstance(operation, FloatConvolution)
    weight = (operation.weight * factor[:, None, None, None]).astype(np.float32)
    return replace(operation, weight=weight, bias=(operation.bias * factor).astype(np.float32))


def _scale_inputs(operation: Operation, factor: NDArray[np.float64]) -> Operation:
    assert isinstance(operation, FloatConvolution | FloatClassifier)
    if isinstance(operation, FloatClassifier):
        return replace(operation, weight=(operation.weight * factor).astype(np.float32))
    shaped = factor[:, None, None, None] if operation.depthwise else factor[None, :, None, None]
    return replace(operation, weight=(operation.weight * shaped).astype(np.float32))


def _by_channel(values: Tensor) -> Tensor:
    """(N, C, ...) -> (C, the rest)."""
    return values.transpose(0, 1).flatten(1)


def _activations(before: Tensor, after: Tensor, num_images: int) -> Activations:
    values = _by_channel(after)
    step = max(1, values.shape[1] * num_images // (len(after) * SAMPLES))
    return Activations(
        low=values.amin(1).clamp(max=0),
        high=values.amax(1).clamp(min=0),
        sample=values[:, step // 2 :: step],
        mean=_by_channel(before).double().mean(1) * len(after),
    )


def _joined(parts: list[Activations], num_images: int) -> Activations:
    return Activations(
        low=torch.stack([part.low for part in parts]).amin(0),
        high=torch.stack([part.high for part in parts]).amax(0),
        sample=torch.cat([part.sample for part in parts], 1),
        mean=torch.stack([part.mean for part in parts]).sum(0) / num_images,
    )


def _best_range(values: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The part of the range of each row of `values` (R, n) whose steps have the least squared error."""
    least = torch.full_like(low, torch.inf)
    best = torch.ones_like(low)
    for fraction in _FRACTIONS:
        bottom, top = low * fraction, high * fraction
        step = ((top - bottom) / _STEPS).clamp(min=1e-30)[:, None]
        rounded = ((values / step).round() * step).clamp(bottom[:, None], top[:, None])
        error = (rounded - values).square().mean(1)
        best = torch.where(error <= least, torch.full_like(best, fraction), best)
        least = torch.minimum(error, least)
    return low * best, high * best
