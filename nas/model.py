"""`Architecture` -> `nn.Module`, and the same network as source text that needs only torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nas.architecture import Architecture, Layer

_DRAWING = threading.Lock()
"""Weights are drawn by the one global generator."""


class Residual(nn.Sequential):
    """x + block(x)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for module in self:
            y = module(y)
        return x + y


def build(architecture: Architecture, *, seed: int | None = None) -> nn.Sequential:
    """The network as torch modules: (N, C, H, W) -> logits (N, num_classes).

    Weights are torch's defaults drawn under `seed`, without touching the global generator; None uses that generator.
    """
    with _DRAWING, torch.random.fork_rng(enabled=seed is not None, devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators' as well
        return _sequential(architecture)


def _sequential(architecture: Architecture) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer, body in _nested(architecture):
        modules.append(Residual(*map(_module, body)) if body else _module(layer))
    return nn.Sequential(*modules, nn.Flatten())


def source(architecture: Architecture) -> str:
    """The text of a module `model.py` whose `build()` gives this network; its state dict is interchangeable."""
    lines = []
    for layer, body in _nested(architecture):
        if body:
            lines += ["Residual(", *(f"    {_call(inner)}," for inner in body), "),"]
        else:
            lines.append(f"{_call(layer)},")
    residual = (
        "class Residual(nn.Sequential):\n    def forward(self, x):\n        return x + super().forward(x)\n\n\n"
        if any(body for _, body in _nested(architecture))
        else ""
    )
    body_text = "\n".join(f"        {line}" for line in [*lines, "nn.Flatten(),"])
    shape = "x".join(map(str, architecture.input_shape))
    return (
        f'"""{architecture}\n\n{architecture.num_params:,} parameters; input (N, {shape.replace("x", ", ")}), '
        f'output logits (N, {architecture.num_classes}).\n"""\n\n'
        f"from torch import nn\n\n\n{residual}def build():\n    return nn.Sequential(\n{body_text}\n    )\n"
    )


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


def _call(layer: Layer) -> str:
    """The expression that makes the module."""
    match layer.op:
        case "conv":
            return (
                f"nn.Conv2d({layer.input_shape[0]}, {layer.output_shape[0]}, {layer.kernel_size}, "
                f"stride={layer.stride}, padding={layer.padding}, groups={layer.groups}, bias={layer.bias})"
            )
        case "norm":
            return f"nn.BatchNorm2d({layer.output_shape[0]})"
        case "relu":
            return "nn.ReLU()"
        case "maxpool":
            return f"nn.MaxPool2d({layer.kernel_size})"
        case "globalpool":
            return "nn.AdaptiveAvgPool2d(1)"
        case "add":
            raise AssertionError("an add layer is the end of a Residual, never a module")
