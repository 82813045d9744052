from __future__ import annotations

import math

import pytest
import torch
import torchvision
from idx_files import rows
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from nas import data

IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
AS_IS = data.Normalization((0.0,), (1.0,))


def draw(num_samples: int = 1, *, seed: int = 0, size: tuple[int, int] = (28, 28), **ranges: float) -> Tensor:
    zeros = {"degrees": 0.0, "translate_px": 0.0, "scale": 0.0, "shear": 0.0}
    generator = torch.Generator().manual_seed(seed)
    return data.random_affine(num_samples, **(zeros | ranges), image_size=size, generator=generator)


def in_pixels(theta: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A (N, 2, 2) and t (N, 2) of the map in pixels: D theta D^-1, with D the half sizes."""
    half = torch.tensor([size[1] / 2, size[0] / 2])
    return theta[:, :, :2] * half.view(2, 1) / half.view(1, 2), theta[:, :, 2] * half


def picture(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 32, 32), (2, 1, 12, 20)])
def test_the_identity_map_changes_nothing(shape):
    images = picture(*shape)
    normalization = data.Normalization((0.1307,) * shape[1], (0.3081,) * shape[1])
    moved = data.augment(images, IDENTITY.expand(shape[0], 2, 3), normalization)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, normalization.apply(images), atol=1e-4, rtol=0)
    torch.testing.assert_close(draw(shape[0], size=shape[2:]), IDENTITY.expand(shape[0], 2, 3))


def test_normalise_is_per_channel_and_leaves_its_input_alone():
    images = picture(4, 3, 8, 8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    normalization = data.Normalization(mean, std)
    expected = torchvision.transforms.functional.normalize(images / 255, mean, std)
    torch.testing.assert_close(normalization.apply(images), expected)
    scaled = images.float() / 255
    before = scaled.clone()
    torch.testing.assert_close(normalization.apply(scaled), expected)
    theta = IDENTITY.expand(4, 2, 3)
    torch.testing.assert_close(data.augment(scaled, theta, normalization), expected, atol=1e-4, rtol=0)
    assert torch.equal(scaled, before)


def test_equal_images_in_a_batch_get_different_maps():
    images = picture(1, 1, 28, 28).expand(64, 1, 28, 28)
    theta = draw(64, degrees=8, translate_px=1.4, scale=0.07, shear=0.07)
    moved = data.augment(images, theta, AS_IS)
    assert len(rows(moved)) == 64
    alone = torch.cat([data.augment(images[i : i + 1], theta[i : i + 1], AS_IS) for i in range(64)])
    assert torch.equal(moved, alone)  # a sample does not depend on its neighbours


@pytest.mark.parametrize("size", [(28, 28), (16, 24)])
def test_rotation_is_torchvisions_of_the_same_angle(size):
    images = picture(6, 1, *size)
    theta = draw(6, degrees=25, size=size, seed=3)
    moved = data.augment(images, theta, AS_IS)
    matrix, _ = in_pixels(theta, size)
    angles = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    assert angles.abs().max() > 5
    for image, angle, result in zip(images, angles, moved, strict=True):
        expected = affine(image / 255, -angle.item(), [0, 0], 1.0, [0.0], InterpolationMode.BILINEAR)
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)


def test_translation_counts_in_pixels_and_brings_in_black():
    images, (mean, std) = picture(1, 1, 10, 14), (0.25, 0.5)
    theta = IDENTITY.clone().view(1, 2, 3)
    theta[0, 0, 2], theta[0, 1, 2] = 3 * 2 / 14, -2 * 2 / 10  # read 3 to the right, 2 above
    moved = data.augment(images, theta, data.Normalization((mean,), (std,)))
    expected = torch.zeros(1, 1, 10, 14)
    expected[..., 2:, :11] = images[..., :8, 3:] / 255
    torch.testing.assert_close(moved, (expected - mean) / std, atol=1e-4, rtol=0)
    _, shift = in_pixels(draw(5000, translate_px=1.4, size=(10, 14)), (10, 14))
    for axis in range(2):
        assert 1.35 < shift[:, axis].abs().max() <= 1.4 + 1e-6


def test_draws_follow_the_formula_and_fill_their_ranges():
    ranges = {"degrees": 8.0, "translate_px": 1.4, "scale": 0.07, "shear": 0.07}
    theta = draw(20_000, **ranges, size=(20, 30))
    assert theta.dtype == torch.float32
    matrix, shift = in_pixels(theta, (20, 30))
    # The same draws in the documented order, put together as the docstring says, in float64.
    uniform = torch.rand(6, 20_000, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    ranges_of_draws = torch.tensor([math.radians(8), 0.07, 0.07, 0.07, 1.4, 1.4])
    for n in range(5):
        a, s, h, k, tx, ty = (uniform[:, n] * ranges_of_draws).tolist()
        rotation = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        expected = (1 + s) * rotation @ torch.tensor([[1.0, h], [k, 1.0]])
        torch.testing.assert_close(matrix[n], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(shift[n], torch.tensor([tx, ty]), atol=1e-5, rtol=0)
    for axis in range(2):  # uniform: mean 0, standard deviation range / sqrt 3
        assert abs(shift[:, axis].mean().item()) < 0.03
        assert shift[:, axis].std().item() == pytest.approx(1.4 / math.sqrt(3), rel=0.02)
    only_scale, _ = in_pixels(draw(20_000, scale=0.07), (28, 28))
    assert torch.equal(only_scale[:, 0, 0], only_scale[:, 1, 1])  # isotropic
    assert only_scale[:, 0, 1].abs().max() == 0
    assert only_scale[:, 0, 0].min().item() == pytest.approx(0.93, abs=1e-3)
    assert only_scale[:, 0, 0].max().item() == pytest.approx(1.07, abs=1e-3)
    assert torch.equal(theta, draw(20_000, **ranges, size=(20, 30)))
    assert not torch.equal(theta, draw(20_000, seed=1, **ranges, size=(20, 30)))
