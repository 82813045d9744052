"""Tables: counts of a network, a search's finalists, recipes, a full run, a study's trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nas.architecture import Architecture
from nas.budget import LAST_EPOCHS, Budget
from nas.export import Deployment, folded_params

if TYPE_CHECKING:  # torch and pandas take seconds to import, and a table of layers must not wait for them
    import pandas as pd

    from nas.final import FullRun
    from nas.searches import SearchReason

FLOAT_BYTES = 4

MEASURED_WIDTH = 1000
"""Columns in which any table fits."""


def plain(header: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    """A quiet table; the columns named in `right` are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    return table


class ScheduleTable:
    """A table of numbers with a schedule in each row; where they do not fit beside, schedules stand below."""

    def __init__(self, header: Sequence[str], *, right: Sequence[str], key: str) -> None:
        self.header, self.right, self.key = tuple(header), right, key
        self.rows: list[tuple[tuple[str, ...], str, str | None]] = []

    def add_row(self, *cells: str, schedule: str, style: str | None = None) -> None:
        self.rows.append((cells, schedule, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = plain((*self.header, "schedule"), right=self.right)
        for cells, schedule, style in self.rows:
            whole.add_row(*cells, schedule, style=style)
        if Measurement.get(console, options.update(max_width=MEASURED_WIDTH), whole).maximum <= options.max_width:
            yield whole
            return
        numbers = plain(self.header, right=self.right)
        numbers.padding = (0, 1, 0, 0)  # one blank between columns, not two
        for cells, _, style in self.rows:
            numbers.add_row(*cells, style=style)
        yield numbers
        for cells, schedule, style in self.rows:
            yield Text(f"{self.key} {cells[self.header.index(self.key)]}  {schedule}", style=style or "")


def titled(title: str, *below: RenderableType) -> Group:
    """A title of a line of its own: a table's is wrapped to the table's width."""
    return Group(Text(title, style="bold"), *below)


# --- counts -----------------------------------------------------------------------------------------------------------


def layer_table(architecture: Architecture) -> Table:
    """The layer table in the familiar summary's form, with MACs."""
    table = plain(("Layer (type)", "Output Shape", "Param #", "MACs"), right=("Param #", "MACs"))
    for layer in architecture.layers:
        shape = ", ".join(map(str, layer.output_shape))
        macs = f"{layer.macs:,}" if layer.macs else ""
        table.add_row(layer.name, f"[-1, {shape}]".replace("[", r"\["), f"{layer.num_params:,}", macs)
    return table


def count_lines(architecture: Architecture, budget: Budget | None) -> str:
    """Parameters, MACs and activation memory, and whether they fit."""
    lines = [
        f"Total params: {architecture.num_params:,}  (weights, biases and norm affines; buffers do not count)",
        f"Folded for deployment: {folded_params(architecture):,}  (norms folded away: one bias a channel)",
        f"MACs: {architecture.macs:,} an image  (multiply-accumulates of the convolutions)",
        f"Activation memory: {_kib(architecture.peak_activations)} at most in inference, "
        f"{_kib(architecture.activations)} held in training  (float32, an image)",
    ]
    if budget is not None:
        fits = budget.admits(architecture.num_params, architecture.macs)
        lines.append(f"{'Fits' if fits else 'Does not fit'}: {budget}")
    return "\n".join(lines)


def deployment_table(deployment: Deployment) -> RenderableType:
    """Flash and RAM of a network's C code, part by part, and a verdict for each device."""
    found = deployment.footprint
    lines = (
        f"Flash: {found.flash:,} bytes  ({found.weights:,} weights, {found.tables:,} tables, {found.code:,} for code)",
        f"RAM: {found.ram:,} bytes with the input image, {found.ram - found.image:,} without  ({found.arena:,} arena, "
        f"{found.image:,} image, {found.logits:,} logits; stack not counted)",
    )
    table = plain(("Device", "Flash", "RAM", "Verdict"), right=("Flash", "RAM"))
    for limit in deployment.limits:
        sizes = ["" if size is None else f"{size:,}" for size in (limit.flash, limit.ram)]
        table.add_row(limit.title, *sizes, limit.problem(found) or "fits")
    return titled(f"C code in {found.kind}, counted", *map(Text, lines), Text(), table)


def _kib(numbers: int) -> str:
    return f"{numbers * FLOAT_BYTES / 1024:.1f} KiB"


# --- the search -------------------------------------------------------------------------------------------------------


def account(counts: Mapping[str, int]) -> str:
    """Return every generated schedule accounted for, in one line."""
    if not counts:
        return ""
    apart = ("generated", "tried again", "shrunk to fit")
    parts = [f"{counts[key]:,} {key}" for key in counts if key not in apart and counts[key]]
    if counts["tried again"]:
        parts[-1] += f" - {counts['tried again']:,} tried again"
    shrunk = f" ({counts['shrunk to fit']:,} shrunk to fit)" if counts["shrunk to fit"] else ""
    return f"generated {counts['generated']:,} = {' + '.join(parts) or '0'}{shrunk}"


def brief_account(counts: Mapping[str, int]) -> str:
    """Return the account for a narrow terminal: the reasons of discards in one sum."""
    trials = sum(counts[state] for state in ("waiting", "running", "complete", "pruned", "fail"))
    discarded = counts["generated"] + counts["tried again"] - trials
    ended = "".join(f", {counts[state]:,} {state}" for state in ("complete", "pruned", "fail") if counts[state])
    return f"generated {counts['generated']:,}: {discarded:,} discarded{ended}"


def finalist_table(reason: SearchReason) -> RenderableType:
    """Return the finalists of a search with their intervals, the winner first; a front by its parameters."""
    numbers = ("trial", "params", "brief", "mean", "sd", "n", "95 % interval")
    table = ScheduleTable(("", *numbers), right=numbers, key="trial")
    rows = list(reason.finalists)
    if not rows:
        return Text(reason.verdict)
    winner = rows[0]
    if reason.front is not None:
        rows.sort(key=lambda row: row.num_params)
    for row in rows:
        mark = "winner" if row is winner else "front" if row.trial in (reason.front or ()) else ""
        interval = "" if row.interval is None else "{:.2f} to {:.2f}".format(*row.interval)
        sd = "" if row.sd is None else f"{row.sd:.3f}"
        name = f"{row.schedule}  ({row.published})" if row.published else row.schedule
        table.add_row(
            mark, str(row.trial), f"{row.num_params:,}", f"{row.brief:.2f}", f"{row.mean:.3f}", sd,
            str(len(row.scores)), interval, schedule=name, style="bold" if row is winner else None,
        )  # fmt: skip
    title = f"Finalists: {reason.score}, {_epochs(reason.finalist_epochs)}, validation split of each seed"
    return titled(title, table, Text(f"Winner: {reason.verdict}."))


def cost(reason: SearchReason) -> str:
    """Return what the trainings of all runs of a search took, in a worker's time."""
    teachers = ""
    if reason.teacher is not None:
        count = reason.teacher.trained
        teachers = f", their {count} teacher{'s' * (count > 1)} {duration(reason.teacher.seconds)}"
    return f"{reason.trainings} trainings took {duration(reason.training_seconds)}{teachers} of workers' time"


def recipe_table(reason: Mapping[str, Any], *, top: int = 8) -> RenderableType:
    """Return the best recipes of a recipe study's `reason.json` beside the default one."""
    numbers = ("trial", "mean", "sd", "n", "difference", "interval")
    names = ("batch", "lr", "warm-up", "decay", "EMA", "smoothing", "augment")
    table = plain(("", *numbers, *names), right=(*numbers, *names))
    every = enumerate(reason["recipes"])
    shown = [row for place, row in every if place < top or row["default"] or row["chosen"]]
    for row in shown:
        recipe, first = row["recipe"], "default" if row["default"] else row["state"].replace("complete", "")
        interval = "" if row["interval"] is None else "{:+.3f} to {:+.3f}".format(*row["interval"])
        table.add_row(
            first, str(row["trial"]), f"{row['mean']:.3f}", _number(row["sd"], ".3f"), str(len(row["scores"])),
            _number(row["difference"], "+.3f"), interval, str(recipe["batch_size"]),
            f"{recipe['peak_lr']:.4f}", f"{recipe['warmup_fraction']:.2f}", f"{recipe['weight_decay']:.1e}",
            f"{recipe['ema_horizon']:.3f}", f"{recipe['label_smoothing']:.3f}", f"{row['augmentation']:.2f}",
            style="bold" if row["chosen"] else None,
        )  # fmt: skip
    counts = ", ".join(f"{count} {state}" for state, count in reason["counts"].items() if count)
    paired = "" if reason["paired_sd"] is None else (
        f"\nDifferences to the default are paired over seeds (sd of a score {reason['paired_sd']:.3f}, "
        f"{reason['degrees_of_freedom']} degrees of freedom); the 95 % intervals hold for all {reason['compared']} "
        "at once."
    )  # fmt: skip
    spent = f"{reason['trainings']} trainings, {duration(reason['training_seconds'])} of training"
    title = (
        f"Recipes for {reason['schedule']} ({reason['num_params']:,} parameters): {reason['score']}, "
        f"{_epochs(reason['epochs'])}, validation split"
    )
    return titled(title, table, Text(f"Trials: {counts}; {spent}.{paired}\n{reason['verdict']}"))


def print_space(console: Console, budget: Budget, survey: Mapping[str, Any]) -> None:
    """Print what a search space holds under a budget."""
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


def run_table(run: FullRun) -> RenderableType:
    """Return what a full run came to."""
    result = run.result
    header = ("seed", f"last-{LAST_EPOCHS}", "lowest of them", "final", "seconds")
    table = plain(header, right=header)
    for seed in run.seeds:
        table.add_row(
            str(seed.seed), f"{seed.last5:.3f}", f"{min(seed.last):.2f}", f"{seed.final:.2f}", f"{seed.seconds:.0f}"
        )
    n = len(run.seeds)
    spread = "" if result.last5_sd is None else f" ± {result.last5_sd:.3f}"
    lowest = f"lowest single epoch of them {result.lowest_of_last5:.2f}"
    lines = [f"last-{LAST_EPOCHS} {result.last5_mean:.3f}{spread} (n = {n}), {lowest}"]
    if result.target_held is not None:
        verdict = "held" if result.target_held else "not held"
        every = "every seed" if n > 1 else "the seed"
        lines.append(f"target {result.target:g}: {verdict} over the last {LAST_EPOCHS} epochs of {every}")
    if result.teacher is not None:
        lines.append(
            f"distilled from a network of {result.teacher['num_params']:,} parameters, itself trained in "
            f"{duration(result.teacher['seconds'])}; its logits took {duration(result.teacher['logits_seconds'])}"
        )
    title = f"Test accuracy in percent, {_epochs(result.epochs)}, {result.num_params:,} parameters"
    return titled(title, table, Text("\n".join(lines)))


# --- reading a study --------------------------------------------------------------------------------------------------


def trial_table(table: pd.DataFrame, *, title: str) -> RenderableType:
    """Return trials of a study as a table: accuracy in percent of the validation split."""
    numbers = ("accuracy", "loss", "params", "MACs", "epochs", "time")
    view = ScheduleTable(("trial", "state", *numbers), right=("trial", *numbers), key="trial")
    for row in table.itertuples():
        name = f"{row.schedule}  ({row.published})" if isinstance(row.published, str) else str(row.schedule)
        view.add_row(
            str(row.number), str(row.state).lower(), _number(row.value, ".2f"), _number(row.loss, ".4f"),
            _number(row.num_params, ",d"), _number(row.macs, ",d"), str(row.epochs), _number(row.seconds, ".0f", " s"),
            schedule=name,
        )  # fmt: skip
    return titled(title, view)


def _number(value: Any, form: str, unit: str = "") -> str:
    return "" if value is None or value != value or str(value) == "<NA>" else format(value, form) + unit


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
