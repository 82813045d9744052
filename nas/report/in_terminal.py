"""A study for those who stay in the terminal: the pictures of the report that characters can draw."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from nas.budget import LAST_EPOCHS, last_epochs
from nas.report.chart import accuracy_axis
from nas.report.confusions import stored_confusion
from nas.report.findings import Findings
from nas.report.search_pictures import parameters, schedules
from nas.report.tables import account, epochs_text, finalist_table
from nas.report.text_chart import IntervalBars, TextChart


def study_view(found: Findings) -> list[RenderableType]:
    """Return the front, where schedules went, the finalists with their intervals, and the full run."""
    return [part for part in _parts(found) if part is not None]


def _parts(found: Findings) -> Iterator[RenderableType | None]:
    drawing = parameters(found)
    if drawing is not None:
        yield Group(TextChart(drawing), Text())
    counts = schedules(found)
    if counts is not None:
        yield Group(TextChart(counts), Text(account(found.counts)), Text())
    if found.reason is not None:
        yield finalist_table(found.reason)
        yield intervals(found)
    yield _full_run(found)


def intervals(found: Findings) -> RenderableType | None:
    """Return the means of several finalists with their 95 % intervals on one scale."""
    rows = found.reason.finalists if found.reason is not None else ()
    if len(rows) < 2:  # there is nothing to compare a lone one with: the table has its numbers
        return None
    ends = [value for row in rows for value in (row.mean, *(row.interval or ()))]
    bars = [(f"trial {row.trial}", row.mean, row.interval) for row in rows]
    title = Text("Means of the finalists, with 95 % intervals where several seeds allow one", style="bold")
    return Group(Text(), title, IntervalBars(bars, accuracy_axis("validation accuracy, percent", ends)))


def _full_run(found: Findings) -> RenderableType | None:
    if found.run is None:
        return None
    result = found.run.result
    sd = "" if result.last5_sd is None else f" ± {result.last5_sd:.3f}"
    lines = [
        f"Full run, test accuracy in percent, {epochs_text(result.epochs)}: {last_epochs(result.epochs)} "
        f"{result.last5_mean:.3f}{sd} (n = {len(result.seeds)}), lowest epoch of them {result.lowest_of_last5:.2f}"
    ]
    if result.target_held is not None:
        held = "held" if result.target_held else "not held"
        span = epochs_text(min(LAST_EPOCHS, result.epochs))
        lines.append(f"target {result.target:g}: {held} over the last {span} of every seed")
    return Group(Text(), *map(Text, lines))


def confusion_view(found: Findings, *, images: bool) -> RenderableType:
    """Return what the winner takes for what on validation images; these are read, which takes seconds, with `images`.

    Without, it is what an earlier report, picture or view has stored, or a line that says how to get it.
    """
    if not images:
        chart = stored_confusion(found)
        if chart is None:
            return Text("\nThe confusion matrix on validation images: --images", style="dim")
        return Group(Text(), TextChart(chart), Text(chart.note, style="dim"))
    from nas.report.winner_pictures import confusion

    if isinstance(found.validation, str):
        return Text(f"\nNo confusion matrix: {found.validation}", style="dim")
    chart = confusion(found)
    if chart is None:
        return Text("\nNo confusion matrix: there are too many classes", style="dim")
    return Group(Text(), TextChart(chart), Text(chart.note, style="dim"))
