"""The view of a command of several steps, each of seconds or minutes."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from nas.report.console import can_redraw


class StepView:
    """Steps as they begin, a line each: on a terminal with the time that each takes."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        columns = SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        self._bars = Bars(*columns, console=console, disable=quiet or not can_redraw(console))
        self._task: Any = None

    def __enter__(self) -> StepView:
        self._bars.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._end()
        self._bars.stop()

    def __call__(self, text: str) -> None:
        """Begin a step; the one before has ended."""
        self._end()
        if not self._bars.disable:
            self._task = self._bars.add_task(text, total=1)
        elif not self.quiet:
            self.console.print(f"{text} ...", highlight=False, markup=False, soft_wrap=True)

    def _end(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=1)
