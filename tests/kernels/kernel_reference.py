"""The kernels beside torch in float64, which shares no code with them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from nas import kernels
from nas.architecture import Architecture
from nas.model import build

needs_kernels = pytest.mark.skipif(kernels.unsuited() is not None, reason=str(kernels.unsuited()))


def pair(text, *, input_shape=None, seed=0):
    """An architecture, a float32 model of it for the kernels and a float64 one with the same weights for torch.

    Norms and biases are moved off their starting values, so that a gradient mistaken for another shows.
    """
    architecture = Architecture.parse(text, input_shape=input_shape)
    model = build(architecture, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return architecture, model, copy.deepcopy(model).double()


def batch(architecture, n, *, seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    images = torch.randn(*architecture.input_shape, n, generator=generator)
    return images, torch.randint(0, architecture.num_classes, (n,), generator=generator)


def torch_step(model, images, labels, smoothing=0.0):
    logits = model(images.permute(3, 0, 1, 2).to(next(model.parameters()).dtype))
    loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    return loss.item(), int((logits.argmax(1) == labels).sum())


def check(text, n, *, input_shape=None, smoothing=0.0, seed=0, tolerance=1e-4):
    architecture, model, reference = pair(text, input_shape=input_shape, seed=seed)
    images, labels = batch(architecture, n, seed=seed)
    single = copy.deepcopy(model)
    network = kernels.Network(architecture, model)
    loss, correct = network.step(images, labels, label_smoothing=smoothing)
    expected, expected_correct = torch_step(reference, images, labels, smoothing)
    torch_step(single, images, labels, smoothing)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert correct == expected_correct
    largest = max(float(p.grad.norm()) for p in reference.parameters())
    rows = zip(model.named_parameters(), single.parameters(), reference.parameters(), strict=True)
    for (name, ours), torchs, exact in rows:
        # Some gradients are zero but for rounding (a bias before a norm): measured against the largest as well.
        scale = float(exact.grad.norm()) + 0.1 * largest
        error, rounding = (float((each.grad - exact.grad).norm()) / scale for each in (ours, torchs))
        # Where a value near zero falls to the other side of a ReLU, torch's own float32 is off by more.
        assert error < max(tolerance, 2 * rounding), (name, error, rounding)
    for (name, ours), theirs in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6, msg=name)
    reference.eval()
    with torch.no_grad():
        wanted = reference(images.permute(3, 0, 1, 2).double())
    torch.testing.assert_close(network.logits(images).double(), wanted, rtol=1e-4, atol=1e-5)
    return images
