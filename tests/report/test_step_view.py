"""Steps of a command: a line each, with its time on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas.report import StepView


def play(*, quiet=False, **options):
    console = Console(file=io.StringIO(), width=60, **options)
    with StepView(console, quiet=quiet) as view:
        view("images: loading")
        view("int8 [v2]: writing and checking")
    return console.file.getvalue()


def test_a_pipe_has_a_line_for_each_step_as_it_begins():
    assert play() == "images: loading ...\nint8 [v2]: writing and checking ...\n"


def test_quiet_is_silent():
    assert play(quiet=True) == play(quiet=True, force_terminal=True) == ""


def test_a_terminal_has_the_time_of_each_step(monkeypatch):
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    last = play(force_terminal=True, legacy_windows=False, color_system=None).rpartition("images: loading")[2]
    assert "int8 [v2]: writing and checking" in last
    assert last.count("0:00:0") == 2


def failing(console):
    with StepView(console, quiet=False) as view:
        view("images: loading")
        raise ValueError("broken")


def test_a_step_that_fails_leaves_the_terminal_whole(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), width=60, force_terminal=True, legacy_windows=False)
    with pytest.raises(ValueError, match="broken"):
        failing(console)
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again
