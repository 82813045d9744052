"""Charts as SVG: the same drawing inside a page and as a file of its own."""

from __future__ import annotations

import base64
import math
from functools import cache
from importlib.resources import files

from nas.report.chart import (
    Axis,
    BarChart,
    Chart,
    MatrixChart,
    Point,
    Rule,
    Series,
    TileChart,
    XYChart,
    cut,
    short_number,
)
from nas.report.markup import Markup, join, tag
from nas.report.pixels import encode_png

WIDE, NARROW = 720, 340
"""Widths of a drawing in CSS pixels: letters have the same size on a phone, so that it needs a drawing of its own."""

XMLNS = "http://www.w3.org/2000/svg"
HEADING = 26
"""Pixels that a picture's heading takes."""

LETTER = 7.2
"""Width of a letter of 12 pixels in the widest of the fonts, about."""


def draw(chart: Chart, width: int = WIDE, *, legend: bool = False, titles: bool = False) -> Markup:
    """Return a chart as an <svg> element.

    `legend` adds the names of the series, `titles` a heading, and makes the tips of points <title> elements, which
    every viewer of SVG shows; a page has headings, buttons and a script for them.
    """
    match chart:
        case XYChart():
            body, height = _xy(chart, width)
        case BarChart():
            body, height = _bars(chart, width)
        case MatrixChart():
            body, height = _matrix(chart, width)
        case TileChart():
            body, height = _tiles(chart, width)
    if legend and isinstance(chart, XYChart):
        below, more = _legend(chart, width, height)
        body, height = join(body, below), height + more
    if titles:
        heading = tag("text", chart.title, x=4, y=16, class_="strong")
        below = tag("g", Markup(_titled(body)), transform=f"translate(0 {HEADING})")
        body, height = join(heading, below), height + HEADING
    return tag(
        "svg", tag("title", chart.title), tag("desc", chart.alt), body, viewBox=f"0 0 {width} {height:.0f}",
        width=width, height=f"{height:.0f}", role="img", aria_label=f"{chart.title}. {chart.alt}",
    )  # fmt: skip


def svg_file(chart: Chart) -> str:
    """Return a chart as an SVG file, with its colours for light and dark."""
    drawn = draw(chart, legend=True, titles=True)
    style = tag("style", Markup(_style()))
    return str(drawn).replace("<svg ", f'<svg xmlns="{XMLNS}" class="plain" ', 1).replace("<desc>", f"{style}<desc>", 1)


@cache
def _style() -> str:
    return files("nas.report").joinpath("chart.css").read_text(encoding="utf-8")


def _titled(body: str) -> str:
    """Turn data-tip into a <title> child."""
    import re

    found = r'<(\w+)([^<>]*?) data-tip="([^"]*)"([^<>]*?)/>'
    return re.sub(found, r"<\1\2\4><title>\3</title></\1>", body)


# --- points and lines -------------------------------------------------------------------------------------------------


class _Frame:
    """The rectangle that the axes span, in pixels."""

    def __init__(self, chart: XYChart, width: int) -> None:
        self.chart, self.width, self.height = chart, width, 300 if width == NARROW else 380
        self.y_ticks = chart.y.ticks(5)
        longest = max((len(_tick(chart.y, tick)) for tick in self.y_ticks), default=1)
        self.left, self.right = 14 + longest * LETTER, width - 14
        self.top, self.bottom = 40, self.height - 44

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = min(1.02, max(-0.02, self.chart.x.place(x)))
        up = min(1.0, max(0.0, self.chart.y.place(y)))
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def _tick(axis: Axis, value: float) -> str:
    return f"{value:g}" if axis.scale == "error" else short_number(value)


def _xy(chart: XYChart, width: int) -> tuple[Markup, float]:
    frame = _Frame(chart, width)
    parts: list[Markup] = [tag("text", chart.y.title, x=4, y=14, class_="axis")]
    for tick in frame.y_ticks:
        _, y = frame.at(chart.x.low, tick)
        parts.append(tag("line", x1=_n(frame.left), x2=_n(frame.right), y1=_n(y), y2=_n(y), class_="grid"))
        parts.append(tag("text", _tick(chart.y, tick), x=_n(frame.left - 6), y=_n(y + 4), class_="tick end"))
    for tick in chart.x.ticks(4 if width == NARROW else 7):
        x, _ = frame.at(tick, chart.y.low)
        parts.append(tag("line", x1=_n(x), x2=_n(x), y1=_n(frame.bottom), y2=_n(frame.bottom + 5), class_="grid"))
        text = _tick(chart.x, tick)
        x = min(x, width - len(text) * LETTER / 2)  # else the last one would be cut
        parts.append(tag("text", text, x=_n(x), y=_n(frame.bottom + 18), class_="tick middle"))
    parts.append(tag("text", chart.x.title, x=_n(frame.right), y=_n(frame.height - 8), class_="axis end"))
    taken: list[tuple[float, float]] = []  # by labels above the axes
    for rule in chart.rules:
        parts += _rule(frame, rule, taken)
    parts += [_series(frame, series, number) for number, series in enumerate(chart.series)]
    return join(parts), float(frame.height)


