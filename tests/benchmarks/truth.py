"""A table of truth: networks of the search space, each trained briefly in many ways and fully, to choose the search by.

    python tests/benchmarks/truth.py networks                  # draw the schedules: studies/truth/networks.csv
    python tests/benchmarks/truth.py train                     # fill studies/truth/runs.csv; stop and start at will
    python tests/benchmarks/truth.py rank --plot fidelity.svg  # how well each brief training ranks them
    python tests/benchmarks/truth.py replay                    # finalist strategies, replayed on the table

* The networks are the published designs, mutants of these, and random points under caps of 1,000 to 10,000 parameters;
  most have 6,000 to 8,000. Those above 2.2 million MACs are left out, for a CPU trains them too long: of random points
  under 8,000 parameters that is one in 30, of those under 10,000 one in 13.
* All are trained with the default recipe on the search's own training split of MNIST (50,000 images) and scored on its
  validation split (10,000); a full run of seed 1 and more on another such split for each seed, as finalists are, for
  the luck of 10,000 images is part of a score. The score of a full run is its mean accuracy over the last 5 of 15
  epochs, that of a brief run its last epoch's. A brief run has its own, complete schedule of rates; `epoch n of 15` is
  what a full run had come to by then, with its rate still high.
* `small3` shrinks the images to 22x22, not to 14x14: there half of the networks, and four of the six published designs,
  have no map left. At 22x22 these six and four fifths of the others have one; the rest have no such run.
* Signals are those of seed 0. That seed's full run is one of those in the mean, shares its initial weights and its
  validation images with the brief ones, and has `epoch n of 15` as a part: all look a little better than they are.
* A row is written when its run is done, and no run is done twice. Only one `train` at a time may write to a file. A run
  that diverged has a row without scores: it ranks last if brief, and does not count in its network's mean if full.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch.nn import functional

from nas import data
from nas.architecture import KNOWN, Architecture, Conv
from nas.budget import Budget
from nas.data import Split, TrainingData
from nas.errors import NasError, UsageError
from nas.export import write_atomic
from nas.search import paired_sd
from nas.space import SearchSpace
from nas.train import Backend, Recipe, choose_device
from nas.workers import Job, Message, Pool, default_count

FOLDER = Path(__file__).resolve().parents[2] / "studies" / "truth"
CAP, LEAST_SHARE, MOST_MACS = 8000, 0.75, 2_200_000
NEAR = (round(LEAST_SHARE * CAP), CAP)
"""Parameters of the group near the cap: a search proposes schedules that use three quarters of its budget or more."""

TURNS = (None, 8000, None, 1000, 8000, None, 2000, None, 8000, 4000, None, 6000, 8000, None, 10_000)
"""What the networks after the published ones are, over and over: mutants (None), and random points under a cap.

Ten of fifteen are near the cap of 8,000, and every first part of the table has a share of all.
"""

COLUMNS = (
    "schedule", "num_params", "fidelity", "seed", "epochs", "last", "final", "train_loss", "seconds", "backend",
    "accuracies", "losses", "reason",
)  # fmt: skip
LAST, CURVE, TOPS = 5, (1, 2, 3, 5), (1, 4, 8)
LEADERS, LEADER_SEEDS = 10, 5
DIVERGED = "the loss is"
"""How the reason of a run that diverged begins. Any other failure is the machine's, and no row is written of it."""

STRATEGIES = {
    "4 finalists x 3 seeds": (4, 4, 4), "8, 4, 2 halving": (8, 4, 2), "8, 5, 3, 2 of four seeds": (8, 5, 3, 2),
    "5, 3, 2, 2, the default": (5, 3, 2, 2),
    "12, 8, 5, 3": (12, 8, 5, 3), "12 finalists x 1 seed": (12,), "best brief alone": (),
}  # fmt: skip
"""How many candidates each round trains with one more seed."""
FINAL_EPOCHS = 6


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    epochs: int
    fraction: float = 1.0  # of the training images
    side: int = 28  # pixels


