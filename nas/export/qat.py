"""Quantisation-aware training: the weights of an integer network, trained a little longer in its own arithmetic.

The forward pass is the integer network's, sum for sum and rounding for rounding; backwards, rounding counts as the
identity (Bengio and others, 2013; Jacob and others, 2018). Ranges of activations stay as they were calibrated. The
float network's own logits on training images are the targets, so that no label is needed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.export.calibrate import equalize, observe
from nas.export.fold import FloatClassifier, FloatConvolution, FoldedNetwork
from nas.export.integer import TOP, IntAdd, IntAverage, IntClassifier, IntConvolution, IntegerNetwork, Level
from nas.export.quantize import quantize, quantize_weight, require_32_bits
from nas.footprint import LARGEST_WEIGHT, MaxPool, Operation

EPOCHS, BATCH_SIZE, PEAK_LR = 3, 128, 3e-4
TEMPERATURE = 2.0
_SEED = 0


def train_quantized(
    folded: FoldedNetwork, calibration: Tensor, images: Tensor, *, epochs: int = EPOCHS
) -> IntegerNetwork:
    """Return the integer network of `folded` after some epochs of training on levels (N, C, H, W), uint8.

    It is calibrated as `quantize` does. The same arguments give the same network on one machine.
    """
    integer = quantize(folded, calibration)
    trained = _Trained(equalize(folded, observe(folded, calibration)), integer)
    _train(trained, folded, images, epochs)
    return trained.integer()


def _train(trained: _Trained, folded: FoldedNetwork, images: Tensor, epochs: int) -> None:
    """Bring the logits of `trained` near those of the float network."""
    generator = torch.Generator().manual_seed(_SEED)
    optimizer = torch.optim.Adam(trained.parameters(), lr=PEAK_LR)
    batches = max(1, len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).tensor_split(batches):
            with torch.no_grad():
                targets = (folded.run(images[chosen]) / TEMPERATURE).log_softmax(1)
            found = (trained(images[chosen]) / TEMPERATURE).log_softmax(1)
            loss = F.kl_div(found, targets, reduction="batchmean", log_target=True)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


class _Trained(nn.Module):
    """An integer network whose weights and biases are floats; values are bytes less what stands for zero."""

    def __init__(self, folded: FoldedNetwork, integer: IntegerNetwork) -> None:
        super().__init__()
        self.network = integer
        first = next(each for each in integer.operations if not isinstance(each, MaxPool))
        source = first.source if isinstance(first, IntConvolution) else Level(scale=np.float32(1), zero=0)
        self.levels = [source]  # of the input of each operation
        with_weights = iter(each for each in folded.operations if isinstance(each, FloatConvolution | FloatClassifier))
        weights: list[nn.Parameter] = []
        biases: list[nn.Parameter] = []
        for operation in integer.operations:
            if isinstance(operation, IntConvolution | IntClassifier):
                weights.append(nn.Parameter(torch.from_numpy(next(with_weights).weight.copy())))
                biases.append(nn.Parameter(torch.from_numpy(_real_bias(operation, self.levels[-1]))))
            made = isinstance(operation, IntConvolution | IntAdd | IntAverage)
            self.levels.append(operation.target if made else self.levels[-1])  # type: ignore[attr-defined]
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of levels (N, C, H, W)."""
        parameters = iter(zip(self.weights, self.biases, strict=True))
        values = [images.float() - self.levels[0].zero]
        for operation, source in zip(self.network.operations, self.levels, strict=False):
            values.append(self.apply_one(operation, source, values, parameters))
        return values[-1]

    def apply_one(self, operation: Operation, source: Level, values: list[Tensor], parameters: Any) -> Tensor:
        x = values[-1]
        match operation:
            case IntConvolution():
                weight, bias = next(parameters)
                rounded, scale = _rounded_weight(weight, channels=True)
                unit = float(source.scale) * scale
                total = F.conv2d(
                    x, rounded, _round(bias / unit), operation.stride, operation.padding, groups=operation.groups
                )
                return _to_bytes(total * (unit / float(operation.target.scale))[:, None, None], operation.target)
            case MaxPool():
                return F.max_pool2d(x, 2)
            case IntAdd():
                skip = values[operation.skip] * float(self.levels[operation.skip].scale)
                return _to_bytes((skip + x * float(source.scale)) / float(operation.target.scale), operation.target)
            case IntAverage():
                mean = x.mean((2, 3), keepdim=True) * (float(source.scale) / float(operation.target.scale))
                return _to_bytes(mean, operation.target)
            case _:
                weight, bias = next(parameters)
                rounded, scale = _rounded_weight(weight, channels=False)
                return F.linear(x.mean((2, 3)) * float(source.scale), rounded * scale, bias)

    def integer(self) -> IntegerNetwork:
        """Return the network with the weights as they are now; raises `UsageError` as `quantize` does."""
        operations: list[Operation] = []
        parameters = iter(zip(self.weights, self.biases, strict=True))
        for operation, source in zip(self.network.operations, self.levels, strict=False):
            made = operation
            if isinstance(operation, IntConvolution | IntClassifier):
                weight, bias = (part.detach().numpy() for part in next(parameters))
                made = _with_weights(operation, source, weight, bias)
                require_32_bits(made)
            operations.append(made)
        return replace(self.network, operations=tuple(operations))


def _with_weights(
    operation: IntConvolution | IntClassifier, source: Level, weight: Any, bias: Any
) -> IntConvolution | IntClassifier:
    if isinstance(operation, IntConvolution):
        rounded, scale = quantize_weight(weight, bias, source)
        unit = source.scale.astype(np.float64) * scale
        return replace(operation, weight=rounded, weight_scale=scale, bias=np.rint(bias / unit).astype(np.int32))
    count = operation.input_shape[1] * operation.input_shape[2]
    step = max(float(np.abs(weight).max()) / LARGEST_WEIGHT, 1e-20)
    rounded = np.rint(weight / step).astype(np.int8)
    logit_scale = np.float32(step * float(source.scale) / count)
    moved = np.rint(bias / float(logit_scale)) - count * source.zero * rounded.astype(np.int64).sum(1)
    return replace(operation, weight=rounded, bias=moved.astype(np.int32), scale=logit_scale)


def _real_bias(operation: IntConvolution | IntClassifier, source: Level) -> Any:
    """The bias in units of the output, of an input that is less what stands for zero."""
    if isinstance(operation, IntConvolution):
        return (operation.bias * (source.scale * operation.weight_scale)).astype(np.float32)
    count = operation.input_shape[1] * operation.input_shape[2]
    moved = operation.bias + count * source.zero * operation.weight.astype(np.int64).sum(1)
    return (moved * float(operation.scale)).astype(np.float32)


def _round(x: Tensor) -> Tensor:
    """Round, halves to the even integer; backwards the identity."""
    return x + (x.round() - x).detach()


def _rounded_weight(weight: Tensor, *, channels: bool) -> tuple[Tensor, Tensor]:
    """The weights as whole numbers, and the scale: of each output channel (O,), or of all."""
    largest = weight.detach().abs()
    scale = ((largest.flatten(1).amax(1) if channels else largest.amax()) / LARGEST_WEIGHT).clamp(min=1e-20)
    return _round(weight / (scale.view(-1, 1, 1, 1) if channels else scale)), scale


def _to_bytes(x: Tensor, target: Level) -> Tensor:
    return _round(x.clamp(-target.zero, TOP - target.zero))