def _rule(frame: _Frame, rule: Rule, taken: list[tuple[float, float]]) -> list[Markup]:
    """Return a rule with its label; one of the x axis stands lower where it would lie over another, of `taken`."""
    chart = frame.chart
    if rule.axis == "x":
        x, _ = frame.at(rule.value, chart.y.low)
        late = x > (frame.left + frame.right) / 2
        line = tag("line", x1=_n(x), x2=_n(x), y1=_n(frame.top - 8), y2=_n(frame.bottom), class_="rule")
        place, long = (x - 4 if late else x + 4), LETTER * len(rule.label)
        ends = (place - long, place) if late else (place, place + long)
        lower = 14 * sum(low < ends[1] and ends[0] < high for low, high in taken)
        taken.append(ends)
        height = frame.top - 10 + lower
        return [line, tag("text", rule.label, x=_n(place), y=_n(height), class_="label" + " end" * late)]
    _, y = frame.at(chart.x.low, rule.value)
    line = tag("line", x1=_n(frame.left), x2=_n(frame.right), y1=_n(y), y2=_n(y), class_="rule")
    return [line, tag("text", rule.label, x=_n(frame.left + 4), y=_n(y - 5), class_="label")]


def _series(frame: _Frame, series: Series, number: int) -> Markup:
    parts: list[Markup] = []
    for part in series.parts:
        if series.join != "none" and len(part) > 1:
            parts.append(tag("path", d=_path(frame, part, step=series.join == "step"), class_="line"))
        for point in part:
            x, y = frame.at(point.x, point.y)
            if point.low is not None and point.high is not None:
                low, high = frame.at(point.x, point.low)[1], frame.at(point.x, point.high)[1]
                parts.append(tag("line", x1=_n(x), x2=_n(x), y1=_n(low), y2=_n(high), class_="error"))
            if series.mark is not None:
                parts.append(_mark(series.mark, x, y, point.tip))
    name = f"series s{series.tone}{' dim' * series.dim}"
    return tag("g", parts, class_=name, data_series=number)


def _path(frame: _Frame, part: tuple[Point, ...], *, step: bool) -> str:
    places = [frame.at(point.x, point.y) for point in part]
    path = f"M{_n(places[0][0])} {_n(places[0][1])}"
    for x, y in places[1:]:
        path += f"H{_n(x)}V{_n(y)}" if step else f"L{_n(x)} {_n(y)}"
    return path


def _mark(shape: str, x: float, y: float, tip: str) -> Markup:
    data = {"class_": "mark", "data_tip": tip or None}
    if shape == "circle":
        return tag("circle", cx=_n(x), cy=_n(y), r=4, **data)
    if shape == "square":
        return tag("rect", x=_n(x - 4), y=_n(y - 4), width=8, height=8, **data)
    corners = ((0, -6), (6, 0), (0, 6), (-6, 0)) if shape == "diamond" else ((0, -6), (5.5, 4), (-5.5, 4))
    return tag("polygon", points=" ".join(f"{_n(x + dx)},{_n(y + dy)}" for dx, dy in corners), **data)


def _legend(chart: XYChart, width: int, top: float) -> tuple[Markup, float]:
    parts, x, y = [], 10.0, top + 8
    for series in chart.series:
        wide = 30 + len(series.name) * LETTER
        if x > 10 and x + wide > width:
            x, y = 10.0, y + 20
        mark = swatch(series, x + 6, y)
        parts.append(join(mark, tag("text", series.name, x=_n(x + 18), y=_n(y + 4), class_="label")))
        x += wide
    return join(parts), y - top + 16


def swatch(series: Series, x: float, y: float) -> Markup:
    """Return how a series looks, for a legend."""
    line = tag("path", d=f"M{_n(x - 7)} {_n(y)}H{_n(x + 7)}", class_="line") if series.join != "none" else None
    mark = _mark(series.mark, x, y, "") if series.mark else None
    return tag("g", line, mark, class_=f"series s{series.tone}{' dim' * series.dim}")


# --- bars, matrix, tiles ----------------------------------------------------------------------------------------------


