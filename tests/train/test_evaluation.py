"""Scores of trained weights, and the statistics that they are taken with."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch
from small import ARCHITECTURE, BACKENDS, network, same
from torch.nn import functional as F

from nas import train
from nas.data import Split
from nas.model import build
from nas.train import Recipe

loop = importlib.import_module("nas.train.loop")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_norms_have_the_statistics_of_images_as_they_are(training, backend, monkeypatch):
    """Of the first norm they are those of the first convolution's output, computed here from the weights."""
    recipe = Recipe(epochs=1, degrees=90, translate=6, bn_recalibration_images=384)

    def trained():
        return train.train(ARCHITECTURE, training, training.validation, recipe, backend=backend).state_dict

    recalibrated = trained()
    monkeypatch.setattr(loop, "recalibrate_bn", lambda *_: None)
    moved = trained()
    images = training.normalization.apply(training.train.images)
    with torch.no_grad():
        out = build(ARCHITECTURE)[0].requires_grad_(False)
        out.weight.copy_(recalibrated["0.weight"])
        maps = out(images)
    assert recalibrated["0.weight"].equal(moved["0.weight"])
    torch.testing.assert_close(recalibrated["1.running_mean"], maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(recalibrated["1.running_var"], maps.var((0, 2, 3)), rtol=2e-2, atol=1e-4)
    assert not torch.allclose(moved["1.running_var"], maps.var((0, 2, 3)), rtol=2e-2, atol=1e-4)


def test_the_recalibration_takes_evenly_spaced_images(training):
    """Given the values of their labels' places, those of 64 in 384 are every sixth."""
    seen = []

    class Watching:
        def batch(self, split, index, theta):
            assert theta is None
            return index

        def update_bn_stats(self, images, momentum):
            seen.append((images.tolist(), momentum))

    train.recalibrate_bn(Watching(), training.train, 64)
    train.recalibrate_bn(Watching(), training.train, 10**9)
    assert seen[0] == (list(range(0, 384, 6)), 1)
    assert seen[1:] == [(list(range(128 * n, 128 * n + 128)), 1 / (n + 1)) for n in range(3)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_and_number_correct_are_those_of_the_logits(training, backend):
    """More images than one batch, of a network with statistics of its own, against torch by hand."""
    model = build(ARCHITECTURE, seed=1)
    images = training.train.images.repeat(2, 1, 1, 1)
    split = Split(images, training.train.labels.repeat(2))
    with torch.no_grad():
        model.train()(training.normalization.apply(images))
        logits = model.eval()(training.normalization.apply(images))
    given = network(training, model.state_dict())
    scores = train.evaluate(given, split, backend=backend)
    loss, correct = scores.loss, scores.correct
    mask = train.correct_mask(given, split, backend=backend)
    assert loss == pytest.approx(float(F.cross_entropy(logits, split.labels)), rel=1e-4)
    assert correct == int((logits.argmax(1) == split.labels).sum())
    assert (mask.shape, mask.dtype, int(mask.sum())) == ((768,), torch.bool, correct)
    for label, recall in enumerate(scores.recalls):
        assert recall == pytest.approx(100 * float(mask[split.labels == label].float().mean()))
    by_class = [float(F.cross_entropy(logits[split.labels == k], split.labels[split.labels == k])) for k in range(4)]
    assert scores.balanced_loss == pytest.approx(sum(by_class) / 4, rel=1e-4)
    assert same(given.state_dict, model.state_dict())
    other = dataclasses.replace(given.normalization, mean=(0.9,))
    assert train.evaluate(dataclasses.replace(given, normalization=other), split, backend=backend).loss != loss


def test_a_class_without_images_has_no_recall(training):
    few = Split(training.train.images[:200], training.train.labels[:200].clamp(max=2))
    scores = train.evaluate(network(training, build(ARCHITECTURE, seed=1).state_dict()), few)
    assert scores.recalls[3] is None
    assert train.balanced_accuracy(scores.recalls) == pytest.approx(sum(scores.recalls[:3]) / 3)
    assert train.balanced_accuracy((100.0, 0.0, 50.0)) == 50.0
