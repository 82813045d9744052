"""Lines of trainings that ended, and the status of a run in one line."""

from __future__ import annotations

from rich.text import Text

from nas.report.tables import duration
from nas.study import ENDED, Event, Progress

WIDE = 80
"""Columns from which on a terminal has room for words beside the numbers."""

NARROW = 60
"""Columns below which a network stands on a line of its own."""

NEARLY_DONE = 2.0
"""Seconds below which an estimate says no number: what is left to write is not in it."""


def event_line(event: Event, width: int | None) -> Text:
    """Return a training that ended as one line, numbers first, so that a narrow terminal cuts the schedule alone."""
    if not event.label:
        return Text(event.note, style="dim")
    state = event.state or ("best" if event.leads else "")
    style = {"pruned": "dim", "failed": "red", "best": "bold green"}.get(state, "")
    narrow = width is not None and width < NARROW  # the network and its size have no room beside the other numbers
    numbers = _numbers(event.accuracy, event.loss, 0 if narrow else event.num_params, width)
    line = Text(f"{event.label:<12} {state:<6}  {numbers}  ", style=style)
    if narrow:
        line.rstrip()
        line.append(f"\n  {event.num_params:,}  " if event.num_params else "\n  ")
    if event.state == "failed":  # why, before what
        return line.append(f"{event.note}  {event.text}" if event.note else event.text)
    line.append(event.text)
    return line.append(f"  ({event.note})", style="dim") if event.note else line


def status(progress: Progress) -> str:
    """Return phase, time and what is left of the whole run, in one line."""
    left = _left(progress, "about ", " in all")
    elapsed, of = duration(progress.clock() - progress.began), f"/{progress.total}" if progress.total else ""
    return f"{_phase(progress)} {progress.done}{of}, {elapsed}{left}  ({progress.title})"


def heading(progress: Progress, width: int) -> str:
    """Return the status as a terminal has room for it; the numbers of trials stand at the bar."""
    elapsed = duration(progress.clock() - progress.began)
    if width < WIDE:
        return f"{_phase(progress)}, {elapsed}{_left(progress)}"
    return f"{_phase(progress)}, {elapsed}{_left(progress, 'about ', ' in all')}  ({progress.title})"


def _phase(progress: Progress) -> str:
    return "done" if progress.phase == ENDED else progress.phase


def _left(progress: Progress, about: str = "", whole: str = "") -> str:
    seconds = progress.seconds_left
    if seconds is None:
        return ""
    return ", nearly done" if seconds < NEARLY_DONE else f", {about}{duration(seconds)} left{whole}"


def _numbers(accuracy: float | None, loss: float | None, num_params: int, width: int | None) -> str:
    """Return accuracy, loss and parameters in columns; a narrow terminal has no room for the word."""
    word = "loss " if width is None or width >= WIDE else ""
    ranked = "" if loss is None else f"{word}{loss:.4f}"
    percent = "" if accuracy is None else f"{accuracy:.2f} %"
    return f"{percent:>8}  {ranked:<{len(word) + 6}}  {f'{num_params:,}' if num_params else '':>7}"
