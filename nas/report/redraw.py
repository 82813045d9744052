"""A screen drawn in place that stays whole where the terminal becomes narrower.

A terminal folds what stands there already, and `Live` knows of the lines it drew alone: the folded rest would stay.
What a terminal has moved out of sight by folding is beyond reach, and stays in its history.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment


class ResizableLive(Live):
    """A `Live` that erases the rows that its lines take after a terminal has folded them."""

    def __init__(self, console: Console, draw: Callable[[], RenderableType]) -> None:
        self._lengths: list[int] = []  # of the lines that stand there, in columns
        super().__init__(
            console=console, refresh_per_second=4, transient=True, redirect_stdout=False, redirect_stderr=False,
            get_renderable=lambda: _Measured(draw(), self),
        )  # fmt: skip

    def measure(self, lengths: list[int], most: int) -> None:
        """Note the lengths of the lines that are drawn now, of which a terminal shows so many."""
        self._lengths = lengths[:most]

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        more = folded_rows(self._lengths, self.console.width)
        self.vertical_overflow = "ellipsis"  # even the last time: what is beyond the terminal cannot be erased
        shown = super().process_renderables(renderables)
        if not more or not self.console.is_interactive:
            return shown
        self._lengths = []  # they are erased
        up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        return [Control(ControlType.CARRIAGE_RETURN, *(up * more)), *shown]


def folded_rows(lengths: list[int], width: int) -> int:
    """Return how many rows more than lines a terminal of this width has made of them."""
    return sum(max(0, -(-length // width) - 1) for length in lengths)


class _Measured:
    def __init__(self, drawn: RenderableType, live: ResizableLive) -> None:
        self.drawn, self.live = drawn, live

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.drawn, options, pad=False)
        self.live.measure([Segment.get_line_length(line) for line in lines], options.size.height)
        for line in lines:
            yield from line
            yield Segment.line()
