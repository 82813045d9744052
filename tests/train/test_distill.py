"""Distillation: what a teacher gives, and what its students make of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small import ARCHITECTURE, BACKENDS, DISTILLED, needs_kernels, same, teacher_logits

from nas import train
from nas.errors import UsageError
from nas.model import build
from nas.train import Recipe
from nas.train.backends import KernelsNetwork, TorchNetwork


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_student_of_soft_targets_alone_never_uses_its_labels(training, backend):
    """Its loss is of the labels, and its weights are of the teacher: other labels, the same weights."""
    options = {"teacher_logits": teacher_logits(training, backend=backend), "backend": backend}
    labels = (training.train.labels + 1) % 4
    other = dataclasses.replace(training, train=dataclasses.replace(training.train, labels=labels))
    one, two = (train.train(ARCHITECTURE, each, each.validation, DISTILLED, **options) for each in (training, other))
    assert same(one.state_dict, two.state_dict)
    assert one.epochs[-1].train_loss != two.epochs[-1].train_loss
    by_another = train.train(
        ARCHITECTURE, training, training.validation, DISTILLED,
        teacher_logits=teacher_logits(training, seed=6, backend=backend), backend=backend,
    )  # fmt: skip
    assert not same(one.state_dict, by_another.state_dict)


@needs_kernels
def test_both_backends_learn_the_same_of_a_teacher(training):
    recipe = dataclasses.replace(DISTILLED, epochs=3, peak_lr=0.01, distill_weight=0.7)
    ours, theirs = (
        train.train(
            ARCHITECTURE, training, training.validation, recipe,
            teacher_logits=teacher_logits(training, recipe, backend=backend), backend=backend,
        ).epochs
        for backend in ("kernels", "torch")
    )  # fmt: skip
    for a, b in zip(ours, theirs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=0.02)
        assert a.loss == pytest.approx(b.loss, rel=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_logits_are_of_the_images_as_the_student_sees_them(training, backend, monkeypatch):
    """Logits of the very batches, whatever the student's seed and order; other maps in each epoch."""
    recipe = dataclasses.replace(DISTILLED, epochs=2)
    given = teacher_logits(training, recipe, backend=backend)
    assert (given.shape, given.dtype) == ((2, 384, 4), torch.float16)
    weights = build(train.teacher_architecture(recipe, training.dataset), seed=5).state_dict()
    teacher = build(train.teacher_architecture(recipe, training.dataset))
    teacher.load_state_dict(weights)
    teacher.eval()
    kind = KernelsNetwork if backend == "kernels" else TorchNetwork
    step, compared = kind.step, []

    def watched(self, images, labels, recipe, soft_targets):
        batch = images if backend == "torch" else images.permute(3, 0, 1, 2)
        with torch.no_grad():
            logits = teacher(batch)
        torch.testing.assert_close(soft_targets, (logits / recipe.temperature).softmax(1), rtol=0.01, atol=0.002)
        compared.append(logits)
        return step(self, images, labels, recipe, soft_targets)

    monkeypatch.setattr(kind, "step", watched)
    train.train(
        ARCHITECTURE, training, training.validation, recipe, seed=3, teacher_logits=given, backend=backend
    )  # fmt: skip
    assert len(compared) == 2 * 384 // 64
    assert not given[0].equal(given[1])


def test_a_teacher_is_trained_on_stronger_maps():
    recipe = Recipe(teacher="8 M 8 G C", degrees=8.0, teacher_augmentation=1.5)
    alone = train.teacher_recipe(recipe)
    assert (alone.degrees, alone.translate, alone.teacher) == (12.0, recipe.translate * 1.5, None)
    with pytest.raises(UsageError, match="the recipe's scale is a number between"):
        train.teacher_recipe(dataclasses.replace(recipe, scale=0.8))


def test_a_teacher_and_its_logits_come_together_and_fit(training):
    def refused(recipe, logits):
        with pytest.raises(UsageError) as caught:
            train.train(ARCHITECTURE, training, training.validation, recipe, teacher_logits=logits, backend="torch")
        return str(caught.value)

    logits = teacher_logits(training)
    assert "come together" in refused(DISTILLED, None)
    assert "come together" in refused(dataclasses.replace(DISTILLED, teacher=None), logits)
    for wrong in (logits[:1], logits[:, 1:], logits[..., 1:]):
        assert f"(2, 384, 4) here, not {tuple(wrong.shape)}" in refused(DISTILLED, wrong)