FIDELITIES = {
    "e1": Fidelity(epochs=1), "e2": Fidelity(epochs=2), "e3": Fidelity(epochs=3), "e5": Fidelity(epochs=5),
    "half3": Fidelity(epochs=3, fraction=0.5), "small3": Fidelity(epochs=3, side=22), "full": Fidelity(epochs=15),
}  # fmt: skip


class Task(NamedTuple):
    schedule: str
    fidelity: str
    seed: int

    @property
    def how(self) -> Fidelity:
        return FIDELITIES[self.fidelity]

    @property
    def architecture(self) -> Architecture:
        """Raises `UsageError` where the network's map does not survive the smaller images."""
        return Architecture.parse(self.schedule, input_shape=(1, self.how.side, self.how.side))


app = typer.Typer(help=__doc__.partition("\n")[0], add_completion=False, no_args_is_help=True)
progress = Console(stderr=True, soft_wrap=True, highlight=False)
Folder = Annotated[Path, typer.Option(help="Of networks.csv and runs.csv.", show_default="studies/truth")]


# --- the networks -----------------------------------------------------------------------------------------------------


def draw(count: int, seed: int) -> pd.DataFrame:
    """`count` different schedules, a row each; the same for the same seed."""
    rng = np.random.default_rng(seed)
    found = {known.text: known.name for known in KNOWN}
    parents, steps = itertools.cycle(KNOWN), itertools.cycle(range(2, 7))
    for cap in itertools.cycle(TURNS):
        if (size := len(found)) >= count:
            break
        space = SearchSpace(budget=Budget(max_params=cap or CAP))
        parent, distance = (next(parents), next(steps)) if cap is None else (None, 0)
        origin = f"random under {cap}" if parent is None else f"{parent.name} and {distance} mutations"
        while len(found) == size:
            params = space.random(rng) if parent is None else space.encode(Architecture.parse(parent.text))
            assert params is not None, f"{parent} is not in the space"
            for _ in range(distance):
                params = space.mutate(params, rng)
            architecture, _ = space.check(params, found)
            if architecture is None or architecture.macs > MOST_MACS:
                continue
            if architecture.num_params >= LEAST_SHARE * (cap or CAP):
                found[str(architecture)] = origin
    return pd.DataFrame([_described(schedule, origin) for schedule, origin in list(found.items())[:count]])


def _described(schedule: str, origin: str) -> dict[str, Any]:
    architecture = Architecture.parse(schedule)
    widths = [block.width for block in architecture.blocks if isinstance(block, Conv)]
    counts = {"num_params": architecture.num_params, "macs": architecture.macs, "depth": architecture.depth}
    return {"schedule": schedule, **counts, "smallest_width": min(widths), "origin": origin}


# --- the runs ---------------------------------------------------------------------------------------------------------


def plan(schedules: Sequence[str], runs: pd.DataFrame) -> list[Task]:
    """Every fidelity of seed 0 and another full run, in an order that makes a table cut short useful."""
    phases = [[("e3", 0), ("full", 0)], *([(name, 0)] for name in ("e5", "e1", "e2", "half3", "small3")), [("full", 1)]]
    return [Task(schedule, *each) for phase in phases for schedule in schedules for each in phase]


def confirm(schedules: Sequence[str], runs: pd.DataFrame) -> list[Task]:
    """More seeds for the leaders by the first two, which later seeds do not change."""
    leaders = truth(runs[runs["seed"] < 2]).sort_values(ascending=False, kind="stable").index[:LEADERS]
    return [Task(schedule, "full", seed) for seed in range(2, LEADER_SEEDS) for schedule in leaders]


def repeat(schedules: Sequence[str], runs: pd.DataFrame) -> list[Task]:
    """The brief runs with a second seed."""
    return [Task(schedule, name, 1) for name in FIDELITIES if name != "full" for schedule in schedules]


def due(tasks: Sequence[Task], runs: pd.DataFrame) -> list[Task]:
    """What of it there is no row of, and whose network has a map left."""
    done = set(zip(runs["schedule"], runs["fidelity"], runs["seed"], strict=True))
    left = []
    for task in tasks:
        with contextlib.suppress(UsageError):
            if task not in done and task.architecture:
                left.append(task)
    return left


