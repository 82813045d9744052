"""Charts as characters: everything in the room there is, in colour and without, in braille and in ASCII."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re

import pytest
from rich.console import Console

from nas.report.canvas import Canvas
from nas.report.chart import Axis, BarChart, BarRow, MatrixChart, Point, Series, XYChart
from nas.report.in_terminal import confusion_view, intervals, study_view
from nas.report.pictures import PICTURES
from nas.report.text_chart import IntervalBars, TextChart, bar
from nas.report.winner_pictures import confusion

WIDTHS = (60, 80, 160)


def rendered(renderable, width, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    console = Console(file=file, width=width, highlight=False)
    console.print(renderable)
    file.flush()
    return [line.rstrip() for line in file.buffer.getvalue().decode(encoding).splitlines()]


@pytest.mark.parametrize("name", [name for name in PICTURES if name not in ("filters", "misread", "augmented")])
def test_every_chart_of_a_report_is_drawn_in_the_width_there_is(finished, name):
    whole = PICTURES[name](finished)
    for width, encoding in itertools.product(WIDTHS, ("utf-8", "ascii")):
        chart = _in_ascii(whole) if encoding == "ascii" else whole  # what the data hold is not ours to change
        lines = rendered(TextChart(chart), width, encoding)
        assert max(map(len, lines)) <= width
        assert lines[0] == chart.title
        assert len(lines) > 3


def _in_ascii(value):
    """The same chart with texts of ASCII alone."""
    if isinstance(value, str):
        return value.encode("ascii", "replace").decode()
    if isinstance(value, tuple):
        return tuple(map(_in_ascii, value))
    if dataclasses.is_dataclass(value):
        fields = {each.name: _in_ascii(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


@pytest.mark.parametrize("ascii_", [False, True])
def test_a_dot_is_where_it_belongs(ascii_):
    canvas = Canvas(10, 4, ascii_=ascii_)
    for x, y in ((0, 0), (1, 1), (0, 1), (1, 0), (1.5, 0.5), (0.5, -2)):  # the last two lie outside
        canvas.dot(x, y, "")
    lines = [line.plain for line in canvas.lines()]
    corners = [lines[0][0], lines[0][-1], lines[-1][0], lines[-1][-1]]
    assert corners == (["*"] * 4 if ascii_ else ["⠁", "⠈", "⡀", "⢀"])
    assert "".join(lines).replace(" ", "") == "".join(corners)


def test_a_line_of_a_front_goes_across_and_then_up():
    points = (Point(x=0, y=0), Point(x=10, y=10))
    chart = XYChart(
        name="a", title="A", alt="", x=Axis(title="x", low=0, high=10), y=Axis(title="y", low=0, high=10),
        series=(Series(name="front", parts=(points,), tone=1, join="step", mark=None),),
    )  # fmt: skip
    lines = rendered(TextChart(chart, height=6), 40, "ascii")[2:8]
    assert lines[-1].count("*") > 30
    assert all(line.endswith("*") for line in lines)


def test_bars_are_as_long_as_their_values():
    assert (bar(0, 8, False), bar(1, 8, False), bar(0.5, 8, True)) == ("", "█" * 8, "####")
    assert bar(0.001, 8, True) == "#"  # something is not nothing
    rows = tuple(BarRow(label=f"row {value}", values=(value,), texts=(f"{value}",), tip="") for value in (-1.0, 0.5))
    signed = BarChart(name="a", title="A", alt="", columns=("r",), rows=rows, signed=True, limit=1.0)
    _, first, second = rendered(TextChart(signed), 60)
    middle = first.index("│")
    assert second.index("│") == middle
    assert first[:middle].count("█") == pytest.approx(2 * second[middle:].count("█"), abs=1)


def test_a_matrix_that_does_not_fit_lists_the_worst(finished):
    classes = tuple(f"a class with a long name {number}" for number in range(40))
    size = range(40)
    counts = tuple(tuple(900 if row == column else 7 * (row == column + 1) for column in size) for row in size)
    chart = MatrixChart(name="m", title="M", alt="", classes=classes, counts=counts)
    for width in WIDTHS:
        lines = rendered(TextChart(chart), width)
        assert max(map(len, lines)) <= width
        assert lines[2].split()[:3] == ["7", "of", "907"]
    small = rendered(TextChart(confusion(finished)), 60)
    numbers = [int(word) for line in small[3:] for word in re.findall(r"\b\d+\b", line[9:])]
    assert sum(numbers) == len(finished.validation.labels)


def test_intervals_stand_on_one_scale():
    axis = Axis(title="percent", low=0, high=100)
    rows = [("trial 1", 50.0, (25.0, 75.0)), ("trial 20", 100.0, None)]
    for encoding, ends, mean in (("utf-8", "├┤", "●"), ("ascii", "||", "o")):
        first, second, ticks = rendered(IntervalBars(rows, axis), 60, encoding)[:3]
        assert first.index(ends[0]) < first.index(mean) < first.rindex(ends[1])
        assert second.endswith(mean)
        assert not set(second) & set("├┤|")
        assert ticks.strip().startswith("0")


def test_a_study_is_shown_with_its_answer(finished):
    for width in WIDTHS:
        text = "\n".join(line for part in study_view(finished) for line in rendered(part, width))
        assert max(map(len, text.splitlines())) <= max(width, len(finished.schedule) + 12)
        for words in (
            "Accuracy against parameters", "Where every generated schedule went", "Finalists:", "95 % intervals",
            "Full run, test accuracy", "not held",
        ):  # fmt: skip
            assert words in text
    assert "are read right" in "\n".join(rendered(confusion_view(finished, images=True), 80))
    bare = dataclasses.replace(finished, reason=None)
    assert intervals(bare) is None
    lone = dataclasses.replace(finished.reason, finalists=finished.reason.finalists[:1])
    assert intervals(dataclasses.replace(finished, reason=lone)) is None  # a scale of one point tells nothing
    assert "no winner has been written yet" in "\n".join(rendered(confusion_view(bare, images=True), 80))


def test_headings_of_a_matrix_are_visible_and_tell_classes_apart():
    classes = (" pear", " peach", "<b>", "<i>")
    chart = MatrixChart(name="m", title="M", alt="", classes=classes, counts=((1, 0, 0, 0),) * 4)
    heads = rendered(TextChart(chart), 60)[2].split()
    assert heads == ["pear", "peac", "<b>", "<i>"]
    narrow = rendered(TextChart(chart), 16)
    assert max(map(len, narrow)) <= 16
