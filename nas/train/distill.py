"""Distillation: the network and the recipe of a teacher, its logits, and the soft targets made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from nas.architecture import Architecture
from nas.data import Dataset, Draws, TrainingData
from nas.errors import UsageError
from nas.train.backends import Backend, cpu_math_mode, memory_errors
from nas.train.evaluate import batch_bounds, load_network
from nas.train.recipe import AFFINE, Recipe, random_draws

MAPS_SEED = 20_000
"""Plus the epoch, the seed of the changes that a teacher and all its students share."""

LOGITS_BATCH = 128
"""Images at a time of a teacher."""


def teacher_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe that the teacher of a full run by the recipe is trained with."""
    stronger = {name: getattr(recipe, name) * recipe.teacher_augmentation for name in AFFINE}
    epochs = recipe.teacher_epochs or recipe.epochs
    return dataclasses.replace(recipe, teacher=None, epochs=epochs, teacher_epochs=0, dropout=0.0, **stronger)


def teacher_architecture(recipe: Recipe, dataset: Dataset) -> Architecture:
    """Return the network of the recipe's teacher for the images and classes of a data set."""
    assert recipe.teacher is not None
    return Architecture.parse(recipe.teacher, input_shape=dataset.input_shape, num_classes=dataset.num_classes)


@memory_errors()
@cpu_math_mode()
@torch.inference_mode()
def compute_teacher_logits(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    training: TrainingData,
    epoch: int,
    *,
    device: str = "cpu",
    backend: Backend = "auto",
) -> Tensor:
    """Return the teacher's logits (N, num_classes) for every training image as its students see it in an epoch, from 0.

    float16, on the CPU. Students with the same recipe share the changes of `shared_draws`, so that a teacher's logits
    are computed once for all seeds and students: batch by batch in each training, they took more than half of its time.
    """
    architecture = teacher_architecture(recipe, training.dataset)
    network = load_network(architecture, weights, training.normalization, device, backend)
    split, draws = training.train, shared_draws(recipe, training, epoch) if recipe.augments else None
    parts = []
    for start, end in batch_bounds(len(split), LOGITS_BATCH, least=1):
        index = torch.arange(start, end, device=split.labels.device)
        parts.append(network.logits(network.batch(split, index, None if draws is None else draws[start:end])))
    return torch.cat(parts).half().cpu()


def shared_draws(recipe: Recipe, training: TrainingData, epoch: int) -> Draws:
    """Return an epoch's changes of all images for a teacher and its students, drawn on the CPU: one for all devices."""
    generator = torch.Generator().manual_seed(MAPS_SEED + epoch)
    draws = random_draws(recipe, len(training.train), training.dataset.input_shape[1:], generator)
    return draws.to(training.train.labels.device)


def check_logits(recipe: Recipe, training: TrainingData, logits: Tensor | None) -> None:
    """Raise `UsageError` for a recipe with a teacher but no logits, or the reverse, or logits of another shape."""
    if (recipe.teacher is None) != (logits is None):
        raise UsageError("a recipe with a teacher and that teacher's logits come together: one is missing")
    count, num_classes = len(training.train), training.dataset.num_classes
    if logits is not None and (len(logits) < recipe.epochs or logits.shape[1:] != (count, num_classes)):
        wanted = f"({recipe.epochs}, {count}, {num_classes})"
        raise UsageError(f"the teacher's logits are {wanted} here, not {tuple(logits.shape)}")


def soft_targets(logits: Tensor, recipe: Recipe) -> Tensor:
    """Return a teacher's probabilities (N, num_classes) at the recipe's temperature."""
    return (logits.float() / recipe.temperature).softmax(1)
