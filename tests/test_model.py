"""`Architecture` against torch: counts, shapes, MACs, and the network as source text."""

from __future__ import annotations

import ast
import builtins

import pytest
import torch
from hypothesis import example, given
from strategies import architectures
from torch import nn

from nas.architecture import KNOWN, Architecture
from nas.model import build, source

EVERYTHING = "3x20x17: 6k7 s8k5/2vbr 8k1 8r+ s8n+ M 12k3b 12k1/2 G 7k1bn 7k1b+ C5b"
SHRUNK = "2x3x3: 4v 4+ s5/2 5k1+ G 5k1/2+ Cb"


def leaves(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not any(module.children()) and not isinstance(module, nn.Flatten)]


def forward(model: nn.Module, architecture: Architecture, batch: int = 2) -> tuple[torch.Tensor, list[tuple]]:
    """The logits of random images, and (module, input shape, output shape) of each primitive module as it ran."""
    seen = []

    def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        seen.append((module, tuple(inputs[0].shape), tuple(output.shape)))

    handles = [module.register_forward_hook(hook) for module in leaves(model)]
    images = torch.randn(batch, *architecture.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model.eval()(images)
    for handle in handles:
        handle.remove()
    return logits, seen


def multiplications(module: nn.Module, output: tuple) -> int:
    """Each output number of a convolution is a dot product of in_channels / groups x kernel area terms."""
    if not isinstance(module, nn.Conv2d):
        return 0
    _, channels, height, width = output
    return channels * height * width * module.in_channels // module.groups * module.kernel_size[0] ** 2


@example(Architecture.parse(EVERYTHING))
@example(Architecture.parse(SHRUNK))
@given(architectures())
def test_counts_and_shapes_are_those_of_the_built_model(architecture):
    model = build(architecture)
    assert architecture.num_params == sum(p.numel() for p in model.parameters())

    logits, ran = forward(model, architecture)
    assert logits.shape == (2, architecture.num_classes)
    layers = [layer for layer in architecture.layers if layer.op != "add"]
    assert len(ran) == len(layers)
    for layer, (module, inputs, output) in zip(layers, ran, strict=True):
        assert layer.name.split("-")[0] == type(module).__name__
        assert inputs == (2, *layer.input_shape), layer
        assert output == (2, *layer.output_shape), layer
        assert layer.num_params == sum(p.numel() for p in module.parameters()), layer
        assert layer.macs == multiplications(module, output), layer
    assert architecture.macs == sum(multiplications(module, output) for module, _, output in ran)
    assert architecture.activations == sum(layer.output_shape[0] * layer.output_shape[1] * layer.output_shape[2]
                                           for layer in architecture.layers)  # fmt: skip


@pytest.mark.parametrize("design", KNOWN, ids=lambda design: design.name)
def test_a_known_design_builds_with_its_count(design):
    assert sum(p.numel() for p in build(Architecture.parse(design.text)).parameters()) == design.num_params


def test_buffers_do_not_count():
    model = build(Architecture.parse("8 C G"))
    assert sum(p.numel() for p in model.parameters()) == 72 + 16 + 80
    assert sum(b.numel() for b in model.buffers()) == 8 + 8 + 1


def test_blocks_mean_what_the_text_says():
    model = build(Architecture.parse("4 4r 4+ s6b 5n G Cb"))
    assert " ".join(type(module).__name__ for module in model) == (
        "Conv2d BatchNorm2d ReLU Conv2d ReLU BatchNorm2d Residual Conv2d Conv2d BatchNorm2d ReLU Conv2d ReLU "
        "AdaptiveAvgPool2d Conv2d Flatten"
    )
    depthwise, pointwise = model[7], model[8]
    assert (depthwise.groups, depthwise.bias, pointwise.kernel_size) == (4, None, (1, 1))
    assert pointwise.bias is not None


@pytest.mark.parametrize(("marks", "order"), [("+", (1, 2)), ("r+", (2, 1))])
def test_a_residual_adds_its_input(marks, order):
    """Against the block's modules applied by hand."""
    model = build(Architecture.parse(f"1x6x6: 3 3{marks} C G"), seed=0).eval()
    x = model[:3](torch.randn(2, 1, 6, 6))
    residual = model[3]
    assert [type(module) for module in residual] == [
        nn.Conv2d, *[(None, nn.BatchNorm2d, nn.ReLU)[index] for index in order]
    ]  # fmt: skip
    assert torch.equal(residual(x), x + residual[2](residual[1](residual[0](x))))


def test_average_pool_and_classifier_commute():
    """C G and G C are the same function of the same weights, so the head is a matter of cost alone."""
    first, last = build(Architecture.parse("8v Cb G"), seed=3), build(Architecture.parse("8v G Cb"), seed=3)
    images = torch.randn(4, 1, 28, 28)
    assert torch.allclose(first.eval()(images), last.eval()(images), atol=1e-6)


# Seeds


def test_a_seed_draws_the_same_weights_and_leaves_the_generators_alone(monkeypatch):
    touched = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched.append)
    architecture = Architecture.parse("8 s8 G C")
    before = torch.random.get_rng_state()
    one, again, other = (build(architecture, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not touched
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_without_a_seed_the_global_generator_draws():
    architecture = Architecture.parse("8 G C")
    torch.manual_seed(5)
    one = build(architecture).state_dict()["0.weight"]
    assert torch.equal(one, build(architecture, seed=5).state_dict()["0.weight"])
    assert not torch.equal(one, build(architecture).state_dict()["0.weight"])


# Source


def run_source(text: str) -> nn.Module:
    """What `build()` of the text gives, where every import but torch fails."""

    def only_torch(name: str, *args: object) -> object:
        assert name.split(".")[0] == "torch", name
        return builtins.__import__(name, *args)  # type: ignore[arg-type]

    namespace: dict = {"__builtins__": {**vars(builtins), "__import__": only_torch}, "__name__": "model"}
    exec(text, namespace)
    return namespace["build"]()


@example(Architecture.parse(EVERYTHING))
@example(Architecture.parse(SHRUNK))
@given(architectures())
def test_the_source_text_is_the_same_network(architecture):
    text = source(architecture)
    model, rebuilt = build(architecture), run_source(text)
    assert repr(model) == repr(rebuilt)
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(forward(model, architecture)[0], forward(rebuilt, architecture)[0])
    assert str(architecture) in (ast.get_docstring(ast.parse(text)) or "")


def test_the_source_text_reads_well():
    assert (
        source(Architecture.parse("4 4+ G C"))
        == '''"""4 4+ G C

236 parameters; input (N, 1, 28, 28), output logits (N, 10).
"""

from torch import nn


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        Residual(
            nn.Conv2d(4, 4, 3, stride=1, padding=1, groups=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )
'''
    )
    assert "Residual" not in source(Architecture.parse("4 G C"))
