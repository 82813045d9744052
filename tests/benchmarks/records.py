"""The record of a benchmark of hours: a JSON file of what is done, so that it is not done again."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from nas.files import write_atomic
from nas.machine import environment

FOLDER = Path(__file__).resolve().parents[2] / "studies" / "benchmarks"
"""Where the records of all benchmarks are."""

NOT_MEASURED = "Not measured yet: there is no record."
"""What stands in a page in place of a table."""


def load(path: Path, options: dict[str, Any], *parts: str) -> dict[str, Any]:
    """The record at `path`, or a new one with its parts empty; exits where it was made with other options."""
    if not path.exists():
        return {"options": options, "machine": machine("cpu"), **{part: {} for part in parts}}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, value in options.items():
        if record["options"].get(key) != value:
            raise SystemExit(f"{path} was made with {key} = {record['options'].get(key)}, not {value}: name another")
    return record


def committed(path: Path) -> dict[str, Any] | None:
    """The record at `path`; None where there is none yet."""
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def machine(device: str) -> dict[str, Any]:
    """Versions and hardware, and the benchmark's own command."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return environment(device, gpu) | {"command": shlex.join(sys.argv)}


def save(path: Path, record: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(record, indent=1) + "\n")
