"""`TrainedNetwork` -> the few operations that a deployed network needs, batch norms and normalisation folded away.

An image comes in as a camera gives it: levels from 0 to 255. Where a norm follows its convolution it is folded into it.
Where a ReLU stands between them (conv-ReLU-norm), the norm waits as one factor and one offset for each channel, until
the next convolution can take it. One that is padded cannot, because outside the map stands zero and not the norm of
zero; nor can a max-pool, where a factor is negative, nor a residual. Then the norm becomes a 1x1 depthwise convolution.
The normalisation of the image is treated alike.

The classifier and the global pool commute, so the pool always comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architecture import Shape
from nas.footprint import Classifier, Convolution, GlobalAveragePool, MaxPool, Operation, ResidualAdd
from nas.model import Residual, TrainedNetwork

Floats = NDArray[np.floating[Any]]  # float64 while a norm is folded, float32 after
LEVELS = 255
"""The largest level of an image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatConvolution(Convolution):
    """A convolution with its weights, and a ReLU where `relu`."""

    weight: Floats
    """(O, I / groups, k, k)."""
    bias: Floats
    """(O,)."""
    relu: bool = False
    pad_value: Floats | None = None
    """The value outside the map, for each input channel (I,); zero where None. Only the image has one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatClassifier(Classifier):
    """The classifier with its weights: (I, 1, 1) -> logits."""

    weight: Floats
    """(num_classes, I)."""
    bias: Floats
    """(num_classes,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldedNetwork:
    """Operations in order, from levels 0 to 255 (C, H, W) to logits."""

    operations: tuple[Operation, ...]
    classes: tuple[str, ...]
    schedule: str
    """The text form of the architecture."""

    @property
    def input_shape(self) -> Shape:
        return self.operations[0].input_shape

    def run(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of levels (N, C, H, W), uint8 or float; the reference for every export."""
        values = [images.float()]
        for operation in self.operations:
            values.append(apply(operation, values))
        return values[-1]


def fold(network: TrainedNetwork, *, one_pad_value: bool = False) -> FoldedNetwork:
    """Return the deployed form of `network`; its logits on levels are those of the network on normalised images.

    `one_pad_value`: the first convolution may be padded with one level only, the same in each channel, as in an integer
    graph. Where the channels' means differ by more than a level, the image is then normalised by an operation of its
    own.
    """
    folder = _Folder(network, one_pad_value)
    children = list(network.module().children())
    if isinstance(children[-2], nn.AdaptiveAvgPool2d):  # C G Flatten: the pool comes first
        children[-3:-1] = [children[-2], children[-3]]
    for child in children:
        if isinstance(child, Residual):
            folder.add_residual(child)
        else:
            folder.add(child)
    return FoldedNetwork(
        operations=tuple(folder.finished()), classes=network.classes, schedule=str(network.architecture)
    )


class _Folder:
    """The operations so far, and a norm that waits: the tensor is `factor` times the last output, plus `offset`."""

    def __init__(self, network: TrainedNetwork, one_pad_value: bool) -> None:
        self.operations: list[Operation] = []
        self.shape = network.architecture.input_shape
        self.one_pad_value = one_pad_value
        mean, std = np.array(network.normalization.mean), np.array(network.normalization.std)
        self.factor, self.offset = 1 / (LEVELS * std), -mean / std
        self.of_image = True  # what waits is the normalisation, and not a norm

    def add(self, module: nn.Module) -> None:
        match module:
            case nn.Conv2d():
                self.add_convolution(module)
            case nn.BatchNorm2d():
                self.add_norm(module)
            case nn.ReLU():
                self.operations[-1] = replace(self.last_convolution(), relu=True)
            case nn.MaxPool2d():
                if (self.factor < 0).any():
                    self.apply_norm()
                channels, height, width = self.shape
                self.append(MaxPool, (channels, height // 2, width // 2))
            case nn.AdaptiveAvgPool2d():
                self.append(GlobalAveragePool, (self.shape[0], 1, 1))
            case nn.Flatten():
                pass
            case _:
                raise AssertionError(f"no operation for {module}")

    def add_residual(self, block: Residual) -> None:
        self.apply_norm()
        first = len(self.operations)
        for module in block:
            self.add(module)
        self.apply_norm()
        self.append(ResidualAdd, self.shape, skip=first)

    def add_convolution(self, module: nn.Conv2d) -> None:
        weight = module.weight.detach().double().cpu().numpy()
        bias = np.zeros(len(weight)) if module.bias is None else module.bias.detach().double().cpu().numpy()
        padding, stride, groups = int(module.padding[0]), module.stride[0], module.groups
        pad_value = None
        if padding and self.offset.any():
            levels = -self.offset / self.factor
            if not self.of_image or (self.one_pad_value and np.ptp(levels) > 1):
                self.apply_norm()
            else:
                pad_value = levels
        depthwise = groups > 1
        shift = self.offset[:, None, None, None] if depthwise else self.offset[None, :, None, None]
        bias = bias + (weight * shift).sum((1, 2, 3))
        weight = weight * (self.factor[:, None, None, None] if depthwise else self.factor[None, :, None, None])
        rows, columns = ((side + 2 * padding - weight.shape[-1]) // stride + 1 for side in self.shape[1:])
        self.append(
            FloatConvolution, (len(weight), rows, columns), weight=weight, bias=bias, kernel_size=weight.shape[-1],
            stride=stride, padding=padding, groups=groups, pad_value=pad_value, pads_level=pad_value is not None,
        )  # fmt: skip
        self.forget_norm()

    def add_norm(self, module: nn.BatchNorm2d) -> None:
        assert module.running_mean is not None
        assert module.running_var is not None
        gamma, beta, mean, var = (
            tensor.detach().double().cpu().numpy()
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var)
        )
        factor = gamma / np.sqrt(var + module.eps)
        offset = beta - mean * factor
        last = self.last_convolution()
        if last.relu:
            self.factor, self.offset = factor, offset
        else:
            weight, bias = last.weight * factor[:, None, None, None], last.bias * factor + offset
            self.operations[-1] = replace(last, weight=weight, bias=bias)

    def apply_norm(self) -> None:
        """Append the norm that waits, if any, as a 1x1 depthwise convolution."""
        if (self.factor == 1).all() and not self.offset.any():
            return
        channels = self.shape[0]
        weight = self.factor.reshape(channels, 1, 1, 1)
        self.append(FloatConvolution, self.shape, weight=weight, bias=self.offset, kernel_size=1, groups=channels)
        self.forget_norm()

    def forget_norm(self) -> None:
        self.factor, self.offset, self.of_image = np.ones(self.shape[0]), np.zeros(self.shape[0]), False

    def append(self, kind: type[Operation], output: Shape, **fields: object) -> None:
        self.operations.append(kind(input_shape=self.shape, output_shape=output, **fields))
        self.shape = output

    def last_convolution(self) -> FloatConvolution:
        last = self.operations[-1]
        assert isinstance(last, FloatConvolution), "a norm and a ReLU follow their convolution"
        return last

    def finished(self) -> Iterator[Operation]:
        """The operations in float32, the last convolution as the classifier."""
        last = self.last_convolution()
        for operation in self.operations[:-1]:
            yield (
                operation
                if not isinstance(operation, FloatConvolution)
                else replace(
                    operation,
                    weight=operation.weight.astype(np.float32),
                    bias=operation.bias.astype(np.float32),
                    pad_value=None if operation.pad_value is None else operation.pad_value.astype(np.float32),
                )
            )
        yield FloatClassifier(
            input_shape=last.input_shape,
            output_shape=last.output_shape,
            weight=last.weight.reshape(len(last.weight), -1).astype(np.float32),
            bias=last.bias.astype(np.float32),
        )


def apply(operation: Operation, values: list[Tensor], *, relu: bool = True) -> Tensor:
    """Return the output of `operation`, whose input is the last of `values`; `values[i]` is the input of operation i.

    Without `relu`, a convolution's ReLU is left out.
    """
    x = values[-1]
    match operation:
        case FloatConvolution():
            weight, bias = torch.from_numpy(operation.weight), torch.from_numpy(operation.bias)
            padding = operation.padding
            if operation.pad_value is not None:  # pad with the value: subtract, pad with zero, add
                value = torch.from_numpy(operation.pad_value)[:, None, None]
                x = F.pad(x - value, (padding,) * 4) + value
                padding = 0
            y = F.conv2d(x, weight, bias, operation.stride, padding, groups=operation.groups)
            return y.relu() if operation.relu and relu else y
        case MaxPool():
            return F.max_pool2d(x, 2)
        case GlobalAveragePool():
            return x.mean((2, 3), keepdim=True)
        case ResidualAdd():
            return x + values[operation.skip]
        case FloatClassifier():
            return F.linear(x.flatten(1), torch.from_numpy(operation.weight), torch.from_numpy(operation.bias))
        case _:
            raise AssertionError(f"no float operation: {operation}")
