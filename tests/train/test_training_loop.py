"""The training loop: its steps, its average, its failures, its bits."""

from __future__ import annotations

import dataclasses
import importlib
import math

import pytest
import torch
import toys
from small import ARCHITECTURE, BACKENDS, DISTILLED, needs_kernels, network, same, teacher_logits

from nas import data, train
from nas.errors import NasError
from nas.model import build
from nas.train import Diverged, Recipe

loop = importlib.import_module("nas.train.loop")


def go(training, recipe, **options):
    return train.train(ARCHITECTURE, training, training.validation, recipe, backend="torch", **options)


def distance(a, b):
    return math.sqrt(sum(float((a[k] - b[k]).square().sum()) for k in a if a[k].is_floating_point()))


def test_each_step_has_the_rate_of_its_progress(training, monkeypatch):
    recipe, peaks, progress, optimizers = Recipe(epochs=2, peak_lr=0.01), set(), [], []

    def learning_rate(recipe, at, *, peak):
        peaks.add(peak)
        progress.append(at)
        return at / 1000

    make = loop.make_optimizer

    def make_optimizer(*arguments, **options):
        optimizer = make(*arguments, **options)
        step = optimizer.step
        monkeypatch.setattr(optimizer, "step", lambda: optimizers.append(optimizer.param_groups[0]["lr"]) or step())
        return optimizer

    monkeypatch.setattr(loop, "learning_rate", learning_rate)
    monkeypatch.setattr(loop, "make_optimizer", make_optimizer)
    go(training, recipe)
    assert peaks == {train.peak_lr(recipe, ARCHITECTURE.num_params)} != {recipe.peak_lr}
    assert progress == [(n + 1) / 12 for n in range(12)]
    assert optimizers == [at / 1000 for at in progress]


def test_a_small_network_may_take_more_than_the_highest_rate_of_a_recipe(training, monkeypatch):
    """The bounds are the recipe's, not those of what is made of it; and what to lower is the recipe's as well."""
    assert train.peak_lr(Recipe(peak_lr=10.0), ARCHITECTURE.num_params) > 10
    monkeypatch.setattr(loop, "learning_rate", lambda *_, peak: math.nan)
    with pytest.raises(Diverged, match=r"lower peak_lr \(10\.0\)"):
        go(training, Recipe(epochs=1, peak_lr=10.0))


def test_the_average_is_near_the_moving_weights_after_a_few_steps(training):
    """With no average the result is the moving weights; a long one must not leave it at the initial ones."""
    initial = build(ARCHITECTURE, seed=0).state_dict()
    recipe = Recipe(epochs=2, batch_size=64, peak_lr=0.01)
    moving = go(training, dataclasses.replace(recipe, ema_horizon=0.0)).state_dict
    averaged = go(training, dataclasses.replace(recipe, ema_horizon=1.0)).state_dict
    assert distance(averaged, moving) < 0.5 * distance(averaged, initial)
    assert not same(averaged, moving)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_learns_and_scores_as_evaluate_does(training, backend):
    recipe = Recipe(epochs=6, batch_size=32, degrees=0, shear=0, scale=0)
    run = train.train(ARCHITECTURE, training, training.validation, recipe, backend=backend)
    assert run.epochs[-1].accuracy > 60  # of four classes
    assert run.epochs[-1].train_loss < run.epochs[0].train_loss
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3, 4, 5, 6]
    assert run.last(2) == pytest.approx((run.epochs[-1].accuracy + run.epochs[-2].accuracy) / 2)
    assert run.backend == backend
    assert not run.stopped
    scores = train.evaluate(network(training, run.state_dict), training.validation, backend=backend)
    loss, correct = scores.loss, scores.correct
    assert (loss, correct) == (pytest.approx(run.epochs[-1].loss), run.epochs[-1].correct)


@needs_kernels
def test_both_backends_take_the_same_way(training):
    recipe = Recipe(epochs=3, batch_size=64, peak_lr=0.01, label_smoothing=0.1)
    ours, theirs = (
        train.train(ARCHITECTURE, training, training.validation, recipe, backend=backend).epochs
        for backend in ("kernels", "torch")
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=0.02)
        assert a.loss == pytest.approx(b.loss, rel=0.02)
        assert abs(a.correct - b.correct) <= 0.03 * a.count