def load(path: Path, *, repair: bool = False) -> pd.DataFrame:
    """The runs of a file; a last line without its end is left out, and cut off to `repair` it."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        progress.print(f"{path.name}: its last line was cut short and does not count", style="yellow")
        if repair:
            os.truncate(path, len(whole))
    return pd.read_csv(io.BytesIO(whole)) if whole else pd.DataFrame(columns=list(COLUMNS))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row, in one write that is on the disk when this returns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    with path.open("ab") as file:
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def row_of(message: Message) -> dict[str, Any]:
    """The row of a run that ended or diverged; exits on a failure that says nothing of the network."""
    task: Task = message.job.key
    architecture, epochs = message.job.architecture, message.job.recipe.epochs
    row = {**task._asdict(), "num_params": architecture.num_params, "epochs": epochs}
    if (run := message.run) is not None:
        return row | {
            "last": round(run.last(LAST if task.fidelity == "full" else 1), 3),
            "final": round(run.epochs[-1].accuracy, 2),
            "train_loss": round(run.epochs[0].train_loss, 4),
            "seconds": round(run.seconds, 1),
            "backend": run.backend,
            "accuracies": " ".join(f"{epoch.accuracy:.2f}" for epoch in run.epochs),
            "losses": " ".join(f"{epoch.loss:.4f}" for epoch in run.epochs),
        }
    if not str(message.failure).startswith(DIVERGED):
        raise SystemExit(f"{task}: {message.failure}; what is done is kept: run the same command again")
    return row | {"reason": message.failure}


def material(fraction: float, side: int, data_dir: Path | None) -> TrainingData:
    """The search's own split: a part of its training images, or all images averaged over areas to `side` pixels."""
    found = data.resolve("mnist", data_dir=data_dir)
    training = data.training_data(found, data_dir=data_dir, fraction=fraction)
    if (1, side, side) == found.input_shape:
        return training

    def shrink(split: Split) -> Split:
        images = functional.interpolate(split.images.float(), size=(side, side), mode="area")
        return Split(images.round().to(split.images.dtype), split.labels)

    assert training.validation is not None
    found = dataclasses.replace(found, input_shape=(1, side, side))
    train, validation = shrink(training.train), shrink(training.validation)
    return dataclasses.replace(training, dataset=found, train=train, validation=validation)


def fill(path: Path, tasks: Sequence[Task], pool: Pool, past: Callable[[], bool]) -> None:
    """Train the tasks and write their rows; once it is `past` the time, none is begun."""
    waiting, left = deque(tasks), len(tasks)
    while True:
        while waiting and pool.idle is not None and not past():
            task = waiting.popleft()
            recipe = Recipe(epochs=task.how.epochs, translate=Recipe.translate * task.how.side / 28)
            fold = task.seed if task.fidelity == "full" else 0
            pool.submit(Job(key=task, architecture=task.architecture, recipe=recipe, seed=task.seed, fold=fold))
        if not pool.jobs:
            return
        for message in pool.messages(1.0):
            if message.epoch is not None:
                pool.answer(message, stop=False)
            elif message.step is None:
                row, left = row_of(message), left - 1
                append(path, row)
                score = row.get("reason") or f"{row['last']:6.2f} %  {row['seconds']:6.1f} s"
                progress.print(f"{row['fidelity']:>6}  seed {row['seed']}  {score}  {row['schedule']}  ({left} to go)")


# --- what the table says ----------------------------------------------------------------------------------------------


def truth(runs: pd.DataFrame) -> pd.Series[float]:
    """Score of every network's full runs: the least-squares fit of network and seed, at the mean of the seeds.

    It is their mean where all have the same seeds. A seed has validation images of its own, easier or harder for all.
    """
    full = runs[runs["fidelity"] == "full"].dropna(subset=["last"])
    networks, seeds = pd.get_dummies(full["schedule"]), pd.get_dummies(full["seed"])
    solution = np.linalg.lstsq(np.hstack([networks, seeds]).astype(float), full["last"].to_numpy(float))[0]
    level = (seeds.to_numpy(float) @ solution[networks.shape[1] :]).mean() if len(full) else 0.0
    scores = pd.Series(solution[: networks.shape[1]] + level, index=networks.columns, name="last")
    # Far below a hundredth of a point: rounding, which differs from machine to machine, must not break ties.
    return scores.reindex(full["schedule"].unique()).round(6)


