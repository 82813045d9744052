"""Random changes beyond affine maps: mirroring, whole-pixel crops, colours and holes."""

from __future__ import annotations

import torch

from nas import data

AS_IS = data.Normalization((0.0,), (1.0,))
STILL = {"degrees": 0, "translate_px": 0, "scale": 0, "shear": 0}


def numbers(channels=1, size=(10, 14), count=1):
    values = torch.arange(count * channels * size[0] * size[1]) % 251
    return values.view(count, channels, *size).to(torch.uint8)


def test_mirroring_is_a_flip_of_as_many_as_wanted():
    images = numbers(count=2000).float() / 255
    generator = torch.Generator().manual_seed(0)
    theta = data.random_affine(2000, **STILL, image_size=(10, 14), mirror=0.25, generator=generator)
    moved = data.augment(images, theta, AS_IS)
    flipped = [bool(torch.allclose(new, old.flip(-1), atol=1e-4)) for new, old in zip(moved, images, strict=True)]
    same = [bool(torch.allclose(new, old, atol=1e-4)) for new, old in zip(moved, images, strict=True)]
    assert sum(flipped) + sum(same) == 2000
    assert 420 < sum(flipped) < 580


def test_a_crop_is_a_crop_of_the_padded_image_by_whole_pixels():
    images = numbers(count=300).float() / 255
    generator = torch.Generator().manual_seed(0)
    theta = data.random_affine(300, **STILL, image_size=(10, 14), crop=2, generator=generator)
    moved = data.augment(images, theta, AS_IS)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = set()
    for new, old in zip(moved, padded, strict=True):
        crops = {(y, x): old[:, y : y + 10, x : x + 14] for y in range(5) for x in range(5)}
        (place,) = [place for place, crop in crops.items() if torch.allclose(new, crop, atol=1e-3)]
        found.add(place)
    assert len(found) == 25


def test_without_them_the_maps_are_those_of_ever():
    ranges = {"degrees": 8, "translate_px": 1.4, "scale": 0.07, "shear": 0.07, "image_size": (28, 28)}
    plain = data.random_affine(50, **ranges, generator=torch.Generator().manual_seed(3))
    both = data.random_affine(50, **ranges, mirror=0.5, crop=2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(both[:, 1, :2], plain[:, 1, :2])
    torch.testing.assert_close(both[:, 0, :2].abs(), plain[:, 0, :2].abs())


def test_colours_are_contrast_saturation_and_brightness():
    images = torch.randn(400, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    colours = data.random_colours(400, jitter=0.4, generator=torch.Generator().manual_seed(1))
    draws = data.Draws(torch.eye(2, 3).expand(400, 2, 3).clone(), colours)
    whole = data.Normalization((0.0,) * 3, (1.0,) * 3)
    changed = data.apply_draws(images, draws, whole)
    contrast, brightness = colours[:, 0] + colours[:, 1], colours[:, 2]
    saturation = colours[:, 0] / contrast
    for factor, middle in ((contrast, 1), (saturation, 1), (brightness, 0)):
        assert (factor - middle).abs().max() <= 0.4 + 1e-6
        assert (factor - middle).abs().max() > 0.38
        assert abs(float(factor.mean()) - middle) < 0.05
    grey = images.mean(1)
    wanted = contrast[:, None, None] * grey + brightness[:, None, None]
    torch.testing.assert_close(changed.mean(1), wanted, atol=1e-4, rtol=1e-4)
    spread, before = changed - changed.mean(1, keepdim=True), images - grey[:, None]
    torch.testing.assert_close(spread, before * colours[:, 0].view(-1, 1, 1, 1), atol=1e-4, rtol=1e-4)


def test_a_hole_is_a_square_that_may_stick_out():
    images = torch.ones(500, 2, 9, 12)
    holes = data.random_holes(500, side=4, image_size=(9, 12), generator=torch.Generator().manual_seed(0))
    draws = data.Draws(torch.eye(2, 3).expand(500, 2, 3).clone(), None, holes)
    erased = (data.apply_draws(images, draws, data.Normalization((0.0, 0.0), (1.0, 1.0))) == 0).all(1)
    areas = erased.sum((1, 2))
    assert areas.max() == 16
    assert areas.min() == 4  # half of either side is out
    for mask, (top, bottom, left, right) in zip(erased, holes.tolist(), strict=True):
        assert mask[top:bottom, left:right].all()
        assert mask.sum() == (bottom - top) * (right - left)
    assert erased.any(0).all()  # everywhere some time
