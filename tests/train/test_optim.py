"""The learning rate, the average's decay, and the flat tensors that an optimizer step works on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import ARCHITECTURE

from nas import train
from nas.model import build
from nas.train import Recipe
from nas.train.optim import flatten, make_optimizer
from nas.train.soap import Soap


def test_smaller_networks_take_a_higher_rate_up_to_a_limit():
    recipe = Recipe(epochs=1, peak_lr=0.01)
    rates = {size: train.peak_lr(recipe, size) for size in (80_000, 8000, 2000, 100)}
    assert rates == pytest.approx({80_000: 0.01, 8000: 0.01, 2000: 0.02, 100: 0.03})
    assert train.peak_lr(dataclasses.replace(recipe, lr_exponent=0.0), 100) == 0.01


def test_the_rate_is_torchs_one_cycle():
    """Torch counts its steps from the other end, so at a thousand steps the two agree to about a step's change."""
    recipe, steps = Recipe(warmup_fraction=0.2), 1000
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.2)
    for step in range(steps):
        ours = train.learning_rate(recipe, (step + 1) / steps, peak=0.1)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-3)
        optimizer.step()
        if step + 1 < steps:
            cycle.step()


@given(st.floats(0, 0.9), st.integers(1, 500))
def test_the_rate_rises_then_falls_to_nearly_zero(warmup_fraction, steps):
    recipe = Recipe(warmup_fraction=warmup_fraction)
    rates = [train.learning_rate(recipe, (step + 1) / steps, peak=1.0) for step in range(steps)]
    assert all(0 < rate <= 1 + 1e-5 for rate in rates)
    assert rates[-1] < 1e-5
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_the_decay_ramps_up_to_its_horizon(ema_horizon, steps):
    recipe = Recipe(ema_horizon=ema_horizon)
    values = [train.ema_decay(recipe, step, steps) for step in range(1, steps + 1, max(1, steps // 50))]
    assert all(0 <= value < 1 for value in values)
    assert values == sorted(values)
    assert values[0] <= 0.1
    assert values[-1] <= 1 - 1 / max(1, ema_horizon * steps)


def flat_part(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def test_the_flat_tensors_are_the_models_own():
    """Convolution weights, other parameters, running statistics: what is written here is read there."""
    model = build(ARCHITECTURE, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flat, gradient, num_params = flatten(model)
    assert all(model.state_dict()[name].equal(value) for name, value in before.items())
    assert num_params == ARCHITECTURE.num_params
    groups = (
        [p for p in model.parameters() if p.ndim == 4],
        [p for p in model.parameters() if p.ndim != 4],
        [b for b in model.buffers() if b.ndim],
    )
    flat.copy_(torch.arange(len(flat), dtype=torch.float32))
    gradient.copy_(-flat)
    assert flat_part(tensor for group in groups for tensor in group).equal(flat)
    assert flat_part(p.grad for group in groups[:2] for p in group).equal(gradient[:num_params])


def test_the_optimizer_is_soap_on_convolution_weights_and_plain_adam_without_decay_on_the_rest():
    """Three steps with given gradients, against SOAP on the weights laid out here and torch's Adam on the others."""
    recipe = Recipe(weight_decay=0.5)
    model, reference = build(ARCHITECTURE, seed=0), build(ARCHITECTURE, seed=0)
    flat, gradient, num_params = flatten(model)
    optimizer = make_optimizer(model, flat[:num_params], gradient[:num_params], recipe)
    weights = [p for p in reference.parameters() if p.ndim == 4]
    others = [p for p in reference.parameters() if p.ndim != 4]
    laid_out = flat_part(weights)
    slopes = torch.zeros_like(laid_out)
    soap = Soap(laid_out, slopes, [tuple(p.shape) for p in weights], lr=recipe.peak_lr, weight_decay=0.5)
    adam = torch.optim.Adam(others, lr=recipe.peak_lr, betas=(0.95, 0.95))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            drawn = torch.randn(ours.shape, generator=generator)
            ours.grad.copy_(drawn)
            theirs.grad = drawn
        slopes.copy_(flat_part(p.grad for p in weights))
        optimizer.step()
        soap.step()
        adam.step()
    torch.testing.assert_close(flat_part(p for p in model.parameters() if p.ndim == 4), laid_out)
    torch.testing.assert_close(flat_part(p for p in model.parameters() if p.ndim != 4), flat_part(others))
    assert flat[num_params:].equal(flat_part(b for b in build(ARCHITECTURE).buffers() if b.ndim))


def test_without_a_gradient_only_convolution_weights_decay():
    recipe = Recipe(weight_decay=0.5)
    model = build(ARCHITECTURE, seed=0)
    flat, gradient, num_params = flatten(model)
    before = [p.detach().clone() for p in model.parameters()]
    make_optimizer(model, flat[:num_params], gradient[:num_params], recipe).step()
    for was, now in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), was * (1 - 0.5 * recipe.peak_lr) if was.ndim == 4 else was)