def _bars(chart: BarChart, width: int) -> tuple[Markup, float]:
    longest = max((len(row.label) for row in chart.rows), default=1)
    above = width == NARROW and longest * LETTER > 110  # where there is no room beside the bars
    left = 4.0 if above else min(width * 0.36, longest * LETTER + 18)
    cell, step, head = (width - left - 8) / max(1, len(chart.columns)), 50 if above else 31, 24
    greatest = [
        chart.limit or max((abs(row.values[place]) for row in chart.rows), default=0) or 1.0
        for place in range(len(chart.columns))
    ]
    parts = [
        tag("text", cut(title, int(cell / LETTER)), x=_n(left + place * cell), y=14, class_="axis")
        for place, title in enumerate(chart.columns)
    ]
    for number, row in enumerate(chart.rows):
        y = head + number * step
        label = cut(row.label, int((width if above else left) / LETTER))
        parts.append(tag("text", label, x=4, y=y + (12 if above else 19), class_="label strong" if above else "label"))
        y += 16 if above else 0
        for place, value in enumerate(row.values):
            x, room = left + place * cell, cell - 14
            long = room * min(1.0, abs(value) / greatest[place])
            start = x
            if chart.signed:
                long, start = long / 2, x + room / 2 - (long / 2 if value < 0 else 0)
                parts.append(tag("line", x1=_n(x + room / 2), x2=_n(x + room / 2), y1=y, y2=y + 28, class_="grid"))
            marked = bool(row.marked) and row.marked[place]
            weak = chart.threshold is not None and abs(value) < chart.threshold
            tone = "s0" if weak else "s6" if marked or (chart.signed and value < 0) else "s1"
            parts.append(
                tag(
                    "rect", x=_n(start), y=_n(y + 16), width=_n(max(long, 1.5 if value else 0)), height=8, rx=2,
                    class_=f"mark bar {tone}", data_tip=row.tip,
                )
            )  # fmt: skip
            parts.append(tag("text", row.texts[place], x=_n(x), y=_n(y + 12), class_="tick" + " strong" * marked))
    return join(parts), float(head + len(chart.rows) * step + 4)


def _matrix(chart: MatrixChart, width: int) -> tuple[Markup, float]:
    count, room = len(chart.classes), 7 if width == NARROW else 14
    names = [cut(name, room) for name in chart.classes]
    left = 20 + max(len(name) for name in names) * LETTER
    top, cell = left + 16, min((width - left - 4) / count, 46.0)
    right = left + cell * count
    parts = [tag("text", "prediction", x=_n(right), y=12, class_="axis end"),
             tag("text", "label", x=4, y=12, class_="axis")]  # fmt: skip
    readable = cell >= 11
    for row, counts in enumerate(chart.counts):
        y = top + row * cell
        if readable:
            parts.append(tag("text", names[row], x=_n(left - 6), y=_n(y + cell / 2 + 4), class_="tick end"))
            x = left + row * cell + cell / 2
            turned = {"transform": f"translate({_n(x + 4)} {_n(top - 6)}) rotate(-90)"}
            upright = {"x": _n(x), "y": _n(top - 6)}
            long = len(names[row]) * LETTER > cell
            parts.append(
                tag("text", names[row], class_="tick" + " middle" * (not long), **(turned if long else upright))
            )
        total = sum(counts) or 1
        for column, number in enumerate(counts):
            share = number / total
            strength = 0.0 if not number else share if row == column else min(1.0, 0.15 + 4 * math.sqrt(share) / 2)
            x = left + column * cell
            tip = f"{chart.classes[row]} read as {chart.classes[column]}: {number:,} of {total:,} ({share:.2%})"
            parts.append(
                tag(
                    "rect", x=_n(x + 0.5), y=_n(y + 0.5), width=_n(cell - 1), height=_n(cell - 1), data_tip=tip,
                    class_=f"mark cell {'s1' if row == column else 's6'}",
                    fill_opacity=f"{0.85 * strength if row == column else 0.7 * strength:.3f}",
                )
            )  # fmt: skip
            if number and cell >= 22 and len(f"{number}") * LETTER < cell + 2:
                middle = {"x": _n(x + cell / 2), "y": _n(y + cell / 2 + 4)}
                parts.append(tag("text", number, class_="tick middle strong", **middle))
    return join(parts), top + cell * count + 6


def _tiles(chart: TileChart, width: int) -> tuple[Markup, float]:
    side, gap = 64 if width == NARROW else 72, 16
    lines = max((len(tile.lines) for tile in chart.tiles), default=0)
    columns = max(1, (width + gap) // (side + gap))
    high = side + 15 * lines + 12
    parts = []
    for number, tile in enumerate(chart.tiles):
        x, y = (number % columns) * (side + gap) + 2, (number // columns) * high + 2
        data = base64.b64encode(encode_png(tile.pixels)).decode()
        parts.append(
            tag(
                "image", x=x, y=y, width=side, height=side, href=f"data:image/png;base64,{data}", class_="mark tile",
                data_tip=tile.tip,
            )
        )  # fmt: skip
        for place, line in enumerate(tile.lines):
            text = cut(line, int((side + gap) / LETTER))
            parts.append(tag("text", text, x=x, y=y + side + 14 + 15 * place, class_="tick"))
    return join(parts), float(high * -(-len(chart.tiles) // columns) + 4)


def _n(value: float) -> str:
    """Return a coordinate with a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
