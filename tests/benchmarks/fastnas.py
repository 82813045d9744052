"""FastNAS of NVIDIA's Model-Optimizer, which prunes a trained network to a bound, beside `nas search` of equal time.

    pip install '.[rivals]'                            # nvidia-modelopt and what its FastNAS needs besides
    python tests/benchmarks/fastnas.py                 # caps of 8,000 and 2,000; some two hours on one core
    python tests/benchmarks/fastnas.py --table         # what the record holds so far

* FastNAS scores the trained teacher of 84,892 parameters with one layer narrowed at a time, and then takes of every
  layer the least width that loses no more than a threshold, the lowest threshold that meets the bound. Its channels are
  sorted by the size of their weights. Every width from one up is a choice, the most that it can have: by default it has
  twentieths that are multiples of 32, of which these layers have none or one. A score is the accuracy in percent on the
  search's validation split, after the norms' statistics are taken again of 6,400 training images. The scores are the
  same for every cap; where a second cap uses those of the first, their time is added to its own.
* Its count leaves batch norms out. Ours has them, and the caps are ours: the bound is lowered by what the norms have.
* The pruned network is a schedule of ours. It is trained for 15 epochs with the final recipe and its teacher, the same
  that was pruned: once from scratch, and once from the weights that it inherits, with all else the same.
* The search is a guided one of searches.py, with one worker, without the published designs. It has as many seconds as
  the pruning took of a processor. Its winner is trained as the pruned networks are, from scratch.
* Each is given its teachers: FastNAS the one that it prunes, of 15 epochs, and a search its two of six. What they took
  stands beside the results.
* All is trained on the search's training split, and scored by last-5 on its validation split, on which all chose as
  well. The test split is not opened.
* What is done is in the record at once, and not done again; a training that was cut goes on after its last epoch, and
  a pruning after the last layer that was scored whole, with the time that it had taken. A search that was cut starts
  anew. Its time limit is one of the clock: let it have its core alone.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import records
import torch
import typer
from end_to_end import images
from rich.console import Console
from rich.table import Table
from searches import prepare, searched
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.budget import LAST_EPOCHS
from nas.data import Split, TrainingData
from nas.errors import NasError
from nas.export import read_weights, write_weights
from nas.files import write_json
from nas.machine import environment
from nas.model import build, load_module
from nas.teachers import TeacherCache
from nas.train import TEACHER, Recipe, teacher_recipe, train
from nas.workers import LocalPool

RECORD = records.FOLDER / "fastnas.json"
CAPS = (8000, 2000)
SCRATCH, INHERITED, SEARCHED = "FastNAS, from scratch", "FastNAS, inherited weights", "nas search"
WAYS = (SCRATCH, INHERITED, SEARCHED)
FIRST_SEED = 100
BATCH, CALIBRATION_BATCHES, SCORE_BATCH = 128, 50, 500
"""FastNAS takes the norms' statistics of 50 batches."""

progress = Console(stderr=True, soft_wrap=True, highlight=False)


# --- pruning ----------------------------------------------------------------------------------------------------------


def narrowed(architecture: Architecture, module: nn.Module) -> Architecture:
    """The architecture, of convolutions alone, with the widths that they have in the module."""
    widths = iter([str(each.out_channels) for each in module.modules() if isinstance(each, nn.Conv2d)])
    words = [re.sub(r"^\d+(?![\dx])", lambda _: next(widths), word) for word in str(architecture).split()]
    return Architecture.parse(" ".join(words))