def groups(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of all networks, and of those near the cap; exits where there is nothing to compare yet."""
    found = {"all networks": runs, f"{NEAR[0]} to {NEAR[1]} parameters": runs[runs["num_params"].between(*NEAR)]}
    found = {title: part for title, part in found.items() if len(truth(part)) > 2}
    if not found:
        raise SystemExit(f"networks with a full run: {len(truth(runs))}, and a comparison needs 3; train more")
    return found


def signals(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """By network, a column for all that may tell its rank, the higher the better; and the mean seconds of each."""
    first, seconds = runs[runs["seed"] == 0], runs.groupby("fidelity")["seconds"].mean()
    brief = first[first["fidelity"] != "full"].assign(last=lambda frame: frame["last"].fillna(0))
    full = first[(first["fidelity"] == "full") & first["last"].notna()].set_index("schedule")
    found = brief.pivot(index="schedule", columns="fidelity", values="last").reindex(truth(runs).index)
    losses = brief.assign(loss=brief["losses"].astype(str).str.split().str[-1].astype(float).fillna(np.inf))
    losses = losses.pivot(index="schedule", columns="fidelity", values="loss").reindex(found.index)
    briefs = [name for name in FIDELITIES if name in found]
    found = found[briefs].assign(**{f"{name} loss": -losses[name] for name in briefs})
    costs = {f"{name}{by}": float(seconds[name]) for name in briefs for by in ("", " loss")}
    epoch = float(seconds["full"]) / FIDELITIES["full"].epochs
    curve = full["accuracies"].str.split(expand=True).astype(float)
    for number in CURVE:
        found[f"epoch {number} of 15"], costs[f"epoch {number} of 15"] = curve[number - 1], number * epoch
    found["first training loss"], costs["first training loss"] = -full["train_loss"], epoch
    for name in ("num_params", "macs"):
        found[name] = [getattr(Architecture.parse(str(schedule)), name) for schedule in found.index]
        costs[name] = 0.0
    return found, costs


def standings(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a signal, over the networks that have it and a full run; none where they are fewer than three.

    `low` and `high` are the 95 % interval of Spearman's correlation, `tops` the points that the best of the
    k leading have less than the best of all, for k of `TOPS`.
    """
    full, (found, costs) = truth(runs), signals(runs)
    rows = []
    for name, seconds in costs.items():
        both = pd.DataFrame({"score": found[name], "full": full}).dropna()
        if len(both) < 3:
            continue
        score, mean = both["score"].to_numpy(float), both["full"].to_numpy(float)
        spearman, (low, high) = float(stats.spearmanr(score, mean).statistic), bootstrap(score, mean)
        row = {"name": name, "n": len(both), "seconds": seconds, "spearman": spearman, "low": low, "high": high}
        leading = mean[np.argsort(-score, kind="stable")]
        tops = [float(full.max() - leading[:k].max()) for k in TOPS]
        rows.append(row | {"kendall": float(stats.kendalltau(score, mean).statistic), "tops": tops})
    return rows


def bootstrap(score: Any, mean: Any, times: int = 1000) -> tuple[float, float]:
    """The 95 % interval of Spearman's correlation over resampled networks."""
    drawn = np.random.default_rng(0).integers(len(score), size=(times, len(score)))
    a, b = (stats.rankdata(values[drawn], axis=1) for values in (score, mean))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a sample of one network many times over
        low, high = np.nanpercentile((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)), (2.5, 97.5))
    return float(low), float(high)


def reliability(runs: pd.DataFrame) -> tuple[float, float, int]:
    """Spearman's correlation of full seed 0 with full seed 1, that of their mean by Spearman-Brown, and n."""
    full = runs[(runs["fidelity"] == "full") & (runs["seed"] < 2)]
    halves = full.pivot(index="schedule", columns="seed", values="last").reindex(columns=[0, 1]).dropna()
    half = float(stats.spearmanr(halves[0], halves[1]).statistic) if len(halves) > 2 else math.nan
    return half, 2 * half / (1 + half), len(halves)


