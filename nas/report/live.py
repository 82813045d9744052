"""The view of a search or a full run under way: redrawn in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.report.console import can_redraw
from nas.report.tables import account, brief_account, duration
from nas.study import Event, Progress
from nas.workers import EpochMessage, LogitsMessage, Message, StepMessage, TrainJob

STATUS_SECONDS = 60
"""Seconds without a line after which a line of status appears, where nothing is redrawn."""

WIDE = 80
"""Columns from which on a terminal has room for words beside the numbers."""

NEARLY_DONE = 2.0
"""Seconds below which an estimate says no number: what is left to write is not in it."""

SPARKS = "▁▂▃▄▅▆▇█"


class LiveView:
    """The search as it runs; a context manager, called with its progress. Nothing at all when quiet."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self.progress: Progress | None = None
        self.task = "starting"
        self.live: Live | None = None
        if not quiet and can_redraw(console):
            self.live = Live(
                console=console, refresh_per_second=4, transient=True, get_renderable=self._screen,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
        self._written = time.monotonic()
        self._note = ""

    def __enter__(self) -> LiveView:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Clear the screen while something else writes to it, such as a notice."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def working(self, task: str) -> None:
        """Show what goes on before there is any progress, such as loading images."""
        self.task = task
        if self.live is not None:
            self.live.refresh()
        elif not self.quiet:
            self._write(Text(task))

    def __call__(self, progress: Progress, event: Event | None) -> None:
        self.progress = progress
        if self.quiet:
            return
        if event is not None:
            self._write(event_line(event, self.console.width if self.console.is_terminal else None))
        if self.live is None:
            if progress.note and progress.note != self._note:
                self._write(Text(progress.note))
            elif time.monotonic() - self._written > STATUS_SECONDS:
                self._write(Text(status(progress)))
        self._note = progress.note

    def _write(self, line: Text) -> None:
        self._written = time.monotonic()
        self.console.print(line, soft_wrap=not self.console.is_terminal, no_wrap=True, overflow="ellipsis", crop=True)

    def _screen(self) -> RenderableType:
        if self.progress is None:
            return Text(f"{self.task} ...")
        return screen(self.progress, self.console.width)


def event_line(event: Event, width: int | None) -> Text:
    """Return a training that ended as one line, numbers first, so that a narrow terminal cuts the schedule alone."""
    if not event.label:
        return Text(event.note, style="dim")
    state = event.state or ("best" if event.leads else "")
    style = {"pruned": "dim", "failed": "red", "best": "bold green"}.get(state, "")
    line = Text(f"{event.label:<12} {state:<6}  {_numbers(event.accuracy, event.loss, event.num_params, width)}  ")
    line.style = style
    if event.state == "failed":  # why, before what
        return line.append(f"{event.note}  {event.text}" if event.note else event.text)
    line.append(event.text)
    return line.append(f"  ({event.note})", style="dim") if event.note else line


def screen(progress: Progress, width: int) -> RenderableType:
    """Return the state of a search: phase and time, how far it is, counts, the best so far, a line for each worker."""
    parts: list[RenderableType] = [_one_line(_heading(progress, width), style="bold")]
    if progress.total:
        bar = Table.grid(padding=(0, 1))
        done = ProgressBar(total=progress.total, completed=progress.done, width=min(40, width - 20))
        bar.add_row(done, f"{progress.done}/{progress.total}")
        parts.append(bar)
    if progress.note:
        parts.append(_one_line(progress.note, style="yellow"))
    if progress.counts:
        whole = account(progress.counts)
        parts.append(_one_line(whole if len(whole) <= width else brief_account(progress.counts), style="dim"))
    parts.append(_best(progress, width))
    workers = Table.grid(padding=(0, 1), expand=True)
    for justify in ("right", "left", "right", "left", "right"):
        workers.add_column(justify=justify, no_wrap=True)
    workers.add_column(ratio=1, no_wrap=True, overflow="ellipsis")  # the schedule has what the numbers leave
    wide = width >= WIDE
    for number, line in enumerate(progress.lines, 1):
        accuracy = "" if line.accuracy is None else f"{line.accuracy:.2f} %"
        size = f"{line.num_params:,}" if line.num_params else ""
        bar_width = 16 if wide else 6
        busy = line.num_params or line.step  # an idle worker's empty bar would look full where there are no colours
        workers.add_row(
            str(number),
            ProgressBar(total=line.steps, completed=line.step, width=bar_width) if busy else " " * bar_width, accuracy,
            sparkline(line.history) if wide else "", size, Text(line.text),
        )  # fmt: skip
    return Group(*parts, workers)


def status(progress: Progress) -> str:
    """Return phase, time and what is left of the whole run, in one line."""
    left = _left(progress, "about ", " in all")
    elapsed = duration(progress.clock() - progress.began)
    return f"{progress.phase} {progress.done}/{progress.total}, {elapsed}{left}  ({progress.title})"


def _heading(progress: Progress, width: int) -> str:
    """Return the status as a narrow terminal has room for it; the numbers of trials stand at the bar."""
    elapsed = duration(progress.clock() - progress.began)
    if width < WIDE:
        return f"{progress.phase}, {elapsed}{_left(progress)}"
    return f"{progress.phase}, {elapsed}{_left(progress, 'about ', ' in all')}  ({progress.title})"


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


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def sparkline(values: Sequence[float]) -> str:
    """Return values as bars of one character each, from their lowest to their highest."""
    if len(values) < 2:
        return ""
    low, span = min(values), max(values) - min(values) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in values)


