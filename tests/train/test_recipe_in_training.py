"""The recipe's later fields in a training: mirroring, crops, colours, holes, and class weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small import ARCHITECTURE, BACKENDS, needs_kernels, same

from nas import data, train
from nas.data import Split
from nas.errors import UsageError
from nas.train import Recipe
from nas.train.recipe import draw_order

WHOLE = Recipe(epochs=2, batch_size=64, mirror=0.5, crop=2, jitter=0.3, cutout=5, class_weights=0.5)


def trained(training, recipe, backend, seed=1):
    return train.train(ARCHITECTURE, training, training.validation, recipe, seed=seed, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_bits_and_each_change_counts(training, backend):
    first, again = (trained(training, WHOLE, backend) for _ in range(2))
    assert same(first.state_dict, again.state_dict)
    for name in ("mirror", "crop", "jitter", "cutout", "class_weights"):
        without = trained(training, dataclasses.replace(WHOLE, epochs=1, **{name: 0}), backend)
        other = trained(training, dataclasses.replace(WHOLE, epochs=1), backend)
        assert not same(without.state_dict, other.state_dict), name


@needs_kernels
def test_both_backends_learn_alike_from_changed_images(training):
    ours, theirs = (trained(training, WHOLE, backend).epochs[0] for backend in ("kernels", "torch"))
    assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.02)
    assert ours.loss == pytest.approx(theirs.loss, rel=0.02)


def test_class_weights_draw_rare_classes_more_often():
    labels = torch.tensor([0] * 8000 + [1] * 1000 + [2] * 500)
    split = Split(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)

    def shares(power):
        order = draw_order(split, Recipe(class_weights=power), torch.Generator().manual_seed(0))
        assert len(order) == len(labels)
        return torch.bincount(labels[order], minlength=3) / len(labels)

    assert torch.equal(shares(0.0), torch.tensor([8000, 1000, 500]) / 9500)
    torch.testing.assert_close(shares(1.0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    roots = torch.tensor([8000, 1000, 500]).sqrt()
    torch.testing.assert_close(shares(0.5), roots / roots.sum(), atol=0.02, rtol=0)


def test_the_default_recipe_of_a_data_set():
    assert Recipe.for_dataset(data.find_dataset("mnist"), epochs=15) == Recipe()
    own = data.Dataset(
        name="own", title="own", input_shape=(3, 96, 96), classes=("a", "b"), num_train=9, num_test=9, mirrors=True
    )
    assert Recipe.for_dataset(own).mirror == 0
    assert Recipe.for_dataset(own, {"mirror": 0.5, "cutout": 8}, epochs=3) == Recipe(mirror=0.5, cutout=8, epochs=3)
    with pytest.raises(UsageError, match="unknown augmentation 'epochs': choose of degrees, "):
        Recipe.for_dataset(own, {"epochs": 3})
    with pytest.raises(UsageError, match="the recipe's jitter is a number between"):
        Recipe.for_dataset(own, {"jitter": 2})


@pytest.mark.parametrize("name", ["mnist", "mnist-5k", "kmnist", "emnist-digits", "synthetic"])
def test_digits_letters_and_slanted_stripes_are_never_mirrored(name):
    dataset = data.find_dataset(name)
    assert not Recipe.for_dataset(dataset).mirror
    with pytest.raises(UsageError, match="is none of its class: leave mirroring away"):
        Recipe.for_dataset(dataset, {"mirror": 0.5})
