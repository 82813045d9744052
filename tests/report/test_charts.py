"""Charts as data and as SVG: scales, ticks, escaping, PNG files without a library."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import HOSTILE

from nas.errors import UsageError
from nas.report.chart import (
    Axis,
    BarChart,
    BarRow,
    MatrixChart,
    Point,
    Rule,
    Series,
    Tile,
    TileChart,
    XYChart,
    accuracy_axis,
    epoch_axis,
    number_axis,
    thinned,
)
from nas.report.markup import Markup, escape, tag
from nas.report.pixels import encode_png
from nas.report.png import _bars, _tiles, draw_png
from nas.report.svg import NARROW, WIDE, draw, svg_file

POINTS = (Point(x=1, y=90, tip=HOSTILE, low=89, high=91), Point(x=2, y=95.5, tip="b"), Point(x=3, y=97, tip="c"))
CHARTS = [
    XYChart(
        name="xy", title=HOSTILE, alt=HOSTILE, x=number_axis(HOSTILE, [1, 3]), y=accuracy_axis(HOSTILE, [90, 97]),
        series=(
            Series(name=HOSTILE, parts=(POINTS,), tone=1, join="line"),
            Series(name="steps", parts=(POINTS,), tone=2, join="step", mark=None),
            Series(name="diamonds", parts=(POINTS,), tone=3, mark="diamond", dim=True),
            Series(name="triangles", parts=(POINTS, ()), tone=4, mark="triangle"),
        ),
        rules=(Rule(axis="x", value=2, label=HOSTILE), Rule(axis="y", value=95, label="target")),
    ),
    BarChart(
        name="bars", title=HOSTILE, alt="a", columns=(HOSTILE, "b"), signed=True, threshold=0.2, limit=1.0,
        rows=(BarRow(label=HOSTILE, values=(0.5, -0.1), texts=(HOSTILE, "y"), tip=HOSTILE, marked=(True, False)),),
    ),
    MatrixChart(name="matrix", title="t", alt="a", classes=(HOSTILE, "b"), counts=((3, 1), (0, 0))),
    TileChart(
        name="tiles", title="t", alt="a",
        tiles=(Tile(pixels=np.zeros((3, 3), np.uint8), lines=(HOSTILE,), tip=HOSTILE),
               Tile(pixels=np.zeros((4, 4, 3), np.uint8), lines=("b", "c"), tip="")),
    ),
]  # fmt: skip
names = [chart.name for chart in CHARTS]


@pytest.mark.parametrize("chart", CHARTS, ids=names)
def test_a_drawing_is_well_formed_and_holds_text_as_text(chart):
    for text in (svg_file(chart), *(draw(chart, width) for width in (WIDE, NARROW))):
        root = ET.fromstring(text)
        found = {each.tag.split("}")[-1] for each in root.iter()}
        assert found & {"script", "img"} == set()
        assert all(not name.startswith("on") for each in root.iter() for name in each.attrib)
        assert root.get("role") == "img"
        assert root.get("aria-label")


def test_a_file_shows_tips_and_colours_by_itself():
    text = svg_file(CHARTS[0])
    root = ET.fromstring(text)
    titles = [each.text for each in root.iter() if each.tag.endswith("title")]
    assert "b" in titles
    assert "data-tip" not in text
    assert "prefers-color-scheme: dark" in text
    assert any(each.text == "steps" for each in root.iter())  # the legend


def test_no_drawing_has_a_mark_outside():
    for chart in CHARTS:
        for width in (WIDE, NARROW):
            root = ET.fromstring(draw(chart, width))
            _, _, wide, high = map(float, root.get("viewBox").split())
            assert wide == width
            for each in root.iter("circle"):
                assert 0 <= float(each.get("cx")) <= wide
                assert 0 <= float(each.get("cy")) <= high
            for each in root.iter("rect"):
                assert float(each.get("x")) + float(each.get("width")) <= wide + 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_an_axis_of_accuracies_holds_them_all(values):
    axis = accuracy_axis("a", values)
    places = [axis.place(value) for value in values]
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert [place for _, place in sorted(zip(values, places, strict=True))] == sorted(places)  # monotonic
    assert all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in axis.ticks())


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20))
def test_an_axis_of_numbers_holds_them_all_and_has_few_ticks(values):
    axis = number_axis("a", values)
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
    assert len(axis.ticks()) <= 30


def test_a_failed_trial_does_not_press_the_others_into_a_line():
    axis = accuracy_axis("a", [11.0, 98.9, 99.4])
    assert axis.scale == "error"
    assert axis.place(99.4) - axis.place(98.9) > 0.05
    assert accuracy_axis("a", [99.3, 99.5]).scale == "linear"


def test_epochs_have_no_ticks_between():
    assert epoch_axis([1]).ticks() == [1]
    assert all(tick == round(tick) for tick in epoch_axis([1, 2, 3]).ticks())


def test_an_axis_of_one_value_places_it():
    assert Axis(title="a", low=1, high=1).place(1) == 0.5


def test_thinning_leaves_the_ends():
    assert thinned(range(1000), 10)[0] == 0
    assert thinned(range(1000), 10)[-1] == 999
    assert len(thinned(range(1000), 10)) == 10
    assert thinned([1, 2], 10) == [1, 2]


def test_markup_escapes_all_but_itself():
    assert escape("<&\"'\x00\ud800") == "&lt;&amp;&quot;&#x27;\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert tag("p", "<b>", Markup("<i></i>"), [None, 3], class_='a"b') == '<p class="a&quot;b">&lt;b&gt;<i></i>3</p>'


def test_a_png_holds_its_pixels():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    data = encode_png(pixels)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    start = data.index(b"IDAT") + 4
    raw = zlib.decompress(data[start : start + int.from_bytes(data[start - 8 : start - 4], "big")])
    assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(2, 13)[:, 1:].reshape(2, 4, 3), pixels)


@pytest.mark.parametrize("chart", CHARTS, ids=names)
def test_matplotlib_draws_each_kind(chart):
    pytest.importorskip("matplotlib")
    assert draw_png(chart).startswith(b"\x89PNG")


def test_without_matplotlib_a_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"nas\[report\]"):
        draw_png(CHARTS[0])


def test_labels_of_neighbouring_rules_do_not_lie_over_each_other():
    rules = (Rule(axis="x", value=5, label="teachers trained"), Rule(axis="x", value=6, label="finalists from here"))
    chart = XYChart(
        name="a", title="A", alt="", rules=rules, series=(Series(name="b", tone=1, parts=((Point(x=0, y=1),),)),),
        x=Axis(title="x", low=0, high=20), y=Axis(title="y", low=0, high=2),
    )  # fmt: skip
    heights = re.findall(r'<text x="[^"]*" y="([^"]*)" class="label', str(svg_file(chart)))
    assert heights[0] != heights[1]


def test_characters_that_no_font_has_are_named_once():
    pytest.importorskip("matplotlib")
    names = ("\U000e0f00\U000f0000", "\U000f0000 b")  # of a private plane, printable to none
    chart = MatrixChart(name="m", title="t", alt="a", classes=("日", "日本"), counts=((3, 1), (0, 2)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        draw_png(dataclasses.replace(chart, classes=names))
        assert told == []
        draw_png(chart)
    assert [str(each.message) for each in told] == ["no font here has these characters: 日本"]


def test_counts_have_whole_ticks_and_long_names_are_cut(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    row = BarRow(label="over the cap", values=(1.0,), texts=("1",), tip="")
    figure = matplotlib.figure.Figure()
    _bars(figure, BarChart(name="b", title="B", alt="", columns=("schedules",), rows=(row,)))
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
    figure, pixels = matplotlib.figure.Figure(), np.zeros((3, 3), np.uint8)
    tiles = tuple(Tile(pixels=pixels, lines=("a name that is much too long",), tip="") for _ in range(8))
    _tiles(figure, TileChart(name="t", title="T", alt="", tiles=tiles))
    assert {axes.get_title() for axes in figure.axes} == {"a name that i…"}


def test_a_picture_has_its_heading_and_no_label_is_cut():
    axis = Axis(title="x", low=98.0, high=99.95)
    points = (Point(x=98.5, y=1), Point(x=99.95, y=2))
    chart = XYChart(name="n", title="A heading", alt="", x=axis, y=number_axis("y", [1, 2]),
                    series=(Series(name="s", parts=(points,), tone=1),))  # fmt: skip
    texts = re.findall(r"<text ([^>]*)>([^<]*)</text>", svg_file(chart))
    assert any(text == "A heading" for _, text in texts)
    for width in (WIDE, NARROW):
        drawn = re.findall(r'<text x="([0-9.]+)"[^>]*class="tick middle"[^>]*>([^<]*)</text>', draw(chart, width))
        assert drawn
        assert all(float(x) + len(text) * 7.2 / 2 <= width for x, text in drawn)


def test_a_line_of_one_point_is_no_line():
    point = Point(x=1, y=2)
    assert not Series(name="front", parts=((point,),), tone=1, join="step", mark=None).shows
    assert Series(name="front", parts=((point, point),), tone=1, join="step", mark=None).shows
    assert Series(name="dots", parts=((point,),), tone=1).shows
