"""Tables: counts of a network, a search's finalists, recipes, a full run, a study's trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nas.architecture import Architecture
from nas.budget import FINALIST_LAST_EPOCHS, LAST_EPOCHS, Budget, last_epochs
from nas.footprint import Deployment, counts, folded_params

if TYPE_CHECKING:  # torch and pandas take seconds to import, and a table of layers must not wait for them
    import pandas as pd

    from nas.export import RunResult
    from nas.final import FullRun
    from nas.searches import SearchReason
    from nas.study import StudyInfo

FLOAT_BYTES = 4

MOST_RECALLS = 12
"""Classes whose recall fits in a line: the worst."""

MEASURED_WIDTH = 1000
"""Columns in which any table fits."""


def plain(header: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    """A quiet table; the columns named in `right` are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    return table


class ScheduleTable:
    """A table of numbers with a schedule in each row; where they do not fit beside, schedules stand below.

    Where the numbers alone do not fit, the columns of `spare` are left out, the first of them first.
    """

    def __init__(self, header: Sequence[str], *, right: Sequence[str], key: str, spare: Sequence[str] = ()) -> None:
        self.header, self.right, self.key, self.spare = tuple(header), right, key, spare
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
        for left_out in range(len(self.spare) + 1):
            numbers = self._numbers(self.spare[:left_out])
            if Measurement.get(console, options.update(max_width=MEASURED_WIDTH), numbers).maximum <= options.max_width:
                break
        yield numbers
        for cells, schedule, style in self.rows:
            yield Text(f"{self.key} {cells[self.header.index(self.key)]}  {schedule}", style=style or "")

    def _numbers(self, without: Sequence[str]) -> Table:
        places = [place for place, name in enumerate(self.header) if name not in without]
        numbers = plain([self.header[place] for place in places], right=self.right)
        numbers.padding = (0, 1, 0, 0)  # one blank between columns, not two
        for cells, _, style in self.rows:
            numbers.add_row(*(cells[place] for place in places), style=style)
        return numbers


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
        fits = budget.admits(*counts(architecture, budget))
        lines.append(f"{'Fits' if fits else 'Does not fit'}: {budget}")
    return "\n".join(lines)


