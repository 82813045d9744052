"""A whole HTML document, with style and script in it, and a chart as a figure of one."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from nas.report.chart import Chart, XYChart
from nas.report.markup import Markup, join, tag
from nas.report.svg import NARROW, WIDE, draw, swatch


@cache
def _asset(name: str) -> Markup:
    """Return a style or script of the package."""
    return Markup(files("nas.report").joinpath(name).read_text(encoding="utf-8"))


def chart_page(chart: Chart) -> str:
    """Return a page of one chart."""
    return document(chart.title, tag("main", tag("h1", chart.title, class_="aside"), figure(chart, "f")))


def document(title: str, body: Markup) -> str:
    """Return a whole document; its policy forbids every request, and every script but its own."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = join(
        tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"), tag("title", title),
        tag("style", _asset("chart.css"), _asset("page.css")),
    )  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n{tag("script", script)}</body></html>\n'
    )


def figure(chart: Chart, prefix: str) -> Markup:
    """Return a chart with its title, legend, two drawings (wide and narrow) and note."""
    drawings = [
        Markup(draw(chart, width).replace("<svg ", f'<svg class="{name}" ', 1))
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    ]
    status = tag("p", "", class_="aside", aria_live="polite")
    hint = f"{chart.title}: arrow keys read its parts one by one"
    title = tag("h3", chart.title, id=f"{prefix}-{chart.name}")
    plot = tag("div", drawings, status, class_="plot", tabindex=0, role="group", aria_label=hint)
    return tag("figure", title, _legend(chart), plot, tag("figcaption", chart.note) if chart.note else None)


def _legend(chart: Chart) -> Markup | None:
    if not isinstance(chart, XYChart) or len(chart.series) < 2:
        return None
    buttons = [
        tag(
            "button", tag("svg", swatch(series, 8, 8), width=16, height=16, aria_hidden="true"),
            tag("span", series.name), type="button", aria_pressed="true", data_series=number,
        )
        for number, series in enumerate(chart.series)
    ]  # fmt: skip
    return tag("div", buttons, class_="legend", role="group", aria_label="Show or hide")
