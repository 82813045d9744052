"""What the user sees: the live view of a search, tables, and a run's lines; all of it rich renderables."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.architecture import Architecture
from nas.budget import Budget

if TYPE_CHECKING:  # torch comes with these, and a table of layers must not wait for it
    import pandas as pd

    from nas.run import FullRun
    from nas.search import Progress as SearchProgress
    from nas.workers import Message

FLOAT_BYTES = 4


def plain(header: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    """A quiet table; the columns named in `right` are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def titled(title: str, *below: RenderableType) -> Group:
    """A title of a line of its own: a table's is wrapped to the table's width."""
    return Group(Text(title, style="bold"), *below)


# --- counts -----------------------------------------------------------------------------------------------------------


def layers(architecture: Architecture) -> Table:
    """The layer table in the familiar summary's form, with MACs."""
    table = plain(("Layer (type)", "Output Shape", "Param #", "MACs"), right=("Param #", "MACs"))
    for layer in architecture.layers:
        shape = ", ".join(map(str, layer.output_shape))
        macs = f"{layer.macs:,}" if layer.macs else ""
        table.add_row(layer.name, f"[-1, {shape}]".replace("[", r"\["), f"{layer.num_params:,}", macs)
    return table


def counts(architecture: Architecture, budget: Budget | None) -> str:
    """Parameters, MACs and activation memory, and whether they fit."""
    lines = [
        f"Total params: {architecture.num_params:,}  (weights, biases and norm affines; buffers do not count)",
        f"MACs: {architecture.macs:,} an image  (multiply-accumulates of the convolutions)",
        f"Activation memory: {_kib(architecture.peak_activations)} at most in inference, "
        f"{_kib(architecture.activations)} kept in training  (float32, an image)",
    ]
    if budget is not None:
        fits = budget.admits(architecture.num_params, architecture.macs)
        lines.append(f"{'Fits' if fits else 'Does not fit'}: {budget}")
    return "\n".join(lines)


def _kib(numbers: int) -> str:
    return f"{numbers * FLOAT_BYTES / 1024:.1f} KiB"


# --- the search -------------------------------------------------------------------------------------------------------


class LiveView:
    """The search as it runs: redrawn in place on a terminal, plain lines elsewhere, nothing at all when quiet."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._said = time.monotonic()

    def __enter__(self) -> LiveView:
        if self.live is not None and not self.quiet:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, progress: SearchProgress, line: str | None) -> None:
        if self.quiet:
            return
        if line is not None:
            self.console.print(Text(line, no_wrap=True, overflow="ellipsis"), soft_wrap=self.live is None)
        if self.live is not None:
            self.live.update(_screen(progress))
        elif time.monotonic() - self._said > 60:
            self._said = time.monotonic()
            self.console.print(Text(_status(progress)), soft_wrap=True)


def _screen(progress: SearchProgress) -> RenderableType:
    best = Text("best so far  none yet", style="dim")
    if progress.best is not None:
        accuracy, schedule, num_params = progress.best
        target = progress.settings.budget.target
        style = "green" if accuracy >= target else "yellow"
        best = Text.assemble(
            "best so far  ",
            (f"{accuracy:.2f} %", style),
            f" validation (target {target:g})  {num_params:,}  {schedule}",
        )
    workers = Table.grid(padding=(0, 1))
    for column in ("right", "left", "left", "right", "left"):
        workers.add_column(justify=column, no_wrap=True, overflow="ellipsis")
    for number, line in enumerate(progress.lines, 1):
        bar = ProgressBar(total=line.steps, completed=line.step, width=16)
        accuracy_text = "" if line.accuracy is None else f"{line.accuracy:.2f} %"
        params = f"{line.num_params:,}" if line.num_params else ""
        workers.add_row(str(number), bar, accuracy_text, params, line.text)
    return Group(Text(_status(progress), style="bold"), Text(account(progress.counts)), best, workers)


def _status(progress: SearchProgress) -> str:
    left = "" if progress.seconds_left is None else f", about {duration(progress.seconds_left)} left"
    elapsed = duration(time.monotonic() - progress.began)
    return f"{progress.settings.budget}: {progress.phase} {progress.done}/{progress.total}, {elapsed}{left}"


def account(counts: Mapping[str, int]) -> str:
    """Every generated schedule accounted for, in one line."""
    if not counts:
        return ""
    parts = [f"{counts[key]:,} {key}" for key in counts if key not in ("generated", "shrunk to fit") and counts[key]]
    shrunk = f" ({counts['shrunk to fit']:,} shrunk to fit)" if counts["shrunk to fit"] else ""
    return f"generated {counts['generated']:,} = {' + '.join(parts) or '0'}{shrunk}"


def finalists(reason: Mapping[str, Any]) -> RenderableType:
    """The finalists of a `reason.json` with their intervals, the winner first; a front by its parameters."""
    table = plain(
        ("", "trial", "params", "brief", "mean", "sd", "n", "95 % interval", "schedule"),
        right=("trial", "params", "brief", "mean", "sd", "n", "95 % interval"),
    )
    winner, rows = reason["finalists"][:1], reason["finalists"]
    if "front" in reason:
        rows = sorted(rows, key=lambda row: row["num_params"])
    for row in rows:
        best = row in winner
        mark = "winner" if best else "front" if row["trial"] in reason.get("front", ()) else ""
        interval = "" if row["interval"] is None else "{:.2f} to {:.2f}".format(*row["interval"])
        sd = "" if row["sd"] is None else f"{row['sd']:.3f}"
        name = f"{row['schedule']}  ({row['known']})" if row["known"] else row["schedule"]
        table.add_row(
            mark, str(row["trial"]), f"{row['num_params']:,}", f"{row['brief']:.2f}",
            f"{row['mean']:.3f}", sd, str(len(row["scores"])), interval, name, style="bold" if best else None,
        )  # fmt: skip
    if not rows:
        return Text(reason["verdict"])
    title = f"Finalists: {reason['score']}, {reason['finalist_epochs']} epochs, validation split of each seed"
    return titled(title, table, Text(f"The winner has {reason['verdict']}."))


def cost(reason: Mapping[str, Any]) -> str:
    """What the trainings of a `reason.json` took, those of all runs of the search; a worker's time."""
    teachers = ""
    if taught := reason.get("teacher"):
        count = taught["trained"]
        teachers = f", their {count} teacher{'s' * (count > 1)} {duration(taught['seconds'])}"
    return f"{reason['trainings']} trainings took {duration(reason['training_seconds'])}{teachers} of workers' time"


