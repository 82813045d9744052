"""Seconds per epoch of MNIST on a CUDA device: launch by launch, as graphs, and on this machine's CPU beside it.

    python tests/benchmarks/gpu.py                        # three rounds, some three minutes
    python tests/benchmarks/gpu.py --table                # what the record holds

* Alone: our loop launched kernel by kernel, our loop as CUDA graphs (what `nas` does on a CUDA device), and our loop on
  the CPU's kernels, in one process and in turn. A figure is of steps 100 to 500 of a training, scaled to the 782 that
  an epoch of the search's training split has; batches of 64, the default recipe without its teacher.
* Together: epochs per hour of several trainings at once, each in a worker of its own, in their second epoch of two, its
  evaluation included; 1, 2, 4 and 8 of them on the GPU, and one a core on the CPU. A search goes as fast as that.
* Seconds are the median of the rounds, with the lowest and the highest. Nothing else should run on the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import records
import torch
import typer
from rich.console import Console
from rich.table import Table

from nas import data, kernels
from nas.architecture import Architecture
from nas.data import Split, TrainingData
from nas.designs import PUBLISHED_DESIGNS
from nas.machine import cores
from nas.train import Graph, Recipe, train
from nas.workers import ProcessPool, RunMessage, TrainJob, run_jobs

RECORD = records.FOLDER / "gpu.json"
NETWORKS = {"start": PUBLISHED_DESIGNS[0].text, "separable": "26r s13r M 30vr s36vr s36vr s39vr G C"}
"""The second is of the kind that searches find."""

FIRST, LAST = 100, 500
"""The steps that are timed."""

progress = Console(stderr=True, soft_wrap=True, highlight=False)


def images(device: str) -> tuple[TrainingData, Split]:
    """What a search trains on, and its validation split."""
    training = data.load_training_data(data.prepare_dataset("mnist", data_dir=None), data_dir=None, device=device)
    assert training.validation is not None
    return training, training.validation


class Timed(Exception):
    """The steps to be timed are done."""


def alone(device: str, text: str, *, graphs: bool = True) -> float:
    """Seconds of an epoch's steps in this process."""
    training, validation = images(device)
    recipe, at = Recipe(), {}

    def on_step(step: int, _: int) -> None:
        if step in (FIRST, LAST):  # hundreds, after which the loop has read its loss: the device is done with them
            at[step] = time.perf_counter()
        if step == LAST:
            raise Timed

    launched = mock.patch.object(Graph, "__call__", lambda self, function, *numbers: function(*numbers))
    with contextlib.suppress(Timed), contextlib.nullcontext() if graphs else launched:
        train(Architecture.parse(text), training, validation, recipe, device=device, on_step=on_step)
    return (at[LAST] - at[FIRST]) / (LAST - FIRST) * -(-len(training.train) // recipe.batch_size)


def together(device: str, text: str, count: int) -> float:
    """Epochs per hour of that many trainings at once, one per worker, in their second epochs."""
    architecture, recipe = Architecture.parse(text), Recipe(epochs=2)
    jobs = [TrainJob(key=seed, architecture=architecture, recipe=recipe, seed=seed) for seed in range(count)]
    with ProcessPool(count, *images("cpu"), device=device, backend="auto") as pool:
        ends = list(run_jobs(jobs, pool, lambda _: None))
    runs = [message.run for message in ends if isinstance(message, RunMessage)]
    return 3600 * count / statistics.mean(run.epochs[1].seconds for run in runs)


def measure(rounds: int, path: Path) -> None:
    """Every figure goes into the record as soon as it is there."""
    kernels.compile_all()
    found: dict[str, Any] = {"machine": records.machine("cuda"), "alone": {}, "together": {}}
    for name, text in NETWORKS.items():
        taken: dict[str, list[float]] = {"launch by launch": [], "graphs": [], "CPU, one core": []}
        found["alone"][name] = taken
        for _ in range(rounds):
            taken["launch by launch"].append(alone("cuda", text, graphs=False))
            taken["graphs"].append(alone("cuda", text))
            taken["CPU, one core"].append(alone("cpu", text))
            progress.print(name, *(f"{loop} {seconds[-1]:.2f} s" for loop, seconds in taken.items()), sep="  ")
            records.save(path, found)
    for device, count in (*(("cuda", count) for count in (1, 2, 4, 8)), ("cpu", cores())):
        rate = together(device, NETWORKS["separable"], count)
        found["together"][f"{device}, {count}"] = rate
        progress.print(f"separable  {device}, {count} at once  {rate:.0f} epochs per hour")
        records.save(path, found)


def table(found: dict[str, Any]) -> Table:
    machine = found["machine"]
    shown = Table(
        title="Seconds per epoch of MNIST (50,000 images), and epochs per hour of several trainings at once",
        caption=f"{machine['processor']}, {machine['cores']} CPU cores, torch {machine['torch']}, {machine['time']}",
    )
    loops = list(next(iter(found["alone"].values())))
    for heading in ("network", *loops, "launched / graphs", "CPU / graphs"):
        shown.add_column(heading, justify="right")
    for name, taken in found["alone"].items():
        middle = {loop: statistics.median(seconds) for loop, seconds in taken.items()}
        spreads = [f"{middle[loop]:.2f} ({min(taken[loop]):.2f} to {max(taken[loop]):.2f})" for loop in loops]
        launched, graphs, core = (middle[loop] for loop in loops)
        shown.add_row(name, *spreads, f"{launched / graphs:.1f}", f"{core / graphs:.1f}")
    for name, rate in found["together"].items():
        shown.add_row(f"separable: {name} at once", f"{rate:,.0f} epochs per hour")
    return shown


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Of the trainings alone.")] = 3,
    record: Annotated[Path, typer.Option(help="The JSON file of the result.")] = RECORD,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; show the record.")] = False,
) -> None:
    """Time our loop on a CUDA device and on the CPU."""
    if not only_table:
        if not torch.cuda.is_available():
            raise SystemExit("error: there is no CUDA device here")
        measure(rounds, record)
    Console(width=None if os.isatty(1) else 160).print(table(json.loads(record.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    typer.run(main)
