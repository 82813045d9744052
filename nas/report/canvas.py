"""A canvas of characters: eight dots to a character where the terminal has braille, one where it has only ASCII."""

from __future__ import annotations

import os

from rich.console import ConsoleOptions
from rich.text import Text

BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a braille character (Unicode, block 2800), by row and column."""

SPARKS, ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def ascii_only(options: ConsoleOptions) -> bool:
    """Tell whether a terminal has no more than ASCII: by its encoding, or a console whose font has no braille."""
    return options.ascii_only or options.legacy_windows or os.environ.get("TERM") == "linux"


class Canvas:
    """Rows of characters; places are 0 to 1 from the left and from the bottom, and what lies outside is cut."""

    def __init__(self, columns: int, rows: int, *, ascii_: bool) -> None:
        self.columns, self.rows, self.ascii = columns, rows, ascii_
        self._wide, self._high = (1, 1) if ascii_ else (2, 4)
        self._dots = [[0] * columns for _ in range(rows)]
        self._marks = [[""] * columns for _ in range(rows)]
        self._styles: list[list[str]] = [[""] * columns for _ in range(rows)]

    def dot(self, x: float, y: float, style: str) -> None:
        self._dot(*self._fine(x, y), style)

    def step(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """Draw a line across, then one up or down, as a front goes."""
        (left, low), (right, high) = self._fine(*start), self._fine(*end)
        for x in range(min(left, right), max(left, right) + 1):
            self._dot(x, low, style)
        for y in range(min(low, high), max(low, high) + 1):
            self._dot(right, y, style)

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        (left, low), (right, high) = self._fine(*start), self._fine(*end)
        steps = max(abs(right - left), abs(high - low), 1)
        for step in range(steps + 1):
            self._dot(
                round(left + (right - left) * step / steps), round(low + (high - low) * step / steps), style
            )  # fmt: skip

    def mark(self, x: float, y: float, character: str, style: str) -> None:
        """Put one character over whatever is there."""
        column, row = self.cell(x, y)
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self._marks[row][column], self._styles[row][column] = character, style

    def rule(self, x: float, character: str) -> None:
        """Draw a line from top to bottom behind all else."""
        column, _ = self.cell(x, 0.0)
        for row in range(self.rows):
            if 0 <= column < self.columns and not self._marks[row][column]:
                self._marks[row][column], self._styles[row][column] = character, "dim"

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """Return column and row of a place."""
        fine_x, fine_y = self._fine(x, y)
        return fine_x // self._wide, fine_y // self._high

    def lines(self) -> list[Text]:
        """Return the rows, top first."""
        found = []
        for dots, marks, styles in zip(self._dots, self._marks, self._styles, strict=True):
            line = Text(no_wrap=True)
            for bits, mark, style in zip(dots, marks, styles, strict=True):
                plain = "*" if self.ascii else chr(0x2800 + bits)
                line.append(mark or (plain if bits else " "), style=style)
            found.append(line)
        return found

    def _fine(self, x: float, y: float) -> tuple[int, int]:
        return round(x * (self.columns * self._wide - 1)), round((1 - y) * (self.rows * self._high - 1))

    def _dot(self, x: int, y: int, style: str) -> None:
        column, row = x // self._wide, y // self._high
        if not (0 <= column < self.columns and 0 <= row < self.rows):
            return
        self._dots[row][column] |= 1 if self.ascii else BRAILLE[y % 4][x % 2]
        if not self._marks[row][column]:
            self._styles[row][column] = style
