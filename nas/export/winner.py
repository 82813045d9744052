"""The winner of a search, as a folder: the network, how to train it, and why it won."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.errors import StorageError
from nas.export.folder import WEIGHTS, architecture_folder, check_inputs, network_folder, read_architecture, read_inputs
from nas.export.weights import check_weights, read_network
from nas.files import damaged, from_json, read_json, recover_folder, write_json

if TYPE_CHECKING:
    from nas.model import TrainedNetwork


@dataclass(frozen=True, kw_only=True, eq=False)
class Winner:
    """The winner of a search; `recipe` and `reason` are what JSON can hold."""

    architecture: Architecture
    recipe: Mapping[str, Any]
    reason: Mapping[str, Any]
    """Why it won, with every denominator; `dataset` and `target` are among its keys."""
    network: TrainedNetwork | None
    """None if the folder has no weights, or they were not read."""

    @property
    def dataset(self) -> str:
        """The name of the data set that it was found on."""
        return str(self.reason["dataset"])

    @property
    def target(self) -> float | None:
        """The test accuracy aimed at, percent."""
        return None if self.reason["target"] is None else float(self.reason["target"])


def write_winner(folder: Path, winner: Winner) -> list[Path]:
    """Write a winner's folder and return its files.

    architecture.txt and architecture.json, recipe.json, reason.json (why it won), and of its network, if it has one,
    model.py (stand-alone, torch only) and weights.safetensors. The network's mean, standard deviation and classes go
    into reason.json too. A tuple comes back as a list; NaN is refused. Raises `StorageError` if a file cannot be
    written or does not pass its check; the folder is then as it was.
    """
    network, reason = winner.network, dict(winner.reason)
    if network is not None:
        assert network.architecture == winner.architecture, "a winner's weights are those of its architecture"
        inputs = network.normalization
        reason |= {"mean": inputs.mean, "std": inputs.std, "classes": network.classes}
    begun = architecture_folder(folder, winner.architecture) if network is None else network_folder(folder, network)
    with begun as new:
        write_json(new / "recipe.json", winner.recipe)
        write_json(new / "reason.json", reason)
        _read(new, weights=True)
    return sorted(Path(folder).iterdir())


def read_winner(folder: Path, *, weights: bool = True) -> Winner:
    """Return what `write_winner` wrote; raises `StorageError` if the folder is missing or damaged.

    Without `weights` there is no network, and torch is not imported.
    """
    folder = Path(folder)
    recover_folder(folder)
    if not folder.is_dir():
        raise StorageError(f"no winner in {folder}: run 'nas search' to its end first")
    return _read(folder, weights=weights)


def check_winner(folder: Path) -> None:
    """Raise `StorageError` where a file of a winner's folder is missing or damaged; torch is not imported."""
    read_winner(folder, weights=False)
    if (folder / WEIGHTS).exists():
        check_weights(folder / WEIGHTS)


def _read(folder: Path, *, weights: bool) -> Winner:
    architecture, path = read_architecture(folder), folder / "reason.json"
    recipe, reason = read_json(folder / "recipe.json"), read_json(path)
    try:
        from_json(str, reason.get("dataset"), "dataset")
        from_json(float | None, reason.get("target", "missing"), "target")
    except ValueError as error:
        raise damaged(path, str(error)) from error
    network = None
    if weights and (folder / WEIGHTS).exists():
        normalization, classes = read_inputs(path, reason)
        check_inputs(path, normalization, classes, architecture)
        network = read_network(folder / WEIGHTS, architecture, normalization, classes)
    return Winner(architecture=architecture, recipe=recipe, reason=reason, network=network)
