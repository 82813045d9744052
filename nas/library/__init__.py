"""The functions that a notebook or a script calls, with the defaults of the command line."""

from nas.library.exporting import Exported, export_network
from nas.library.full_runs import evaluate, plan_full_run, train_best
from nas.library.machine import Machine, dataset_named, environment_of
from nas.library.searching import search, search_recipe

__all__ = [
    "Exported",
    "Machine",
    "dataset_named",
    "environment_of",
    "evaluate",
    "export_network",
    "plan_full_run",
    "search",
    "search_recipe",
    "train_best",
]
