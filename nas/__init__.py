"""Neural architecture search for small image networks under a hard parameter budget.

import nas

result = nas.search(8000)                 # or nas.search("8k"), nas.search(nas.Budget(max_params=8000))
run = nas.train_best(seeds=3)             # the winner's full run, measured once on the test set
nas.load_study()                          # the trials, as a pandas DataFrame
nas.load_network(run.folder).predict(images)
"""

from __future__ import annotations

TYPE_CHECKING = False  # without an import: Ctrl-C is harmless only from `nas.__main__` on
if TYPE_CHECKING:
    from typing import Any

    from nas.architecture import Architecture
    from nas.budget import Budget
    from nas.data import FolderOptions
    from nas.errors import DataError, InfeasibleError, NasError, StorageError, UsageError
    from nas.export import load_network
    from nas.final import FullRun
    from nas.library import Machine, evaluate, export_network, search, train_best
    from nas.model import TrainedNetwork
    from nas.report import plot, write_report
    from nas.searches import SearchResult, SearchSettings
    from nas.study import Interrupted, copy_study, delete_study, list_studies, load_study, rename_study
    from nas.train import Recipe

__all__ = [
    "Architecture",
    "Budget",
    "DataError",
    "FolderOptions",
    "FullRun",
    "InfeasibleError",
    "Interrupted",
    "Machine",
    "NasError",
    "Recipe",
    "SearchResult",
    "SearchSettings",
    "StorageError",
    "TrainedNetwork",
    "UsageError",
    "copy_study",
    "delete_study",
    "evaluate",
    "export_network",
    "list_studies",
    "load_network",
    "load_study",
    "plot",
    "rename_study",
    "search",
    "train_best",
    "write_report",
]

_PLACES = {
    "Architecture": "architecture", "Budget": "budget", "DataError": "errors", "FolderOptions": "data",
    "FullRun": "final", "InfeasibleError": "errors", "Interrupted": "study", "Machine": "library",
    "NasError": "errors", "Recipe": "train", "SearchResult": "searches", "SearchSettings": "searches",
    "StorageError": "errors", "TrainedNetwork": "model", "UsageError": "errors", "copy_study": "study",
    "delete_study": "study", "evaluate": "library", "export_network": "library", "list_studies": "study",
    "load_network": "export", "load_study": "study", "plot": "report", "rename_study": "study", "search": "library",
    "train_best": "library", "write_report": "report",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `nas --help` must not wait for torch or pandas."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f"nas.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'nas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
