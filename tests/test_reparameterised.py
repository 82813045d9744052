"""Merging branches: the merged network is the branched one, with the plain one's count; both backends train alike."""

from __future__ import annotations

import copy

import pytest
import torch
import toys
from torch import nn
from torch.nn import functional as F

from nas import kernels
from nas.architecture import Architecture
from nas.model import build
from nas.train import Recipe

script = toys.benchmark("reparameterised")
Variant = script.Variant

SCHEDULES = (
    "3x17x17: 6 6+ M 6k1r+ 8k1 s8r+ G C4",  # residuals, a 1x1 convolution, both orders of norm and ReLU
    "3x17x17: 6v 7/2 s7k5v s8k7/2 9k1b G C4",
    "3x17x17: 5k5/2v s6/2 s6k7+ i6x2k5+ i8x3/2 G Cb",
    "3x17x17: 6bn 6vbn s7bn s8k5/2bn G C4",  # no norms: the bias takes the mean
    "3x17x17: 6n s7br M 7b C4 G",
)
VARIANTS = ("k", "kpiahv", "kkke", "e,zero", "kpi,weight", "kei,none", "kpi,moving")


def trained(schedule: str, text: str) -> tuple[Architecture, nn.Module, torch.Tensor]:
    """A branched network whose weights, scales and statistics are anything, in evaluation mode; and images."""
    architecture, generator = Architecture.parse(schedule), torch.Generator().manual_seed(3)
    model = script.branched(build(architecture, seed=1), Variant.parse(text), 1)
    images = torch.randn(8, *architecture.input_shape, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
        for _ in range(20):
            model(images)  # moves the statistics
    return architecture, model.eval(), images


@pytest.mark.parametrize("text", VARIANTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_merged_network_is_the_branched_one_with_the_count_of_the_plain_one(schedule, text):
    architecture, model, images = trained(schedule, text)
    merged = script.merged(model).eval()
    assert sum(parameter.numel() for parameter in merged.parameters()) == architecture.num_params
    plain = build(architecture, seed=0).eval()
    plain.load_state_dict(merged.state_dict())  # the same names and shapes
    with torch.no_grad():
        logits = model(images)
        torch.testing.assert_close(plain(images), logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def native(part, kernel, x):
    """A branch by torch's own operations, without padding a small kernel: `x` has the convolution's padding already."""
    size, stride, groups = kernel.size, part.geometry["stride"][0], part.geometry["groups"]
    half = size // 2
    rows, columns = slice(half, x.shape[2] - half), slice(half, x.shape[3] - half)
    match kernel.kind:
        case "i":
            return x[:, :, rows, columns][:, :, ::stride, ::stride]
        case "p":
            return F.conv2d(x[:, :, rows, columns], kernel.weight, stride=stride, groups=groups)
        case "h":
            return F.conv2d(x[:, :, rows], kernel.weight, stride=stride, groups=groups)
        case "v":
            return F.conv2d(x[:, :, :, columns], kernel.weight, stride=stride, groups=groups)
        case "a":
            return F.avg_pool2d(F.conv2d(x, kernel.weight, groups=groups), size, stride)
        case "e":
            return F.conv2d(F.conv2d(x, kernel.first), kernel.weight, stride=stride)
        case _:
            return F.conv2d(x, kernel.weight, stride=stride, groups=groups)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_branches_are_convolutions_with_batch_norms_of_their_own(schedule, training):
    _, model, _ = trained(schedule, "kpiahve")
    seen = []
    for part in (part for part in model.modules() if isinstance(part, script.Branched)):
        x = torch.randn(8, part.kernels[0].weight.shape[1] * part.geometry["groups"], 9, 9)
        padding, expected = part.geometry["padding"][0], torch.zeros(())
        part.train(training)
        norms = copy.deepcopy(part.norm)
        for number, kernel in enumerate(part.kernels):
            y = native(part, kernel, F.pad(x, (padding,) * 4))
            mean, variance = (
                tensor.view(part.gain.shape)[:, number] for tensor in (norms.running_mean, norms.running_var)
            )
            gain = part.gain[:, number]
            normed = F.batch_norm(y, mean.clone(), variance.clone(), gain, torch.zeros_like(gain), training)
            if part.bias is None:  # the mean is left in
                if training:
                    variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
                normed = normed + (mean * gain / (variance + norms.eps).sqrt())[:, None, None]
            expected = expected + normed
            seen.append(kernel.kind)
        if part.bias is not None:
            expected = expected + part.bias[:, None, None]
        with torch.no_grad():
            torch.testing.assert_close(part(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert set(seen) >= set("kpahv")


def test_scales_by_the_covariance_of_the_input_are_those_of_the_batch():
    architecture, found = Architecture.parse("3x17x17: 6 s7k5v s8/2 8k1 G C"), []
    for how in ("batch", "moving"):
        model = script.branched(build(architecture, seed=1), Variant.parse(f"kpiahv,{how}"), 1)
        found.append([part for part in model.modules() if isinstance(part, script.Branched)])
    for batch, moving in zip(*found, strict=True):
        x = torch.randn(8, batch.kernels[0].weight.shape[1] * batch.geometry["groups"], 9, 9).cumsum(2)
        moving.observe(x, momentum=1.0)
        torch.testing.assert_close(moving.eval()(x), batch(x), rtol=1e-3, atol=1e-3)


def test_the_first_branch_begins_as_the_plain_network_and_the_others_may_begin_at_zero():
    architecture = Architecture.parse(SCHEDULES[0])
    plain, images = build(architecture, seed=1), torch.randn(4, 3, 17, 17)
    model = script.branched(build(architecture, seed=1), Variant.parse("kpi,none,zero"), 1)
    torch.testing.assert_close(model(images), plain(images))


@pytest.mark.skipif(kernels.unsuited() is not None, reason=str(kernels.unsuited()))
def test_the_kernels_train_the_branches_as_torch_does(monkeypatch):
    data = toys.part(toys.synthetic(), 384)
    architecture = Architecture.parse("6 M s8b 8k1r M G C4", input_shape=(1, 16, 16))
    recipe, variant = Recipe(epochs=2), Variant.parse("kpi,weight")
    run, model = script.train_branched(architecture, data, recipe, variant, 0, None)
    monkeypatch.setattr(Variant, "backend", "torch")
    again, other = script.train_branched(architecture, data, recipe, variant, 0, None)
    assert (run.backend, again.backend) == ("kernels", "torch")
    assert run.epochs[0].train_loss == pytest.approx(again.epochs[0].train_loss, rel=1e-2)
    assert run.epochs[-1].train_loss < run.epochs[0].train_loss
    assert sum(part.numel() for part in model.parameters()) > architecture.num_params
    for network, of in ((model, run), (other, again)):
        with torch.no_grad():
            images = data.normalization.apply(data.validation.images)
            correct = (script.merged(network).eval()(images).argmax(1) == data.validation.labels).sum()
        assert abs(int(correct) - of.epochs[-1].correct) <= 1


@pytest.mark.parametrize("text", ["", "pk", "kx", "k,fast", "k,lr=much"])
def test_other_words_are_refused(text):
    with pytest.raises((SystemExit, ValueError)):
        Variant.parse(text)
