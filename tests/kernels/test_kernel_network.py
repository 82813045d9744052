"""What a `Network` promises its caller beside the arithmetic."""

from __future__ import annotations

import pytest
import torch
from kernel_reference import batch, needs_kernels, pair

from nas import kernels
from nas.architecture import Architecture
from nas.kernels.denormals import flushes_denormals
from nas.kernels.network import EVALUATION_BATCH
from nas.model import build

pytestmark = needs_kernels


def test_evaluation_does_not_depend_on_how_the_images_are_cut():
    architecture, model, _ = pair("5v M 6r G C")
    images, labels = batch(architecture, 301)
    network = kernels.Network(architecture, model)
    whole = network.logits(images)
    assert whole.shape == (301, 10)
    network.step(images[..., :16].contiguous(), labels[:16])
    model.load_state_dict(pair("5v M 6r G C")[1].state_dict())
    parts = torch.cat([network.logits(images[..., k : k + 77]) for k in range(0, 301, 77)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_in_place_changes_and_moved_parameters_are_seen():
    architecture, model, _ = pair("5v M 6r G C")
    images, labels = batch(architecture, 24)
    network = kernels.Network(architecture, model)
    network.step(images, labels)
    before = network.logits(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    scaled = network.logits(images)
    assert not torch.equal(before, scaled)
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()  # another place in memory
        parameter.grad = None
    assert torch.equal(network.logits(images), scaled)
    network.step(images, labels)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("text", ["4vr M 5 G C", "4v s5 C G", "4n M 4n+ G C"])
def test_a_nan_stays_a_nan(text, value):
    architecture, model, _ = pair(text)
    images, labels = batch(architecture, 20)
    images[0, 10, 10, 3] = value
    network = kernels.Network(architecture, model)
    assert not network.logits(images)[3].isfinite().all()
    assert not torch.tensor(network.step(images, labels)[0]).isfinite()
    model.load_state_dict(pair(text)[1].state_dict())
    images[0, 10, 10, 3] = float("nan")
    assert network.logits(images)[3].isnan().all()


def test_few_images_take_few_vectors():
    """A teacher has the batches of its student: with 128 images each, those of 32 took it four times as long."""
    architecture, model, _ = pair("4v M 5 G C")
    images, _ = batch(architecture, 300)
    many, few = kernels.Network(architecture, model), kernels.Network(architecture, model)
    whole = many.logits(images)
    assert many._tapes.keys() == {EVALUATION_BATCH}
    assert few.logits(images[..., :20]).equal(whole[:20])
    assert few._tapes.keys() == {20}
    assert few.logits(images).equal(whole)


def test_what_cannot_be_trained_is_refused():
    architecture, model, _ = pair("4v M 5 G 6k1 C")
    network = kernels.Network(architecture, model)
    images, labels = batch(architecture, 8)
    with pytest.raises(ValueError, match="more than one value a channel"):
        network.step(images[..., :1], labels[:1])
    with pytest.raises(ValueError, match=r"0\.\.9"):
        network.step(images, labels + 5)
    with pytest.raises(ValueError, match=r"\(8,\) int64"):
        network.step(images, labels[:7])
    with pytest.raises(ValueError, match="float32"):
        network.step(images.double(), labels)
    with pytest.raises(ValueError, match="batch dimension"):
        network.logits(images.permute(3, 0, 1, 2))


def test_soft_targets_of_another_shape_are_refused():
    architecture = Architecture.parse("6 G C")
    network = kernels.Network(architecture, build(architecture))
    images, labels = torch.zeros(1, 28, 28, 4), torch.zeros(4, dtype=torch.int64)
    for wrong in (torch.zeros(4, 9), torch.zeros(3, 10), torch.zeros(4, 10, dtype=torch.float64)):
        with pytest.raises(ValueError, match="soft_targets are"):
            network.step(images, labels, soft_targets=wrong)


@pytest.mark.parametrize("flushing", [False, True])
def test_the_callers_thread_flushes_denormals_as_it_did(flushing):
    architecture, model, _ = pair("4v M 5 G C")
    images, labels = batch(architecture, 8)
    torch.set_flush_denormal(flushing)
    try:
        assert flushes_denormals() == flushing
        assert bool(torch.tensor([1e-38]) * 0.1 == 0) == flushing
        network = kernels.Network(architecture, model)
        network.step(images, labels)
        network.update_bn_stats(images, 0.1)
        network.logits(images)
        assert flushes_denormals() == flushing
        with pytest.raises(ValueError, match="batch dimension"):
            network.logits(images[0])
        assert flushes_denormals() == flushing
    finally:
        torch.set_flush_denormal(False)


def test_denormals_are_flushed_within_a_step():
    architecture = Architecture.parse("2 G C", input_shape=(1, 4, 4))
    model = build(architecture)
    images, labels = torch.full((1, 4, 4, 8), 1e-20), torch.zeros(8, dtype=torch.int64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e-20)  # products of 1e-40 are denormal
    kernels.Network(architecture, model).step(images, labels)
    means = next(buffer for name, buffer in model.named_buffers() if "mean" in name)
    assert (means == 0).all()
