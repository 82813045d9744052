"""The one door to the test split."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from nas.data.dataset import Dataset, Split
from nas.data.loading import prepare_split, read_split
from nas.data.reader import one_line
from nas.data.splits import sha256
from nas.errors import StorageError
from nas.machine import command_line, utc_now


def open_test(
    dataset: Dataset,
    *,
    data_dir: Path | None,
    log: Path,
    purpose: str,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> Split:
    """Return the test split; the one function that opens it, and it adds a line to `log` before it returns.

    A line is JSON: utc, purpose, dataset, num_images, sha256 of the split (image bytes, then label bytes) and
    the command. Nothing may be chosen, stopped or run again because of what the test split shows.

    Raise `StorageError` when the line cannot be written: the split stays closed. Raise `DataError` as
    `prepare_dataset` does.
    """
    root = prepare_split(dataset, "test", data_dir, download=download)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as lines:
            split = read_split(dataset, "test", root)
            line = {
                "utc": utc_now(),
                "purpose": purpose,
                "dataset": dataset.name,
                "num_images": len(split),
                "sha256": sha256(split),
                "command": command_line(),
            }
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            os.fsync(lines.fileno())  # the record has to outlive whatever happens to the scores
    except OSError as error:
        raise StorageError(
            f"opening the test split has to be recorded, and {log} cannot be written ({one_line(error)}): "
            f"it stays closed; make the file writable and run again"
        ) from error
    return split.to(device)