def seed_sd(runs: pd.DataFrame) -> float:
    """Standard deviation of full scores between seeds, but for what a seed is to all; NaN without a second seed."""
    full = runs[runs["fidelity"] == "full"].dropna(subset=["last"])
    sd, _ = paired_sd(dict(zip(part["seed"], part["last"], strict=True)) for _, part in full.groupby("schedule"))
    return math.nan if sd is None else sd


def replayed(runs: pd.DataFrame, *, fidelity: str, trials: int, times: int) -> tuple[int, list[tuple[Any, ...]]]:
    """Networks drawn, and by strategy: mean regret in points to the best drawn, its standard error, epochs trained.

    A replay draws `trials` networks, with a brief score of any seed. A finalist's score is normal about the full mean
    with the pooled sd of full scores: one of eight epochs may be a little worse. None is dropped for being behind.
    """
    brief = runs[runs["fidelity"] == fidelity].dropna(subset=["last"]).groupby("schedule")["last"].apply(list)
    both = pd.DataFrame({"full": truth(runs), "brief": brief}).dropna()
    full, briefs, sd = both["full"].to_numpy(float), list(both["brief"]), seed_sd(runs)
    if len(both) < 3 or math.isnan(sd):
        raise SystemExit(
            f"networks with {fidelity} and full runs: {len(both)} of 3, sd between seeds: {sd}; train more"
        )
    trials, how, rows = min(trials, len(both)), FIDELITIES[fidelity], []
    for name, rounds in STRATEGIES.items():
        rng, regrets = np.random.default_rng(0), []  # every strategy meets the same draws
        for _ in range(times):
            drawn, chances = rng.permutation(len(both))[:trials], rng.random(trials)
            scores = [briefs[i][int(chance * len(briefs[i]))] for i, chance in zip(drawn, chances, strict=True)]
            live, finals = drawn[np.argsort(scores, kind="stable")[::-1]], rng.normal(full, sd, size=(4, len(full)))
            for turn, keep in enumerate(rounds):
                live = live[:keep]
                live = live[np.argsort(-finals[: turn + 1, live].mean(0), kind="stable")]
            regrets.append(full[drawn].max() - full[live[0]])
        cost = trials * how.epochs * how.fraction + sum(min(keep, trials) for keep in rounds) * FINAL_EPOCHS
        rows.append((name, float(np.mean(regrets)), float(np.std(regrets, ddof=1)) / math.sqrt(times), cost))
    return trials, rows


