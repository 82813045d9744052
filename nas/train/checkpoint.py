"""A training's state after an epoch, in a file: one that is killed goes on from there, and comes to the same bits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.files import damaged, from_json, make_parent, write_atomic
from nas.train.results import Epoch


class Checkpoint:
    """The file of one training.

    `training` says in JSON's terms which one; a file of another is no checkpoint of this. `tensors` are all that its
    steps change, by name, and `generators` all that it draws from.
    """

    def __init__(
        self, path: Path, training: Mapping[str, Any], tensors: Mapping[str, Tensor],
        generators: Sequence[torch.Generator],
    ) -> None:  # fmt: skip
        self.path = path
        self._training = json.dumps(training, sort_keys=True)
        self._tensors, self._generators = tensors, generators

    def restore(self) -> tuple[Epoch, ...]:
        """Bring tensors and generators to where they were, in place, and return the epochs until then.

        There are none without a file, or with that of another training. Raise `StorageError` for a damaged one.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return ()
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("training") != self._training:
                    return ()
                epochs: tuple[Epoch, ...] = from_json(tuple[Epoch, ...], json.loads(metadata["epochs"]), "epochs")
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if stored.keys() != {*self._tensors, *map(_name, range(len(self._generators)))}:
                raise ValueError("it holds other tensors")
            for name, tensor in self._tensors.items():
                tensor.copy_(stored[name])
            for number, generator in enumerate(self._generators):
                generator.set_state(stored[_name(number)])
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise damaged(self.path, str(error)) from error
        return epochs

    def write(self, epochs: Sequence[Epoch]) -> None:
        """Store the state after these epochs, whole or not at all; raises `StorageError`."""
        from safetensors.torch import save

        rows = [dataclasses.asdict(epoch) for epoch in epochs]
        make_parent(self.path)
        write_atomic(self.path, save(self._state(), {"training": self._training, "epochs": json.dumps(rows)}))

    def _state(self) -> dict[str, Tensor]:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors.items()}
        return state | {_name(number): each.get_state() for number, each in enumerate(self._generators)}


def _name(number: int) -> str:
    return f"generator {number}"
