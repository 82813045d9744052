"""Validation splits and folds: stratified, seeded, disjoint; the hash of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from nas.data.dataset import Normalization, Split, TrainingData
from nas.errors import UsageError

IMBALANCE = 1.5
"""Images of the largest class for one of the smallest, from which on a set is imbalanced."""


def imbalanced_counts(labels: Tensor, num_classes: int) -> tuple[int, ...] | None:
    """Return the number of images of each class where they differ by more than half; None where they are balanced."""
    counts = torch.bincount(labels.cpu(), minlength=num_classes).tolist()
    return tuple(counts) if max(counts) > IMBALANCE * min(counts) else None


VALIDATION_SHARE = 1 / 6
"""Share of the training images that is drawn for validation: 10,000 of MNIST's 60,000."""


def held_out_size(images: int, validation: int | float, least: int = 0) -> int:
    """Return how many of so many images are drawn for `validation`: a number of them, or a share when below 1."""
    return max(least, round(validation * images) if validation < 1 else int(validation))


def class_quotas(labels: Tensor, size: int, num_classes: int) -> Tensor:
    """Return how many images of each class (num_classes,) are among `size`, drawn in proportion.

    A class gets its exact share of `size` rounded down; the largest remainders get the images left over.
    """
    shares = torch.bincount(labels, minlength=num_classes) * size
    quotas = shares // len(labels)
    quotas[(shares % len(labels)).argsort(descending=True, stable=True)[: size - int(quotas.sum())]] += 1
    return quotas


def stratified_split(split: Split, size: int, num_classes: int, generator: torch.Generator) -> tuple[Split, Split]:
    """Return (the rest, `size` images), each class in proportion (`class_quotas`) and both in the order of `split`.

    Raise `UsageError` for a size that leaves fewer images than classes on either side.
    """
    if not num_classes <= size <= len(split) - num_classes:
        raise UsageError(
            f"a split of {size} images from {len(split)}: give {num_classes} to {len(split) - num_classes}, "
            f"an image per class on either side"
        )
    chosen = torch.zeros(len(split), dtype=torch.bool)
    for label, quota in enumerate(class_quotas(split.labels, size, num_classes).tolist()):
        members = (split.labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    rest = ~chosen
    return Split(split.images[rest], split.labels[rest]), Split(split.images[chosen], split.labels[chosen])


def fold_number(training: TrainingData, number: int) -> int:
    """Return which of the existing validation splits `with_fold` gives for a number: 0 the one at hand, else from 1."""
    assert training.validation is not None, "folds need a validation split"
    others = (len(training.train) - training.dataset.num_classes) // len(training.validation)
    return 1 + (number - 1) % others if number and others else 0


def with_fold(training: TrainingData, number: int, held_out_folds: Collection[int] = ()) -> TrainingData:
    """Return the same images with another validation split: 0 the one at hand, from 1 on the others in turn.

    These are parts of `training.train`, disjoint and as large, with each class in proportion; the images at hand for
    validation go back to `train`, but for those of the folds in `held_out_folds`. MNIST with its sixth has four others;
    a small part of it has none, and 0 stands in.
    """
    assert training.validation is not None, "folds need a validation split"
    device, size, classes = training.train.labels.device, len(training.validation), training.dataset.num_classes
    generator, rest = torch.Generator().manual_seed(0), training.train.to("cpu")
    chosen = fold_number(training, number)
    held_out = {chosen, *(fold_number(training, other) for other in held_out_folds)}
    parts = [training.validation.to("cpu")]
    for _ in range(max(held_out)):
        rest, part = stratified_split(rest, size, classes, generator)
        parts.append(part)
    if len(parts) == 1:
        return training
    used = [rest, *(part for place, part in enumerate(parts) if place not in held_out)]
    images, labels = torch.cat([part.images for part in used]), torch.cat([part.labels for part in used])
    return replace(
        training,
        train=Split(images, labels).to(device),
        validation=parts[chosen].to(device),
        normalization=Normalization.from_images(images),
    )


def sha256(split: Split) -> str:
    """Return the sha256 of a split on the CPU: image bytes, then label bytes."""
    digest = hashlib.sha256(split.images.numpy().data)
    digest.update(split.labels.to(torch.uint8).numpy().data)
    return digest.hexdigest()
