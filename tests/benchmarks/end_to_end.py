"""Wall-clock to a network over a validation threshold under a cap: `nas search` and its winner, or a plain script.

    python tests/benchmarks/end_to_end.py                 # 3 repeats; hours, most of them the plain script's
    python tests/benchmarks/end_to_end.py --table         # what the record holds so far
    PYTHONPATH=DIR python tests/benchmarks/end_to_end.py --ours --record DIR.json    # our half, by the code in DIR

* Ours is `nas search --max-params 8000 --seed S`, started as a user starts it, and then its winner trained with the
  final recipe for 15 epochs, seed S, after its teacher, on the search's training split (50,000 images of MNIST),
  scored on its validation split (10,000). While that is under the threshold, the search goes on with 20 more trials and
  a new winner is trained; a winner seen before is not trained again, as other seeds would only be other luck. All of it
  counts: starting, loading, and compiling the kernels where they are not in the cache.
* Plain is plain_search.py, beside this file: same cap, threshold, seed, training and validation images. It is stopped
  at 10 times our seconds of the same repeat, and then is censored: its ratio is at least 10. Its seconds are its own,
  without Python's imports.
* Both read last-5, the mean validation accuracy over the last 5 of 15 epochs. The threshold is fixed beforehand: 99.45
  stands for a last-5 of 99.5 on the test split after training on all 60,000 images, of which the search's split leaves
  five sixths. The test split is not opened.
* The sides take turns, repeat by repeat, never at once. Timing wants a quiet machine and all its cores: nothing else
  running, no power saving, OMP_NUM_THREADS and the like unset (they are taken out for what is started here).
* A finished half of a repeat is in the record at once, and not done again. A half of ours that was cut starts anew, in
  an empty folder, so that its time is whole; one of plain goes on from its last finished trial. The studies lie beside
  the record, in a folder of its name and `-studies`; plain's journals lie with the record, so that a half of hours
  may go on in another checkout. Where it does, its machine should be the same: a half names the one that finished it,
  and the record has how fast the machine was after each half of ours and before each sitting of plain.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import records
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy import stats

from nas import data
from nas.architecture import Architecture
from nas.budget import LAST_EPOCHS
from nas.data import Split, TrainingData
from nas.designs import PUBLISHED_DESIGNS
from nas.errors import NasError
from nas.export import read_winner
from nas.files import write_atomic
from nas.machine import utc_now
from nas.searches import Settings
from nas.teachers import TEACHER_SEED
from nas.train import Recipe, compute_teacher_logits, teacher_architecture, teacher_recipe, train

HERE = Path(__file__).resolve().parent
RECORD = records.FOLDER / "end-to-end.json"
STUDY = "search"
SIDES = ("ours", "plain")
NAS = ["-P", "-c", "from nas.cli import main; main()"]

progress = Console(stderr=True, soft_wrap=True, highlight=False)


@dataclass(frozen=True, kw_only=True)
class Options:
    max_params: int = 8000
    threshold: float = 99.45  # percent of the validation split
    more: int = 20  # trials that a search goes on with
    most: int = 400  # trials after which ours gives up
    times: float = 10.0  # of our seconds, for the plain script


# --- the two sides ----------------------------------------------------------------------------------------------------


def run_ours(seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Search and train until a winner is over the threshold: seconds, and what every round came to."""
    studies_dir = folder / f"ours-{seed}"
    shutil.rmtree(studies_dir, ignore_errors=True)
    began = time.perf_counter()
    training, _ = images()
    rounds: list[dict[str, Any]] = []
    for trials in range(Settings.trials, options.most + 1, options.more):
        search = ["search", "--max-params", str(options.max_params), "--seed", str(seed), "--trials", str(trials)]
        start([*NAS, *search, "--study", STUDY, "--quiet"], NAS_STUDIES=str(studies_dir))
        winner = read_winner(studies_dir / STUDY / "best")
        schedule = str(winner.architecture)
        row = {"trials": trials, "schedule": schedule, "num_params": winner.architecture.num_params}
        row["searched"] = time.perf_counter() - began
        last5 = next((other["last5"] for other in rounds if other["schedule"] == schedule), None)
        if last5 is None:
            last5 = finish(winner.architecture, Recipe.from_dict(dict(winner.recipe)), training, seed)
        rounds.append({**row, "last5": last5, "trained": time.perf_counter() - began})
        progress.print(f"seed {seed}  ours   {trials:>4} trials  {last5:.3f} %  {schedule}")
        if last5 >= options.threshold:
            break
    seconds = time.perf_counter() - began
    return {"reached": rounds[-1]["last5"] >= options.threshold, "seconds": seconds, "rounds": rounds}