def recipes(reason: Mapping[str, Any], *, top: int = 8) -> RenderableType:
    """The best recipes of a recipe study's `reason.json` beside the default one, which is its trial 0."""
    numbers = ("trial", "mean", "sd", "n", "difference", "interval")
    names = ("optimizer", "batch", "rate", "warm-up", "decay", "average", "smoothing", "augment")
    table = plain(("", *numbers, *names), right=(*numbers, *names))
    shown = [row for place, row in enumerate(reason["recipes"]) if place < top or row["trial"] == 0 or row["kept"]]
    for row in shown:
        recipe, first = row["recipe"], "default" if row["trial"] == 0 else row["state"].replace("complete", "")
        interval = "" if row["interval"] is None else "{:+.3f} to {:+.3f}".format(*row["interval"])
        table.add_row(
            first, str(row["trial"]), f"{row['mean']:.3f}", _number(row["sd"], ".3f"), str(len(row["scores"])),
            _number(row["difference"], "+.3f"), interval, recipe["optimizer"], str(recipe["batch_size"]),
            f"{recipe['peak_rate']:.4f}", f"{recipe['warm_up']:.2f}", f"{recipe['weight_decay']:.1e}",
            f"{recipe['average']:.3f}", f"{recipe['label_smoothing']:.3f}", f"{row['augmentation']:.2f}",
            style="bold" if row["kept"] else None,
        )  # fmt: skip
    counts = ", ".join(f"{count} {state}" for state, count in reason["counts"].items() if count)
    paired = "" if reason["noise_sd"] is None else (
        f"\nDifferences to the default are paired over seeds (sd of a score {reason['noise_sd']:.3f}, "
        f"{reason['noise_degrees']} degrees of freedom); the 95 % intervals hold for all {reason['compared']} at once."
    )  # fmt: skip
    spent = f"{reason['trainings']} trainings, {duration(reason['training_seconds'])} of training"
    title = (
        f"Recipes for {reason['schedule']} ({reason['num_params']:,} parameters): {reason['score']}, "
        f"{reason['epochs']} epochs, validation split"
    )
    return titled(title, table, Text(f"Trials: {counts}; {spent}.{paired}\n{reason['verdict']}"))


def space(console: Console, budget: Budget, survey: Mapping[str, Any]) -> None:
    """What `nas space` shows."""
    console.print(f"{survey['samples']:,} schedules drawn, {survey['per_second']:,} a second ({budget})")
    console.print(", ".join(f"{share:.1%} {reason}" for reason, share in survey["shares"].items()))
    low, middle, high = survey["num_params"]
    console.print(
        f"parameters of those that fit: 5 % {low:,}, median {middle:,}, 95 % {high:,}; least {survey['smallest']:,}"
    )
    console.print("blocks: " + ", ".join(f"{depth} in {share:.0%}" for depth, share in survey["depths"].items()))
    console.print(f"widths {survey['widths'][0]} to {survey['widths'][1]}; examples:")
    for text, num_params in survey["examples"]:
        console.print(f"  {num_params:>7,}  {text}", soft_wrap=True)


