"""Charts in a terminal: the pictures of a report in characters, readable without colours and in plain ASCII."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nas.report.canvas import Canvas, ascii_only
from nas.report.chart import Axis, BarChart, BarRow, Chart, MatrixChart, Series, XYChart, short_number

TONES = ("bright_black", "cyan", "green", "yellow", "green", "magenta", "red", "bright_magenta", "bright_yellow")
"""Colours of the tones of a series, 0 to 8, of the sixteen that every terminal has."""

MARKS = {"circle": ("•", "o"), "square": ("■", "#"), "diamond": ("◆", "@"), "triangle": ("▲", "^")}
"""Characters of marks, and those of ASCII."""

MOST_MARKS = 24
"""Points of one series from which on a circle is a dot: a cloud of circles would hide all else."""

LEAST_COLUMNS = 12
MOST_COLUMNS = 110
"""Columns of a drawing: a wider one is harder to read, not easier."""


class TextChart:
    """A chart as characters, as wide as there is room; `height` is that of its axes in lines."""

    def __init__(self, chart: Chart, *, height: int = 14, title: bool = True, legend: bool = True) -> None:
        self.chart, self.height, self.title, self.legend = chart, height, title, legend

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, plain = min(options.max_width, MOST_COLUMNS), ascii_only(options)
        if self.title:
            yield Text(self.chart.title, style="bold")
        match self.chart:
            case XYChart():
                yield from _xy(self.chart, width, self.height, plain)
                if self.legend:
                    yield from _legend(self.chart, width, plain)
            case BarChart():
                yield from _bars(self.chart, width, plain)
            case MatrixChart():
                yield from _matrix(self.chart, width, plain)
            case _:
                yield Text(f"{self.chart.alt} (small pictures, which a terminal cannot show)")


# --- points and lines -------------------------------------------------------------------------------------------------


def _xy(chart: XYChart, width: int, height: int, plain: bool) -> Iterator[Text]:
    ticks = {tick: _tick(chart.y, tick) for tick in chart.y.ticks(max(2, height // 3))}
    left = max((len(text) for text in ticks.values()), default=1)
    canvas = Canvas(max(LEAST_COLUMNS, width - left - 2), height, ascii_=plain)
    for rule in chart.rules:
        if rule.axis == "x":
            canvas.rule(chart.x.place(rule.value), ":" if plain else "┊")
    for series in chart.series:
        _draw(canvas, chart, series, plain)
    rows = {canvas.cell(0.0, chart.y.place(tick))[1]: text for tick, text in ticks.items()}
    yield Text(_cut(chart.y.title, width, plain), style="dim", no_wrap=True)
    for number, line in enumerate(canvas.lines()):
        label = rows.get(number, "")
        edge = "|" if plain else "┤" if label else "│"
        yield Text.assemble((f"{label:>{left}}{edge}", "dim"), line, no_wrap=True)
    for below in _x_ticks(chart.x, canvas):
        yield Text(" " * (left + 1) + below, style="dim", no_wrap=True)


def _draw(canvas: Canvas, chart: XYChart, series: Series, plain: bool) -> None:
    tone = "dim" if series.dim else TONES[series.tone]
    character = _character(series, plain)
    for part in series.parts:
        places = [(chart.x.place(point.x), chart.y.place(point.y)) for point in part]
        join = canvas.step if series.join == "step" else canvas.line
        if series.join != "none":
            for start, end in pairwise(places):
                join(start, end, tone)
        for place in places if series.mark is not None else ():
            if character:
                canvas.mark(*place, character, tone)
            else:
                canvas.dot(*place, tone)


def _character(series: Series, plain: bool) -> str:
    """Return the character of a series' points; "" where they are dots."""
    if series.mark is None or (series.mark == "circle" and len(series.points) > MOST_MARKS):
        return ""
    return MARKS[series.mark][plain]


def _tick(axis: Axis, value: float) -> str:
    return f"{value:g}" if axis.scale == "error" else short_number(value)


