"""The settings of a search, resolved: one dial, the budget, and a derived default for everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, Unpack

from nas.budget import CAPS, FULL_EPOCHS, MAX_SECONDS, Budget, default_brief_epochs, parse_duration
from nas.data import Dataset
from nas.space import SearchSpace
from nas.teachers import choose_teacher
from nas.train import Metric, Recipe
from nas.values import Positive, Rule, checked, require_fields

SamplerName = Literal["guided", "tpe", "random"]
PrunerName = Literal["median", "none"]
Seed = Annotated[int, Rule("from 0 to 2,147,483,647", lambda seed: 0 <= seed < 2**31)]
Percent = Annotated[float, Rule("over 0 and at most 100", lambda percent: 0 < percent <= 100)]
Share = Annotated[float, Rule("from 0 to 1", lambda share: 0 <= share <= 1)]
Seconds = Annotated[float, Rule("of seconds over 0 (at most ten years)", lambda limit: 0 < limit <= MAX_SECONDS)]
Duration = Annotated[str, Rule("such as 90s or 20m", lambda _: True)]

MNIST_TARGET = 99.4
"""The accuracy in percent that a full run on MNIST is to hold, unless the budget names another."""

FRONT = {"trials": 100, "finalists": 10, "finalist_seeds": 2}
"""Defaults of a search for a whole front: more trials, and all its points trained again."""


def as_seconds(timeout: float | str | None) -> float | None:
    """Return a time limit in seconds, which a text such as 20m states as well. Raise `UsageError` for another text."""
    return parse_duration(timeout, "timeout") if isinstance(timeout, str) else timeout


class SearchSettings(TypedDict, total=False):
    """The settings of a search besides its budget and data, as `nas.search` explains them; None is the default."""

    trials: Positive | None
    timeout: Seconds | Duration | None
    patience: Positive | None
    seed: Seed | None
    sampler: SamplerName | None
    pruner: PrunerName | None
    published: bool | None
    pareto: bool | None
    brief_epochs: Positive | None
    finalists: Positive | None
    finalist_seeds: Positive | None
    finalist_epochs: Positive | None
    full_epochs: Positive | None
    metric: Metric | None
    target: Percent | None
    teacher: str | None
    augmentation: Mapping[str, float] | None
    class_weights: Share | None
    recipe: Recipe | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a search; `for_budget` derives every default."""

    budget: Budget
    dataset: str
    recipe: Recipe
    """How brief trials are trained; finalists and the full run differ in their epochs alone."""
    finalist_epochs: Positive = 6
    full_epochs: Positive = FULL_EPOCHS
    metric: Metric = "accuracy"
    """The validation score that trials and finalists are compared by."""
    target: Percent | None = None
    """Accuracy in percent; None where budget and data set name none."""
    trials: Positive = 50
    """Finished trials in total, those of a resumed study included."""
    finalists: Positive = 4
    finalist_seeds: Positive = 3
    seed: Seed = 0
    sampler: SamplerName = "guided"
    pruner: PrunerName = "median"
    published: bool = True
    """Try the published designs that fit first, and regular ones where the space is derived."""
    pareto: bool = False
    """Search the front of accuracy against parameters under the cap, not its end alone."""
    timeout: Seconds | None = None
    """Seconds for everything."""
    patience: Positive | None = None
    """Stop the brief trials after this many without a new best one; None for never."""

    def __post_init__(self) -> None:
        require_fields(self)
        for epochs in (self.finalist_epochs, self.full_epochs):  # refused now, not after hours of brief trials
            dataclasses.replace(self.recipe, epochs=epochs)

    @classmethod
    @checked
    def for_budget(cls, budget: Budget, dataset: Dataset, **overrides: Unpack[SearchSettings]) -> Settings:
        """Return the settings for a budget and a data set; `overrides` that are not None replace their defaults.

        Besides the fields of `Settings`, `overrides` may hold `teacher`: auto, none, a schedule, or None for the data
        set's default; `augmentation`: fields of the recipe, such as {"mirror": 0.5}; the recipe's `class_weights`; and
        `brief_epochs`, those of a brief trial.
        Raise `UsageError` for a value that breaks a rule, an unknown name included.
        """
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        if "timeout" in given:
            given["timeout"] = as_seconds(given["timeout"])
        if "brief_epochs" in given:
            budget = dataclasses.replace(budget, brief_epochs=given.pop("brief_epochs"))
        augmentation, class_weights = given.pop("augmentation", None), given.pop("class_weights", 0.0)
        teacher = choose_teacher(given.pop("teacher", None), num_params=budget.most_params or 0, dataset=dataset)
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
