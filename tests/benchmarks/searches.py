"""Real searches of one wall-clock by every way to propose, and what their winners come to when trained fully.

    python tests/benchmarks/searches.py                # all arms, seeds 0 to 2; three hours on two cores
    python tests/benchmarks/searches.py --table        # what the record holds so far

* A search is `nas search` under the cap with one worker, without the published designs, its time limit the same for
  all; as many searches run side by side as there are cores, so that each has one. It has its brief trials, its
  finalists and its winner within that time. Teachers are trained beforehand, once for all.
* `as shipped` is Optuna as it comes (shipped.py): nothing is drawn again or refilled; a proposal over the cap, of an
  illegal shape or there already is told as pruned, as in its examples. Pruner, brief trials and finalists are those of
  the others. `AutoSampler` and `GP` are the same with what OptunaHub's AutoSampler takes over these ranges, and with
  Optuna's Gaussian process, which is told of the cap as a constraint. `evolution` in the record is the guided sampler
  without its predictions, no choice of its own now.
* Each winner is then trained for 15 epochs on the search's training split, with its teacher and the seeds 100 and 101,
  and scored by last-5 on the validation split. All arms chose on these same images. The test split is not opened.
* Regret is to the best of all winners and of the networks that `--beside` names, the best known for the cap, which are
  trained as the winners are. A row is in the record as soon as it is done, and not done again; it names its machine,
  which should be the same, or as quick, where arms are added to a record.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import records
import torch
import typer
from rich.console import Console
from rich.table import Table
from shipped import GaussianProcess, Multivariate, Shipped

from nas import data
from nas.architecture import Architecture
from nas.budget import LAST_EPOCHS, Budget
from nas.data import TrainingData
from nas.errors import NasError
from nas.export import Provenance
from nas.machine import cores, environment
from nas.searches import TEACHER_EPOCHS, Search, Settings, distilled_folds
from nas.study import Event, Progress, StudyStore, studies_dir, study_folder
from nas.teachers import TeacherCache
from nas.train import TEACHER, Recipe, train
from nas.workers import ProcessPool

RECORD = records.FOLDER / "searches.json"
RIVALS = records.FOLDER / "rivals.json"
"""Searches by what Optuna has newer than its default, with guided ones of the same day beside them."""

SHIPPED = "as shipped"
OPTUNA = {SHIPPED: Shipped, "AutoSampler": Multivariate, "GP": GaussianProcess}
ARMS = ("guided", "tpe", "random", *OPTUNA)
FINAL_SEEDS = (100, 101)

progress = Console(stderr=True, soft_wrap=True, highlight=False)


def searched(arm: str, seed: int, seconds: float, max_params: int) -> dict[str, Any]:
    """One search of `seconds`: its winner and what it trained."""
    training, settings = _training(), _settings(arm, seed, seconds, max_params)
    assert training.validation is not None
    space = settings.space(training.dataset)
    identity = settings.identity(space, training.hash)
    name = f"{arm.replace(' ', '-')}-{seed}"
    shutil.rmtree(study_folder(name), ignore_errors=True)  # of a search that was cut
    store = StudyStore.create(name, None, identity, {"target": settings.target})
    provenance = Provenance.of(training, training.dataset, environment("cpu"))
    propose = OPTUNA[arm](space, seed) if arm in OPTUNA else None
    with ProcessPool(1, training, training.validation, device="cpu", backend="auto") as pool:
        result = Search(store, space, settings, pool, _silent, propose=propose).run(training, provenance)
    if not result.finalists:
        raise SystemExit(
            f"{arm} {seed}: {seconds:.0f} s were too short for a finalist: give more, or a core of its own"
        )
    winner, table = result.finalists[0], store.refresh()
    return {
        "schedule": winner.schedule, "num_params": winner.num_params, "mean": winner.mean, "n": len(winner.scores),
        "trained": sum("loss" in trial.user_attrs for trial in table.trials()), "seconds": result.seconds,
    }  # fmt: skip


def _silent(progress: Progress, event: Event | None) -> None:
    """Show nothing: many searches run at once."""


def finished(schedule: str, seed: int) -> dict[str, Any]:
    """A winner's full run: last-5 on the validation split."""
    training, recipe, architecture = _training(), Recipe(teacher=TEACHER), Architecture.parse(schedule)
    assert training.validation is not None
    logits = _logits(training, recipe, {0: recipe.epochs}, recipe.epochs)[0]
    run = train(architecture, training, training.validation, recipe, seed=seed, teacher_logits=logits)
    return {"last5": run.last(LAST_EPOCHS), "loss": run.epochs[-1].loss, "seconds": run.seconds}


