"""The recipe: its bounds, its words, and how it is saved."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math

import pytest
import torch

from nas.errors import UsageError
from nas.train import AUGMENTATION, Recipe, random_draws
from nas.train.recipe import LATER


def test_round_trip_and_unknown_keys():
    recipe = Recipe(epochs=3, degrees=0.0)
    assert Recipe.from_dict(dataclasses.asdict(recipe)) == recipe
    with pytest.raises(UsageError, match="unknown key 'learning_rate' in a recipe"):
        Recipe.from_dict({"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0), ("epochs", 2.5), ("epochs", True), ("batch_size", 1), ("peak_lr", 0.0), ("peak_lr", "high"),
        ("peak_lr", math.nan), ("peak_lr", math.inf), ("warmup_fraction", 1.0), ("weight_decay", -1e-4),
        ("label_smoothing", 1.0), ("ema_horizon", 1.5), ("bn_recalibration_images", -1),
        ("bn_recalibration_images", 0), ("bn_recalibration_images", 1), ("bn_recalibration_images", 2.5),
        ("degrees", -1), ("scale", 1.0), ("shear", None),
    ],
)  # fmt: skip
def test_it_refuses_what_is_out_of_range(key, value):
    with pytest.raises(UsageError, match=f"the recipe's {key} is a .*number between"):
        Recipe(**{key: value})


@pytest.mark.parametrize("spec", [spec for spec in dataclasses.fields(Recipe) if spec.name != "teacher"])
def test_each_number_has_bounds_that_hold_and_include_its_default(spec):
    low, high = spec.metadata["bounds"]
    for value in (low, spec.default, high):
        assert getattr(Recipe(**{spec.name: value}), spec.name) == value
    step = 1 if isinstance(spec.default, int) else 1e-9
    for value in (low - step, high + step):
        with pytest.raises(UsageError, match=f"the recipe's {spec.name} is a .*number between {low} and {high}"):
            Recipe(**{spec.name: value})


def test_a_teacher_is_a_schedule():
    with pytest.raises(UsageError, match="the recipe's teacher is a schedule, not 7"):
        Recipe(teacher=7)


def test_each_field_has_its_words_below_it():
    (body,) = [node.body for node in ast.walk(ast.parse(inspect.getsource(Recipe))) if isinstance(node, ast.ClassDef)]
    documented = [
        field.target.id
        for field, words in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(words, ast.Expr) and isinstance(words.value, ast.Constant)
    ]
    assert documented == [spec.name for spec in dataclasses.fields(Recipe)]


def test_draws_hold_what_the_recipe_asks_for_and_no_more():
    plain = random_draws(Recipe(), 5, (16, 16), torch.Generator())
    assert (plain.maps.shape, plain.colours, plain.holes) == ((5, 2, 3), None, None)
    whole = random_draws(Recipe(mirror=0.5, crop=2, jitter=0.1, cutout=4), 5, (16, 16), torch.Generator())
    assert [part.shape for part in (whole.maps, whole.colours, whole.holes)] == [(5, 2, 3), (5, 3), (5, 4)]


def test_each_range_alone_changes_the_images():
    still = dict.fromkeys(AUGMENTATION, 0)
    assert not Recipe(**still).augments
    for name in AUGMENTATION:
        value = 1 if isinstance(still[name], int) and name in ("crop", "cutout") else 0.1
        assert Recipe(**{**still, name: value}).augments


def test_what_names_a_recipe_is_as_it_was_before_the_later_fields():
    """Studies, folders of full runs and teachers' caches made before mirroring came are found again."""
    assert set(dataclasses.asdict(Recipe())) - set(Recipe().identity) == set(LATER) == {
        "mirror", "crop", "jitter", "cutout", "class_weights", "teacher_epochs", "dropout",
    }  # fmt: skip
    for name in LATER:
        assert name in Recipe(**{name: 1 if name in ("crop", "cutout", "teacher_epochs") else 0.5}).identity
