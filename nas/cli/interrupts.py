"""Ctrl-C where no search is under way: while a command is imported, reads, or writes a page."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from nas.machine import command_line

INTERRUPTED = 130


def resume_line(arguments: Sequence[str] | None = None) -> str:
    """Return the last line of an interrupted command; an export, written whole or not at all, begins anew."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["export"]:
        return f"interrupted; nothing was written. Run it again: {command_line(arguments)}"
    return f"interrupted; nothing finished is lost. To resume: {command_line(arguments)}"


def on_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; inside an import end at once: a module in C would make an ImportError of it."""
    outer = frame
    while outer is not None:
        if outer.f_code.co_filename == "<frozen importlib._bootstrap>":
            print(resume_line(), file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)
        outer = outer.f_back
    signal.default_int_handler(number, frame)


def on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Send Ctrl-C once more where it was raised, and lost, in a destructor or in a weakref's callback."""
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def take_interrupts() -> None:
    """Let Ctrl-C end this process from now on, wherever it is."""
    signal.signal(signal.SIGINT, on_interrupt)
    sys.unraisablehook = on_unraisable
