"""A picture of training images beside themselves as a recipe changes them, to be checked by eye."""

from __future__ import annotations

from pathlib import Path

import torch

from nas.data import Split, TrainingData, apply_draws
from nas.files import write_atomic
from nas.report.pixels import encode_png
from nas.train import Recipe, random_draws

ROWS, TIMES, GAP, SIDE = 10, 6, 2, 64
"""Images; changed copies of each; pixels between; the least side of a picture."""


def write_augmented(training: TrainingData, recipe: Recipe, path: Path) -> None:
    """Write a PNG: a row for each of ten training images, as it is and changed six times. Raise `StorageError`."""
    split = _one_of_each_class(training)
    channels, height, width = training.dataset.input_shape
    repeated = split.images.repeat_interleave(TIMES, 0)
    draws = random_draws(recipe, len(repeated), (height, width), torch.Generator().manual_seed(0))
    changed = apply_draws(repeated, draws, training.normalization)
    mean, std = (
        torch.tensor(each).view(-1, 1, 1) for each in (training.normalization.mean, training.normalization.std)
    )
    levels = ((changed * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    tiles = torch.cat([split.images[:, None], levels.view(len(split), TIMES, channels, height, width)], dim=1)
    factor = max(1, round(SIDE / max(height, width)))
    tiles = tiles.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    tiles = torch.nn.functional.pad(tiles, (GAP, GAP, GAP, GAP), value=255)
    sheet = tiles.permute(0, 3, 1, 4, 2).flatten(1, 1).reshape(len(split) * tiles.shape[3], -1, channels)
    write_atomic(path, encode_png((sheet if channels == 3 else sheet[..., 0]).numpy()))


def _one_of_each_class(training: TrainingData) -> Split:
    """Return ten training images, classes in turn."""
    places: list[int] = []
    by_class = [(training.train.labels == label).nonzero().flatten() for label in range(training.dataset.num_classes)]
    while len(places) < min(ROWS, len(training.train)):
        turn = len(places) // len(by_class)
        members = by_class[len(places) % len(by_class)]
        places.append(int(members[turn % len(members)]))
    return Split(training.train.images[places], training.train.labels[places])