def plot(panels: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Correlation against seconds a run, a panel a group of networks; .png or .svg."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "truth"  # the same file for the same table
    figure = Figure(figsize=(6 * len(panels), 5), layout="constrained")
    frames = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(frames, panels.items(), strict=True):
        for row in rows:
            brief, point = row["name"] in FIDELITIES, (row["seconds"], row["spearman"])
            loss = row["name"].endswith(" loss") and not row["name"].startswith("first")
            look: dict[str, Any] = {"color": "tab:blue" if brief else "tab:orange" if loss else "tab:gray"}
            axes.plot([row["seconds"]] * 2, [row["low"], row["high"]], linewidth=0.7, **look)
            axes.plot(*point, "o", **look)
            look["ha"] = "left" if brief or not row["seconds"] else "right"
            look["xytext"] = (5 if brief else -5, 4 if brief or loss else -10)
            axes.annotate(row["name"], point, textcoords="offset points", fontsize=8, **look)
        axes.set(title=f"{title}, n = {max(row['n'] for row in rows)}", xlabel="mean seconds a run")
        axes.grid(alpha=0.3)
    figure.supylabel("Spearman's correlation with the full score")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


# --- the commands -----------------------------------------------------------------------------------------------------


@app.command("networks")
def networks_command(
    count: Annotated[int, typer.Option(min=len(KNOWN), help="How many.")] = 72,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    folder: Folder = FOLDER,
) -> None:
    """Draw the schedules of the table."""
    drawn = draw(count, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "networks.csv", drawn.to_csv(index=False, lineterminator="\n"))
    progress.print(f"{len(drawn)} networks, {drawn['num_params'].between(*NEAR).sum()} near the cap of {CAP}")


@app.command("train")
def train_command(
    workers: Annotated[int | None, typer.Option(min=1, help="At once; one a core on a CPU, 4 on a GPU.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Begin no run after so many.")] = math.inf,
    data_dir: Annotated[Path | None, typer.Option(help="Where MNIST is.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto is cuda where there is one.")] = "auto",
    backend: Annotated[Backend, typer.Option(help="What trains on a CPU.")] = "auto",
    folder: Folder = FOLDER,
) -> None:
    """Train what the table lacks; what it has is never trained again."""
    end, path, chosen = time.monotonic() + 60 * minutes, folder / "runs.csv", choose_device(device)
    count = workers or default_count(chosen)
    schedules = list(pd.read_csv(folder / "networks.csv")["schedule"])
    for stage in (plan, confirm, repeat):
        runs = load(path, repair=True)
        tasks = due(stage(schedules, runs), runs)
        for (fraction, side), same in itertools.groupby(tasks, key=lambda task: (task.how.fraction, task.how.side)):
            if time.monotonic() > end:
                return
            training = material(fraction, side, data_dir)
            assert training.validation is not None
            with Pool(count, training, training.validation, device=chosen, backend=backend) as pool:
                fill(path, list(same), pool, lambda: time.monotonic() > end)


@app.command("rank")
def rank_command(
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw it too: a .png or .svg.")] = None,
    folder: Folder = FOLDER,
) -> None:
    """How well each brief training ranks the networks, by seed 0, against the mean of their full runs."""
    runs, shown = load(folder / "runs.csv"), output()
    panels = {title: standings(part) for title, part in groups(runs).items()}
    for (title, part), rows in zip(groups(runs).items(), panels.values(), strict=True):
        columns = ("n", "s a run", "Spearman", "95 %", "Kendall", "Spearman / s", *(f"top {k}" for k in TOPS))
        table = _table(title, "fidelity", *columns)
        for row in rows:
            seconds, rho = row["seconds"], row["spearman"]
            table.add_row(
                row["name"], str(row["n"]), f"{seconds:.1f}", f"{rho:.3f}", f"{row['low']:.2f} to {row['high']:.2f}",
                f"{row['kendall']:.3f}", f"{rho / seconds:.4f}" if seconds else "",
                *(f"{regret:.3f}" for regret in row["tops"]),
            )  # fmt: skip
        shown.print(table)
        half, whole, n = reliability(part)
        shown.print(
            f"Full scores of {len(truth(part))} networks: split-half reliability {half:.3f} (seed 0 with 1, n = {n}), "
            f"{whole:.3f} for the mean of two; sd between seeds {seed_sd(part):.3f} points.\n"
        )
    shown.print("top k: points of full score that the best of the k leading have less than the best of all.")
    if picture is not None:
        plot(panels, picture)


@app.command("replay")
def replay_command(
    fidelity: Annotated[Literal["e1", "e2", "e3", "e5", "half3", "small3"], typer.Option(help="Of the trials.")] = "e2",
    trials: Annotated[int, typer.Option(min=2, help="Networks a replay.")] = 40,
    times: Annotated[int, typer.Option(min=2, help="Replays.")] = 2000,
    folder: Folder = FOLDER,
) -> None:
    """Finalist strategies on the table: the mean regret of their winner, and what they train."""
    for title, part in groups(load(folder / "runs.csv")).items():
        drawn, rows = replayed(part, fidelity=fidelity, trials=trials, times=times)
        table = _table(f"{title}: {drawn} drawn, {times} replays", "strategy", "regret", "standard error", "epochs")
        for name, regret, error, epochs in rows:
            table.add_row(name, f"{regret:.4f}", f"{error:.4f}", f"{epochs:.0f}")
        output().print(table)


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def output() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


if __name__ == "__main__":
    try:
        app()
    except NasError as error:
        raise SystemExit(f"error: {error}") from None
