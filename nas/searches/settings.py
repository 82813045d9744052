"""The settings of a search, resolved: one dial, the budget, and a derived default for everything else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nas.budget import CAPS, FULL_EPOCHS, Budget, default_brief_epochs
from nas.data import Dataset
from nas.errors import UsageError
from nas.space import SearchSpace
from nas.teachers import choose_teacher
from nas.train import Metric, Recipe

SamplerName = Literal["guided", "tpe", "random"]
PrunerName = Literal["median", "none"]

MNIST_TARGET = 99.4
"""The accuracy in percent that a full run on MNIST is to hold, unless the budget names another."""

FRONT = {"trials": 100, "finalists": 10, "finalist_seeds": 2}
"""Defaults of a search for a whole front: more trials, and all its points trained again."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a search; `for_budget` derives every default."""

    budget: Budget
    dataset: str
    recipe: Recipe
    """How brief trials are trained; finalists and the full run differ in their epochs alone."""
    finalist_epochs: int = 6
    full_epochs: int = FULL_EPOCHS
    metric: Metric = "accuracy"
    """The validation score that trials and finalists are compared by."""
    target: float | None = None
    """Accuracy in percent; None where budget and data set name none."""
    trials: int = 50
    """Finished trials in total, those of a resumed study included."""
    finalists: int = 4
    finalist_seeds: int = 3
    seed: int = 0
    sampler: SamplerName = "guided"
    pruner: PrunerName = "median"
    published: bool = True
    """Try the published designs that fit first, and regular ones where the space is derived."""
    pareto: bool = False
    """Search the front of accuracy against parameters under the cap, not its end alone."""
    timeout: float | None = None
    """Seconds for everything."""
    patience: int | None = None
    """Stop the brief trials after this many without a new best one; None for never."""

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise UsageError(f"metric is one of {', '.join(get_args(Metric))}, not {self.metric!r}")
        for name in ("trials", "finalists", "finalist_seeds", "patience"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} is a whole number of 1 or more, not {value!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"the time limit is more than 0 seconds, not {self.timeout}")
        for epochs in (self.finalist_epochs, self.full_epochs):  # refused now, not after hours of brief trials
            dataclasses.replace(self.recipe, epochs=epochs)

    @classmethod
    def for_budget(cls, budget: Budget, dataset: Dataset, **overrides: Any) -> Settings:
        """Return the settings for a budget and a data set; `overrides` that are not None replace their defaults.

        Besides the fields of `Settings`, `overrides` may hold `teacher`: auto, none, a schedule, or None for the data
        set's default; `augmentation`: fields of the recipe, such as {"mirror": 0.5}; the recipe's `class_weights`; and
        `brief_epochs`, those of a brief trial.
        Raise `UsageError` for a value that breaks a rule, an unknown name included.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        if "brief_epochs" in given:
            budget = dataclasses.replace(budget, brief_epochs=given.pop("brief_epochs"))
        augmentation, class_weights = given.pop("augmentation", None), given.pop("class_weights", 0.0)
        teacher = choose_teacher(given.pop("teacher", None), num_params=budget.most_params or 0, dataset=dataset)
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise UsageError(f"unknown setting '{unknown[0]}': a search has {', '.join(sorted(known))}")
        brief = default_brief_epochs(budget.most_params) * dataset.epoch_factor
        fields: dict[str, Any] = {
            "budget": budget,
            "dataset": dataset.name,
            "recipe": Recipe.for_dataset(
                dataset, augmentation, epochs=budget.brief_epochs or brief, teacher=teacher, class_weights=class_weights
            ),
            "finalist_epochs": 2 * max(brief, budget.brief_epochs or 0),
            "full_epochs": budget.full_epochs or dataset.full_epochs * dataset.epoch_factor,
            "target": budget.target or (MNIST_TARGET if dataset.name == "mnist" else None),
            **(FRONT if given.get("pareto") else {}),
        }
        return cls(**(fields | given))

    def space(self, dataset: Dataset) -> SearchSpace:
        """Return the search space. Raise `InfeasibleError` where no schedule of it meets the budget."""
        space = SearchSpace(budget=self.budget, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
        space.require_feasible()
        return space

    @property
    def study_name(self) -> str:
        """The name of the study by default."""
        return self.budget.study_name(self.dataset, pareto=self.pareto)

    def identity(self, space: SearchSpace, data_hash: str) -> dict[str, Any]:
        """Return what a resumed study must have in common, by key."""
        recipe = {f"recipe.{key}": value for key, value in self.recipe.identity.items()}
        return {
            "max_params": self.budget.max_params,
            "max_macs": self.budget.max_macs,
            **{name: cap for name, cap in zip(CAPS[2:], self.budget.caps[2:], strict=True) if cap is not None},
            "dataset": self.dataset,
            "data_hash": data_hash,
            "space": space.key,
            "finalist_epochs": self.finalist_epochs,
            **({"pareto": True} if self.pareto else {}),
            **({"metric": self.metric} if self.metric != "accuracy" else {}),
            **recipe,
        }

    def places(self, turn: int, candidates: int | None = None) -> int:
        """Return how many finalists are trained with the seed of a turn, at most: 4, 2, 2 of four."""
        places = self.finalists if candidates is None else candidates
        for _ in range(0 if self.pareto else turn):
            places = max(min(2, places), -(-places // 2))
        return places