def finish(architecture: Architecture, recipe: Recipe, training: TrainingData, seed: int) -> float:
    """Last-5 of the final recipe's training, that of its teacher before it."""
    assert training.validation is not None
    logits = None
    if recipe.teacher is not None:
        large, alone = teacher_architecture(recipe, training.dataset), teacher_recipe(recipe)
        weights = train(large, training, training.validation, alone, seed=TEACHER_SEED).state_dict
        logits = torch.stack([compute_teacher_logits(recipe, weights, training, n) for n in range(recipe.epochs)])
    return train(architecture, training, training.validation, recipe, seed=seed, teacher_logits=logits).last(
        LAST_EPOCHS
    )


def run_plain(seed: int, seconds: float, options: Options, folder: Path) -> dict[str, Any]:
    """The plain script until it is over the threshold, or `seconds` are over: its last line."""
    indices = folder / "validation.txt"
    write_atomic(indices, "\n".join(map(str, held_out())) + "\n")
    arguments = {
        "max-params": options.max_params, "threshold": options.threshold, "timeout": seconds, "seed": seed,
        "journal": folder / f"plain-{seed}.journal", "validation": indices, "data-dir": data.data_root(None),
    }  # fmt: skip
    printed = start([str(HERE / "plain_search.py"), *(f"--{name}={value}" for name, value in arguments.items())])
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def start(arguments: list[str], **environment: str) -> str:
    """Run Python in a process with threads as each program chooses; its standard output. Exits where it fails."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run([sys.executable, *arguments], env=inherited | environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(
            f"'{shlex.join(arguments)}' left with {done.returncode}; the finished halves are in the record"
        )
    return done.stdout


def images() -> tuple[TrainingData, Split]:
    """What a search trains on, and its validation split."""
    training = data.load_training_data(data.prepare_dataset("mnist", data_dir=None), data_dir=None)
    assert training.validation is not None
    return training, training.validation


def held_out() -> list[int]:
    """Where the search's validation images are in the training set as it is published."""
    mnist = data.prepare_dataset("mnist", data_dir=None)
    whole = data.load_training_data(mnist, data_dir=None, validation=None).train
    _, split = images()
    places = {image.numpy().tobytes(): place for place, image in enumerate(whole.images)}
    return [places[image.numpy().tobytes()] for image in split.images]


# --- the record -------------------------------------------------------------------------------------------------------


def compare(path: Path, options: Options, repeats: int, sides: Sequence[str] = SIDES) -> dict[str, Any]:
    """Run what the record lacks of all repeats and of these sides, and add each half as soon as it is done."""
    record = records.load(path, asdict(options), "repeats")
    folder = path.resolve().with_name(f"{path.stem}-studies")
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(repeats):
        halves = record["repeats"].setdefault(str(seed), {})
        for side in sides:
            if side in halves:
                continue
            load_before = os.getloadavg()[0]
            if side == "ours":
                half = run_ours(seed, options, folder)
                sit(path, record, seed, side)  # afterwards: the kernels that it compiles are then in the cache
            else:
                sit(path, record, seed, side)
                half = run_plain(seed, options.times * halves["ours"]["seconds"], options, folder)
            halves[side] = {**half, "load_before": load_before, "machine": records.machine("cpu")}
            records.save(path, record)
    return record


def sit(path: Path, record: dict[str, Any], seed: int, side: str) -> None:
    """Note the seconds per epoch of the starting network on this machine now: a cloud's differ from hour to hour."""
    row = {"seed": seed, "side": side, "time": utc_now(), "epoch_seconds": round(pace(), 2)}
    record.setdefault("sittings", []).append(row)
    records.save(path, record)


def pace() -> float:
    """Seconds per epoch of the starting network in this process."""
    training, validation = images()
    network = Architecture.parse(PUBLISHED_DESIGNS[0].text)
    taken = [train(network, training, validation, Recipe(epochs=1), seed=0).seconds for _ in range(2)]
    return taken[-1]  # the first compiles the kernels where they are not in the cache


def ratio(halves: dict[str, Any]) -> str:
    """Plain seconds to ours; a side that did not reach the threshold bounds it from the other's side."""
    if len(halves) < 2:
        return ""
    ours, plain = halves["ours"], halves["plain"]
    if not ours["reached"]:
        return "neither" if not plain["reached"] else f"<= {plain['seconds'] / ours['seconds']:.1f}"
    return f"{'' if plain['reached'] else '>= '}{plain['seconds'] / ours['seconds']:.1f}"


