"""A network from wherever one lies: a folder of a search, of a full run or of exports, or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import StorageError
from nas.export.folder import WEIGHTS, check_inputs, read_architecture, read_inputs
from nas.export.onnx_network import OnnxNetwork, load_onnx
from nas.export.run import load_trained
from nas.export.weights import read_network
from nas.files import read_json, recover_folder
from nas.values import checked

if TYPE_CHECKING:
    from nas.model import TrainedNetwork

MANIFEST = "export.json"
"""Contents of a folder of exports, and how they were checked; a folder of its files alone may be written over."""

_GRAPHS = ("model.onnx", "model-int8.onnx")


def is_export(folder: Path) -> bool:
    """Return True for a folder of exports, put right first where its writing was cut off."""
    recover_folder(folder)
    return (folder / MANIFEST).is_file()


@checked
def load_network(path: Path | str) -> TrainedNetwork | OnnxNetwork:
    """Return the network in a folder that `nas` wrote, or in an ONNX file of its, float or int8; to `predict` with.

    Of a folder of exports, the weights of `--to torch`, else the graph of onnx, else that of int8. Raises
    `StorageError` where there is none.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return load_onnx(path)
    if not is_export(path):
        return load_trained(path)
    if (path / WEIGHTS).is_file():
        normalization, classes = read_inputs(path / MANIFEST, read_json(path / MANIFEST))
        architecture = read_architecture(path)
        check_inputs(path / MANIFEST, normalization, classes, architecture)
        return read_network(path / WEIGHTS, architecture, normalization, classes)
    found = [path / name for name in _GRAPHS if (path / name).is_file()]
    if not found:
        raise StorageError(f"no network to predict with in {path}: export it to torch, onnx or int8")
    return load_onnx(found[0])
