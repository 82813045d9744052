"""Charts as PNG files, through matplotlib."""

from __future__ import annotations

import io
import math
import re
import warnings
from typing import Any

from nas.errors import UsageError
from nas.report.chart import Axis, BarChart, Chart, MatrixChart, TileChart, XYChart, cut, short_number

TONES = ("#8d8c86", "#2a78d6", "#1baf7a", "#c98500", "#008300", "#4a3aa7", "#d63a3a", "#d55181", "#d9541e")
"""Colours of the tones 0 to 8 on white, as in chart.css."""

MARKS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^", None: ""}

LETTERS = 112
"""Letters of the smallest font that the width of a picture has room for, about."""


def draw_png(chart: Chart) -> bytes:
    """Return a chart as a PNG file. Raise `UsageError` where matplotlib is not installed.

    Characters that no font has are boxes, and one warning names them all.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("a .png file needs matplotlib: pip install 'nas[report]', or write .svg or .html") from None
    height = 4.6 if isinstance(chart, XYChart) else 6.0
    if isinstance(chart, BarChart):
        height = 1.2 + 0.34 * len(chart.rows)
    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no state of the caller's is touched
    figure.suptitle(_plain(chart.title), x=0.02, ha="left", fontsize=12, fontweight="bold")
    match chart:
        case XYChart():
            _xy(figure, chart)
        case BarChart():
            _bars(figure, chart)
        case MatrixChart():
            _matrix(figure, chart)
        case TileChart():
            _tiles(figure, chart)
    file = io.BytesIO()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.savefig(file, format="png")
    glyphs = [re.match(r"Glyph (\d+) .*missing", str(each.message)) for each in told]
    for each, glyph in zip(told, glyphs, strict=True):
        if glyph is None:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    found = {chr(int(glyph[1])) for glyph in glyphs if glyph}
    if missing := sorted(filter(str.isprintable, found)):
        warnings.warn(f"no font here has these characters: {''.join(missing)}", stacklevel=2)
    return file.getvalue()


def _plain(text: str) -> str:
    """Return a text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _xy(figure: Any, chart: XYChart) -> None:
    axes = figure.add_subplot()
    for series in chart.series:
        style = {"color": TONES[series.tone], "alpha": 0.45 if series.dim else 1.0}
        for number, part in enumerate(series.parts):
            x, y = [chart.x.place(point.x) for point in part], [chart.y.place(point.y) for point in part]
            axes.plot(
                x, y, marker=MARKS[series.mark], markersize=5, linestyle="" if series.join == "none" else "-",
                drawstyle="steps-post" if series.join == "step" else "default", linewidth=1 if series.dim else 1.8,
                label=_plain(series.name) if not number else None, **style,
            )  # fmt: skip
            for point, across in zip(part, x, strict=True):
                if point.low is not None and point.high is not None:
                    axes.vlines(across, chart.y.place(point.low), chart.y.place(point.high), **style)
    for rule in chart.rules:
        place = (chart.x if rule.axis == "x" else chart.y).place(rule.value)
        (axes.axvline if rule.axis == "x" else axes.axhline)(place, color="#52514e", linestyle="--", linewidth=1)
        where = (place, 1.01) if rule.axis == "x" else (0.01, place + 0.01)
        axes.text(*where, _plain(rule.label), fontsize=8)
    _scale(axes.set_xticks, axes.set_xlim, chart.x)
    _scale(axes.set_yticks, axes.set_ylim, chart.y)
    axes.set_xlabel(_plain(chart.x.title))
    axes.set_ylabel(_plain(chart.y.title))
    axes.grid(color="#e1e0d9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _scale(set_ticks: Any, set_limits: Any, axis: Axis) -> None:
    ticks = axis.ticks()
    names = [f"{tick:g}" if axis.scale == "error" else short_number(tick) for tick in ticks]
    set_ticks([axis.place(tick) for tick in ticks], names)
    set_limits(-0.02, 1.02)


def _bars(figure: Any, chart: BarChart) -> None:
    from matplotlib.ticker import MaxNLocator

    grid = figure.subplots(1, len(chart.columns), sharey=True, squeeze=False)[0]
    for place, (axes, title) in enumerate(zip(grid, chart.columns, strict=True)):
        rows = list(reversed(chart.rows))
        values = [row.values[place] for row in rows]
        weak = [chart.threshold is not None and abs(value) < chart.threshold for value in values]
        red = [(bool(row.marked) and row.marked[place]) or (chart.signed and value < 0)
               for row, value in zip(rows, values, strict=True)]  # fmt: skip
        colours = [TONES[0 if dim else 6 if mark else 1] for dim, mark in zip(weak, red, strict=True)]
        bars = axes.barh(range(len(rows)), values, color=colours, height=0.6)
        axes.set_yticks(range(len(rows)), [_plain(row.label) for row in rows])  # two rows may have one label
        axes.bar_label(bars, [_plain(row.texts[place]) for row in rows], fontsize=7, padding=2)
        axes.set_title(_plain(title), fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.25)
        if all(value == round(value) for value in values):  # counts have no halves
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def _matrix(figure: Any, chart: MatrixChart) -> None:
    axes = figure.add_subplot()
    shares = [[math.sqrt(number / (sum(row) or 1)) for number in row] for row in chart.counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_plain(cut(name, 14)) for name in chart.classes]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if len(names) <= 25:
        for row, counts in enumerate(chart.counts):
            for column, number in enumerate(counts):
                if number:
                    dark = shares[row][column] > 0.6
                    axes.text(column, row, number, ha="center", va="center", fontsize=7, color="w" if dark else "k")


def _tiles(figure: Any, chart: TileChart) -> None:
    columns = min(8, max(1, len(chart.tiles)))
    grid = figure.subplots(-(-len(chart.tiles) // columns), columns, squeeze=False).flat
    for number, axes in enumerate(grid):
        axes.axis("off")
        if number < len(chart.tiles):
            tile = chart.tiles[number]
            axes.imshow(tile.pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            lines = [cut(line, LETTERS // columns) for line in tile.lines]
            axes.set_title(_plain("\n".join(lines)), fontsize=7)
