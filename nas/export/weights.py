"""Weights as safetensors files, each with the checksum of what it holds.

Nothing here imports torch before it is called: a study is read without its weights, and torch takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architecture import Architecture
from nas.errors import StorageError
from nas.files import damaged, make_parent, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import FolderOptions, Normalization
    from nas.model import TrainedNetwork


PREPARATION = "preparation"
"""The key of the options by which own images are read, in a file's metadata."""

OTHER_WEIGHTS = "its weights are not the ones its checksum was made of"


def write_weights(path: Path, state_dict: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and their checksum as one safetensors file, whole or not at all, and make its folder.

    Raises `StorageError`.
    """
    from safetensors.torch import save

    make_parent(path)
    # Contiguous: safetensors takes no channels-last strides.
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    write_atomic(path, save(state, {**(metadata or {}), "sha256": _checksum(state)}))


def read_weights(path: Path, architecture: Architecture | None = None) -> dict[str, Tensor]:
    """Return the tensors that `write_weights` wrote; with an architecture, in the order of its state dict.

    Raises `StorageError` if the file is missing or damaged, or not the weights of the architecture.
    """
    return _read(path, architecture)[0]


def check_weights(path: Path) -> None:
    """Raise `StorageError` where a file is not what `write_weights` wrote; nothing heavy is imported.

    A safetensors file is the length of its header in eight bytes, the header as JSON, and the tensors.
    """
    try:
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        stated = header.pop("__metadata__", {}).get("sha256")
        spans = {name: slice(*entry["data_offsets"]) for name, entry in header.items()}
        state = {name: content[start:][span] for name, span in spans.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(path, getattr(error, "strerror", None) or f"its header cannot be read ({error})") from error
    if stated != _digest(state):
        raise damaged(path, OTHER_WEIGHTS)


def write_network(path: Path, network: TrainedNetwork) -> None:
    """Write a network's weights, with its `metadata`, and read them back.

    Raises `StorageError` if they are not the architecture's or not finite.
    """
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict.items()}
    if problem := _misfit(network.architecture, state):
        raise StorageError(
            f"weights that are not those of '{network.architecture}' cannot be exported: {problem}; train again"
        )
    write_weights(path, state, metadata=metadata(network))
    if _checksum(read_weights(path, network.architecture)) != _checksum(state):
        raise damaged(path, "it does not read as it was written")


def read_network(
    path: Path, architecture: Architecture, normalization: Normalization, classes: tuple[str, ...]
) -> TrainedNetwork:
    """Return the network whose weights a file holds; raises `StorageError` as `read_weights` does.

    `normalization` and `classes` are those of the folder's JSON; a file that states others is refused.
    """
    from nas.model import TrainedNetwork

    state, stated = _read(path, architecture)
    network = TrainedNetwork(
        architecture=architecture, state_dict=state, normalization=normalization, classes=classes,
        preparation=read_preparation(path, stated),
    )  # fmt: skip
    for name, value in metadata(network).items():
        if stated.get(name, value) != value:
            raise damaged(path, f"its {name} is {stated[name]}, not {value}")
    return network


def metadata(network: TrainedNetwork) -> dict[str, str]:
    """Return what an exported file states about its network; lists and options are JSON."""
    own = network.preparation
    return {
        "schedule": str(network.architecture),
        "num_params": str(network.architecture.num_params),
        "mean": json.dumps(network.normalization.mean),
        "std": json.dumps(network.normalization.std),
        "classes": json.dumps(network.classes),
        **({} if own is None else {PREPARATION: json.dumps(own.pixels)}),
    }


def read_preparation(path: Path, stated: Mapping[str, str]) -> FolderOptions | None:
    """Return how own images are made ready, by a file's metadata; raises `StorageError` for what are no options."""
    from nas.data import FolderOptions

    try:
        return FolderOptions(**json.loads(stated[PREPARATION])) if PREPARATION in stated else None
    except (TypeError, ValueError) as error:  # UsageError and JSONDecodeError are ValueErrors
        raise damaged(path, f"its {PREPARATION} is {stated[PREPARATION]}") from error


def _read(path: Path, architecture: Architecture | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file and its metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            stated = file.metadata() or {}
            # Copies: the tensors are views of the file, and would change with it.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise damaged(path, str(error)) from error
    if architecture is not None:
        if stated.get("schedule") != str(architecture):
            raise damaged(path, f"its weights are those of '{stated.get('schedule')}', not of '{architecture}'")
        if problem := _misfit(architecture, state):
            raise damaged(path, problem)
        state = {name: state[name] for name in _empty_state(architecture)}
    if stated.get("sha256") != _checksum(state):
        raise damaged(path, OTHER_WEIGHTS)
    return state, stated


def _misfit(architecture: Architecture, state: Mapping[str, Tensor]) -> str:
    """Return why `state` is not a state dict of the architecture, or nothing if it is."""
    expected = _empty_state(architecture)
    if unpaired := sorted(expected.keys() ^ state.keys()):
        return f"'{unpaired[0]}' is {'missing' if unpaired[0] in expected else 'unknown'}"
    for name, tensor in expected.items():
        found = state[name]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            return f"'{name}' is {found.dtype} {tuple(found.shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        if not found.isfinite().all():
            return f"'{name}' holds a number that is not finite"
    return ""


def _empty_state(architecture: Architecture) -> dict[str, Tensor]:
    """Return names, shapes and types of the network's tensors, without their memory."""
    import torch

    from nas.model import build

    with torch.device("meta"):
        return build(architecture).state_dict()


def _checksum(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names and bits: safetensors itself notices a cut file, but no flipped bit."""
    import torch

    # As bytes before numpy sees them: it knows no bfloat16.
    return _digest({
        name: tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for name, tensor in state.items()
    })  # fmt: skip


def _digest(state: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0" + state[name])
    return digest.hexdigest()
