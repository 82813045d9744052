"""Real searches of one wall-clock by every way to propose, and what their winners come to when trained fully.

    python tests/benchmarks/searches.py                # all arms, seeds 0 to 2; three hours on two cores
    python tests/benchmarks/searches.py --table        # what the record holds so far

* A search is `nas search` under the cap with one worker, without the published designs, its time limit the same for
  all; as many searches run side by side as there are cores, so that each has one. It has its brief trials, its
  finalists and its winner within that time. Teachers are trained beforehand, once for all.
* `as shipped` is Optuna as it comes, over the same ranges: nothing is drawn again or refilled; a proposal over the cap
  or of an illegal shape is told as pruned, as in its examples, and a schedule may come twice. Pruner, brief trials and
  finalists are those of the others.
* Each winner is then trained for 15 epochs on the search's training split, with its teacher and the seeds 100 and 101,
  and scored by last-5 on the validation split. All arms chose on these same images. The test split is not opened.
* Regret is to the best of all winners and of the networks that `--beside` names, the best known for the cap, which are
  trained as the winners are. A row is in the record as soon as it is done, and not done again; it names its machine,
  which should be the same, or as quick, where arms are added to a record.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import optuna
import records
import torch
import typer
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState
from rich.console import Console
from rich.table import Table

from nas import data, search, teacher
from nas import study as studies
from nas.architecture import Architecture
from nas.budget import Budget, brief_epochs_of
from nas.data import TrainingData
from nas.errors import NasError, UsageError
from nas.run import LAST
from nas.space import SearchSpace
from nas.train import TEACHER, Recipe, cores, train
from nas.workers import Pool

RECORD = Path(__file__).resolve().parents[2] / "studies" / "searches.json"
SHIPPED = "as shipped"
ARMS = ("evolution", "guided", "tpe", "random", SHIPPED)
FINAL_SEEDS = (100, 101)

progress = Console(stderr=True, soft_wrap=True, highlight=False)


def searched(arm: str, seed: int, seconds: float, max_params: int) -> dict[str, Any]:
    """One search of `seconds`: its winner and what it trained."""
    training, settings = _training(), _settings(arm, seed, seconds, max_params)
    assert training.validation is not None
    space = SearchSpace(budget=settings.budget)
    study = studies.create(f"{arm.replace(' ', '-')}-{seed}", None, settings.shared(space, training.hash), {})
    if arm == SHIPPED:
        ship(seed)
    with Pool(1, training, training.validation, device="cpu", backend="auto") as pool:
        outcome = search.run(study, space, settings, pool, lambda *_: None, {}, training=training)
    winner = outcome.finalists[0]
    return {
        "schedule": winner.schedule, "num_params": winner.num_params, "mean": winner.mean, "n": len(winner.scores),
        "trained": sum("loss" in trial.user_attrs for trial in study.get_trials(deepcopy=False)),
        "seconds": outcome.seconds,
    }  # fmt: skip


def ship(seed: int) -> None:
    """Have Optuna's own sampler propose in this process's search."""
    search.Proposer = lambda *_, **__: TPESampler(seed=seed)  # type: ignore[misc,assignment]
    search.ask = ask_as_shipped


def ask_as_shipped(study: optuna.Study, space: SearchSpace) -> tuple[Trial, Architecture]:
    """The sampler's next trial that can be trained, whatever it takes; what cannot be is told as pruned."""
    while True:
        trial = study.ask(space.distributions)
        try:
            architecture = space.decode(trial.params)
            if space.budget.admits(architecture.num_params, architecture.macs):
                fields = {"schedule": str(architecture), "num_params": architecture.num_params}
                for key, value in (search.mark() | fields | {"macs": architecture.macs}).items():
                    trial.set_user_attr(key, value)
                return trial, architecture
        except UsageError:
            pass
        study.tell(trial, state=TrialState.PRUNED)


def finished(schedule: str, seed: int) -> dict[str, Any]:
    """A winner's full run: last-5 on the validation split."""
    training, recipe, architecture = _training(), Recipe(teacher=TEACHER), Architecture.parse(schedule)
    assert training.validation is not None
    lesson = _lesson(training, recipe)
    run = train(architecture, training, training.validation, recipe, seed=seed, lesson=lesson)
    return {"last5": run.last(LAST), "loss": run.epochs[-1].loss, "seconds": run.seconds}


def prepare(max_params: int) -> None:
    """Train the teachers of searches and of full runs, where they are not kept yet."""
    training, settings = _training(), _settings("random", 0, None, max_params)
    assert training.validation is not None
    progress.print("teachers, where they are not kept yet")
    progressed = search.Progress(settings=settings, lines=[search.Line() for _ in range(cores())])
    with Pool(cores(), training, training.validation, device="cpu", backend="auto") as pool:
        space = SearchSpace(budget=settings.budget)
        search._lessons(space, settings, pool, lambda *_: None, progressed, training, None)
    _lesson(training, Recipe(teacher=TEACHER))


def _lesson(training: TrainingData, recipe: Recipe) -> torch.Tensor:
    assert training.validation is not None
    student = Architecture.parse("2 G C")
    with Pool(cores(), training, training.validation, device="cpu", backend="auto") as pool:
        found = teacher.lessons(
            student, recipe, {0: recipe.epochs}, training, pool, lambda _: None, epochs=recipe.epochs
        )
    return found[0].logits


def _training() -> TrainingData:
    return data.training_data(data.resolve("mnist", data_dir=None), data_dir=None)


def _settings(arm: str, seed: int, seconds: float | None, max_params: int) -> search.Settings:
    brief = brief_epochs_of(max_params)
    return search.Settings(
        budget=Budget(max_params=max_params), dataset="mnist", recipe=Recipe(epochs=brief, teacher=TEACHER),
        finalist_epochs=2 * brief, trials=10**6, seed=seed, timeout=seconds, known=False,
        sampler="random" if arm == SHIPPED else arm,  # type: ignore[arg-type]
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
    prepare(max_params)

    def keep(kind: str, key: str, call: str) -> None:
        if key in record[kind]:
            return
        row = _started(call)
        with lock:
            machine = studies.environment("cpu")
            record[kind][key] = row | {name: machine[name] for name in ("processor", "cores", "torch", "time")}
            records.save(path, record)
            progress.print(f"{kind}  {key}  {row}")

    with ThreadPoolExecutor(cores()) as threads:  # turn by turn, so that arms share what the machine does
        wanted = [(arm, seed) for seed in range(seeds) for arm in arms]
        calls = [
            ("searches", f"{arm} {seed}", f"searched({arm!r}, {seed}, {seconds}, {max_params})") for arm, seed in wanted
        ]
        list(threads.map(lambda each: keep(*each), calls))
        schedules = dict.fromkeys([*(row["schedule"] for row in record["searches"].values()), *beside])
        finals = [
            ("finals", f"{text} {seed}", f"finished({text!r}, {seed})") for seed in FINAL_SEEDS for text in schedules
        ]
        list(threads.map(lambda each: keep(*each), finals))
    return record


def _started(call: str) -> dict[str, Any]:
    """What a function of this module gives in a process of its own."""
    code = f"import json, searches; print(json.dumps(searches.{call}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{call} left with {done.returncode}; what is done is kept")
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
    arm: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(ARMS)}; all unless said.")] = None,
    beside: Annotated[list[str] | None, typer.Option(help="A schedule to train fully as well, for the regret.")] = None,
    record: Annotated[Path, typer.Option(help="The JSON file that keeps what is done.")] = RECORD,
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
