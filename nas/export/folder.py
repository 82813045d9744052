"""The contents of every export folder: the architecture, and with weights the network's stand-alone source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.errors import StorageError
from nas.export.source import check_source, source
from nas.export.weights import read_network, write_network
from nas.files import cannot_write, damaged, from_json, read_text, replace_folder, write_atomic

if TYPE_CHECKING:
    from nas.data import Normalization
    from nas.model import TrainedNetwork

WEIGHTS = "weights.safetensors"
ARCHITECTURE = "architecture.json"


def require_own(folder: Path, mark: str) -> None:
    """Raise `StorageError` if a folder holds anything, and not the file `mark` of an earlier export."""
    folder = Path(folder)
    try:
        foreign = folder.exists() and any(folder.iterdir()) and not (folder / mark).exists()
    except OSError as error:
        raise cannot_write(folder, error) from error
    if foreign:
        raise StorageError(f"{folder} holds other files than an export, which would be deleted: name another folder")


@contextlib.contextmanager
def architecture_folder(folder: Path, architecture: Architecture, mark: str = ARCHITECTURE) -> Iterator[Path]:
    """Give `replace_folder`'s fresh folder with the architecture inside, as text and JSON, checked.

    Raises `StorageError`, also if `folder` holds anything but an earlier export, which has the file `mark`.
    """
    require_own(folder, mark)
    with replace_folder(folder) as new:
        write_atomic(new / "architecture.txt", f"{architecture}\n")
        write_atomic(new / "architecture.json", architecture.to_json() + "\n")
        if read_architecture(new) != architecture:
            raise damaged(new / "architecture.txt", f"it does not read as '{architecture}'")
        yield new


def read_architecture(folder: Path) -> Architecture:
    """Return the architecture of a folder, which its text and its JSON must both give; raises `StorageError`."""
    text, fields = folder / "architecture.txt", folder / "architecture.json"
    try:
        architecture = Architecture.parse(read_text(text))
    except ValueError as error:
        raise damaged(text, str(error)) from error
    try:
        same = Architecture.from_json(read_text(fields)) == architecture
    except (ValueError, TypeError) as error:
        raise damaged(fields, str(error)) from error
    if not same:
        raise damaged(fields, f"it describes another network than architecture.txt, '{architecture}'")
    return architecture


@contextlib.contextmanager
def network_folder(folder: Path, network: TrainedNetwork, dropout: float = 0.0) -> Iterator[Path]:
    """Give `architecture_folder`'s fresh folder with the network's model.py and weights inside, each checked.

    `dropout` is that of the recipe, for whoever trains model.py further.
    """
    with architecture_folder(folder, network.architecture) as new:
        write_network(new / WEIGHTS, network)
        text = source(network.architecture, network.normalization, network.classes, network.preparation, dropout)
        write_atomic(new / "model.py", text)
        written = read_network(new / WEIGHTS, network.architecture, network.normalization, network.classes)
        check_source(new / "model.py", written)
        yield new


def read_inputs(path: Path, fields: Mapping[str, Any]) -> tuple[Normalization, tuple[str, ...]]:
    """Return the normalisation and the classes in the fields of the JSON file `path`; raises `StorageError`."""
    from nas.data import Normalization

    try:
        mean, std = (from_json(tuple[float, ...], fields.get(name), name) for name in ("mean", "std"))
        return Normalization(mean=mean, std=std), from_json(tuple[str, ...], fields.get("classes"), "classes")
    except ValueError as error:
        raise damaged(path, str(error)) from error


def check_inputs(
    path: Path, normalization: Normalization, classes: tuple[str, ...], architecture: Architecture
) -> None:
    """Raise `StorageError` if the normalisation or the classes, which `path` states, do not fit the architecture."""
    if not len(normalization.mean) == len(normalization.std) == architecture.input_shape[0]:
        raise damaged(path, "it has not one mean and one standard deviation for each channel")
    if min(normalization.std) <= 0:
        raise damaged(path, f"a standard deviation is above 0, not {min(normalization.std)}")
    if len(classes) != architecture.num_classes:
        raise damaged(path, f"it has {len(classes)} names of classes, not {architecture.num_classes}")
