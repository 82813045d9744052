"""A network as torch's `ExportedProgram`: a graph with its weights that runs without `nas` and without `model.py`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import StorageError
from nas.export.onnx import ON_UNIT_SCALE
from nas.export.tolerance import tolerance_of
from nas.export.weights import metadata
from nas.files import damaged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.model import TrainedNetwork

PROGRAM_FILE = "model.pt2"
_METADATA = "metadata.json"
_CHUNK = 1000  # images at a time


def export_program(path: Path, network: TrainedNetwork) -> None:
    """Write the network as an `ExportedProgram` from images (N, C, H, W), float32 on 0..1, to logits; N is free.

    `metadata.json` inside, which `torch.export.load(path, extra_files={"metadata.json": ""})` fills in, states the
    schedule, mean, standard deviation and classes.
    """
    import torch

    example = torch.rand(2, *network.architecture.input_shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(_normalising(network), (example,), dynamic_shapes=({0: batch},))
        stated = json.dumps({"input_scaling": ON_UNIT_SCALE, **metadata(network)})
        torch.export.save(program, str(path), extra_files={_METADATA: stated})


def check_program(path: Path, network: TrainedNetwork, images: Tensor, logits: Tensor) -> float:
    """Return the largest absolute difference of a logit between a program and the network's logits of uint8 images.

    Raises `StorageError` if it is over `tolerance_of(logits)`, or the file does not load, or states another network.
    """
    import torch

    extra = {_METADATA: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.export.load(str(path), extra_files=extra).module()
    except Exception as error:  # torch names no type for a file that is no program
        raise damaged(path, str(error).splitlines()[0]) from error
    if json.loads(extra[_METADATA] or "null") != {"input_scaling": ON_UNIT_SCALE, **metadata(network)}:
        raise damaged(path, "it states another network")
    with torch.no_grad():
        found = torch.cat([module(chunk.float() / 255) for chunk in torch.split(images, _CHUNK)])
        alone = module(images[:1].float() / 255)
    difference = float(torch.maximum((found - logits).abs().max(), (alone - logits[:1]).abs().max()))
    tolerance = tolerance_of(logits)
    if not difference <= tolerance:  # NaN too
        raise StorageError(
            f"{path} is not the model: a logit differs by {difference:.3g}, over the tolerance {tolerance:g}"
        )
    return difference


def _normalising(network: TrainedNetwork) -> nn.Module:
    import torch
    from torch import nn

    class Normalised(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(network.normalization.mean).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(network.normalization.std).view(1, -1, 1, 1))
            self.network = network.module()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network((images - self.mean) / self.std)
            return logits

    return Normalised().eval()