def deployment_table(deployment: Deployment) -> RenderableType:
    """Flash and RAM of a network's C code, part by part, and a verdict for each device."""
    found = deployment.footprint
    lines = (
        f"Flash: {found.flash:,} bytes  ({found.weights:,} weights, {found.tables:,} tables, {found.code:,} for code"
        f"{f', {found.reserve:,} for norms of negative factors' if found.reserve else ''})",
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


STATES = {"fail": "failed"}
"""Words for states of trials, where Optuna's name is none."""


def account(counts: Mapping[str, int]) -> str:
    """Return every generated schedule accounted for, in one line."""
    if not counts:
        return ""
    apart = ("generated", "tried again", "shrunk to fit")
    parts = [f"{counts[key]:,} {STATES.get(key, key)}" for key in counts if key not in apart and counts[key]]
    again = counts["tried again"]
    twice = f" + {again:,} run again after an interruption" if again else ""
    shrunk = f" ({counts['shrunk to fit']:,} shrunk to fit)" if counts["shrunk to fit"] else ""
    return f"generated {counts['generated']:,}{twice} = {' + '.join(parts) or '0'}{shrunk}"


def brief_account(counts: Mapping[str, int], pace: str = "") -> str:
    """Return the account for a narrow terminal: the reasons of discards in one sum, `pace` beside it."""
    trials = sum(counts[state] for state in ("waiting", "running", "complete", "pruned", "fail", "interrupted"))
    discarded = counts["generated"] + counts["tried again"] - trials
    shown = [state for state in ("complete", "pruned", "fail", "interrupted") if counts[state]]
    ended = "".join(f", {counts[state]:,} {STATES.get(state, state)}" for state in shown)
    return f"generated {counts['generated']:,}: {discarded:,} discarded{pace}{ended}"


def finalist_table(reason: SearchReason) -> RenderableType:
    """Return the finalists of a search with their intervals, the winner first; a front by its parameters."""
    numbers = ("trial", "params", "brief", "mean", "sd", "n", "95 % interval")
    table = ScheduleTable(("", *numbers), right=numbers, key="trial", spare=("brief", "sd", "95 % interval", ""))
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
    title = f"Finalists: {score_of(reason)}, {epochs_text(reason.finalist_epochs)}, validation split of each seed"
    return titled(title, table, Text(f"Winner: {reason.verdict}."))


def score_of(reason: SearchReason) -> str:
    """Return in words what a finalist's score is: the mean over its last epochs, or over all where it has no more."""
    few = reason.finalist_epochs <= FINALIST_LAST_EPOCHS
    return "mean accuracy over its epochs, percent" if few else reason.score


def cost(reason: SearchReason) -> str:
    """Return what the trainings of all runs of a search took, in a worker's time."""
    teachers = ""
    if reason.teacher is not None:
        count = reason.teacher.trained
        scored = f" ({reason.teacher.accuracy:.2f} % on validation)" if reason.teacher.accuracy is not None else ""
        teachers = f", their {count} teacher{'s' * (count > 1)}{scored} {duration(reason.teacher.seconds)}"
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
        f"{epochs_text(reason['epochs'])}, validation split"
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
    low, middle, high = survey["macs"]
    console.print(f"their MACs: 5 % {low:,}, median {middle:,}, 95 % {high:,}")
    console.print("blocks: " + ", ".join(f"{depth} in {share:.0%}" for depth, share in survey["depths"].items()))
    console.print(f"space: {survey['space']}", highlight=False, markup=False)
    console.print(f"widths {survey['widths'][0]} to {survey['widths'][1]}; examples:")
    for text, num_params in survey["examples"]:
        console.print(f"  {num_params:>7,}  {text}", soft_wrap=True)


# --- the full run -----------------------------------------------------------------------------------------------------


def run_table(run: FullRun) -> RenderableType:
    """Return what a full run came to."""
    result = run.result
    last = last_epochs(result.epochs)
    header = ("seed", last, "lowest of them", "final", "seconds")
    table = plain(header, right=header)
    for seed in run.seeds:
        table.add_row(
            str(seed.seed), f"{seed.last5:.3f}", f"{min(seed.last):.2f}", f"{seed.final:.2f}", f"{seed.seconds:.0f}"
        )
    n = len(run.seeds)
    spread = "" if result.last5_sd is None else f" ± {result.last5_sd:.3f}"
    lowest = f"lowest single epoch of them {result.lowest_of_last5:.2f}"
    lines = [f"{last} {result.last5_mean:.3f}{spread} (n = {n}), {lowest}", *recall_lines(result)]
    if result.target_held is not None:
        verdict = "held" if result.target_held else "not held"
        every = "every seed" if n > 1 else "the seed"
        span = epochs_text(min(LAST_EPOCHS, result.epochs))
        lines.append(f"target {result.target:g}: {verdict} over the last {span} of {every}")
    if result.teacher is not None:
        lines.append(
            f"distilled from a network of {result.teacher['num_params']:,} parameters, itself trained in "
            f"{duration(result.teacher['seconds'])}; its logits took {duration(result.teacher['logits_seconds'])}"
        )
    title = f"Test accuracy in percent, {epochs_text(result.epochs)}, {result.num_params:,} parameters"
    return titled(title, table, Text("\n".join(lines)))


def recall_lines(result: RunResult) -> list[str]:
    """Return the balanced accuracy and each class's recall of an imbalanced test split, the worst class first."""
    if (scores := result.by_class) is None:
        return []
    spread = "" if scores.balanced_sd is None else f" ± {scores.balanced_sd:.3f}"
    return [
        f"balanced last-{LAST_EPOCHS} {scores.balanced_mean:.3f}{spread} (mean recall of the classes, which differ in "
        "size)",
        recall_text(result.classes, scores.recalls, scores.counts),
    ]


def recall_text(classes: Sequence[str], recalls: Sequence[float | None], counts: Sequence[int]) -> str:
    """Return recall and number of images of each class in one line, the worst first."""
    found = [row for row in zip(recalls, classes, counts, strict=True) if row[0] is not None]
    parts = [
        f"{name} {recall:.1f} of {count:,}" for recall, name, count in sorted(found, key=lambda row: row[0] or 0.0)
    ]
    more = len(parts) - MOST_RECALLS
    return "recall     " + ", ".join(parts[:MOST_RECALLS]) + (f" and {more} better ones" if more > 0 else "")


# --- reading a study --------------------------------------------------------------------------------------------------


def trial_table(table: pd.DataFrame, *, title: str) -> RenderableType:
    """Return trials of a study as a table: accuracy in percent of the validation split."""
    numbers = ("accuracy", "loss", "params", "MACs", "epochs", "time")
    spare = ("state", "epochs", "time", "MACs")
    view = ScheduleTable(("trial", "state", *numbers), right=("trial", *numbers), key="trial", spare=spare)
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


def epochs_text(number: int) -> str:
    """`3 epochs`, `1 epoch`."""
    return f"{number} epoch{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


STUDY_COLUMNS = ("study", "trials", "data set", "MB", "last written (UTC)", "")


def studies_table(studies: Sequence[StudyInfo]) -> Table:
    """The list of studies."""
    table = plain(STUDY_COLUMNS, right=("trials", "MB"))
    for row in study_rows(studies):
        table.add_row(*map(Text, row))
    return table


def study_rows(studies: Sequence[StudyInfo]) -> list[tuple[str, ...]]:
    """Return what the list of studies tells of each."""
    return [
        (
            each.name, "?" if each.trials is None else f"{each.trials:,}", each.dataset or "?",
            f"{each.bytes / 1e6:,.1f}", each.changed[:16], "in use" if each.in_use else each.problem or "",
        )
        for each in studies
    ]  # fmt: skip
