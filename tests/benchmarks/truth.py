"""A table of truth: networks of the search space, each trained briefly in many ways and fully, to choose the search by.

    python tests/benchmarks/truth.py networks                  # draw networks.csv in studies/benchmarks/truth
    python tests/benchmarks/truth.py train                     # fill runs.csv beside it; stop and start at will
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

import itertools
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from truth_runs import CAP, FOLDER, NEAR, draw, due, fill, load, material, plan, progress, repeat
from truth_scores import TOPS, confirm, groups, plot, reliability, replayed, seed_sd, standings, truth

from nas.designs import PUBLISHED_DESIGNS
from nas.errors import NasError
from nas.files import write_atomic
from nas.train import Backend, choose_device
from nas.workers import ProcessPool, default_workers

app = typer.Typer(help=__doc__.partition("\n")[0], add_completion=False, no_args_is_help=True)
Folder = Annotated[Path, typer.Option(help="Of networks.csv and runs.csv.", show_default="studies/benchmarks/truth")]


# --- the commands -----------------------------------------------------------------------------------------------------


@app.command("networks")
def networks_command(
    count: Annotated[int, typer.Option(min=len(PUBLISHED_DESIGNS), help="How many.")] = 72,
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
    count = workers or default_workers(chosen)
    schedules = list(pd.read_csv(folder / "networks.csv")["schedule"])
    for stage in (plan, confirm, repeat):
        runs = load(path, repair=True)
        tasks = due(stage(schedules, runs), runs)
        for (fraction, side), same in itertools.groupby(tasks, key=lambda task: (task.how.fraction, task.how.side)):
            if time.monotonic() > end:
                return
            training = material(fraction, side, data_dir)
            assert training.validation is not None
            with ProcessPool(count, training, training.validation, device=chosen, backend=backend) as pool:
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
        table = make_table(title, "fidelity", *columns)
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
        table = make_table(f"{title}: {drawn} drawn, {times} replays", "strategy", "regret", "standard error", "epochs")
        for name, regret, error, epochs in rows:
            table.add_row(name, f"{regret:.4f}", f"{error:.4f}", f"{epochs:.0f}")
        output().print(table)


def make_table(title: str, first: str, *columns: str) -> Table:
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
