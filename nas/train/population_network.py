"""Networks of one plan as one network: their channels side by side, padded to common widths, in grouped convolutions.

Horizontal fusion (Wang and others, "Horizontally Fused Training Array", 2021), for networks that differ in their
widths. A padded channel has zero weights and a zero affine: it carries zeros, gives none of its neighbours anything but
zeros, and gets zero gradients, so that it stays as it is and each network trains as it would alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.architecture import Architecture, Conv, Layer


def plan_of(architecture: Architecture) -> tuple[Any, ...]:
    """Return what networks must have in common to be one: everything but the widths."""
    blocks = architecture.blocks
    plan = [dataclasses.replace(block, width=1) if isinstance(block, Conv) else block for block in blocks]
    return architecture.input_shape, architecture.num_classes, *plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """A parameter of all networks, (K, ...) in the flat tensor: where it starts, and the padded shape of each."""

    start: int
    shape: tuple[int, ...]

    def view(self, flat: Tensor, count: int) -> Tensor:
        return flat[self.start : self.start + count * math.prod(self.shape)].view(count, *self.shape)

    def of(self, number: int, shape: Sequence[int]) -> Tensor:
        """Return where the elements of a network's own parameter, of this shape, lie in the flat tensor."""
        first = self.start + number * math.prod(self.shape)
        grid = torch.arange(first, first + math.prod(self.shape)).view(self.shape)
        return grid[tuple(slice(size) for size in shape)].flatten()


