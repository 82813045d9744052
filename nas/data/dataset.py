"""The types that the other rooms are handed: data sets, splits, normalization, training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.budget import FULL_EPOCHS
from nas.errors import DataError, UsageError

SplitName = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as far as it is known before it is loaded."""

    name: str  # as the user types it
    title: str
    input_shape: tuple[int, int, int]  # (C, H, W)
    classes: tuple[str, ...]  # the names of the labels 0, 1, ...
    num_train: int
    num_test: int
    comparable: bool = True  # False: its scores cannot stand beside published ones, nor meet a target
    notice: str | None = None  # what the user has to be told before reading any score
    epoch_factor: int = 1  # default epochs are multiplied by it: a small set needs as many steps as a large one
    full_epochs: int = FULL_EPOCHS  # of a full run by default, before that factor
    mirrors: bool = False  # True: an image that is mirrored left to right is still one of its class
    augmentation: Mapping[str, float] = field(default_factory=dict)  # the recipe's fields in which it differs

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel, of images on the 0..1 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_images(cls, images: Tensor) -> Normalization:
        """Measure uint8 images (N, C, H, W). Raise `DataError` if a channel is constant.

        From counts of the 256 values: exact, the same on any number of threads, and without a float32 copy.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in images.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
            mean.append(float(share @ values))
            std.append(math.sqrt(float(share @ (values - mean[-1]).square())))
        if min(std) == 0:
            raise DataError("a channel of the training images is constant: nothing can be learned from it")
        return cls(tuple(mean), tuple(std))

    def apply(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W), uint8 or floating on 0..1, as float32 (x - mean) / std."""
        return self.apply_(unit_scale(images))

    def apply_(self, images: Tensor) -> Tensor:
        """Normalise float32 images (N, C, H, W) on 0..1 in place, and return them."""
        # With numbers: a tensor of means would be copied to a GPU, with a wait, at every batch.
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            images[:, channel].sub_(mean).div_(std)
        return images


ROUNDING = 1e-3
"""Distance from 0..1 that a floating image may have: the rounding of whoever resized it."""


def as_images(images: Tensor | NDArray[Any], shape: tuple[int, ...]) -> Tensor:
    """Return images as a tensor (N, *shape), uint8 or floating on 0..1. Raise `UsageError` for any others."""
    images = torch.as_tensor(images)
    if tuple(images.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise UsageError(f"the network takes images (N, {wanted}), not {tuple(images.shape)}: bring them to that shape")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise UsageError(
            f"images are uint8, or floating-point on 0..1, not {images.dtype}: give levels of 0 to 255 as uint8"
        )
    if images.numel():
        low, high = (float(end) for end in images.aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN too
            raise UsageError(
                f"floating-point images are on 0..1, not {low:g} to {high:g}: divide levels of 0 to 255 by 255"
            )
    return images


def unit_scale(images: Tensor) -> Tensor:
    """Return a float32 copy on 0..1 of images that are uint8, or floating on 0..1 already."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.to(torch.float32, copy=True)


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """All that search and training are handed: no test images, and no path to them."""

    dataset: Dataset
    train: Split
    validation: Split | None
    normalization: Normalization  # of the images of `train`
    hash: str  # sha256 of the whole training set, however it is split: image bytes, then label bytes
    warning: str | None  # set when the training set is not byte for byte the published one
