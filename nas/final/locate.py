"""The trained network that a user means: a study, a full run, a record, or an exported ONNX file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data import own_options
from nas.errors import StorageError, UsageError
from nas.export import OnnxNetwork, is_export, load_network, load_trained, read_result, read_winner
from nas.files import recover_folder
from nas.final.plan import locate_run
from nas.model import TrainedNetwork
from nas.study import OPENINGS, latest_study, studies_dir, study_at, study_folder, study_names, without_winner


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundNetwork:
    """A trained network in its folder, and what its folder states."""

    folder: Path
    network: TrainedNetwork
    dataset: str
    recipe: Mapping[str, Any]
    whole: bool
    """True if it was trained on the whole training set, the validation images among it."""

    @property
    def openings(self) -> Path:
        """The record of openings of the test split: its study's, or its own where a record is one folder."""
        own = self.folder.resolve() / OPENINGS
        return own if own.is_file() else self.folder.resolve().parent / OPENINGS


def locate_network(name: str | None) -> Path:
    """Return the folder of the network meant by a folder, a study's name or a record's cap.

    Without a name, the latest full run; where there is none, the winner of the latest study. A study's is its latest
    full run, else its winner. Raise `StorageError` where there is none.
    """
    name = None if name is None else study_at(name)
    if name is not None and Path(name).is_file():
        raise UsageError(f"{name} holds no network to load: give a folder that nas wrote, or an .onnx file of its")
    if name is not None and any((Path(name) / file).is_file() for file in ("result.json", "reason.json")):
        return Path(name)
    try:
        return locate_run(name)
    except StorageError as error:
        folder = name is not None and name not in study_names() and Path(name).is_dir()
        base = Path(name or "") if folder else study_folder(name or latest_study())
        recover_folder(base / "best")
        if (base / "best" / "reason.json").is_file():
            return base / "best"
        if name is None or name in study_names():
            raise StorageError(without_winner(name or latest_study())) from error
        raise StorageError(
            f"no trained network in '{name}': name a full run's folder, a study or record of {studies_dir()} "
            "(NAS_STUDIES, else ./studies), or run 'nas search' first"
        ) from error


def find_network(name: str | None) -> FoundNetwork:
    """Return the network that `locate_network` finds, with its weights. Raise `StorageError` where it has none."""
    folder = locate_network(name)
    network, whole = load_trained(folder), (folder / "result.json").is_file()
    stated = read_result(folder) if whole else read_winner(folder, weights=False)
    if network.preparation is None:  # of a folder that an earlier version wrote
        network = dataclasses.replace(network, preparation=own_options(stated.dataset))
    return FoundNetwork(folder=folder, network=network, dataset=stated.dataset, recipe=stated.recipe, whole=whole)


def find_predictor(name: str | None) -> tuple[TrainedNetwork | OnnxNetwork, str | None]:
    """Return the network to predict with, and its data set's name: of exports, or the one that `find_network` finds.

    The name is None for an ONNX file or a folder of exports: what they state of their images suffices. Raise as
    `find_network` does.
    """
    if name is not None and (name.lower().endswith(".onnx") or is_export(Path(name))):
        return load_network(name), None
    found = find_network(name)
    return found.network, found.dataset
