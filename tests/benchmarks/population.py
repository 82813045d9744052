"""Candidate-epochs each second on a CUDA device: launches, graphs, streams, and populations of 8, 32 and 128.

    python tests/benchmarks/population.py                 # eight minutes at most; names what does not fit into them
    python tests/benchmarks/population.py --rehearse      # on the CPU, tiny: that the script runs, and no figure
    python tests/benchmarks/population.py --table         # what the record holds

* The baseline is in the same run: one network at a time launch by launch ("plain loop"), one at a time as graphs, and
  four at a time on streams of their own, which is what `nas search` does without `--backend population`.
* Populations are of one network with seeds of its own ("seeds"), of one plan with other widths ("widths"), and of what
  a search of 8,000 parameters proposes ("proposed", of many plans).
* A candidate-epoch is the 782 steps of an epoch of the search's training split, and the scoring of 10,000 images. Steps
  are timed from FIRST to LAST, past every capture; the scoring is what is left of a second, shorter epoch.
* The bounds are floors: every activation is written and read once, its gradient too, and it is read once more, at the
  measured rate of a copy; multiply-accumulates of the networks (three times forward's) and of SOAP, padding included,
  at the measured rate of a float32 matrix product. What is far above both is bound by launches and small kernels.

The aims on an H100: 30 times the plain loop; then `nas search --max-params 8k --trials 500 --backend population
--workers 64` in five minutes, and `nas train-best --seeds 10 --backend population` in one.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import records
import torch
import typer
from rich.console import Console
from rich.table import Table

from nas import data
from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import Split, TrainingData
from nas.designs import PUBLISHED_DESIGNS
from nas.searches import Settings
from nas.train import Graph, Member, Population, Recipe, padding_of, train

RECORD = records.FOLDER / "population.json"
EPOCH_STEPS, EPOCH_SCORED = 782, 10_000
KINDS = ("seeds", "widths", "proposed")
PASSES = 5
"""Times that an activation's bytes move at least: written, read, read again backward; its gradient written and read."""

