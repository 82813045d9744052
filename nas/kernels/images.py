"""Batches of raw images: normalised, sampled through affine maps if there are any, recoloured and cut into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.kernels.cache import compile_all
from nas.kernels.jit import entry

Channels = float | Sequence[float] | Tensor
"""One number, or one for each channel."""


def gather(images: Tensor, index: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Return the images (M, C, H, W) uint8 at `index` (N,) int64 as (pixel / 255 - mean) / std, (C, H, W, N) float32.

    Raises `IndexError` on an index outside the images.
    """
    compile_all()
    affine, out = _prepare(images, index, mean, std)
    _gather(images.numpy(), index.numpy(), affine, out.numpy())
    return out


def augment(images: Tensor, index: Tensor, theta: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Do what `gather` does, through an affine map for each image, `theta` (N, 2, 3) float32.

    Bilinear, with raw pixel 0 outside the image: torch's `affine_grid` and `grid_sample` (align_corners=False, zeros).
    """
    compile_all()
    affine, out = _prepare(images, index, mean, std)
    if theta.shape != (len(index), 2, 3) or theta.dtype != torch.float32:
        raise ValueError(f"theta is ({len(index)}, 2, 3) float32, not {tuple(theta.shape)} {theta.dtype}")
    _augment(images.numpy(), index.numpy(), theta.contiguous().numpy(), affine, out.numpy())
    return out


def recolour_(batch: Tensor, colours: Tensor) -> None:
    """Set each image of a batch (C, H, W, N) to a image + b mean over channels + c, by its row of (N, 3) float32."""
    compile_all()
    if colours.shape != (batch.shape[3], 3) or colours.dtype != torch.float32:
        raise ValueError(f"colours are ({batch.shape[3]}, 3) float32, not {tuple(colours.shape)} {colours.dtype}")
    _recolour(batch.numpy(), colours.contiguous().numpy())


def erase_(batch: Tensor, holes: Tensor) -> None:
    """Set a rectangle of each image of a batch (C, H, W, N) to zero, by its row of (N, 4) int64.

    A row is: first row, row after the last, first column, column after the last. Raises `IndexError` on a rectangle
    that lies outside the image.
    """
    compile_all()
    _, h, w, n = batch.shape
    if holes.shape != (n, 4) or holes.dtype != torch.int64:
        raise ValueError(f"holes are ({n}, 4) int64, not {tuple(holes.shape)} {holes.dtype}")
    if n and (int(holes.min()) < 0 or int(holes[:, :2].max()) > h or int(holes[:, 2:].max()) > w):
        raise IndexError(f"a hole lies within {h} rows and {w} columns")
    _erase(batch.numpy(), holes.contiguous().numpy())


def _prepare(images: Tensor, index: Tensor, mean: Channels, std: Channels) -> tuple[Any, Tensor]:
    """Return scale and shift of a raw pixel, for each channel, and room for the batch."""
    count, channels, h, w = images.shape
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= count):  # the kernels do not look
        raise IndexError(f"an index lies in 0..{count - 1}, not {int(index.min())} or {int(index.max())}")
    means = np.broadcast_to(np.asarray(mean, np.float64).ravel(), (channels,))
    stds = np.broadcast_to(np.asarray(std, np.float64).ravel(), (channels,))
    scale, shift = (1 / (255 * stds)).astype(np.float32), (-means / stds).astype(np.float32)
    return (scale, shift), torch.empty(channels, h, w, len(index))


@entry
def _gather(images: Any, index: Any, affine: Any, out: Any) -> None:
    """Take sixteen images at a time, so that a line of the output is filled while it is in the cache."""
    scale, shift = affine
    _, channels, h, w = images.shape
    batch = len(index)
    for start in range(0, batch, 16):
        end = min(batch, start + 16)
        for c in range(channels):
            for y in range(h):
                for x in range(w):
                    for n in range(start, end):
                        out[c, y, x, n] = images[index[n], c, y, x] * scale[c] + shift[c]


@entry
def _augment(images: Any, index: Any, theta: Any, affine: Any, out: Any) -> None:
    """Normalise each image into a frame of background, so that no tap needs a bounds check, and sample it there.

    Sixteen are written at a time, as in `_gather`.
    """
    scale, shift = affine
    _, channels, h, w = images.shape
    batch = len(index)
    # One pixel of background before the image and two after it: a sample lies at most one pixel outside, and reads the
    # next pixel as well.
    wide = np.int32(w + 3)
    frame = np.empty((h + 3) * (w + 3), np.float32)
    tile = np.empty((16, h, w), np.float32)
    one, half = np.float32(1), np.float32(0.5)
    height, width = np.float32(h), np.float32(w)
    for start in range(0, batch, 16):
        end = min(batch, start + 16)
        for c in range(channels):
            frame[:] = shift[c]  # raw pixel 0
            for n in range(start, end):
                image = images[index[n], c]
                for y in range(h):
                    row = frame[(y + 1) * (w + 3) + 1 :]
                    for x in range(w):
                        row[x] = image[y, x] * scale[c] + shift[c]
                xx, xy, x0 = theta[n, 0, 0], theta[n, 0, 1], theta[n, 0, 2]
                yx, yy, y0 = theta[n, 1, 0], theta[n, 1, 1], theta[n, 1, 2]
                for y in range(h):
                    v = np.float32(2 * y + 1) / height - one  # the pixel's centre, in torch's -1..1
                    sampled = tile[n - start, y]
                    for x in range(w):
                        u = np.float32(np.int32(2 * x + 1)) / width - one
                        px = ((xx * u + xy * v + x0 + one) * width - one) * half
                        py = ((yx * u + yy * v + y0 + one) * height - one) * half
                        # Into the frame, where all further out is the same background. A NaN fails both comparisons
                        # and lands outside, instead of anywhere in memory.
                        px = ((px if px < width else width) if px > -one else -one) + one
                        py = ((py if py < height else height) if py > -one else -one) + one
                        ix, iy = np.int32(px), np.int32(py)
                        fx, fy = px - np.float32(ix), py - np.float32(iy)
                        # Unsigned: a signed subscript is tested for a count from the end, which costs the vectors.
                        at = np.uint32(iy * wide + ix)
                        under = np.uint32(at + np.uint32(wide))
                        a, b = frame[at], frame[np.uint32(at + np.uint32(1))]
                        d, e = frame[under], frame[np.uint32(under + np.uint32(1))]
                        upper, lower = a + fx * (b - a), d + fx * (e - d)
                        sampled[x] = upper + fy * (lower - upper)
            for y in range(h):
                for x in range(w):
                    line = out[c, y, x, start:end]
                    for n in range(end - start):
                        line[n] = tile[n, y, x]


@entry
def _recolour(batch: Any, colours: Any) -> None:
    channels, h, w, count = batch.shape
    own, shared, offset = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    for n in range(count):  # lines of their own, so that the loops below are over neighbours
        own[n], shared[n], offset[n] = colours[n, 0], colours[n, 1] / np.float32(channels), colours[n, 2]
    grey = np.empty(count, np.float32)
    for y in range(h):
        for x in range(w):
            for n in range(count):
                grey[n] = batch[0, y, x, n]
            for c in range(1, channels):
                for n in range(count):
                    grey[n] += batch[c, y, x, n]
            for n in range(count):
                grey[n] = grey[n] * shared[n] + offset[n]
            for c in range(channels):
                for n in range(count):
                    batch[c, y, x, n] = batch[c, y, x, n] * own[n] + grey[n]


@entry
def _erase(batch: Any, holes: Any) -> None:
    channels, _, _, count = batch.shape
    for n in range(count):
        for c in range(channels):
            for y in range(holes[n, 0], holes[n, 1]):
                for x in range(holes[n, 2], holes[n, 3]):
                    batch[c, y, x, n] = 0
