"""Seconds for a folder of images, the first time and again: `python timing.py PATH` prints them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from nas.data import load_training_data, prepare_dataset


def seconds(path: Path, times: int = 2) -> list[tuple[float, float]]:
    """Return the seconds of preparing a folder, and of loading its tensors, for each time."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        dataset = prepare_dataset(str(path), data_dir=None)
        ready = time.perf_counter()
        load_training_data(dataset, data_dir=None)
        found.append((ready - began, time.perf_counter() - ready))
    return found


if __name__ == "__main__":
    for prepared, loaded in seconds(Path(sys.argv[1])):
        print(f"prepared in {prepared:.2f} s, loaded in {loaded:.2f} s")