# --- the full run -----------------------------------------------------------------------------------------------------


class RunView:
    """A full run as it goes: a line an epoch to standard output, a bar a seed to standard error."""

    def __init__(self, console: Console, epochs: int, seeds: Sequence[int], *, quiet: bool) -> None:
        self.quiet, self.many = quiet, len(seeds) > 1
        self.bars = Progress(
            TextColumn("{task.fields[who]}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
            disable=quiet or not console.is_terminal,
        )  # fmt: skip
        self.epochs = epochs
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> RunView:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, message: Message) -> None:
        if message.job.key == "lesson":
            self._lesson(message)
            return
        who = "teacher" if message.job.key == "teacher" else f"seed {message.job.seed}"
        if who not in self.tasks:
            self.tasks[who] = self.bars.add_task("", total=self.epochs, who=who)
        if message.step is not None:
            self.bars.update(self.tasks[who], completed=round(message.step[0] / message.step[1] * self.epochs, 1))
        elif message.epoch is not None and not self.quiet:
            epoch = message.epoch
            lead = f"{who}  " if self.many or who == "teacher" else ""
            test = f"test loss {epoch.loss:.4f}  Accuracy: {epoch.correct}/{epoch.count} ({epoch.accuracy:.2f}%)  "
            self._print(
                f"{lead}epoch {epoch.number:>2}  loss {epoch.train_loss:.4f}  train {epoch.train_accuracy:.2f} %  "
                f"{'' if message.job.blind else test}{epoch.seconds:.1f} s"
            )

    def _lesson(self, message: Message) -> None:
        if "lesson" not in self.tasks:
            self.tasks["lesson"] = self.bars.add_task("", total=self.epochs, who="lesson")
        if message.answers is not None:
            self.bars.advance(self.tasks["lesson"])

    def _print(self, line: str) -> None:
        """Standard output is for data; the bars on standard error must not run through it on a terminal."""
        if self.bars.disable or not sys.stdout.isatty():
            print(line, flush=True)
        else:
            self.bars.console.print(line, highlight=False, soft_wrap=True)


def full_run(run: FullRun) -> RenderableType:
    """What a full run came to."""
    from nas.run import LAST

    table = plain(
        ("seed", f"last-{LAST}", "lowest of them", "final", "seconds"),
        right=("seed", f"last-{LAST}", "lowest of them", "final", "seconds"),
    )
    for seed in run.seeds:
        table.add_row(
            str(seed.seed), f"{seed.last5:.3f}", f"{min(seed.tail):.2f}", f"{seed.final:.2f}", f"{seed.seconds:.0f}"
        )
    n = len(run.seeds)
    spread = "" if run.sd is None else f" ± {run.sd:.3f}"
    lines = [f"last-{LAST} {run.mean:.3f}{spread} (n = {n}), lowest single epoch of them {run.lowest:.2f}"]
    if run.held is not None:
        verdict = "held" if run.held else "not held"
        lines.append(
            f"target {run.target:g}: {verdict} over the last {LAST} epochs of {'every' if n > 1 else 'the'} seed"
        )
    if run.teacher is not None:
        lines.append(
            f"distilled from a network of {run.teacher['num_params']:,} parameters, itself trained in "
            f"{duration(run.teacher['seconds'])} and asked in {duration(run.teacher['asked_seconds'])}"
        )
    title = f"Test accuracy in percent, {run.recipe.epochs} epochs, {run.architecture.num_params:,} parameters"
    return titled(title, table, Text("\n".join(lines)))


# --- reading a study --------------------------------------------------------------------------------------------------


def trials(table: pd.DataFrame, *, title: str) -> RenderableType:
    """Trials of a study as a table: accuracy in percent of the validation split."""
    view = plain(
        ("trial", "state", "accuracy", "loss", "params", "MACs", "epochs", "seconds", "schedule"),
        right=("trial", "accuracy", "loss", "params", "MACs", "epochs", "seconds"),
    )
    for row in table.itertuples():
        name = f"{row.schedule}  ({row.known})" if isinstance(row.known, str) else str(row.schedule)
        view.add_row(
            str(row.number), str(row.state).lower(), _number(row.value, ".2f"), _number(row.loss, ".4f"),
            _number(row.num_params, ",d"), _number(row.macs, ",d"), str(row.epochs), _number(row.seconds, ".0f"), name,
        )  # fmt: skip
    return titled(title, view)


def _number(value: Any, form: str) -> str:
    return "" if value is None or value != value or str(value) == "<NA>" else format(value, form)


def duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
