"""What the tests of training share: a small network with every kind of layer, and its teacher."""

from __future__ import annotations

import pytest
import torch

from nas import kernels, train
from nas.architecture import Architecture
from nas.model import TrainedNetwork, build
from nas.train import Recipe

ARCHITECTURE = Architecture.parse("6 M s8b 8k1r M C G", input_shape=(1, 16, 16), num_classes=4)
needs_kernels = pytest.mark.skipif(kernels.unsuited() is not None, reason=str(kernels.unsuited()))
BACKENDS = ["torch", pytest.param("kernels", marks=needs_kernels)]

DISTILLED = Recipe(epochs=2, batch_size=64, teacher="8 M 8 G C", distill_weight=1.0)


def teacher_logits(training, recipe=DISTILLED, *, seed=5, **where):
    """Those of an untrained teacher, for each epoch of its students."""
    weights = build(train.teacher_architecture(recipe, training.dataset), seed=seed).state_dict()
    return torch.stack(
        [train.compute_teacher_logits(recipe, weights, training, epoch, **where) for epoch in range(recipe.epochs)]
    )


def network(training, state_dict, architecture=ARCHITECTURE):
    return TrainedNetwork(
        architecture=architecture, state_dict=state_dict, normalization=training.normalization, classes=tuple("abcd")
    )


def same(a, b):
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)
