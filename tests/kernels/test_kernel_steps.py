"""Steps of the kernels against torch: gradients, loss, running statistics, bits."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_reference import batch, check, needs_kernels, pair, torch_step
from strategies import architectures
from torch.nn import functional

from nas import kernels
from nas.architecture import Architecture
from nas.errors import UsageError
from nas.model import build

pytestmark = needs_kernels


@pytest.mark.parametrize("n", [2, 3, 7, 16, 17, 40, 96, 128])
@pytest.mark.parametrize(
    "text",
    [
        "8vr 9vr M 5v C G",
        "4v s6 M s7v 5k1 G Cb",
        "3k7 5k5/2 M G C",
        "6bn s6n+ M s6r+ 6b+ G 9k1r 9k1+ C",
        "3k1/2 s4/2 s5/2v Cb G",
        "M 2 M M 3 G C",
        "2+ 2r+ s2+ M 3 G C",
        "13 7k1b s11k7/2vn G 4k1b Cb",
        "5r i5x3+ i5x2k5+ 5+ i7x2/2 i7x1k7+ M i6x3v C G",
        "i2x3+ M i4x2k5/2v i4x2+ s4+ G C",
    ],
)
def test_every_block_follows_torch(text, n):
    check(text, n, input_shape=(2, 14, 13), smoothing=0.1)


CONV = st.tuples(
    st.sampled_from(["", "", "s"]), st.integers(1, 64), st.sampled_from(["", "", "k1", "k5", "k7"]),
    st.sampled_from(["", "", "/2"]), st.sampled_from(["", "v"]), st.sampled_from(["", "b"]), st.sampled_from(["", "n"]),
    st.sampled_from(["", "r"]), st.sampled_from(["", "", "+"]),
).map(lambda parts: "".join(map(str, parts)))  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    body=st.lists(st.one_of(CONV, CONV, st.just("M")), min_size=1, max_size=4),
    head=st.sampled_from(["C G", "Cb G", "G C", "G Cb", "G 5k1r C", "G 64k1bn Cb"]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 11), st.integers(1, 11)),
    n=st.sampled_from([1, 2, 3, 7, 17, 33, 96]),
)
def test_random_networks_follow_torch(body, head, shape, n):
    try:
        architecture = Architecture.parse(" ".join([*body, head]), input_shape=shape)
    except UsageError:
        assume(False)
    # With a few values a channel a norm divides by next to nothing, and float32 has no digits left to compare.
    assume(all(a.op != "norm" or n * a.output_shape[1] * a.output_shape[2] >= 12 for a in architecture.layers))
    # Rounding can move an image across a ReLU or to another maximum, which changes a gradient by its share.
    check(str(architecture), n, tolerance=3e-3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(architectures(max_side=11), st.sampled_from([2, 7, 17, 33]))
def test_networks_with_residuals_that_fit_follow_torch(architecture, n):
    assume(architecture.num_classes > 1)  # of one class nothing is learnt
    assume(all(a.op != "norm" or n * a.output_shape[1] * a.output_shape[2] >= 12 for a in architecture.layers))
    check(str(architecture), n, tolerance=3e-3)


@pytest.mark.parametrize("text", ["3k1n M 4n M G C", "4k1r M 5r G C", "2n 2n+ M M G C"])
def test_tied_maxima_send_their_gradient_where_torch_does(text):
    architecture, model, _ = pair(text, input_shape=(1, 9, 8))
    with torch.no_grad():  # exact arithmetic: ties here are ties there
        for parameter in model.parameters():
            parameter.copy_((parameter * 8).round() / 8 if parameter.ndim == 4 else parameter.round())
    reference = copy.deepcopy(model).double()
    images = torch.randint(0, 3, (1, 9, 8, 21), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(21) % 10
    kernels.Network(architecture, model).step(images, labels)
    torch_step(reference, images, labels)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_training_run_follows_torch():
    architecture, model, _ = pair("6v s8 M 10r 10+ G C")
    reference = copy.deepcopy(model)
    network = kernels.Network(architecture, model)
    ours = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    theirs = torch.optim.AdamW(reference.parameters(), lr=3e-3, fused=True)
    for k in range(25):
        images, labels = batch(architecture, 32 if k % 5 else 19, seed=k)
        images[:, :14] += labels / 5  # something to learn
        loss, _ = network.step(images, labels)
        ours.step()
        expected, _ = torch_step(reference, images, labels)
        theirs.step()
        assert loss == pytest.approx(expected, rel=2e-3)
    assert loss < 2.0
    reference.load_state_dict(model.state_dict())  # weights trained here mean the same there
    reference.eval()
    with torch.no_grad():
        wanted = reference(images.permute(3, 0, 1, 2))
    torch.testing.assert_close(network.logits(images), wanted, rtol=1e-4, atol=1e-5)


def test_the_same_bits_twice_whatever_ran_between():
    def run(others):
        architecture, model, _ = pair("8vr s10 M 10+ 10+ G Cb")
        network = kernels.Network(architecture, model)
        for n in others:
            network.step(*batch(architecture, n, seed=n))
        network.logits(batch(architecture, 200)[0])
        model.load_state_dict(pair("8vr s10 M 10+ 10+ G Cb")[1].state_dict())
        losses = [network.step(*batch(architecture, n, seed=9))[0] for n in (48, 13, 48)]
        return losses, [p.grad.clone() for p in model.parameters()], list(model.buffers())

    (losses, gradients, buffers), again = run([]), run([48, 13, 5, 96])
    assert losses == again[0]
    assert all(map(torch.equal, gradients, again[1]))
    assert all(map(torch.equal, buffers, again[2]))


def test_updating_batch_norm_moves_the_running_statistics_as_torch_does_and_nothing_else():
    architecture, model, _ = pair("5vr s8 M 6 6+ G 7k1 Cb")
    reference, before = copy.deepcopy(model), copy.deepcopy(model)
    network = kernels.Network(architecture, model)
    norms = [module for module in reference.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for number, count in enumerate((32, 21)):
        images, labels = batch(architecture, count, seed=number)
        network.update_bn_stats(images, 1 / (number + 1))
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        with torch.no_grad():
            reference.train()(images.permute(3, 0, 1, 2))
    for (name, ours), theirs in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    untouched, updated = copy.deepcopy(before), copy.deepcopy(before)
    network = kernels.Network(architecture, updated)
    network.update_bn_stats(images, 0.0)
    network.step(images, labels)  # with the usual momentum again
    kernels.Network(architecture, untouched).step(images, labels)
    for (name, ours), theirs in zip(updated.named_buffers(), untouched.buffers(), strict=True):
        assert ours.equal(theirs) or "batches" in name


@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 2.0), (0.9, 2.0), (1.0, 0.7), (0.5, 8.0)])
def test_soft_targets_have_the_gradient_of_the_divergence(weight, temperature):
    architecture = Architecture.parse("6v M s8 9vr G Cb", input_shape=(2, 14, 13))
    ours, reference = build(architecture, seed=1), build(architecture, seed=1).double()
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 14, 13, 21, generator=generator)
    labels = torch.randint(10, (21,), generator=generator)
    soft = (3 * torch.randn(21, 10, generator=generator)).softmax(1)
    loss, _ = kernels.Network(architecture, ours).step(
        images, labels, label_smoothing=0.1, soft_targets=soft, distill_weight=weight, temperature=temperature
    )
    logits = reference(images.permute(3, 0, 1, 2).double())
    plain = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    likely = (logits / temperature).log_softmax(1)
    divergence = (soft.double() * (soft.double().log() - likely)).sum(1).mean()
    ((1 - weight) * plain + weight * temperature**2 * divergence).backward()
    assert loss == pytest.approx(plain.item(), rel=1e-5)
    for mine, its in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), its.grad, rtol=1e-3, atol=1e-4)