def _x_ticks(axis: Axis, canvas: Canvas) -> list[str]:
    """Return ticks below their places, and the axis' title beside or below them, where it has room."""
    line = [" "] * canvas.columns
    title = axis.title if len(axis.title) < canvas.columns else ""
    for tick in axis.ticks(max(4, canvas.columns // 10)):
        text = _tick(axis, tick)
        start = min(max(0, canvas.cell(axis.place(tick), 0.0)[0] - len(text) // 2), canvas.columns - len(text))
        if all(line[place] == " " for place in range(max(0, start - 1), min(canvas.columns, start + len(text) + 1))):
            line[start : start + len(text)] = text
    ticks = "".join(line).rstrip()
    if len(ticks) + 2 + len(title) <= canvas.columns:
        return [ticks + title.rjust(canvas.columns - len(ticks))]
    return [ticks, title.rjust(canvas.columns)] if title else [ticks]


def _legend(chart: XYChart, width: int, plain: bool) -> Iterator[Text]:
    """Return how each series and rule looks, in as many lines as they take."""
    parts = []
    for series in chart.series:
        sign = _character(series, plain) or ("-" if plain else "─") if series.join != "none" or series.mark else ""
        if series.join == "none" and not _character(series, plain):
            sign = "*" if plain else "⠂"
        parts.append(Text.assemble((sign, "dim" if series.dim else TONES[series.tone]), f" {series.name}"))
    parts += [Text(f"{':' if plain else '┊'} {rule.label}") for rule in chart.rules if rule.axis == "x"]
    line = Text()
    for part in parts:
        if line.cell_len and line.cell_len + 3 + part.cell_len > width:
            yield line
            line = Text()
        line.append_text(Text("   ") if line.cell_len else Text()).append_text(part)
    yield line


# --- bars and the confusion matrix ------------------------------------------------------------------------------------


def bar(share: float, width: int, plain: bool) -> str:
    """Return a bar of a share of the width, to an eighth of a character."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    if plain:
        return "#" * max(round(eighths / 8), int(share > 0))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _bars(chart: BarChart, width: int, plain: bool) -> Iterator[Text]:
    columns = len(chart.columns)
    left = min(max((len(row.label) for row in chart.rows), default=1), max(12, width // 3))
    texts = [max(len(row.texts[place]) for row in chart.rows) for place in range(columns)]
    room = max(3, (width - left - sum(texts) - 4 * columns) // columns)
    if columns > 1:
        heads = [f"  {_cut(title, texts[place] + 1 + room, plain):<{texts[place] + 1 + room}}" for place, title
                 in enumerate(chart.columns)]  # fmt: skip
        yield Text(" " * left + "".join(heads).rstrip(), style="dim", no_wrap=True)
    for row in chart.rows:
        line = Text(f"{_cut(row.label, left, plain):<{left}}", no_wrap=True, overflow="ellipsis")
        for place in range(columns):
            drawn, style = _bar(chart, row, place, room, plain)
            line.append(f"  {row.texts[place]:>{texts[place]}} ").append(f"{drawn:<{room}}", style=style)
        line.rstrip()
        yield line


def _bar(chart: BarChart, row: BarRow, place: int, room: int, plain: bool) -> tuple[str, str]:
    """Return a row's bar in a column, and its style."""
    greatest = chart.limit or max(abs(each.values[place]) for each in chart.rows) or 1.0
    value = row.values[place]
    weak = chart.threshold is not None and abs(value) < chart.threshold
    marked = bool(row.marked) and row.marked[place]
    style = "dim" if weak else "red" if marked or (chart.signed and value < 0) else "cyan"
    if not chart.signed:
        return bar(value / greatest, room, plain) + (" <" if marked and plain else " ◂" if marked else ""), style
    half = room // 2
    long = min(half, math.ceil(abs(value) / greatest * half)) if value else 0
    sign, axis = "-" if value < 0 else "+", "|" if plain else "│"
    drawn = (sign if plain else "█") * long
    return (drawn.rjust(half) + axis if value < 0 else " " * half + axis + drawn), style


def _matrix(chart: MatrixChart, width: int, plain: bool) -> Iterator[Text]:
    """Return the counts, or, where they do not fit, the confusions that are most frequent."""
    cell = max(len(f"{count}") for row in chart.counts for count in row) + 1
    left = min(max(map(len, chart.classes)), max(6, width // 5))
    if left + 1 + cell * len(chart.classes) > width:
        yield from _confusions(chart, width, plain)
        return
    heads = [name.strip() for name in chart.classes]
    most = max(cell - 1, (width - left - 1) // len(heads) - 1)
    rooms = [room for room in range(cell - 1, most + 1) if len({head[:room] for head in heads}) == len(heads)]
    cell = rooms[0] + 1 if rooms else cell  # as wide as it takes to tell them apart
    names = "".join(f"{head[: cell - 1]:>{cell}}" for head in heads)
    yield Text(f"{'label':<{left}} prediction", style="dim", no_wrap=True)
    yield Text(" " * (left + 1) + names, style="dim", no_wrap=True)
    for number, (name, counts) in enumerate(zip(chart.classes, chart.counts, strict=True)):
        line = Text(f"{_cut(name, left, plain):<{left}} ", no_wrap=True)
        for column, count in enumerate(counts):
            style = "bold green" if column == number else "red" if count else "dim"
            line.append(f"{count or ('.' if plain else '·'):>{cell}}", style=style)
        yield line


def _confusions(chart: MatrixChart, width: int, plain: bool) -> Iterator[Text]:
    found = sorted(
        ((count, label, read) for label, counts in enumerate(chart.counts) for read, count in enumerate(counts)
         if label != read and count), reverse=True,
    )  # fmt: skip
    yield Text("Read as another, the most frequent:", style="dim")
    for count, label, read in found[:10]:
        total = sum(chart.counts[label])
        text = f"{count:>6,} of {total:>6,}  {chart.classes[label]} read as {chart.classes[read]}"
        yield Text(_cut(text, width, plain), no_wrap=True)


def _cut(text: str, most: int, plain: bool) -> str:
    return text if len(text) <= most else text[: max(0, most - 1)] + ("." if plain else "…")


# --- intervals --------------------------------------------------------------------------------------------------------


class IntervalBars:
    """Means with their intervals on one scale, a line each: (label, mean, interval or None)."""

    def __init__(self, rows: Sequence[tuple[str, float, tuple[float, ...] | None]], axis: Axis) -> None:
        self.rows, self.axis = rows, axis

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = ascii_only(options)
        left = max(len(label) for label, _, _ in self.rows)
        canvas = Canvas(max(LEAST_COLUMNS, min(options.max_width, MOST_COLUMNS) - left - 1), 1, ascii_=plain)
        for number, (label, mean, interval) in enumerate(self.rows):
            line = [" "] * canvas.columns
            if interval is not None:
                low, high = (canvas.cell(self.axis.place(end), 0.0)[0] for end in interval)
                low, high = max(0, low), min(canvas.columns - 1, high)
                line[low : high + 1] = ("-" if plain else "─") * (high + 1 - low)
                line[low], line[high] = ("|", "|") if plain else ("├", "┤")
            line[canvas.cell(self.axis.place(mean), 0.0)[0]] = "o" if plain else "●"
            yield Text(f"{label:>{left}} {''.join(line)}".rstrip(), style="bold" if number == 0 else "", no_wrap=True)
        for below in _x_ticks(self.axis, canvas):
            yield Text(" " * (left + 1) + below, style="dim", no_wrap=True)
