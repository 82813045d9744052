"""`Architecture` -> `nn.Module`, and a network with its weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.architecture import Architecture, Layer
from nas.data import FolderOptions, Normalization, as_images
from nas.errors import UsageError

PREDICTION_BATCH = 512
"""Images at a time of a prediction."""

_DRAWING = threading.Lock()
"""Held while weights are drawn: torch's modules draw from the one global generator."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """A network with its weights, what its images are normalised with, and the names of its classes.

    Raises `UsageError` where the number of channels or classes is not the architecture's.
    """

    architecture: Architecture
    state_dict: Mapping[str, Tensor]
    normalization: Normalization
    classes: tuple[str, ...]
    preparation: FolderOptions | None = None
    """The options by which own images were made squares of one size; None for a catalogued data set."""

    def __repr__(self) -> str:
        return f"TrainedNetwork('{self.architecture}', num_params={self.architecture.num_params})"

    def __post_init__(self) -> None:
        channels, num_classes = self.architecture.input_shape[0], self.architecture.num_classes
        if not len(self.normalization.mean) == len(self.normalization.std) == channels:
            given = f"{len(self.normalization.mean)} means and {len(self.normalization.std)} deviations"
            raise UsageError(f"'{self.architecture}' takes images of {channels} channel(s): {given} do not fit")
        if len(self.classes) != num_classes:
            raise UsageError(f"'{self.architecture}' tells {num_classes} classes apart, not {len(self.classes)}")

    def module(self) -> nn.Sequential:
        """Return a new module with these weights, in evaluation mode: normalised images -> logits (N, num_classes)."""
        return load_module(self.architecture, self.state_dict)

    @torch.no_grad()
    def predict(self, images: Tensor | NDArray[Any]) -> Tensor:
        """Return the probabilities (N, num_classes) of images (N, C, H, W), uint8 or floating on 0..1, on their device.

        Raises `UsageError` for images of another shape, type or range.
        """
        images = as_images(images, self.architecture.input_shape)
        module = self.module().to(images.device)
        batches = torch.split(images, PREDICTION_BATCH)  # so that the activations of many images need not fit in memory
        return torch.cat([module(self.normalization.apply(batch)).softmax(1) for batch in batches])


def load_module(architecture: Architecture, state_dict: Mapping[str, Tensor]) -> nn.Sequential:
    """Return the network with the given weights, in evaluation mode."""
    module = build(architecture, seed=0)  # any seed will do, but without one the global generator would draw
    module.load_state_dict(dict(state_dict))
    return module.eval()


class Residual(nn.Sequential):
    """x + block(x)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for module in self:
            y = module(y)
        return x + y


class Dropout(nn.Dropout):
    """Dropout that draws from a generator of its own: the global one is the caller's."""

    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p)
        self.seed = seed
        self._generator: torch.Generator | None = None  # made when needed: a module with one cannot be copied

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        drawn = torch.rand(input.shape, generator=self.generator(input.device), device=input.device)
        return input * (drawn >= self.p) / (1 - self.p)

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the generator that it draws from on a device."""
        if self._generator is None:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator


def build(architecture: Architecture, *, seed: int | None = None, dropout: float = 0.0) -> nn.Sequential:
    """Return the network as torch modules: (N, C, H, W) -> logits (N, num_classes).

    Weights are torch's defaults drawn under `seed`, without touching the global generator; None uses that generator.
    `dropout` is the probability with which an input of the classifier, the last convolution, is dropped in training;
    the state dict is the same with and without.
    """
    with _DRAWING, torch.random.fork_rng(enabled=seed is not None, devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators' as well
        network = _sequential(architecture)
    if not dropout:
        return network
    named = OrderedDict[str, nn.Module]()
    for index, (name, module) in enumerate(network.named_children()):
        if index == architecture.classifier_index:
            named["dropout"] = Dropout(dropout, seed or 0)
        named[name] = module
    return nn.Sequential(named)


def _sequential(architecture: Architecture) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer, body in _nested(architecture):
        modules.append(Residual(*map(_module, body)) if body else _module(layer))
    return nn.Sequential(*modules, nn.Flatten())


def _nested(architecture: Architecture) -> Iterator[tuple[Layer, list[Layer]]]:
    """Each top-level layer, with the layers inside it where it is a residual (and an empty list where not)."""
    layers = architecture.layers
    inside: dict[int, int] = {layer.skip: index for index, layer in enumerate(layers) if layer.op == "add"}
    index = 0
    while index < len(layers):
        end = inside.get(index)
        if end is None:
            yield layers[index], []
            index += 1
        else:
            yield layers[end], list(layers[index:end])
            index = end + 1


def _module(layer: Layer) -> nn.Module:
    match layer.op:
        case "conv":
            return nn.Conv2d(
                layer.input_shape[0], layer.output_shape[0], layer.kernel_size, layer.stride, layer.padding,
                groups=layer.groups, bias=layer.bias,
            )  # fmt: skip
        case "norm":
            return nn.BatchNorm2d(layer.output_shape[0])
        case "relu":
            return nn.ReLU()
        case "maxpool":
            return nn.MaxPool2d(layer.kernel_size)
        case "globalpool":
            return nn.AdaptiveAvgPool2d(1)
        case "add":
            raise AssertionError("an add layer is the end of a Residual, never a module")
