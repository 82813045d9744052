"""A screen that is cleared and drawn again leaves what stands above it alone."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from nas.report import LiveView


@pytest.mark.parametrize("height", [40, 3])
def test_a_line_that_folds_takes_nothing_of_what_stands_above(monkeypatch, height):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=height, _environ={"TERM": "xterm"})
    with LiveView(console, quiet=False) as view:
        view.working("memory: " + "391 MB for each worker, " * 8)
        with view.paused():
            console.file.write("NOTICE\n")
        view.live.refresh()
        again = console.file.getvalue().partition("NOTICE")[2]
    assert "\x1b[1A" not in again.partition("memory")[0]
    drawn = re.split(r"\x1b\[2K", console.file.getvalue())
    assert max(len(part.split("\n")) for part in drawn) <= height + 1  # nothing taller than the terminal
