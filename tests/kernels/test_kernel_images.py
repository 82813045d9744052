"""Batches of images against torch's indexing, `affine_grid` and `grid_sample`."""

from __future__ import annotations

import pytest
import torch
from kernel_reference import needs_kernels
from torch.nn import functional

from nas import data, kernels

pytestmark = needs_kernels


@pytest.mark.parametrize(("shape", "n"), [((1, 28, 28), 37), ((3, 7, 12), 16), ((2, 5, 4), 1)])
def test_augment_is_affine_grid_and_grid_sample(shape, n):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (50, *shape), generator=generator, dtype=torch.uint8)
    index = torch.randint(0, 50, (n,), generator=generator)
    theta = torch.eye(2, 3) + 0.4 * torch.randn(n, 2, 3, generator=generator)
    theta[0] = torch.tensor([[1.0, 0, 5], [0, 1, -7]])  # all of it outside
    mean, std = torch.linspace(0.1, 0.4, shape[0]), torch.linspace(0.3, 0.5, shape[0])
    grid = functional.affine_grid(theta, [n, *shape], align_corners=False)
    raw = functional.grid_sample(images[index].float(), grid, align_corners=False)
    wanted = ((raw / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).permute(1, 2, 3, 0)
    torch.testing.assert_close(kernels.augment(images, index, theta, mean, std), wanted, rtol=1e-4, atol=2e-4)
    plain = ((images[index].float() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).permute(1, 2, 3, 0)
    torch.testing.assert_close(kernels.gather(images, index, mean, std), plain, rtol=1e-5, atol=1e-5)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    torch.testing.assert_close(kernels.augment(images, index, identity, mean, std), plain, rtol=1e-4, atol=1e-4)


def test_gather_refuses_what_is_not_there():
    images = torch.zeros(5, 1, 3, 3, dtype=torch.uint8)
    for index in (5, -1):
        with pytest.raises(IndexError, match=r"0\.\.4"):
            kernels.gather(images, torch.tensor([0, index]), 0.1, 0.3)


@pytest.mark.parametrize(("shape", "n"), [((1, 28, 28), 37), ((3, 7, 12), 16), ((2, 5, 4), 1)])
def test_colours_and_holes_are_those_of_plain_torch(shape, n):
    generator = torch.Generator().manual_seed(n)
    images = torch.randn(n, *shape, generator=generator)
    colours = data.random_colours(n, jitter=0.4, generator=generator)
    holes = data.random_holes(n, side=3, image_size=shape[1:], generator=generator)
    draws = data.Draws(torch.eye(2, 3).expand(n, 2, 3).contiguous(), colours, holes)
    wanted = data.apply_draws(images, draws, data.Normalization((0.0,) * shape[0], (1.0,) * shape[0]))
    batch = images.permute(1, 2, 3, 0).contiguous()
    kernels.recolour_(batch, colours)
    kernels.erase_(batch, holes)
    torch.testing.assert_close(batch.permute(3, 0, 1, 2), wanted, rtol=1e-4, atol=2e-4)


def test_colours_and_holes_that_do_not_fit_are_refused():
    batch = torch.zeros(1, 4, 5, 2)
    with pytest.raises(ValueError, match="colours are"):
        kernels.recolour_(batch, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="holes are"):
        kernels.erase_(batch, torch.zeros(2, 4))
    for hole in ([0, 5, 0, 5], [0, 4, 0, 6], [-1, 2, 0, 1]):
        with pytest.raises(IndexError, match="4 rows and 5 columns"):
            kernels.erase_(batch, torch.tensor([hole, [0, 0, 0, 0]]))
