"""The state of a search on one screen: phases, counts, the best so far, two drawings, a line for each worker."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.report.canvas import ASCII_SPARKS, SPARKS, ascii_only
from nas.report.chart import Axis, Point, Rule, Series, XYChart, accuracy_axis, cut, number_axis
from nas.report.event_lines import WIDE, heading
from nas.report.tables import account, brief_account
from nas.report.text_chart import TextChart
from nas.searches import pareto_front
from nas.study import ENDED, STARTING_WORKERS, Progress, Stage, WorkerLine

DRAWN_LINES = 8
"""Lines of the two drawings: axes of six, a title, ticks."""

LEAST_HEIGHT = 20
"""Lines of a terminal from which on it has room for drawings."""


def screen(progress: Progress, width: int, height: int | None = None) -> RenderableType:
    """Return the state of a search; `height` is that of the terminal, where there is one."""
    return _Screen(progress, width, height)


class _Screen:
    def __init__(self, progress: Progress, width: int, height: int | None) -> None:
        self.progress, self.width, self.height = progress, width, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress, width, plain = self.progress, self.width, ascii_only(options)
        above = [
            _one_line(heading(progress, width), style="bold"),
            *(_stages(progress, width, plain) or _bar(progress, width)),
            *([_one_line(progress.note, style="yellow")] if progress.note else []),
            *([_one_line(_account(progress, width), style="dim")] if progress.counts else []),
            _best(progress, width),
        ]
        yield from above
        room = None if self.height is None else self.height - len(above) - len(progress.lines) - 1
        if len(progress.results) > 1 and (room is None or (room >= DRAWN_LINES and (self.height or 0) >= LEAST_HEIGHT)):
            yield _drawings(progress, width)
        yield _workers(progress, width, plain)


def sparkline(values: Sequence[float], *, plain: bool = False) -> str:
    """Return values as characters, from their lowest to their highest; in ASCII where `plain`."""
    if len(values) < 2:
        return ""
    signs = ASCII_SPARKS if plain else SPARKS
    low, span = min(values), max(values) - min(values) or 1.0
    return "".join(signs[round((value - low) / span * (len(signs) - 1))] for value in values)


# --- lines ------------------------------------------------------------------------------------------------------------


def _stages(progress: Progress, width: int, plain: bool) -> list[RenderableType]:
    """Return the phases as parts of one bar, each as long as its work, and their names below."""
    stages = [stage for stage in progress.stages if stage.work > 0]
    whole = sum(stage.work for stage in stages)
    if not stages or not whole:
        return []
    done = sum(min(stage.done, stage.work) for stage in stages)
    room = min(width, 100) - 7 - (len(stages) - 1)
    lengths = [max(2, round(room * stage.work / whole)) for stage in stages]
    bar, names = Text(no_wrap=True), Text(no_wrap=True, overflow="ellipsis")
    for number, (stage, length) in enumerate(zip(stages, lengths, strict=True)):
        filled = round(length * min(1.0, stage.done / stage.work))
        bar.append(("#" if plain else "█") * filled, style="green")
        bar.append(("." if plain else "░") * (length - filled), style="dim").append(" ")
        here, last = stage.name == progress.phase, number == len(stages) - 1
        name = _stage_name(progress, stage)
        text = name if last or len(name) <= length else cut(name, length) if length > 4 else ""
        names.append(f"{text:<{length}} ", style="bold" if here else "dim")
    bar.append(f"{done / whole:>4.0%}")
    return [bar, names]


def _stage_name(progress: Progress, stage: Stage) -> str:
    if stage.name == progress.phase and progress.total:
        return f"{stage.name} {progress.done}/{progress.total}"
    return stage.name


def _bar(progress: Progress, width: int) -> list[RenderableType]:
    if not progress.total:
        return []
    bar = Table.grid(padding=(0, 1))
    done = ProgressBar(total=progress.total, completed=progress.done, width=min(40, width - 20))
    bar.add_row(done, f"{progress.done}/{progress.total}")
    return [bar]


def _account(progress: Progress, width: int) -> str:
    """Return where every schedule went, and how many are discarded each second."""
    pace = progress.discards_per_second
    whole = account(progress.counts) + ("" if pace is None else f", {pace:.1f} discarded a second")
    if len(whole) <= width:
        return whole
    return brief_account(progress.counts, "" if pace is None else f" ({pace:.1f}/s)")


def _best(progress: Progress, width: int) -> Text:
    name = "best" if progress.phase == ENDED else "best so far"
    if progress.best is None:
        return _one_line(f"{name}  none yet", style="dim")
    accuracy, loss, schedule, num_params = progress.best
    if loss is not None:
        name = "best by loss"
    target = progress.target
    style = "green" if target is None or accuracy >= target else "yellow"
    parts = [
        "" if loss is None else f"loss {loss:.4f}",
        f"{num_params:,}",
        "" if target is None else f"target {target:g}",
    ]
    numbers = "  ".join(part for part in parts if part)
    split = " of validation" if width >= WIDE else ""
    return Text.assemble(
        f"{name}  ", (f"{accuracy:.2f} %", style), f"{split}  {numbers}  {schedule}",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _workers(progress: Progress, width: int, plain: bool) -> Table:
    workers = Table.grid(padding=(0, 1), expand=True)
    for justify in ("right", "left", "right", "left", "right"):
        workers.add_column(justify=justify, no_wrap=True)
    workers.add_column(ratio=1, no_wrap=True, overflow="ellipsis")  # the schedule has what the numbers leave
    bar_width = 16 if width >= WIDE else 6
    longest = 12 if width >= WIDE else 6
    for number, line in enumerate(progress.lines, 1):
        accuracy = "" if line.accuracy is None else f"{line.accuracy:.2f} %"
        size = f"{line.num_params:,}" if line.num_params else ""
        busy = line.num_params or line.step  # an idle worker's empty bar would look full where there are no colours
        idle = line.text == WorkerLine().text
        text = "starting" if idle and progress.note == STARTING_WORKERS else line.text
        workers.add_row(
            str(number),
            ProgressBar(total=line.steps, completed=line.step, width=bar_width) if busy else " " * bar_width, accuracy,
            sparkline(line.history[-longest:], plain=plain), size, Text(text),
        )  # fmt: skip
    return workers


# --- drawings ---------------------------------------------------------------------------------------------------------


def _drawings(progress: Progress, width: int) -> Table:
    """Return the best so far by trial, and accuracy against parameters with the front as it fills."""
    half = (min(width, 120) - 3) // 2
    side = Table.grid(padding=(0, 3, 0, 0))
    charts = best_so_far(progress.results, progress.total), front_so_far(progress.results, progress.max_params)
    for _ in charts:
        side.add_column(width=half)
    side.add_row(*(TextChart(chart, height=DRAWN_LINES - 2, title=False, legend=False) for chart in charts))
    return side


def best_so_far(results: Sequence[tuple[int, float]], total: int) -> XYChart:
    """Return the highest accuracy after each complete trial."""
    best, points = 0.0, list[Point]()
    for number, (_, accuracy) in enumerate(results, 1):
        best = max(best, accuracy)
        points.append(Point(x=number, y=best))
    return XYChart(
        name="best", title="Highest accuracy so far", alt="", series=(
            Series(name="highest so far", parts=(tuple(points),), tone=2, join="step", mark=None),
        ),
        x=Axis(title="complete trials", low=1, high=max(2, total, len(points)), whole=True),
        y=accuracy_axis("highest so far, percent", [point.y for point in points]),
    )  # fmt: skip


def front_so_far(results: Sequence[tuple[int, float]], cap: int | None) -> XYChart:
    """Return accuracy against parameters, and the front: no smaller one was as accurate."""
    points = tuple(Point(x=size, y=accuracy) for size, accuracy in results)
    front = tuple(pareto_front(points, lambda point: (int(point.x), point.y)))
    rules = () if cap is None else (Rule(axis="x", value=cap, label="cap"),)
    return XYChart(
        name="front", title="Front", alt="", rules=rules, series=(
            Series(name="front", parts=(front,), tone=2, join="step", mark=None),
            Series(name="trials", parts=(points,), tone=1),
        ),
        x=number_axis("parameters", [*(point.x for point in points), *(rule.value for rule in rules)]),
        y=accuracy_axis("front, percent", [point.y for point in points]),
    )  # fmt: skip
