"""The search: propose schedules, train them briefly, prune, race the finalists, name the winner; and recipe studies.

What reads results is imported at once, what trains when it is first used: `nas show` must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.searches.finalist_scores import finalists_of
from nas.searches.reason import FinalistRow, SearchReason, TeacherUse, read_reason
from nas.searches.selection import (
    Finalist,
    behind,
    paired_sd,
    pareto_front,
    pooled_sd,
    rank_finalists,
    similar_in_size,
    similar_size,
    within_one_standard_error,
)

if TYPE_CHECKING:
    from nas.searches.brief import BriefTrials, front, leaders
    from nas.searches.finalists import Finalists
    from nas.searches.pruner import Pruner
    from nas.searches.recipe_result import search_recipes, standing
    from nas.searches.recipes import RecipeSettings, RecipeTrials
    from nas.searches.run import TEACHER_EPOCHS, Search, distilled_folds
    from nas.searches.samplers import SAMPLERS, DrawContext, Propose, Proposer, fit_loss_predictor
    from nas.searches.settings import MNIST_TARGET, PrunerName, SamplerName, SearchSettings, Settings, as_seconds
    from nas.searches.surrogate import FEATURE_NAMES, GaussianProcess, features
    from nas.searches.winner import Context, SearchResult, bring_winner, write_best

__all__ = [
    "FEATURE_NAMES",
    "MNIST_TARGET",
    "SAMPLERS",
    "TEACHER_EPOCHS",
    "BriefTrials",
    "Context",
    "DrawContext",
    "Finalist",
    "FinalistRow",
    "Finalists",
    "GaussianProcess",
    "Propose",
    "Proposer",
    "Pruner",
    "PrunerName",
    "RecipeSettings",
    "RecipeTrials",
    "SamplerName",
    "Search",
    "SearchReason",
    "SearchResult",
    "SearchSettings",
    "Settings",
    "TeacherUse",
    "as_seconds",
    "behind",
    "bring_winner",
    "distilled_folds",
    "features",
    "finalists_of",
    "fit_loss_predictor",
    "front",
    "leaders",
    "paired_sd",
    "pareto_front",
    "pooled_sd",
    "rank_finalists",
    "read_reason",
    "search_recipes",
    "similar_in_size",
    "similar_size",
    "standing",
    "within_one_standard_error",
    "write_best",
]

_PLACES = {
    "brief": ("BriefTrials", "front", "leaders"),
    "finalists": ("Finalists",),
    "pruner": ("Pruner",),
    "recipe_result": ("search_recipes", "standing"),
    "recipes": ("RecipeSettings", "RecipeTrials"),
    "run": ("TEACHER_EPOCHS", "Search", "distilled_folds"),
    "samplers": ("SAMPLERS", "DrawContext", "Propose", "Proposer", "fit_loss_predictor"),
    "settings": ("MNIST_TARGET", "PrunerName", "SamplerName", "SearchSettings", "Settings", "as_seconds"),
    "surrogate": ("FEATURE_NAMES", "GaussianProcess", "features"),
    "winner": ("Context", "SearchResult", "bring_winner", "write_best"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"nas.searches.{module}"), name)
    raise AttributeError(f"module 'nas.searches' has no attribute '{name}'")
