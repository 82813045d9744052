"""An exported ONNX file as something that predicts: a float graph in each of its forms, or the int8 one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.errors import StorageError
from nas.export.onnx import BYTES, NORMALISED, ON_UNIT_SCALE, open_session, run_graph
from nas.export.weights import read_preparation
from nas.files import from_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from nas.data import FolderOptions, Normalization


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxNetwork:
    """The graph of a file that `nas` exported, with what its metadata state."""

    path: Path
    architecture: Architecture
    classes: tuple[str, ...]
    scaling: str
    """One of `ON_UNIT_SCALE`, `NORMALISED` and `BYTES`: the images that the graph takes."""
    normalization: Normalization | None
    """None in an int8 graph, which has it in its weights."""
    session: Any
    preparation: FolderOptions | None = None
    """The options by which own images are made ready; None for a catalogued data set."""

    def predict(self, images: Tensor | NDArray[Any]) -> Tensor:
        """Return the probabilities (N, num_classes) of images (N, C, H, W), uint8 or floating on 0..1.

        A graph of bytes takes the nearest level of a floating one. Raises `UsageError` for images of another shape,
        type or range.
        """
        import torch

        from nas.data import as_images

        images = as_images(images, self.architecture.input_shape)
        whole = images.dtype == torch.uint8
        if self.scaling == NORMALISED:
            assert self.normalization is not None
            images = self.normalization.apply(images)
        elif self.scaling == ON_UNIT_SCALE:
            images = images.float() / 255 if whole else images.float()
        elif not whole:
            images = (images * 255).round().clamp(0, 255).to(torch.uint8)
        found = run_graph(self.path, self.session, images)
        return found if self.session.get_outputs()[0].name == "probabilities" else found.softmax(1)


def load_onnx(path: Path) -> OnnxNetwork:
    """Return the network in an ONNX file that `nas` exported; raises `StorageError` for any other file."""
    from nas.data import Normalization

    if not Path(path).is_file():
        raise StorageError(f"no file {path}: name an ONNX file that 'nas export' or 'nas train-best' wrote")
    session = open_session(path)
    stated = session.get_modelmeta().custom_metadata_map
    try:
        if stated.get("input_scaling") not in (ON_UNIT_SCALE, NORMALISED, BYTES):
            raise ValueError("it does not state 'input_scaling'")
        architecture = Architecture.parse(stated.get("schedule", ""))
        classes = from_json(tuple[str, ...], json.loads(stated.get("classes", "null")), "classes")
        normalization = None
        if "mean" in stated:
            numbers = [from_json(tuple[float, ...], json.loads(stated[name]), name) for name in ("mean", "std")]
            normalization = Normalization(*numbers)
        elif stated["input_scaling"] == NORMALISED:
            raise ValueError("it does not state 'mean'")
        if len(classes) != architecture.num_classes:
            raise ValueError(f"it names {len(classes)} classes, not {architecture.num_classes}")
    except (ValueError, KeyError) as error:  # UsageError and JSONDecodeError are ValueErrors
        raise StorageError(f"{path} is not a network that nas exported ({error}): export it again") from error
    return OnnxNetwork(
        path=Path(path), architecture=architecture, classes=classes, scaling=stated["input_scaling"],
        normalization=normalization, session=session, preparation=read_preparation(Path(path), stated),
    )  # fmt: skip
