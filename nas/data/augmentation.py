"""Random affine maps of whole batches, drawn per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data.dataset import Normalization, unit_scale


def random_affine(
    num_samples: int,
    *,
    degrees: float,
    translate_px: float,
    scale: float,
    shear: float,
    image_size: tuple[int, int],
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
    return torch.stack(row_x + row_y, dim=1).view(num_samples, 2, 3)


def augment(images: Tensor, theta: Tensor, normalization: Normalization) -> Tensor:
    """Move images (N, C, H, W), each by its own map theta (N, 2, 3), then normalise: float32 (N, C, H, W).

    uint8 images are scaled to 0..1, floating ones taken to be there. The raw pixels are interpolated
    (bilinear, zero outside the image), so that what moves in at a border has the value of a black pixel,
    -mean / std.
    """
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(unit_scale(images), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return normalization.apply_(moved)
