"""`Architecture` against torch: counts, shapes, MACs; trained networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from strategies import architectures
from torch import nn

from nas.architecture import Architecture
from nas.data import Normalization
from nas.designs import PUBLISHED_DESIGNS
from nas.errors import UsageError
from nas.model import TrainedNetwork, build, load_module

EVERYTHING = "3x20x17: 6k7 s8k5/2vbr 8k1 8r+ s8n+ i8x3k5+ i8x1k7 i8x2/2v 12k3b 12k1/2 G 7k1bn 7k1b+ C5b"
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


@pytest.mark.parametrize("design", PUBLISHED_DESIGNS, ids=lambda design: design.name)
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


def test_an_inverted_bottleneck_adds_its_input_to_a_linear_projection():
    model = build(Architecture.parse("1x6x6: 3 i3x2+ C G"), seed=0).eval()
    x = model[:3](torch.randn(2, 1, 6, 6))
    expand, norm, relu, depthwise, _, _, project, _ = residual = list(model[3])
    assert [type(each) for each in (norm, relu, *residual[4:6])] == [nn.BatchNorm2d, nn.ReLU] * 2
    assert (expand.out_channels, depthwise.groups, project.out_channels) == (6, 6, 3)
    y = x
    for module in residual:
        y = module(y)
    assert torch.equal(model[3](x), x + y)
    assert (y < 0).any()  # no ReLU after the projection


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


# A trained network


TRAINED = Architecture.parse("4v M 6 G C", input_shape=(2, 16, 16), num_classes=3)
NORMALIZATION = Normalization(mean=(0.1, 0.4), std=(0.3, 0.2))


def trained(**changes) -> TrainedNetwork:
    """Random weights, with running statistics of their own."""
    model = build(TRAINED, seed=4)
    with torch.no_grad():
        model(torch.randn(64, 2, 16, 16, generator=torch.Generator().manual_seed(0)))
    fields = {"architecture": TRAINED, "state_dict": model.state_dict(), "normalization": NORMALIZATION,
              "classes": ("cat", "dog", "cow")}  # fmt: skip
    return TrainedNetwork(**(fields | changes))


def test_a_trained_network_predicts_probabilities_by_its_running_statistics():
    """Against the steps by hand, for more images than a batch of it; bytes and fractions are the same images."""
    network = trained()
    images = torch.randint(0, 256, (600, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(each).view(1, 2, 1, 1) for each in (NORMALIZATION.mean, NORMALIZATION.std))
    model = build(TRAINED)
    model.load_state_dict(network.state_dict)
    with torch.no_grad():
        expected = model.eval()((images / 255 - mean) / std).softmax(1)
    found = network.predict(images)
    assert (found.shape, found.dtype, found.requires_grad, found.is_inference()) == (
        (600, 3), torch.float32, False, False,
    )  # fmt: skip
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(network.predict(images / 255), expected)
    assert network.predict(images[:0]).shape == (0, 3)


def test_a_module_has_the_weights_is_in_evaluation_mode_and_is_a_copy():
    torch.manual_seed(7)
    network, before = trained(), torch.get_rng_state()
    module, other = network.module(), load_module(TRAINED, network.state_dict)
    assert torch.get_rng_state().equal(before)
    for each in (module, other):
        assert not any(part.training for part in each.modules())
        assert all(each.state_dict()[name].equal(value) for name, value in network.state_dict.items())
    kept = network.state_dict["0.weight"].clone()
    with torch.no_grad():
        module[0].weight.zero_()
    assert network.state_dict["0.weight"].equal(kept)


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (torch.zeros(3, 1, 16, 16), r"takes images \(N, 2, 16, 16\), not \(3, 1, 16, 16\)"),
        (torch.zeros(2, 16, 16), r"takes images \(N, 2, 16, 16\), not \(2, 16, 16\)"),
        (torch.zeros(3, 2, 16, 16, dtype=torch.int64), "uint8, or floating-point on 0..1, not torch.int64"),
    ],
)
def test_other_images_are_refused_in_one_line(images, wanted):
    with pytest.raises(UsageError, match=wanted):
        trained().predict(images)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"classes": ("cat", "dog")}, "tells 3 classes apart, not 2"),
        ({"normalization": Normalization(mean=(0.1,), std=(0.3,))}, "images of 2 channel.*1 means and 1 deviations"),
        ({"normalization": Normalization(mean=(0.1, 0.1), std=(0.3,))}, "2 means and 1 deviations"),
    ],
)
def test_what_does_not_fit_the_architecture_is_refused(changes, wanted):
    with pytest.raises(UsageError, match=wanted):
        trained(**changes)


def test_a_prediction_takes_arrays_as_well():
    network, images = trained(), torch.randint(0, 256, (3, *trained().architecture.input_shape), dtype=torch.uint8)
    assert network.predict(images.numpy()).equal(network.predict(images))
