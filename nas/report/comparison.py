"""Several studies side by side: a table of their answers, and their trials over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.report.chart import Chart, Point, Rule, Series, XYChart, accuracy_axis, number_axis, thinned
from nas.report.findings import Findings
from nas.report.markup import Markup, tag
from nas.report.sections import cost_of, table
from nas.report.tables import duration
from nas.searches import pareto_front

TONES = (1, 8, 2, 5, 3, 7, 4, 6)
MARKS = ("circle", "square", "diamond", "triangle")
MOST_POINTS = 500


def comparison(studies: Sequence[Findings]) -> tuple[Markup | None, list[Chart]]:
    """Return the table of the studies and the charts of them all; nothing of one alone."""
    if len(studies) < 2:
        return None, []
    caps = {found.settings.get("max_params") for found in studies}
    charts = [chart for chart in (_parameters(studies, caps), _progress(studies)) if chart is not None]
    return _table(studies), charts


def _table(studies: Sequence[Findings]) -> Markup:
    rows = []
    for number, found in enumerate(studies):
        architecture, run = found.architecture, found.run
        first = found.finalists[0] if found.finalists else None
        row = found.reason.finalists[0] if found.reason is not None and found.reason.finalists else None
        cap = found.settings.get("max_params")
        between = "" if row is None or row.interval is None else "{:.2f} to {:.2f}".format(*row.interval)
        so_far = " so far" if found.reason is None and found.schedule is not None else None
        test = ""
        if run is not None:
            sd = "" if run.result.last5_sd is None else f" ± {run.result.last5_sd:.3f}"
            test = f"{run.result.last5_mean:.3f}{sd} (n = {len(run.result.seeds)})"
        numbers = (
            found.settings["dataset"], "" if cap is None else f"{cap:,}",
            "" if architecture is None else f"{architecture.num_params:,}",
            "" if first is None else f"{first.mean:.3f} (n = {len(first.scores)})", between, test,
            f"{len(found.complete):,} of {len(found.trials):,}", cost_of(found)[0],
        )  # fmt: skip
        rows.append(
            tag("tr", tag("td", tag("a", found.name, href=f"#s{number}")),
                [tag("td", value, class_="number") for value in numbers],
                tag("td", tag("code", found.schedule or "none yet"), so_far, class_="schedule"))
        )  # fmt: skip
    header = ("study", "data", "cap", "parameters", "validation", "95 % interval", "test, last-5", "complete", "cost",
              "winner")  # fmt: skip
    return table(header, rows, label="The studies side by side")


def _parameters(studies: Sequence[Findings], caps: set[int | None]) -> Chart | None:
    series = []
    for number, found in enumerate(studies):
        points = tuple(
            Point(x=trial.user_attrs["num_params"], y=trial.value or 0.0,
                  tip=f"{found.name}, trial {trial.number}: {trial.value:.2f} %, {trial.user_attrs['num_params']:,} "
                  f"parameters, {trial.user_attrs['schedule']}")
            for trial in thinned(found.complete, MOST_POINTS)
        )  # fmt: skip
        if not points:
            continue
        tone, mark = TONES[number % len(TONES)], MARKS[number % len(MARKS)]
        front = tuple(pareto_front(points, lambda point: (int(point.x), point.y)))
        series.append(Series(name=found.name, parts=(points,), tone=tone, mark=mark))  # type: ignore[arg-type]
        series.append(Series(name=f"front of {found.name}", parts=(front,), tone=tone, mark=None, join="step"))
    drawn = [point for each in series for point in each.points]
    if not drawn:
        return None
    rules = tuple(Rule(axis="x", value=cap, label=f"cap {cap:,}") for cap in sorted(each for each in caps if each))
    return XYChart(
        name="together", title="Accuracy against parameters", rules=rules,
        series=tuple(each for each in series if each.shows),
        x=number_axis("parameters", [*(point.x for point in drawn), *(rule.value for rule in rules)]),
        y=accuracy_axis("validation accuracy of brief trials, percent", [point.y for point in drawn]),
        alt=f"The brief trials of {len(studies)} studies.",
        note="Brief trials of different studies compare only where they have the same data set and epochs: "
        + "; ".join(f"{each.name}: {each.settings['dataset']}, {each.brief_epochs}" for each in studies) + ".",
    )  # fmt: skip


def _progress(studies: Sequence[Findings]) -> Chart | None:
    series = []
    for number, found in enumerate(studies):
        best, spent, steps = -math.inf, 0.0, list[Point]()
        for trial in sorted(found.trials, key=lambda trial: str(trial.datetime_complete)):
            spent += trial.user_attrs.get("seconds", 0.0) / 60
            if trial in found.complete and (trial.value or 0.0) > best:
                best = trial.value or 0.0
                tip = f"{found.name}, trial {trial.number}: {best:.2f} % after {duration(60 * spent)}"
                steps.append(Point(x=spent, y=best, tip=tip))
        if steps:
            steps.append(Point(x=spent, y=best, tip=f"{found.name}: {best:.2f} % in the end"))
            series.append(Series(name=found.name, parts=(tuple(steps),), tone=TONES[number % len(TONES)], join="step"))
    if not series:
        return None
    drawn = [point for each in series for point in each.points]
    return XYChart(
        name="race", title="Best so far", series=tuple(each for each in series if each.shows),
        x=number_axis("minutes of training, all workers together", [point.x for point in drawn], from_zero=True),
        y=accuracy_axis("validation accuracy of brief trials, percent", [point.y for point in drawn]),
        alt="; ".join(f"{each.name} reached {each.points[-1].y:.2f} %" for each in series) + ".",
    )  # fmt: skip
