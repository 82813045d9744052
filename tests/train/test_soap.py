"""SOAP beside a plain transcription of its equations, and where it must win over Adam."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nas.train import soap
from nas.train.soap import Soap

SHAPES = [(5, 1, 3, 3), (4, 3, 3, 3), (10, 4, 1, 1)]
"""A depthwise convolution, a plain one and a 1x1."""
WEIGHTS, OTHERS = sum(math.prod(shape) for shape in SHAPES), 7
both = pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])


def drawn(steps):
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(WEIGHTS + OTHERS, WEIGHTS + OTHERS, generator=generator)
    return [mixing @ torch.randn(WEIGHTS + OTHERS, generator=generator) for _ in range(steps)]


def soap_of(flat, gradient, shapes=SHAPES, **rates):
    return Soap(flat, gradient, shapes, **{"lr": 0.01, "weight_decay": 0.0, **rates})


def follow(gradients, lr, weight_decay):
    """Where the equations lead from zero weights, in float64, matrix by matrix; a side of one has nothing to turn."""
    beta, eps = 0.95, 1e-8
    total, start = np.zeros(WEIGHTS + OTHERS), 0
    for shape in SHAPES:
        end = start + math.prod(shape)
        m, n = shape[0], math.prod(shape[1:])
        w, left, right = np.zeros((m, n)), np.zeros((m, m)), np.zeros((n, n))
        rows, columns, mean, square = np.eye(m), np.eye(n), np.zeros((m, n)), np.zeros((m, n))
        for t, flat in enumerate(gradients, start=1):
            g = flat[start:end].double().numpy().reshape(m, n)
            left, right = beta * left + (1 - beta) * g @ g.T, beta * right + (1 - beta) * g.T @ g
            mean = beta * mean + (1 - beta) * g
            square = beta * square + (1 - beta) * (rows.T @ g @ columns) ** 2
            direction = rows.T @ mean @ columns / (1 - beta**t)
            direction /= np.sqrt(square / (1 - beta**t)) + eps
            w = w * (1 - lr * weight_decay) - lr * rows @ direction @ columns.T
            if t % 10 == 0:
                if shape[1] > 1:
                    order = np.argsort(-np.diag(rows.T @ left @ rows))
                    rows, square = np.linalg.qr((left @ rows)[:, order])[0], square[order]
                order = np.argsort(-np.diag(columns.T @ right @ columns))
                columns, square = np.linalg.qr((right @ columns)[:, order])[0], square[:, order]
        total[start:end] = w.ravel()
        start = end
    return total[:WEIGHTS]


@both
def test_it_follows_the_equations(monkeypatch, compiled):
    """The bases are renewed after every tenth of 25 steps. The signs in a basis do not matter."""
    monkeypatch.setattr(soap, "PRECONDITION_FREQUENCY", 10)
    gradients = drawn(25)
    flat, gradient = torch.zeros(WEIGHTS + OTHERS), torch.zeros(WEIGHTS + OTHERS)
    optimizer = soap_of(flat, gradient, weight_decay=0.5, compiled=compiled)
    for each in gradients:
        gradient.copy_(each)
        optimizer.step()
    expected = torch.from_numpy(follow(gradients, 0.01, 0.5)).float()
    torch.testing.assert_close(flat[:WEIGHTS], expected, rtol=2e-3, atol=2e-4)


@both
def test_what_is_no_convolution_is_adams_and_without_decay(compiled):
    gradients = drawn(12)
    flat, gradient = torch.ones(WEIGHTS + OTHERS), torch.zeros(WEIGHTS + OTHERS)
    optimizer = soap_of(flat, gradient, weight_decay=0.5, compiled=compiled)
    plain = torch.nn.Parameter(torch.ones(OTHERS))
    adam = torch.optim.Adam([plain], lr=0.01, betas=(0.95, 0.95))
    for each in gradients:
        gradient.copy_(each)
        plain.grad = each[WEIGHTS:]
        optimizer.step()
        adam.step()
    torch.testing.assert_close(flat[WEIGHTS:], plain.data)


@both
def test_the_bases_stay_orthogonal_and_come_to_the_moments_eigenvectors(compiled):
    """With the same few gradients over and over the moments settle; the basis then makes them diagonal."""
    gradients = drawn(4)
    flat, gradient = torch.zeros(WEIGHTS + OTHERS), torch.zeros(WEIGHTS + OTHERS)
    optimizer = soap_of(flat, gradient, compiled=compiled)
    for step in range(3000):
        gradient.copy_(gradients[step % 4])
        optimizer.step()
    matrix = optimizer.matrices[2]
    for basis, moments in zip(matrix.bases, matrix.moments, strict=True):
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)), rtol=0, atol=1e-5)
        turned = basis.T @ moments @ basis
        diagonal = turned.diagonal()
        assert (turned - diagonal.diag()).abs().max() < 0.02 * diagonal[0]
        assert diagonal.tolist() == sorted(diagonal.tolist(), reverse=True)


def test_a_side_too_long_and_the_filters_of_a_depthwise_one_have_no_basis(monkeypatch):
    monkeypatch.setattr(soap, "MAX_PRECONDITION_DIM", 9)
    optimizer = soap_of(torch.zeros(WEIGHTS), torch.zeros(WEIGHTS))
    sides = [[None if basis is None else len(basis) for basis in matrix.bases] for matrix in optimizer.matrices]
    assert sides == [[None, 9], [4, None], [None, 4]]


def test_it_goes_down_a_slanted_valley_that_adam_crawls_along():
    """The loss is 0.5 |A W - B|^2 with a condition number of 10,000, in no coordinates of the weights'."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    slope = turn @ torch.logspace(0, -2, 12).diag() @ turn.T
    aim = torch.randn(12, 8, generator=generator)

    def loss_after(make):
        weights, gradient = torch.zeros(96), torch.zeros(96)
        optimizer = make(weights, gradient)
        for step in range(600):
            w = weights.view(12, 8)
            gradient.copy_((slope.T @ (slope @ (w - aim))).flatten())
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 600)
            optimizer.step()
        return float((slope @ (weights.view(12, 8) - aim)).square().sum())

    def adam(weights, gradient):
        parameter = torch.nn.Parameter(weights)
        parameter.grad = gradient
        return torch.optim.Adam([parameter], lr=0.1, betas=(0.95, 0.95))

    ours = loss_after(lambda weights, gradient: soap_of(weights, gradient, [(12, 8, 1, 1)]))
    assert ours < 0.1 * loss_after(adam)