def test_what_a_step_reads_stays_where_it_is(training, monkeypatch):
    """A CUDA graph reads where it was captured: each batch's images, each epoch's changes and soft targets."""
    places, contents, run = set(), [], loop.TrainingStep._run

    def watched(self, count):
        read = (self._index, self._draws.maps, self._draws.colours, self._draws.holes, self._targets)
        places.add(tuple(tensor.data_ptr() for tensor in read))
        contents.append(tuple(float(tensor.double().square().sum()) for tensor in read))
        return run(self, count)

    monkeypatch.setattr(loop.TrainingStep, "_run", watched)
    recipe = dataclasses.replace(DISTILLED, jitter=0.2, cutout=5, mirror=0.5)
    go(training, recipe, teacher_logits=teacher_logits(training, recipe))
    assert len(places) == 1
    assert [len(set(values)) for values in zip(*contents, strict=True)] == [12, 2, 2, 2, 2]  # two epochs of six batches


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_bits(training, backend):
    runs = [
        train.train(
            ARCHITECTURE, training, training.validation, Recipe(epochs=2, batch_size=64), seed=seed, backend=backend
        )
        for seed in (1, 1, 2)
    ]
    assert same(runs[0].state_dict, runs[1].state_dict)
    assert [dataclasses.replace(epoch, seconds=0) for epoch in runs[0].epochs] == [
        dataclasses.replace(epoch, seconds=0) for epoch in runs[1].epochs
    ]
    assert not same(runs[0].state_dict, runs[2].state_dict)


@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_train_on_one_thread_of_torch(training, backend):
    """Others only wait for each other there; whatever ends a training, the caller has its own number again."""
    torch.set_num_threads(2)
    seen = []

    def on_epoch(epoch):
        seen.append(torch.get_num_threads())
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(ARCHITECTURE, training, training.validation, Recipe(epochs=2), backend=backend, on_epoch=on_epoch)
    assert seen == [1 if backend == "kernels" else 2] * 2
    assert torch.get_num_threads() == 2


def test_it_leaves_the_global_generator_alone(training):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    go(training, Recipe(epochs=1))
    assert torch.get_rng_state().equal(before)


def test_a_last_batch_of_one_image_is_left_out():
    steps = []
    run = go(toys.part(toys.synthetic(), 129), Recipe(epochs=2, batch_size=128), on_step=lambda *at: steps.append(at))
    assert steps == [(1, 2), (2, 2)]
    assert len(run.epochs) == 2
    steps.clear()
    go(toys.part(toys.synthetic(), 130), Recipe(epochs=1, batch_size=128), on_step=lambda *at: steps.append(at))
    assert steps == [(1, 2), (2, 2)]


def test_on_epoch_stops_it(training):
    seen = []
    run = go(training, Recipe(epochs=5), on_epoch=lambda epoch: seen.append(epoch.number) or epoch.number == 2)
    assert seen == [1, 2]
    assert run.stopped
    assert len(run.epochs) == 2
    assert not go(training, Recipe(epochs=1), on_epoch=lambda epoch: True).stopped  # it was over anyway


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_that_is_not_finite_is_a_known_failure(training, backend):
    broken = dataclasses.replace(training, normalization=dataclasses.replace(training.normalization, mean=(math.nan,)))
    with pytest.raises(Diverged, match="the loss is nan in epoch 1") as caught:
        train.train(ARCHITECTURE, broken, training.validation, Recipe(epochs=1), backend=backend)
    assert isinstance(caught.value, NasError)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_augmentation_draws_no_maps(training, backend, monkeypatch):
    monkeypatch.setattr(data, "random_affine", lambda *_, **__: pytest.fail("maps were drawn"))
    still = Recipe(epochs=1, degrees=0, translate=0, scale=0, shear=0)
    assert len(train.train(ARCHITECTURE, training, training.validation, still, backend=backend).epochs) == 1