def table(record: dict[str, Any]) -> Table:
    options, machine = record["options"], record["machine"]
    shown = Table(
        title=f"Minutes to a network of at most {options['max_params']:,} parameters with a last-5 of "
        f"{options['threshold']} % on the validation split of MNIST",
        caption=f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, {machine['time']}; a "
        f"plain run is stopped at {options['times']:g} times ours; pace: seconds per epoch of the starting network in "
        "one process, after ours, and before each sitting of plain",
    )
    side = ("min", "last-5", "trials")
    headings = ("seed", *(f"ours, {each}" for each in side), *(f"plain, {each}" for each in side), "trained", "ratio")
    for heading in (*headings, "pace, s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for seed, halves in record["repeats"].items():
        row = [seed, *cells(halves)]
        paces = [f"{each['epoch_seconds']:.1f}" for each in record["sittings"] if str(each["seed"]) == seed]
        row += [""] * (len(headings) - len(row)) + [", ".join(paces)]
        shown.add_row(*row)
    return shown


def cells(halves: dict[str, Any]) -> list[str]:
    """What a repeat came to so far: minutes, last-5 and trials of each side, how many plain trained, the ratio."""
    found: list[str] = []
    if ours := halves.get("ours"):
        last = ours["rounds"][-1]
        found += [_minutes(ours), f"{last['last5']:.3f}", str(last["trials"])]
    if plain := halves.get("plain"):
        last5 = f"{plain['best']['last5']:.3f}" if plain["best"] else "none"
        found += [_minutes(plain), last5, str(_trials(plain)), str(plain["trained"]), ratio(halves)]
    return found


def markdown() -> str:
    """The committed repeats of which both halves are done, as a table and a sentence of totals."""
    repeats = committed()
    lines = [
        "| seed | `nas`, min | last-5 | trials | plain, min | last-5 | trials | trained | ratio | network of `nas` |",
        "|-|-|-|-|-|-|-|-|-|-|",
    ]
    for seed, halves in whole(repeats).items():
        winner = halves["ours"]["rounds"][-1]
        network = f"`{winner['schedule']}` ({winner['num_params']:,})"
        lines.append(f"| {' | '.join([seed, *cells(halves), network])} |")
    return "\n".join([*lines, "", totals(repeats)])


def winners() -> list[str]:
    """The schedules that the committed searches of `nas` ended with."""
    return [halves["ours"]["rounds"][-1]["schedule"] for halves in committed().values()]


def committed() -> dict[str, Any]:
    """The repeats in the committed record, by seed."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))["repeats"]
    return found


def whole(repeats: dict[str, Any]) -> dict[str, Any]:
    """The repeats of which both halves are done."""
    return {seed: halves for seed, halves in repeats.items() if len(halves) == len(SIDES)}


def totals(repeats: dict[str, Any]) -> str:
    """How often each side came over the threshold, and in how many minutes, in the repeats that are whole.

    Plain's least average takes its networks over the threshold as a Poisson process: n of them in T minutes are one in
    at least T / m, m being half the 95 % quantile of chi-squared with 2 (n + 1) degrees of freedom (Garwood 1936).
    """
    done = whole(repeats).values()
    found = {side: sum(halves[side]["reached"] for halves in done) for side in SIDES}
    minutes = {side: sum(halves[side]["seconds"] for halves in done) / 60 for side in SIDES}
    summary = (
        f"In all, `nas` came over the threshold {found['ours']} times in {minutes['ours']:.1f} minutes, plain "
        f"{found['plain']} in {minutes['plain']:.1f}."
    )
    if not found["ours"]:
        return summary
    least = minutes["plain"] / (float(stats.chi2.ppf(0.95, 2 * (found["plain"] + 1))) / 2)
    return (
        f"{summary} That is one in at least {least:.0f} minutes of plain on average (95 %, one-sided), "
        f"{least * found['ours'] / minutes['ours']:.1f} times as long as `nas` took."
    )


def _minutes(half: dict[str, Any]) -> str:
    return f"{half['seconds'] / 60:.1f}" + ("" if half["reached"] else ", not reached")


def _trials(plain: dict[str, Any]) -> int:
    """How many came to an end; one that was killed is left as failed, and counts for nothing."""
    return sum(count for state, count in plain["trials"].items() if state != "FAIL")


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Repeats, with the seeds 0, 1, ...")] = 3,
    record: Annotated[Path, typer.Option(help="The JSON file of what is done.")] = RECORD,
    threshold: Annotated[float, typer.Option(help="Last-5 validation accuracy in percent.")] = Options.threshold,
    max_params: Annotated[int, typer.Option(min=1, help="The cap.")] = Options.max_params,
    times: Annotated[float, typer.Option(help="The plain script's limit, in our times.")] = Options.times,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing; show the record.")] = False,
    only_ours: Annotated[bool, typer.Option("--ours", help="Leave the plain script out, into a --record.")] = False,
) -> None:
    """Compare `nas search` with the plain script, end to end; resumes from its record."""
    options = Options(threshold=threshold, max_params=max_params, times=times)
    if not only_table and os.getloadavg()[0] > 0.5:
        progress.print("the machine is not quiet: the figures will not be good", style="yellow")
    try:
        sides = SIDES[:1] if only_ours else SIDES
        done = (
            json.loads(record.read_text(encoding="utf-8")) if only_table else compare(record, options, repeats, sides)
        )
    except (NasError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    out.print(table(done))
    out.print(totals(done["repeats"]), soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