class FusedNetwork:
    """Networks of one plan; `parameters` and `statistics` are those of all, in flat tensors from `start` on."""

    def __init__(self, architectures: Sequence[Architecture], start: int, statistics_start: int) -> None:
        self.count, self.layers = len(architectures), architectures[0].layers
        self.num_classes, self.channels = architectures[0].num_classes, architectures[0].input_shape[0]
        self.end, self.statistics_end = start, statistics_start
        every = list(zip(*(architecture.layers for architecture in architectures), strict=True))
        self._depthwise = [any(layer.groups > 1 for layer in layers) for layers in every]
        self._weights, self._biases, self._statistics = [], [], []
        for layers, depthwise in zip(every, self._depthwise, strict=True):
            width = max(layer.output_shape[0] for layer in layers)
            op, size = layers[0].op, layers[0].kernel_size
            inputs = 1 if depthwise else max(layer.input_shape[0] for layer in layers)
            weight = {"conv": (width, inputs, size, size), "norm": (width,)}.get(op)
            bias = (width,) if op == "norm" or layers[0].bias else None
            self._weights.append(None if weight is None else self._take(weight))
            self._biases.append(None if bias is None else self._take(bias))
            statistics = [self._take_statistics((width,)) for _ in range(2)] if op == "norm" else None
            self._statistics.append(statistics)
        # The first convolution of one and the same images is an ordinary one, with the filters of all networks.
        first = self.layers[0]
        self._joins = first.op == "conv" and not self._depthwise[0] and not any(each.skip == 0 for each in self.layers)
        self.padded_macs = sum(self._padded_macs(index) for index in range(len(self.layers))) * self.count
        widths = [max(layer.output_shape[0] for layer in layers) for layers in every]
        sizes = [width * math.prod(layer.output_shape[1:]) for width, layer in zip(widths, self.layers, strict=True)]
        self.padded_activations = sum(sizes) * self.count

    def _take(self, shape: tuple[int, ...]) -> _Place:
        place = _Place(start=self.end, shape=shape)
        self.end += self.count * math.prod(shape)
        return place

    def _take_statistics(self, shape: tuple[int, ...]) -> _Place:
        place = _Place(start=self.statistics_end, shape=shape)
        self.statistics_end += self.count * math.prod(shape)
        return place

    def _padded_macs(self, index: int) -> int:
        """Return the multiply-accumulates of a layer for one image, in each of the padded networks."""
        layer, weight = self.layers[index], self._weights[index]
        if layer.op != "conv" or weight is None:
            return 0
        return math.prod(weight.shape) * math.prod(layer.output_shape[1:])

    def places(self, number: int, architecture: Architecture) -> tuple[Tensor, Tensor]:
        """Return where a network's parameters and statistics lie, in the order of `flatten`: convolutions first."""
        weights: list[Tensor] = []
        others: list[Tensor] = []
        statistics: list[Tensor] = []
        for index, layer in enumerate(architecture.layers):
            weight, bias, norm = self._weights[index], self._biases[index], self._statistics[index]
            if weight is not None:
                chosen = weights if layer.op == "conv" else others
                chosen.append(weight.of(number, weight_shape(layer)))
            if bias is not None:
                others.append(bias.of(number, layer.output_shape[:1]))
            statistics += [place.of(number, layer.output_shape[:1]) for place in norm or ()]
        return torch.cat([*weights, *others]), torch.cat([*statistics, torch.empty(0, dtype=torch.long)])

    def bind(self, flat: Tensor, gradient: Tensor | None = None) -> list[tuple[Tensor | None, Tensor | None]]:
        """Return each layer's weight and bias as parts of the flat tensor, with their gradients as parts of another."""

        def part(place: _Place | None) -> Tensor | None:
            if place is None:
                return None
            view = place.view(flat, self.count).detach()
            if gradient is not None:
                view.requires_grad_().grad = place.view(gradient, self.count)
            return view

        return [(part(weight), part(bias)) for weight, bias in zip(self._weights, self._biases, strict=True)]

    def bind_statistics(self, flat: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Return each norm's running mean and variance as parts of the flat tensor."""
        return [
            None
            if norm is None
            else (norm[0].view(flat, self.count).flatten(), norm[1].view(flat, self.count).flatten())
            for norm in self._statistics
        ]

    def __call__(
        self,
        images: Tensor,
        parameters: Sequence[tuple[Tensor | None, Tensor | None]],
        statistics: Sequence[tuple[Tensor, Tensor] | None] | None,
        *,
        training: bool,
    ) -> Tensor:
        """Return the logits (K, N, num_classes) of images (N, C, H, W) for all, or (K, N, C, H, W) for each.

        In training, norms take the batch's statistics, and leave them in `statistics` if there are any.
        """
        x, joined = images, False
        if images.ndim == 5:
            x = images.transpose(0, 1).flatten(1, 2)
        elif self._joins:
            joined = True
        else:
            x = images.repeat(1, self.count, 1, 1)
        inputs: dict[int, Tensor] = {}
        residuals = {layer.skip for layer in self.layers if layer.op == "add"}
        for index, layer in enumerate(self.layers):
            if index in residuals:
                inputs[index] = x
            weight, bias = parameters[index]
            match layer.op:
                case "conv":
                    assert weight is not None
                    groups = x.shape[1] if self._depthwise[index] else 1 if joined else self.count
                    x = F.conv2d(
                        x, weight.flatten(0, 1), None if bias is None else bias.flatten(), layer.stride, layer.padding,
                        groups=groups,
                    )  # fmt: skip
                    joined = False
                case "norm":
                    assert weight is not None
                    assert bias is not None
                    mean, variance = (None, None) if statistics is None else statistics[index] or (None, None)
                    x = F.batch_norm(
                        x, mean, variance, weight.flatten(), bias.flatten(), training=training, momentum=1.0
                    )  # fmt: skip
                case "relu":
                    x = F.relu(x)
                case "maxpool":
                    x = F.max_pool2d(x, layer.kernel_size)
                case "globalpool":
                    x = F.adaptive_avg_pool2d(x, 1)
                case "add":
                    x = inputs[layer.skip] + x
        return x.view(len(x), self.count, self.num_classes).transpose(0, 1)


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """Return the shape of a layer's weight in a network of its own."""
    if layer.op == "norm":
        return layer.output_shape[:1]
    return layer.output_shape[0], layer.input_shape[0] // layer.groups, layer.kernel_size, layer.kernel_size


def weight_shapes(architecture: Architecture) -> list[tuple[int, ...]]:
    """Return the shapes of a network's convolution weights."""
    return [weight_shape(layer) for layer in architecture.layers if layer.op == "conv"]
