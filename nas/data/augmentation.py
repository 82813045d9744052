"""Random changes of whole batches, drawn per image: affine maps, mirroring, whole-pixel shifts, colours, holes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data.dataset import Normalization, unit_scale


@dataclass(frozen=True, eq=False)
class Draws:
    """The random changes of N images, on one device; what an image goes through, in this order."""

    maps: Tensor
    """Affine maps (N, 2, 3) float32, as `random_affine` draws them."""
    colours: Tensor | None = None
    """Factors (N, 3) float32 as `random_colours` draws them; None where colours stay."""
    holes: Tensor | None = None
    """First and last rows and columns (N, 4) int64 as `random_holes` draws them; None where nothing is cut out."""

    def __getitem__(self, index: Any) -> Draws:
        """Return the changes of some of the images."""
        return self.each(lambda part: part[index])

    def to(self, device: torch.device | str) -> Draws:
        return self.each(lambda part: part.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> Draws:
        """Return the same with each tensor changed."""
        return Draws(*(None if part is None else change(part) for part in self._parts()))  # type: ignore[arg-type]

    @classmethod
    def stack(cls, draws: Sequence[Draws]) -> Draws:
        """Return the changes of several sets of images as one, with a dimension more in front."""
        columns = zip(*(each._parts() for each in draws), strict=True)
        return cls(*(None if parts[0] is None else torch.stack(parts) for parts in columns))  # type: ignore[arg-type]

    def copy_(self, other: Draws) -> None:
        """Take over the changes of others, of the same shapes, in place."""
        for part, new in zip(self._parts(), other._parts(), strict=True):
            if part is not None and new is not None:
                part.copy_(new)

    def _parts(self) -> tuple[Tensor | None, ...]:
        return (self.maps, self.colours, self.holes)


def random_affine(
    num_samples: int,
    *,
    degrees: float,
    translate_px: float,
    scale: float,
    shear: float,
    image_size: tuple[int, int],
    mirror: float = 0.0,
    crop: int = 0,
    generator: torch.Generator,
) -> Tensor:
    """Draw an affine map per sample, theta (N, 2, 3) float32 on the generator's device, for `augment`.

    With p the position of an output pixel, in pixels from the image centre (x right, y down), the output at p
    is the input at A p + t, where

        A = s R(a) [[1, h], [k, 1]],   R(a) = [[cos a, -sin a], [sin a, cos a]],
        a ~ U(±degrees), s ~ U(1 ± scale), h, k ~ U(±shear), t = (tx, ty) ~ U(±translate_px)²,

    all independent and drawn per sample (torchvision's random transforms draw once for a whole batch).
    `affine_grid` with align_corners=False runs from -1 to 1 over the width W and the height H of `image_size`
    (H, W); with D = diag(W / 2, H / 2), theta = [D⁻¹ A D | D⁻¹ t].

    With the probability `mirror` the input is mirrored left to right besides, and with `crop` it is moved by whole
    pixels along each axis, up to so many either way, after the map: the crops of an image that is padded with black.
    """
    draws = torch.rand(6, num_samples, generator=generator, device=generator.device) * 2 - 1
    angle = draws[0] * math.radians(degrees)
    size = 1 + draws[1] * scale
    shear_x, shear_y = draws[2] * shear, draws[3] * shear
    shift_x, shift_y = draws[4] * translate_px, draws[5] * translate_px
    cos, sin = size * angle.cos(), size * angle.sin()
    height, width = image_size
    row_x = [cos - sin * shear_y, (cos * shear_x - sin) * (height / width), shift_x * (2 / width)]
    row_y = [(sin + cos * shear_y) * (width / height), sin * shear_x + cos, shift_y * (2 / height)]
    theta = torch.stack(row_x + row_y, dim=1).view(num_samples, 2, 3)
    if crop:  # drawn after the rest, so that a recipe without has the same maps as ever
        pixels = torch.randint(-crop, crop + 1, (num_samples, 2), generator=generator, device=generator.device)
        theta[:, 0, 2] += pixels[:, 0] * (2 / width)
        theta[:, 1, 2] += pixels[:, 1] * (2 / height)
    if mirror:
        mirrored = torch.rand(num_samples, generator=generator, device=generator.device) < mirror
        theta[:, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    return theta


def random_colours(num_samples: int, *, jitter: float, generator: torch.Generator) -> Tensor:
    """Draw factors (N, 3) float32 for `recolour_`: (c s, c (1 - s), b), with c, s ~ U(1 ± jitter), b ~ U(± jitter).

    c is contrast about the mean of all images, s saturation, b brightness in standard deviations.
    """
    draws = torch.rand(3, num_samples, generator=generator, device=generator.device) * 2 - 1
    contrast, saturation = 1 + draws[0] * jitter, 1 + draws[1] * jitter
    return torch.stack([contrast * saturation, contrast * (1 - saturation), draws[2] * jitter], dim=1)


def random_holes(num_samples: int, *, side: int, image_size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a square of `side` pixels for each image, its centre anywhere in the image: (N, 4) int64 for `erase_`.

    First row, row after the last, first column, column after the last, within the image (DeVries and Taylor,
    "Improved Regularization of Convolutional Neural Networks with Cutout", 2017).
    """
    bounds = []
    for length in image_size:
        first = torch.randint(length, (num_samples,), generator=generator, device=generator.device) - side // 2
        bounds += [first.clamp(0, length), (first + side).clamp(0, length)]
    return torch.stack(bounds, dim=1)


def apply_draws(images: Tensor, draws: Draws, normalization: Normalization) -> Tensor:
    """Send images (N, C, H, W) through their changes: `augment`, then `recolour_` and `erase_` where there are any."""
    changed = augment(images, draws.maps, normalization)
    if draws.colours is not None:
        recolour_(changed, draws.colours)
    return changed if draws.holes is None else erase_(changed, draws.holes)


def recolour_(images: Tensor, colours: Tensor) -> Tensor:
    """Set each normalised image (N, C, H, W), in place, to a image + b mean over channels + c, by its (a, b, c)."""
    own, shared, offset = colours.view(-1, 3, 1, 1, 1).unbind(1)
    grey = images.mean(1, keepdim=True)
    return images.mul_(own).add_(grey * shared + offset)


def erase_(images: Tensor, holes: Tensor) -> Tensor:
    """Set a rectangle of each normalised image (N, C, H, W), in place, to zero, the mean of all images."""
    top, bottom, left, right = holes.view(-1, 4, 1).unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    inside = ((rows >= top) & (rows < bottom))[:, None, :, None] & ((columns >= left) & (columns < right))[
        :, None, None
    ]
    return images.masked_fill_(inside, 0.0)


def augment(images: Tensor, theta: Tensor, normalization: Normalization) -> Tensor:
    """Move images (N, C, H, W), each by its own map theta (N, 2, 3), then normalise: float32 (N, C, H, W).

    uint8 images are scaled to 0..1, floating ones taken to be there. The raw pixels are interpolated
    (bilinear, zero outside the image), so that what moves in at a border has the value of a black pixel,
    -mean / std.
    """
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(unit_scale(images), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return normalization.apply_(moved)
