"""Consoles: standard error for what a run says, standard output for data."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPE_WIDTH = 240


def make_console(*, stdout: bool = False) -> Console:
    """Return a console on standard error, or on standard output; where that is no terminal, lines are not folded."""
    stream = sys.stdout if stdout else sys.stderr
    return Console(stderr=not stdout, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def can_redraw(console: Console) -> bool:
    """Tell whether lines can be drawn again in place: not in a pipe, a dumb terminal, or a notebook's shell command."""
    notebook = "JPY_PARENT_PID" in os.environ or "JPY_SESSION_NAME" in os.environ
    return console.is_terminal and not console.is_dumb_terminal and not notebook
