"""Neural architecture search for small image networks under a hard parameter budget.

import nas

result = nas.search(8000)                 # or nas.search("8k"), nas.search(nas.Budget(max_params=8000))
run = nas.train_best(seeds=3)             # the winner's full run, measured once on the test set
nas.load_study()                          # the trials, as a pandas DataFrame
nas.load_network(run.folder).predict(images)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.budget import Budget
    from nas.data import FolderOptions
    from nas.export import load_network
    from nas.library import Machine, evaluate, export_network, search, train_best
    from nas.model import TrainedNetwork
    from nas.report import plot, write_report
    from nas.study import load_study
    from nas.train import Recipe

__all__ = [
    "Architecture",
    "Budget",
    "FolderOptions",
    "Machine",
    "Recipe",
    "TrainedNetwork",
    "evaluate",
    "export_network",
    "load_network",
    "load_study",
    "plot",
    "search",
    "train_best",
    "write_report",
]

_PLACES = {
    "Architecture": "architecture", "Budget": "budget", "FolderOptions": "data", "Machine": "library",
    "Recipe": "train", "TrainedNetwork": "model", "evaluate": "library", "export_network": "library",
    "load_network": "export", "load_study": "study", "plot": "report", "search": "library",
    "train_best": "library", "write_report": "report",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `nas --help` must not wait for torch or pandas."""
    if name in _PLACES:
        return getattr(import_module(f"nas.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'nas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