def pruned(
    teacher: Architecture, weights: Mapping[str, Tensor], training: TrainingData, max_params: int, checkpoint: Path,
    on_score: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """What FastNAS leaves of a trained network: the weights that it inherits, and its schedule and what it took."""
    calls = 0

    def score(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        on_score()
        return accuracy(model.eval(), training)  # FastNAS takes the norms' statistics again at this call

    bound, prunings = max_params, 0
    while True:
        module = _modelopt(load_module(teacher, weights), training, bound, score, checkpoint)
        found, prunings = narrowed(teacher, module), prunings + 1
        convs = [each for each in module.modules() if isinstance(each, nn.Conv2d)]
        counted = sum(parameter.numel() for conv in convs for parameter in conv.parameters())
        if found.num_params <= max_params:
            break
        bound = min(bound - 1, max_params - (found.num_params - counted))
    recalibrate(module, training)
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    row = {
        "schedule": str(found), "num_params": found.num_params, "counted": counted, "scores": calls,
        "prunings": prunings, "accuracy": accuracy(load_module(found, state), training),
    }  # fmt: skip
    return state, row


def _modelopt(
    module: nn.Module, training: TrainingData, bound: int, score: Callable[[nn.Module], float], checkpoint: Path
) -> nn.Module:
    """The module, pruned by FastNAS to a bound in its own count."""
    try:
        import torchprofile  # noqa: F401  FastNAS counts operations with it
        from modelopt.torch import prune
    except ImportError:
        raise SystemExit("FastNAS is in NVIDIA's Model-Optimizer: pip install '.[rivals]'") from None
    widths = {each.out_channels for each in module.modules() if isinstance(each, nn.Conv2d)}
    ratios = tuple(sorted({number / width for width in widths for number in range(1, width + 1)}))
    config = prune.fastnas.FastNASConfig()
    config["nn.Conv2d"]["*"] |= {"channels_ratio": ratios, "channel_divisor": 1}
    config["nn.BatchNorm2d"]["*"] |= {"features_ratio": ratios, "feature_divisor": 1}
    found, _ = prune.prune(
        model=module, mode=[("fastnas", config)], constraints={"params": bound},
        dummy_input=torch.zeros(1, *training.dataset.input_shape),
        config={
            "data_loader": list(calibration(training)), "collect_func": lambda batch: batch, "score_func": score,
            "checkpoint": str(checkpoint), "max_iter_data_loader": CALIBRATION_BATCHES, "verbose": False,
        },
    )  # fmt: skip
    return found.eval()


def calibration(training: TrainingData) -> Iterator[Tensor]:
    """Batches of evenly spaced training images as they are."""
    split, count = training.train, BATCH * CALIBRATION_BATCHES
    index = torch.arange(0, len(split), max(1, len(split) // count))[:count]
    for part in index.split(BATCH):
        yield training.normalization.apply(split.images[part])


@torch.no_grad()
def recalibrate(module: nn.Module, training: TrainingData) -> None:
    """Take the norms' statistics again, and leave the module in evaluation mode."""
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    module.train()
    for batch in calibration(training):
        module(batch)
    module.eval()
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


@torch.inference_mode()
def accuracy(model: nn.Module, training: TrainingData) -> float:
    """Accuracy on the validation split, percent, by the running statistics that the model has."""
    split = _validation(training)
    batches = zip(split.images.split(SCORE_BATCH), split.labels.split(SCORE_BATCH), strict=True)
    hits = [int((model(training.normalization.apply(x)).argmax(1) == labels).sum()) for x, labels in batches]
    return 100 * sum(hits) / len(split)


def _validation(training: TrainingData) -> Split:
    assert training.validation is not None
    return training.validation


# --- the two ways -----------------------------------------------------------------------------------------------------


@contextmanager
def inherited(weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Trainings meanwhile begin with these weights, where there are any: `train` itself draws them by its seed."""

    def begin(architecture: Architecture, *, seed: int, dropout: float) -> nn.Module:
        module = build(architecture, seed=seed, dropout=dropout)
        module.load_state_dict(dict(weights or {}))
        return module

    if weights is None:
        yield
        return
    with mock.patch("nas.train.loop.build", begin):
        yield


def finished(
    schedule: str, weights: Mapping[str, Tensor] | None, seed: int, given: Given, checkpoint: Path
) -> dict[str, Any]:
    """A full run on the search's split: last-5 on validation and the lowest of these five epochs."""
    with inherited(weights):
        run = train(
            Architecture.parse(schedule), given.training, _validation(given.training), given.recipe, seed=seed,
            teacher_logits=given.logits, checkpoint=checkpoint,
        )  # fmt: skip
    checkpoint.unlink(missing_ok=True)
    lowest = min(epoch.accuracy for epoch in run.epochs[-LAST_EPOCHS:])
    return {"last5": run.last(LAST_EPOCHS), "lowest": lowest, "loss": run.epochs[-1].loss, "trained": run.seconds}


class Given:
    """What both ways have: images, the final recipe, and its trained teacher with its answers."""

    def __init__(self, folder: Path) -> None:
        self.training, _ = images()
        self.recipe = Recipe(teacher=TEACHER)
        with LocalPool(self.training, _validation(self.training)) as pool:
            cache = TeacherCache(folder / "teachers", self.training, pool, lambda message: None)
            found = cache.logits(self.recipe, {0: self.recipe.epochs}, epochs=teacher_recipe(self.recipe).epochs)[0]
        self.teacher, self.logits = Architecture.parse(found.record.schedule), found.logits
        self.weights = read_weights(found.path.parent / "weights.safetensors")


# --- the record -------------------------------------------------------------------------------------------------------


def compare(path: Path, caps: Sequence[int], seeds: int) -> dict[str, Any]:
    """Run what the record lacks; each row is written as soon as it is done."""
    record = records.load(path, {}, "teachers", "pruned", "searches", "finals")
    folder = path.resolve().with_name(f"{path.stem}-studies")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["NAS_STUDIES"] = str(folder)
    given = cache(partial(Given, folder))  # a record that is whole needs none of it

    def add(part: str, key: str, work: Callable[[], dict[str, Any]]) -> None:
        if key in record[part]:
            return
        given()
        load, wall, before = os.getloadavg()[0], time.perf_counter(), _processor_seconds()
        row = work()
        spent = {"seconds": time.perf_counter() - wall, "processor_seconds": _processor_seconds() - before}
        machine = environment("cpu")
        row = spent | row | {"load": load, **{name: machine[name] for name in ("processor", "cores", "torch", "time")}}
        record[part][key], record["teachers"] = row, teachers(folder)
        records.save(path, record)
        progress.print(f"{part}  {key}  {row}")

    def finish(*ways: str) -> None:
        for seed, cap, way in itertools.product(range(FIRST_SEED, FIRST_SEED + seeds), caps, ways):
            add("finals", f"{way} {cap} {seed}", partial(_finish, record, way, cap, seed, given, folder))

    for cap in caps:
        add("pruned", str(cap), partial(_prune, record, cap, given, folder))
    finish(SCRATCH, INHERITED)
    for cap in caps:
        if str(cap) not in record["searches"]:
            prepare(cap, 1)
            seconds = record["pruned"][str(cap)]["processor_seconds"]
            add("searches", str(cap), partial(searched, "guided", 0, seconds, cap))
    finish(SEARCHED)
    return record


def teachers(folder: Path) -> dict[str, dict[str, Any]]:
    """Epochs, seconds and last-5 of every teacher, by the validation splits that it has not seen."""
    paths = sorted((folder / "teachers").glob("*/teacher.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {
        " ".join(map(str, each["held_out_folds"])): {
            "epochs": each["recipe"]["epochs"], "seconds": each["seconds"], "last5": each["last5"]
        }
        for each in found
    }  # fmt: skip


def _prune(record: dict[str, Any], cap: int, given: Callable[[], Given], folder: Path) -> dict[str, Any]:
    """A row of `pruned`; the scores of another cap's are used again, and counted, as is what a cut one took."""
    scores, spent = folder / "scores.pth", folder / "scores.json"
    if not spent.exists():
        scores.unlink(missing_ok=True)
    earlier: dict[str, float] = json.loads(spent.read_text(encoding="utf-8")) if scores.exists() else {}
    wall, before = time.perf_counter(), _processor_seconds()

    def so_far() -> dict[str, float]:
        taken = {"seconds": time.perf_counter() - wall, "processor_seconds": _processor_seconds() - before}
        return {name: value + earlier.get(name, 0.0) for name, value in taken.items()}

    weights, row = pruned(
        given().teacher, given().weights, given().training, cap, scores, lambda: write_json(spent, so_far())
    )
    write_weights(_weights(folder, cap), weights)
    return row | so_far()


def _finish(
    record: dict[str, Any], way: str, cap: int, seed: int, given: Callable[[], Given], folder: Path
) -> dict[str, Any]:
    """A row of `finals`."""
    schedule = str(record["searches" if way == SEARCHED else "pruned"][str(cap)]["schedule"])
    weights = read_weights(_weights(folder, cap)) if way == INHERITED else None
    return finished(schedule, weights, seed, given(), folder / f"{WAYS.index(way)}-{cap}-{seed}.safetensors")


def _weights(folder: Path, cap: int) -> Path:
    return folder / f"pruned-{cap}.safetensors"


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


HEADINGS = ("cap", "by", "network", "parameters", "core-min", "last-5", "lowest epoch", "n")


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each cap and way: what it found, in how many minutes, and its full runs."""
    found = []
    for cap in sorted({int(key) for key in record["pruned"]}, reverse=True):
        for way in WAYS:
            row = record["searches" if way == SEARCHED else "pruned"].get(str(cap))
            if row is None:
                continue
            runs = [run for key, run in record["finals"].items() if key.rsplit(" ", 1)[0] == f"{way} {cap}"]
            scores = [run["last5"] for run in runs]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            found.append(
                (
                    f"{cap:,}", way, f"`{row['schedule']}`", f"{row['num_params']:,}",
                    f"{row['processor_seconds'] / 60:.1f}",
                    f"{statistics.fmean(scores):.3f}{spread}" if scores else "",
                    f"{min(run['lowest'] for run in runs):.2f}" if runs else "", str(len(runs)),
                )
            )  # fmt: skip
    return found


def markdown() -> str:
    """The committed record as a table."""
    record = records.committed(RECORD)
    if record is None:
        return records.NOT_MEASURED
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADINGS, *rows(record))]
    return "\n".join([lines[0], "|-" * len(HEADINGS) + "|", *lines[1:]])


def table(record: dict[str, Any]) -> Table:
    machine = record["machine"]
    shown = Table(
        title="Last-5 on the search's validation split, 15 epochs with a teacher",
        caption=f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, {machine['time']}",
    )
    for heading in HEADINGS:
        shown.add_column(heading, no_wrap=True)
    for row in rows(record):
        shown.add_row(*row)
    return shown


def main(
    cap: Annotated[list[int] | None, typer.Option(min=500, help="A cap (default: 8000 and 2000).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Full runs of each network, with the seeds 100, 101, ...")] = 3,
    record: Annotated[Path, typer.Option(help="The JSON file of what is done.")] = RECORD,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; show the record.")] = False,
) -> None:
    """Compare FastNAS and `nas search` under the same caps in equal time."""
    torch.set_num_threads(1)
    try:
        done = json.loads(record.read_text(encoding="utf-8")) if only_table else compare(record, cap or CAPS, seeds)
    except (NasError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    Console(width=None if sys.stdout.isatty() else 180).print(table(done))


if __name__ == "__main__":
    typer.run(main)