def prepare(max_params: int, seeds: int) -> None:
    """Train the teachers of searches and of full runs, where they are not stored yet."""
    training = _training()
    progress.print("teachers, where they are not stored yet")
    for seed in range(seeds):
        settings = _settings("random", seed, None, max_params)
        _logits(training, settings.recipe, distilled_folds(settings, training)[1], TEACHER_EPOCHS)
    recipe = Recipe(teacher=TEACHER)
    _logits(training, recipe, {0: recipe.epochs}, recipe.epochs)


def _logits(
    training: TrainingData, recipe: Recipe, epochs_by_fold: dict[int, int], epochs: int
) -> dict[int, torch.Tensor]:
    """Teacher logits of each fold, for so many epochs of a student; `epochs` are the teacher's."""
    assert training.validation is not None
    with ProcessPool(cores(), training, training.validation, device="cpu", backend="auto") as pool:
        cache = TeacherCache(studies_dir() / "teachers", training, pool, lambda _: None)
        return {fold: each.logits for fold, each in cache.logits(recipe, epochs_by_fold, epochs=epochs).items()}


def _training() -> TrainingData:
    return data.load_training_data(data.prepare_dataset("mnist", data_dir=None), data_dir=None)


def _settings(arm: str, seed: int, seconds: float | None, max_params: int) -> Settings:
    return Settings.for_budget(
        Budget(max_params=max_params), data.find_dataset("mnist"), trials=10**6, seed=seed, timeout=seconds,
        published=False, sampler="random" if arm in OPTUNA else arm,
    )  # fmt: skip


# --- the record -------------------------------------------------------------------------------------------------------


