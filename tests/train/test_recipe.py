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
from nas.train import AFFINE, Recipe
from nas.train.recipe import random_maps


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


def test_an_epoch_has_a_map_for_each_image(training):
    assert random_maps(Recipe(), training, torch.Generator()).shape == (384, 2, 3)


def test_each_affine_range_alone_moves_the_images():
    still = dict.fromkeys(AFFINE, 0)
    assert not Recipe(**still).augments
    assert all(Recipe(**{**still, name: 0.1}).augments for name in AFFINE)