def _best(progress: Progress, width: int) -> Text:
    if progress.best is None:
        return _one_line("best so far  none yet", style="dim")
    accuracy, loss, schedule, num_params = progress.best
    target = progress.target
    style = "green" if target is None or accuracy >= target else "yellow"
    parts = [
        "" if loss is None else f"loss {loss:.4f}",
        f"{num_params:,}",
        "" if target is None else f"target {target:g}",
    ]
    numbers = "  ".join(part for part in parts if part)
    split = " of validation" if width >= WIDE else ""
    return Text.assemble(
        "best so far  ", (f"{accuracy:.2f} %", style), f"{split}  {numbers}  {schedule}",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip


class RunView:
    """A full run as it goes: a line for each epoch to standard output, a bar for each seed to standard error."""

    def __init__(self, console: Console, epochs: int, seeds: Sequence[int], *, quiet: bool) -> None:
        self.quiet, self.many, self.epochs = quiet, len(seeds) > 1, epochs
        self.bars = Bars(
            TextColumn("{task.fields[who]}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
            disable=quiet or not can_redraw(console),
        )  # fmt: skip
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> RunView:
        self.bars.start()
        if not self.quiet:
            self._task("starting workers (the first run compiles the kernels)", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, message: Message) -> None:
        self._started()
        if isinstance(message, LogitsMessage):
            self.bars.advance(self._task("teacher logits", total=self.epochs))
        elif isinstance(message, StepMessage):
            completed = round(message.step / message.steps * self.epochs, 1)
            self.bars.update(self._task(_who(message.job), total=self.epochs), completed=completed)
        elif isinstance(message, EpochMessage) and not self.quiet:
            self._print(self._epoch(message))

    def _epoch(self, message: EpochMessage) -> str:
        epoch, who = message.epoch, _who(message.job)
        lead = f"{who}  " if self.many or who == "teacher" else ""
        test = f"test loss {epoch.loss:.4f}  Accuracy: {epoch.correct}/{epoch.count} ({epoch.accuracy:.2f}%)  "
        return (
            f"{lead}epoch {epoch.number:>2}  loss {epoch.train_loss:.4f}  train {epoch.train_accuracy:.2f} %  "
            f"{'' if message.job.evaluate_on_train else test}{epoch.seconds:.1f} s"
        )

    def _task(self, who: str, *, total: float | None) -> Any:
        if who not in self.tasks:
            self.tasks[who] = self.bars.add_task("", total=total, who=who)
        return self.tasks[who]

    def _started(self) -> None:
        for who in [who for who in self.tasks if who.startswith("starting")]:
            self.bars.remove_task(self.tasks.pop(who))

    def _print(self, line: str) -> None:
        """Standard output is for data; the bars on standard error must not run through it on a terminal."""
        if self.bars.disable or not sys.stdout.isatty():
            print(line, flush=True)
        else:
            self.bars.console.print(line, highlight=False, soft_wrap=True, markup=False)


def _who(job: TrainJob) -> str:
    return "teacher" if job.key == "teacher" else f"seed {job.seed}"
