"""A network as `model.py`: source text that needs torch alone, and takes images as files give them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture, Layer
from nas.export.tolerance import tolerance_of
from nas.files import damaged, read_text

if TYPE_CHECKING:
    from nas.data import FolderOptions, Normalization
    from nas.model import TrainedNetwork

"""Largest difference of a logit allowed between `Net` and the trained network: they may round the normalisation
differently, while `build()` must give the same bits."""

ORDERED = "from collections import OrderedDict\n\n"
"""The import that `module_lines` with dropout needs."""

RESIDUAL = """\
class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


"""

_TEXT = '''\
"""{schedule}

{num_params:,} parameters. `Net` takes images ({shape}), uint8 or floats on 0..1, and normalises them itself; `build()`
is the same network for images that are normalised already. Both give logits (N, {num_classes}).{preparation}

    net = load()
    labels = [net.classes[index] for index in net(images).argmax(1)]
"""

{imports}import torch
from torch import nn


{residual}def build():
    """The network alone: images less `Net.mean`, over `Net.std`, to logits. weights.safetensors is its state dict."""
    return nn.Sequential(
{layers}
    )


class Net(nn.Module):
    """The network for images as they are: uint8, or floats on 0..1. Mean and deviation are buffers, no parameters."""

    classes = {classes}

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor({mean}).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor({std}).view(1, -1, 1, 1))
        self.network = build()

    def forward(self, images):
        checked = not torch.compiler.is_compiling()  # a graph has no exceptions
        if checked and images.shape[1:] != ({sides}):
            raise ValueError(f"images are ({shape}), not {{tuple(images.shape)}}: give a batch of that size")
        if images.dtype == torch.uint8:
            images = images / 255
        elif not images.is_floating_point():
            raise TypeError(f"images are uint8, or floats on 0..1, not {{images.dtype}}: give 0 to 255 as uint8")
        elif checked and images.numel():
            low, high = (float(end) for end in images.aminmax())
            if not (low > -0.001 and high < 1.001):  # resizing may have rounded
                raise ValueError(f"floats are on 0..1, not {{low:g}} to {{high:g}}: divide levels of 0 to 255 by 255")
        return self.network((images.to(self.mean.dtype) - self.mean) / self.std)


def load(path=None):
    """A `Net` in evaluation mode, with weights.safetensors beside this file, or another (pip install safetensors).

    A state dict that `torch.save` wrote goes in as `Net().network.load_state_dict(torch.load(path))`.
    """
    from pathlib import Path

    from safetensors.torch import load_file

    net = Net()
    net.network.load_state_dict(load_file(path or Path(__file__).with_name("weights.safetensors")))
    return net.eval()
'''


def source(
    architecture: Architecture, normalization: Normalization, classes: tuple[str, ...],
    preparation: FolderOptions | None = None, dropout: float = 0.0,
) -> str:  # fmt: skip
    """Return the text of a module `model.py` with `build()`, `Net` and `load(path)`.

    `build()` is the network of `nas.model.build`, whose state dict it shares; `Net` normalises its images as
    `normalization` does. `preparation`, of own images, is stated in its docstring.
    """
    channels, height, width = architecture.input_shape
    return _TEXT.format(
        schedule=architecture,
        num_params=architecture.num_params,
        shape=f"N, {channels}, {height}, {width}",
        sides=f"{channels}, {height}, {width}",
        num_classes=architecture.num_classes,
        residual=RESIDUAL if any(layer.op == "add" for layer in architecture.layers) else "",
        layers=textwrap.indent("\n".join(module_lines(architecture, dropout)), " " * 8),
        imports=ORDERED if dropout else "",
        classes=as_tuple(classes),
        preparation="" if preparation is None else f"\nImages: {preparation.words}.",
        mean=list(normalization.mean),
        std=list(normalization.std),
    )


def check_source(path: Path, network: TrainedNetwork) -> None:
    """Run a model.py and compare its networks with the trained one.

    `build()` gives the same logits bit for bit, `Net` within `tolerance_of` them. Raises `StorageError`.
    """
    import torch

    architecture, generator = network.architecture, torch.Generator().manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(read_text(path), str(path), "exec"), namespace)
    with torch.device("meta"):  # no weights are drawn, and the caller's random numbers are not used up
        raw = namespace["build"]()
    raw.load_state_dict(network.state_dict, strict=True, assign=True)
    with torch.random.fork_rng(devices=[]):
        net = namespace["Net"]()
    net.network.load_state_dict(network.state_dict, strict=True)
    images = torch.randint(0, 256, (4, *architecture.input_shape), dtype=torch.uint8, generator=generator)
    normalised = network.normalization.apply(images)
    with torch.no_grad():
        expected, found = network.module()(normalised), raw.eval()(normalised)
        net.eval()
        whole = [net(images), net(images / 255)]
    if not torch.equal(found, expected):
        raise damaged(path, "its network does not give the logits of the one trained")
    if not all(torch.allclose(logits, expected, rtol=0, atol=tolerance_of(expected)) for logits in whole):
        raise damaged(path, "its Net does not give the logits of the network trained on images as they are")
    for each in (raw, net):
        count = sum(parameter.numel() for parameter in each.parameters())
        if count != architecture.num_params:
            raise damaged(path, f"its network has {count:,} parameters, not {architecture.num_params:,}")


def module_lines(architecture: Architecture, dropout: float = 0.0) -> list[str]:
    """Return the lines that make the modules.

    With dropout they have names, so that the state dict is the same as without.
    """
    layers, modules = architecture.layers, list[list[str]]()
    residuals, inside = {layer.skip for layer in layers if layer.op == "add"}, False
    for index, layer in enumerate(layers):
        if index in residuals:
            modules.append(["Residual("])
            inside = True
        if layer.op == "add":
            modules[-1].append(")")
            inside = False
        elif inside:
            modules[-1].append(f"    {_call(layer)},")
        else:
            modules.append([_call(layer)])
    modules.append(["nn.Flatten()"])
    if not dropout:
        return [line for module in modules for line in (*module[:-1], f"{module[-1]},")]
    named = [[f'("{index}", {first}', *rest] for index, (first, *rest) in enumerate(modules)]
    named.insert(architecture.classifier_index, [f'("dropout", nn.Dropout({dropout:g})'])
    rows = [f"    {line}" for module in named for line in (*module[:-1], f"{module[-1]}),")]
    return ["OrderedDict([", *rows, "])"]


def _call(layer: Layer) -> str:
    """Return the expression that makes the module of a layer."""
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


def as_tuple(names: tuple[str, ...]) -> str:
    """Return a tuple of texts as source, in rows of 120 columns."""
    rows = [""]
    for name in names:
        text = f'"{name}",' if name.isascii() and name.isprintable() and not set(name) & set('"\\') else f"{name!r},"
        if rows[-1] and len(rows[-1]) + len(text) > 110:
            rows.append("")
        rows[-1] += f" {text}" if rows[-1] else text
    if len(rows) == 1 and len(rows[0]) < 100:
        return f"({rows[0] if len(names) == 1 else rows[0].removesuffix(',')})"
    return "(\n" + textwrap.indent("\n".join(rows), " " * 8) + "\n    )"