@both
@pytest.mark.parametrize("value", [0.0, math.nan])
def test_no_gradient_and_a_broken_one_are_no_error_of_its_own(value, compiled):
    """A loss that is no longer finite is the training loop's to report."""
    flat, gradient = torch.ones(WEIGHTS), torch.full((WEIGHTS,), value)
    optimizer = soap_of(flat, gradient, compiled=compiled)
    for _ in range(2 * soap.PRECONDITION_FREQUENCY):
        optimizer.step()
    assert flat.isnan().all() if math.isnan(value) else flat.equal(torch.ones(WEIGHTS))


@pytest.mark.parametrize("most", [400, 40, 1])
def test_the_compiled_step_is_torchs_to_rounding_over_hundreds_of_steps(monkeypatch, most):
    """Sides of less, just and more than whole vectors and panels of rows; with `most`, some or all without a basis.

    The gradients of one step differ in every direction, as before moments of full rank rounding decides on the bases.
    """
    monkeypatch.setattr(soap, "MAX_PRECONDITION_DIM", most)
    shapes = [(16, 3, 3, 3), (17, 16, 1, 1), (17, 1, 3, 3), (5, 1, 1, 1), (6, 2, 5, 5), (32, 17, 1, 1), (1, 32, 1, 1)]
    size = sum(math.prod(shape) for shape in shapes) + OTHERS
    generator = torch.Generator().manual_seed(5)
    flats, gradients = [torch.ones(size) for _ in range(2)], [torch.zeros(size) for _ in range(2)]
    plain, fast = (
        soap_of(*pair, shapes, weight_decay=0.5, compiled=compiled)
        for *pair, compiled in zip(flats, gradients, (False, True), strict=True)
    )
    scale = torch.rand(size, generator=generator)
    for _ in range(330):
        drawn = scale * torch.randn(size, generator=generator)
        for gradient, optimizer in zip(gradients, (plain, fast), strict=True):
            gradient.copy_(drawn)
            optimizer.step()
    torch.testing.assert_close(flats[1], flats[0], rtol=0, atol=1e-3)  # of a way of 0.01 a step
    assert (flats[0] - 1).abs().mean() > 0.05
    for one, other in zip(plain.matrices, fast.matrices, strict=True):
        for moments, others in zip(one.moments, other.moments, strict=True):
            if moments is not None:
                torch.testing.assert_close(others, moments, rtol=1e-4, atol=1e-5)


def test_the_compiled_step_of_a_network_without_convolutions():
    flat, gradient = torch.ones(OTHERS), torch.ones(OTHERS)
    soap_of(flat, gradient, [], compiled=True).step()
    torch.testing.assert_close(flat, torch.full((OTHERS,), 0.99))


def test_the_compiled_step_gives_the_same_bits_every_time():
    found = []
    for _ in range(2):
        flat, gradient = torch.zeros(WEIGHTS + OTHERS), torch.zeros(WEIGHTS + OTHERS)
        optimizer = soap_of(flat, gradient, compiled=True)
        for each in drawn(65):
            gradient.copy_(each)
            optimizer.step()
        found.append(flat)
    assert found[0].equal(found[1])
