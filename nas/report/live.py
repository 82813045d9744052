"""The view of a search under way: redrawn in place on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from nas.report.console import can_redraw
from nas.report.event_lines import event_line, status
from nas.report.notebook import NotebookDisplay, in_notebook
from nas.report.redraw import ResizableLive
from nas.report.search_screen import screen
from nas.study import ENDED, INTERRUPTED, Event, Progress

STATUS_SECONDS = 60
"""Seconds without a line after which a line of status appears, where nothing is redrawn."""


class LiveView:
    """The search as it runs; a context manager, called with its progress. Nothing at all when quiet."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self.progress: Progress | None = None
        self.task = "starting"
        self.live: ResizableLive | None = None  # while it is shown
        redraws = not quiet and can_redraw(console)
        self.notebook = NotebookDisplay() if not quiet and not redraws and in_notebook() else None
        self._redraws = redraws
        self._written = float("-inf")  # the first state is told at once
        self._note = ""

    def __enter__(self) -> LiveView:
        if self._redraws:  # a new one each time: one that was stopped goes up by the lines it had
            self.live = ResizableLive(self.console, self._screen)
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.progress is not None:
            self.progress.end(ENDED if kind is None else INTERRUPTED)
        self._hide()

    def _hide(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
        elif self.notebook is not None:
            self.notebook.show(self._screen(), now=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Clear the screen while something else writes to it, such as a notice."""
        self._hide()
        try:
            yield
        finally:
            self.__enter__()

    def working(self, task: str) -> None:
        """Show what goes on before there is any progress, such as loading images."""
        self.task = task
        if self.live is not None:
            self.live.refresh()
        elif self.notebook is not None:
            self.notebook.show(self._screen())
        elif not self.quiet and not self._redraws:
            self._write(Text(task))

    def __call__(self, progress: Progress, event: Event | None) -> None:
        self.progress = progress
        if self.quiet:
            return
        if event is not None:
            self._write(event_line(event, self.console.width if self.console.is_terminal else None))
        if self.notebook is not None:
            self.notebook.show(self._screen())
        elif not self._redraws:
            if progress.note and progress.note != self._note:
                self._write(Text(progress.note))
            elif time.monotonic() - self._written > STATUS_SECONDS:
                self._write(Text(status(progress)))
        self._note = progress.note

    def _write(self, line: Text) -> None:
        self._written = time.monotonic()
        if self.notebook is not None:
            self.notebook.add(line)
            return
        self.console.print(line, soft_wrap=not self.console.is_terminal, no_wrap=True, overflow="ellipsis", crop=True)

    def _screen(self) -> RenderableType:
        if self.progress is None:
            return Text(f"{self.task} ...")
        if self.notebook is not None:
            return screen(self.progress, self.notebook.WIDTH)
        return screen(self.progress, self.console.width, self.console.height)