progress = Console(stderr=True, soft_wrap=True, highlight=False)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the measurement is."""

    device: str = "cuda"
    dataset: str = "mnist"
    sizes: tuple[int, ...] = (8, 32, 128)
    first: int = 100
    last: int = 300
    streams: int = 4
    copied: int = 1 << 28
    """Numbers of a copy."""
    side: int = 8192
    """Of the matrices of a product."""
    minutes: float = 8.0


REHEARSAL = Scale(
    device="cpu", dataset="synthetic", sizes=(2, 4), first=2, last=6, streams=2, copied=1 << 16, side=64, minutes=1.0
)


class Timed(Exception):
    """The steps to be timed are done."""


class Clock:
    """Times of the first and the last step, with the device done with all before."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.at: dict[int, float] = {}

    def __call__(self, step: int) -> None:
        if step in (self.scale.first, self.scale.last):
            synchronize(self.scale)
            self.at[step] = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of a step."""
        return (self.at[self.scale.last] - self.at[self.scale.first]) / (self.scale.last - self.scale.first)


def synchronize(scale: Scale) -> None:
    if scale.device == "cuda":
        torch.cuda.synchronize()


def images(scale: Scale) -> tuple[TrainingData, Split]:
    """Training images for as many steps as are timed, and the validation images."""
    whole = data.load_training_data(
        data.prepare_dataset(scale.dataset, data_dir=None), data_dir=None, device=scale.device
    )
    assert whole.validation is not None
    count = scale.last * Recipe().batch_size
    split = Split(whole.train.images[:count], whole.train.labels[:count])
    return TrainingData(**{**vars(whole), "train": split}), whole.validation


def candidates(kind: str, count: int, training: TrainingData) -> list[Architecture]:
    """As many networks of a kind, always the same."""
    space = Settings.for_budget(Budget(max_params=8000), training.dataset).space(training.dataset)
    rng = np.random.default_rng(0)
    if kind == "proposed":
        seen: set[str] = set()
        while len(seen) < count:
            seen.add(str(space.propose(lambda _: space.random(rng, None), seen).architecture))
        return [Architecture.parse(text) for text in sorted(seen)]
    dataset = training.dataset
    text = PUBLISHED_DESIGNS[0].text if dataset.name == "mnist" else "8 M s9 12 G C"
    words = text.split()
    chosen = []
    for _ in range(count):
        if kind == "widths":  # a quarter less to a quarter more
            words = [
                word
                if not word[0].isdigit()
                else str(max(1, round(number(word) * rng.uniform(0.75, 1.25)))) + tail(word)
                for word in text.split()
            ]
        chosen.append(
            Architecture.parse(" ".join(words), input_shape=dataset.input_shape, num_classes=dataset.num_classes)
        )
    return chosen


def number(word: str) -> int:
    return int(word[: len(word) - len(tail(word))])


def tail(word: str) -> str:
    return word.lstrip("0123456789")


def one(scale: Scale, architecture: Architecture, *, graphs: bool = True) -> float:
    """Seconds of a step of one network alone."""
    clock = Clock(scale)

    def on_step(step: int, _: int) -> None:
        clock(step)
        if step == scale.last:
            raise Timed

    launched = mock.patch.object(Graph, "__call__", lambda self, function, *numbers: function(*numbers))
    with contextlib.suppress(Timed), contextlib.nullcontext() if graphs else launched:
        train(architecture, *images(scale), Recipe(epochs=2), device=scale.device, backend="torch", on_step=on_step)
    return clock.seconds


def streams(scale: Scale, architectures: list[Architecture]) -> float:
    """Seconds of a step of each of some networks at once, in threads of one process with a stream each."""
    clocks: list[float] = []

    def live(architecture: Architecture) -> None:
        stream = torch.cuda.stream(torch.cuda.Stream()) if scale.device == "cuda" else contextlib.nullcontext()
        at: dict[int, float] = {}

        def on_step(step: int, _: int) -> None:
            if step in (scale.first, scale.last):
                if scale.device == "cuda":
                    torch.cuda.current_stream().synchronize()
                at[step] = time.perf_counter()

        with stream:
            train(architecture, *images(scale), Recipe(epochs=1), device=scale.device, backend="torch", on_step=on_step)
        clocks.append((at[scale.last] - at[scale.first]) / (scale.last - scale.first))

    threads = [threading.Thread(target=live, args=(architecture,)) for architecture in architectures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(clocks) / len(clocks)


def population(scale: Scale, kind: str, count: int, rates: dict[str, float]) -> dict[str, Any]:
    """A step's and a scoring's seconds of a population, its memory, its padding, and what bounds it."""
    training, validation = images(scale)
    members = [
        Member(architecture=architecture, training=training, evaluation=validation, recipe=Recipe(epochs=3),
               seed=seed if kind == "seeds" else 0)
        for seed, architecture in enumerate(candidates(kind, count, training))
    ]  # fmt: skip
    if scale.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    backoffs: list[int] = []
    group, clock = Population(scale.device, on_backoff=backoffs.append), Clock(scale)
    began = time.perf_counter()
    for member in members:
        group.add(member)
    group.train_epoch()  # captures, and the libraries' choices
    synchronize(scale)
    warm = time.perf_counter() - began
    began = time.perf_counter()
    group.train_epoch(lambda _, step: clock(step))
    synchronize(scale)
    whole, padding = time.perf_counter() - began, padding_of(members, scale.device)
    batch, macs = Recipe().batch_size, 3 * padding.padded_macs * Recipe().batch_size + padding.padded_soap_macs
    steps = clock.seconds * scale.last
    return {
        "step": clock.seconds, "scoring": max(0.0, whole - steps), "first_epoch": warm,
        "at_once": group.at_once or count,
        "memory": torch.cuda.max_memory_reserved() if scale.device == "cuda" else None, "padding": asdict(padding),
        "bytes_floor": PASSES * 4 * padding.padded_activations * batch / rates["bytes"],
        "macs_floor": macs / rates["macs"], "backoffs": backoffs,
    }  # fmt: skip


def device_rates(scale: Scale) -> dict[str, float]:
    """Bytes that a copy moves each second, and float32 multiply-accumulates of a matrix product, the best of five."""
    source = torch.zeros(scale.copied, device=scale.device)
    a = torch.randn(scale.side, scale.side, device=scale.device)
    found = {"bytes": 0.0, "macs": 0.0}
    for _ in range(6):
        for name, work, function in (
            ("bytes", 8 * scale.copied, source.clone), ("macs", scale.side**3, lambda: a @ a),
        ):  # fmt: skip
            synchronize(scale)
            began = time.perf_counter()
            function()
            synchronize(scale)
            found[name] = max(found[name], work / (time.perf_counter() - began))
    return found


def measure(scale: Scale, save: Any) -> dict[str, Any]:
    """All figures, each given to `save` as soon as it is there."""
    end = time.monotonic() + 60 * scale.minutes
    found: dict[str, Any] = {"machine": records.machine(scale.device), "scale": asdict(scale), "left_out": []}
    found["rates"] = rates = device_rates(scale)
    training, _ = images(scale)
    some = candidates("widths", scale.streams, training)
    found["step"] = {"plain loop": one(scale, some[0], graphs=False), "graphs, one by one": one(scale, some[0])}
    found["step"][f"{scale.streams} streams"] = streams(scale, some) / scale.streams
    progress.print(
        *(f"{name} {1000 * seconds:.2f} ms a candidate-step" for name, seconds in found["step"].items()), sep="  "
    )
    found["populations"] = {}
    longest = 0.0
    for count in scale.sizes:
        for kind in KINDS:
            name = f"{kind}, {count}"
            if time.monotonic() + 4 * longest > end:  # the next may be four times as large
                found["left_out"].append(name)
                continue
            began = time.monotonic()
            try:
                found["populations"][name] = {"count": count, **population(scale, kind, count, rates)}
            except Exception as error:  # one broken case must not cost the others their device time
                found["left_out"].append(f"{name} ({type(error).__name__}: {str(error).splitlines()[:1]})")
            longest = time.monotonic() - began
            progress.print(f"{name}: {longest:.0f} s")
            save(found)
    return found


def table(found: dict[str, Any]) -> Table:
    machine, rates = found["machine"], found["rates"]
    rehearsed = found["scale"]["device"] != "cuda"
    shown = Table(
        title="REHEARSAL on the CPU, tiny: no figure here means anything" if rehearsed
        else "Candidate-epochs each second on MNIST (50,000 images, batches of 64)",
        caption=f"{machine['processor']}, torch {machine['torch']}, {machine['time']}; a copy moves "
        f"{rates['bytes'] / 1e9:,.0f} GB/s, a float32 product {rates['macs'] / 1e12:.2f} T multiply-accumulates/s"
        + "".join(f"\nleft out: {name}" for name in found["left_out"]),
    )  # fmt: skip
    for heading in (
        "", "ms / step", "ms / candidate-step", "scoring, s", "candidate-epochs / s", "x plain loop", "plans",
        "padding: macs, SOAP", "GB", "floor: bytes, macs (ms)",
    ):  # fmt: skip
        shown.add_column(heading, justify="right")
    plain = 1 / (found["step"]["plain loop"] * EPOCH_STEPS)
    for name, seconds in found["step"].items():
        rate = 1 / (seconds * EPOCH_STEPS)
        shown.add_row(name, "", f"{1000 * seconds:.3f}", "", f"{rate:.2f}", f"{rate / plain:.1f}", *[""] * 4)
    for name, each in found["populations"].items():
        padding, count = each["padding"], each["count"]
        rate = count / (each["step"] * EPOCH_STEPS + each["scoring"])
        memory = "" if each["memory"] is None else f"{each['memory'] / 1e9:.1f}"
        waste = [1 - padding[key] / padding[f"padded_{key}"] for key in ("macs", "soap_macs")]
        shown.add_row(
            name + (f" ({each['at_once']} at once)" if each["at_once"] < count else ""), f"{1000 * each['step']:.2f}",
            f"{1000 * each['step'] / count:.3f}", f"{each['scoring']:.2f}", f"{rate:.2f}", f"{rate / plain:.1f}",
            str(padding["plans"]), ", ".join(f"{share:.0%}" for share in waste), memory,
            f"{1000 * each['bytes_floor']:.2f}, {1000 * each['macs_floor']:.2f}",
        )  # fmt: skip
    return shown


def main(
    record: Annotated[Path, typer.Option(help="The JSON file of the result.")] = RECORD,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Run on the CPU, tiny; keep no record.")] = False,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; show the record.")] = False,
) -> None:
    """Measure populations beside one network at a time."""
    if only_table:
        if not record.exists():
            raise SystemExit(f"error: there is no {record}: it is not measured yet")
        found = json.loads(record.read_text(encoding="utf-8"))
    elif rehearse:
        found = measure(REHEARSAL, lambda _: None)
    else:
        if not torch.cuda.is_available():
            raise SystemExit("error: there is no CUDA device here; --rehearse runs on the CPU")
        found = measure(Scale(), lambda found: records.save(record, found))
        records.save(record, found)
    Console(width=None if os.isatty(1) else 180).print(table(found))


if __name__ == "__main__":
    typer.run(main)
