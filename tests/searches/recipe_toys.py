"""A pool whose scores depend on the recipe, and the recipe studies that the tests run on it."""

from __future__ import annotations

import dataclasses
import math
import zlib

import toys

from nas.architecture import Architecture
from nas.searches import RecipeSettings, search_recipes
from nas.searches.recipes import encode
from nas.study import StudyStore
from nas.train import Recipe

NETWORK = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
DEFAULT = Recipe(epochs=2)


def luck(recipe, seed):
    """Between -1 and 1, out of nothing, the same every time."""
    return zlib.crc32(f"{recipe} {seed}".encode()) / 2**31 - 1


def distance(recipe):
    """The log of the ratio of a recipe's learning rate at a batch of 128 to the best one's."""
    return abs(math.log(recipe.peak_lr / math.sqrt(recipe.batch_size / 128) / 0.004))


def by_lr(recipe, seed):
    """Best at five times less than the default's learning rate: by 0.7 points, where luck makes 0.02."""
    return 99 - distance(recipe) / 2.3 + luck(recipe, seed) / 50


class Pool(toys.Pool):
    """Scores by recipe and seed, percent; the epochs are alike."""

    def __init__(self, count=1, *, score=by_lr):
        super().__init__(count)
        self.by_recipe = score
        self.pairs: list[tuple[Recipe, int]] = []

    def live(self, number, job):
        self.pairs.append((job.recipe, job.seed))
        inner = toys.Pool(len(self), score=lambda architecture, seed, epoch: self.by_recipe(job.recipe, seed))
        yield from inner.live(number, job)


def settings(**changes):
    fields = {"architecture": NETWORK, "dataset": "synthetic", "recipe": DEFAULT, "trials": 5, "num_seeds": 3}
    return RecipeSettings(**(fields | changes))


def open_study(name="toy", storage=None, **changes):
    return StudyStore.create(name, storage, settings(**changes).identity("hash"), {})


def run(pool, store="toy", view=lambda progress, event: None, deadline=None, **changes):
    store = open_study(store, **changes) if isinstance(store, str) else store
    record = {"dataset": "synthetic", "target": None}
    return search_recipes(store, settings(**changes), pool, view, record, deadline=deadline)


def over(store):
    """The trials that were not interrupted, by number."""
    return [trial for trial in store.refresh().trials() if not trial.user_attrs.get("interrupted")]


def facts(store):
    """What a study came to, whatever was interrupted and tried again."""
    return [
        (trial.state, trial.value, trial.params, trial.user_attrs["scores"], trial.intermediate_values)
        for trial in over(store)
    ]


def outcome(reason):
    """The table but for numbers and for the seconds, which hold what a kill made vain."""
    return [{key: value for key, value in row.items() if key not in ("seconds", "trial")} for row in reason["recipes"]]


def point():
    return encode(DEFAULT)


def as_dict(recipe):
    return dataclasses.asdict(recipe)