def compare(
    path: Path, arms: tuple[str, ...], seeds: int, seconds: float, max_params: int, beside: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run what the record lacks, as many at a time as there are cores; each is written as soon as it is done."""
    options = {"seconds": seconds, "max_params": max_params}
    record = records.load(path, options, "searches", "finals")
    folder, lock = path.resolve().with_name(f"{path.stem}-studies"), Lock()
    os.environ["NAS_STUDIES"] = str(folder)
    prepare(max_params, seeds)

    def add(kind: str, key: str, call: str) -> None:
        if key in record[kind]:
            return
        row = _started(call)
        with lock:
            machine = environment("cpu")
            record[kind][key] = row | {name: machine[name] for name in ("processor", "cores", "torch", "time")}
            records.save(path, record)
            progress.print(f"{kind}  {key}  {row}")

    with ThreadPoolExecutor(cores()) as threads:  # turn by turn, so that arms share what the machine does
        wanted = [(arm, seed) for seed in range(seeds) for arm in arms]
        calls = [
            ("searches", f"{arm} {seed}", f"searched({arm!r}, {seed}, {seconds}, {max_params})") for arm, seed in wanted
        ]
        list(threads.map(lambda each: add(*each), calls))
        schedules = dict.fromkeys([*(row["schedule"] for row in record["searches"].values()), *beside])
        finals = [
            ("finals", f"{text} {seed}", f"finished({text!r}, {seed})") for seed in FINAL_SEEDS for text in schedules
        ]
        list(threads.map(lambda each: add(*each), finals))
    return record


def _started(call: str) -> dict[str, Any]:
    """What a function of this module gives in a process of its own."""
    code = f"import json, searches; print(json.dumps(searches.{call}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{call} left with {done.returncode}; what is done is in the record")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def full_runs(record: dict[str, Any]) -> dict[str, float]:
    """By schedule: its mean last-5 over the final seeds, of those that have them all."""
    found: dict[str, list[float]] = {}
    for key, run in record["finals"].items():
        schedule, seed = key.rsplit(" ", 1)
        if int(seed) in FINAL_SEEDS:
            found.setdefault(schedule, []).append(run["last5"])
    return {schedule: statistics.fmean(each) for schedule, each in found.items() if len(each) == len(FINAL_SEEDS)}


def results(record: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """By arm: (seed, mean last-5 of its winner), of the searches whose winner is trained fully."""
    means, found = full_runs(record), dict[str, list[tuple[int, float]]]()
    for key, row in record["searches"].items():
        arm, seed = key.rsplit(" ", 1)
        if row["schedule"] in means:
            found.setdefault(arm, []).append((int(seed), means[row["schedule"]]))
    return found


def best_of(record: dict[str, Any]) -> tuple[str, float]:
    """The best network trained fully, by its schedule, and its last-5."""
    return max(full_runs(record).items(), key=lambda each: each[1], default=("", 0.0))


def near(scores: list[float], best: float) -> int:
    """How many are within 0.05 points of the best network."""
    return sum(score >= best - 0.05 for score in scores)


def standings(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each arm, the best mean first; `near` counts the winners within 0.05 points of the best network."""
    best, rows = best_of(record)[1], []
    for arm, winners in results(record).items():
        scores = [last5 for _, last5 in sorted(winners)]
        rows.append(
            {
                "arm": arm, "scores": scores, "mean": statistics.fmean(scores),
                "trained": statistics.fmean(record["searches"][f"{arm} {seed}"]["trained"] for seed, _ in winners),
                "regret": best - statistics.fmean(scores), "near": near(scores, best),
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row["mean"])


def markdown(path: Path = RECORD, beside: Sequence[str] = ()) -> str:
    """What the searches of a committed record came to, as a table; `beside` are other searches' winners."""
    record = records.committed(path)
    if record is None:
        return records.NOT_MEASURED
    schedule, best = best_of(record)
    lines = [
        "| proposed by | trained | the winners' last-5 | mean | regret | within 0.05 of the best |",
        "|-|-|-|-|-|-|",
    ]
    for row in standings(record):
        scores = ", ".join(f"{score:.3f}" for score in row["scores"])
        lines.append(
            f"| {row['arm']} | {row['trained']:.0f} | {scores} | {row['mean']:.3f} | {row['regret']:.3f} | "
            f"{row['near']} of {len(row['scores'])} |"
        )
    lines.append(f"\nThe best of all is `{schedule}`, {best:.3f}.")
    means = full_runs(record)
    others = [means[winner] for winner in beside if winner in means]
    if others:
        shown = ", ".join(f"{score:.3f}" for score in others)
        lines[-1] += (
            f" By the same measure the winners of the end-to-end searches above had {shown}, "
            f"{near(others, best)} of {len(others)} within 0.05 of it."
        )
    return "\n".join(lines)


def table(record: dict[str, Any]) -> Table:
    options, machine, (schedule, best) = record["options"], record["machine"], best_of(record)
    shown = Table(
        title=f"Searches of {options['seconds'] / 60:.0f} min on one core, under {options['max_params']:,} parameters, "
        f"without the published designs: last-5 of their winners on validation, mean of {len(FINAL_SEEDS)} seeds; "
        f"the best {best:.3f}, {schedule}",
        caption=f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, {machine['time']}",
    )
    for heading in ("proposed by", "trained", "of each search", "mean", "regret", "within 0.05 of the best"):
        shown.add_column(heading, justify="left" if heading == "proposed by" else "right", no_wrap=True)
    for row in standings(record):
        scores = ", ".join(f"{score:.3f}" for score in row["scores"])
        close = f"{row['near']} of {len(row['scores'])}"
        shown.add_row(row["arm"], f"{row['trained']:.0f}", scores, f"{row['mean']:.3f}", f"{row['regret']:.3f}", close)
    return shown


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each arm, with the seeds 0, 1, ...")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of each search, its finalists included.")] = 1000,
    max_params: Annotated[int, typer.Option(min=500, help="The cap.")] = 8000,
    arm: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(ARMS)} (default: all).")] = None,
    beside: Annotated[list[str] | None, typer.Option(help="A schedule to train fully as well, for the regret.")] = None,
    record: Annotated[Path, typer.Option(help="The JSON file of what is done.")] = RECORD,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; show the record.")] = False,
) -> None:
    """Compare the ways to propose in real searches of equal time."""
    if unknown := sorted(set(arm or ()) - set(ARMS)):
        raise SystemExit(f"no arm '{unknown[0]}': give one of {', '.join(ARMS)}")
    try:
        if only_table:
            done = json.loads(record.read_text(encoding="utf-8"))
        else:
            done = compare(record, tuple(arm or ARMS), seeds, seconds, max_params, tuple(beside or ()))
    except (NasError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    Console(width=None if sys.stdout.isatty() else 160).print(table(done))


if __name__ == "__main__":
    typer.run(main)
