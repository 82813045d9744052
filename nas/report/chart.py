"""Charts as data: what is drawn, and no word of how; `svg` and `png` draw them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Join = Literal["none", "line", "step"]
Mark = Literal["circle", "square", "diamond", "triangle"]
Scale = Literal["linear", "log", "error"]

LEAST_ERROR = 0.01
"""Percent of error below which the scale of accuracies ends: one image of 10,000."""

ERROR_TICKS = (0.0, 50.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.98)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point; `tip` is what a reader who points at it is told, `low` and `high` its interval."""

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind, in parts: a part is a line of its own, where they are joined."""

    name: str
    parts: tuple[tuple[Point, ...], ...]
    tone: int
    """Colour, 1 to 8; 0 is grey."""
    join: Join = "none"
    mark: Mark | None = "circle"
    dim: bool = False

    @property
    def points(self) -> list[Point]:
        return [point for part in self.parts for point in part]

    @property
    def shows(self) -> bool:
        """Tell whether anything of it is to be seen: a line takes two points."""
        return self.mark is not None or any(len(part) > 1 for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis; its ends cover all that is drawn."""

    title: str
    low: float
    high: float
    scale: Scale = "linear"
    whole: bool = False
    """True for an axis of whole numbers, such as epochs: it has no ticks between them."""

    def place(self, value: float) -> float:
        """Return where a value stands: 0 at the low end, 1 at the high one."""
        low, high, here = (self._on_scale(each) for each in (self.low, self.high, value))
        return 0.5 if high == low else (here - low) / (high - low)

    def _on_scale(self, value: float) -> float:
        if self.scale == "log":
            return math.log(max(value, 1e-12))
        return -math.log(max(LEAST_ERROR, 100 - value)) if self.scale == "error" else value

    def ticks(self, count: int = 6) -> list[float]:
        """List round values on the axis, about `count` of them."""
        if self.scale == "error":
            found = [tick for tick in ERROR_TICKS if self.low <= tick <= self.high]
        elif self.scale == "log":
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            found = [tick for tick in every if self.low <= tick <= self.high]
        else:
            found = []
        if len(found) < 2:
            found = _round_ticks(self.low, self.high, count)
        return [tick for tick in found if not self.whole or tick == round(tick)]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line across the whole chart at a value, such as a cap."""

    axis: Literal["x", "y"]
    value: float
    label: str


@dataclass(frozen=True, kw_only=True)
class XYChart:
    """Points and lines over two axes."""

    name: str
    title: str
    alt: str
    """A sentence that says what is to be seen, for readers who do not see it."""
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class BarRow:
    """A row of a bar chart: a value and its text for each column."""

    label: str
    values: tuple[float, ...]
    texts: tuple[str, ...]
    tip: str
    marked: tuple[bool, ...] = ()
    """True for each column whose bar stands out."""


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Rows of horizontal bars in columns, each column on its own scale, from 0 or around it."""

    name: str
    title: str
    alt: str
    columns: tuple[str, ...]
    rows: tuple[BarRow, ...]
    signed: bool = False
    limit: float | None = None
    """The greatest value of a column (default: the greatest that is drawn)."""
    threshold: float | None = None
    """Signed bars shorter than it are dim: chance alone makes them."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class MatrixChart:
    """A confusion matrix: counts by label (rows) and prediction (columns)."""

    name: str
    title: str
    alt: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """A small picture, uint8 (H, W) or (H, W, 3), with a line or two below it."""

    pixels: Any
    lines: tuple[str, ...]
    tip: str


@dataclass(frozen=True, kw_only=True, eq=False)
class TileChart:
    """Small pictures in a grid."""

    name: str
    title: str
    alt: str
    tiles: tuple[Tile, ...]
    note: str = ""


Chart = XYChart | BarChart | MatrixChart | TileChart


def accuracy_axis(title: str, values: Iterable[float]) -> Axis:
    """Return an axis of percentages; where errors differ by more than a factor of three, by the logarithm of the error.

    A failed trial at 11 % would press everything between 98 and 99 % into a line.
    """
    found = [value for value in values if math.isfinite(value)]
    low, high = (min(found), max(found)) if found else (0.0, 100.0)
    best, worst = max(LEAST_ERROR, 100 - high), max(LEAST_ERROR, 100 - low)
    if worst > 3 * best:
        return Axis(title=title, low=max(0.0, 100 - worst * 1.15), high=100 - best / 1.25, scale="error")
    pad = max(0.02, (high - low) * 0.12)
    return Axis(title=title, low=max(0.0, low - pad), high=min(100.0, high + pad))


def epoch_axis(values: Iterable[float]) -> Axis:
    """Return an axis of epochs, from half an epoch before the first to half an epoch after the last."""
    found = list(values)
    return Axis(title="epoch", low=min(found) - 0.5, high=max(found) + 0.5, whole=True)


def number_axis(title: str, values: Iterable[float], *, from_zero: bool = False) -> Axis:
    """Return an axis of numbers, on a log scale where they differ by more than a factor of five."""
    found = [value for value in values if math.isfinite(value)]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if from_zero:
        return Axis(title=title, low=0.0, high=high * 1.03 or 1.0)
    if low > 0 and high > 5 * low:
        return Axis(title=title, low=low / 1.15, high=high * 1.15, scale="log")
    pad = (high - low) * 0.06 or max(abs(high) * 0.05, 0.5)
    return Axis(title=title, low=low - pad if low < 0 else max(0.0, low - pad), high=high + pad)


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many of the items, evenly spread, first and last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def short_number(value: float) -> str:
    """Return a number for a tick: `12,000` -> `12k`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.12g}M"
    if abs(value) >= 10_000 or (abs(value) >= 1000 and value % 100 == 0):
        return f"{value / 1000:.12g}k"
    return f"{round(value, 6):.12g}"


def cut(text: str, most: int) -> str:
    """Return the text, or its beginning with an ellipsis."""
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"


def _round_ticks(low: float, high: float, count: int) -> list[float]:
    span = (high - low) / max(1, count)
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(each * step, 10) for each in range(first, math.floor(high / step + 1e-9) + 1)]
