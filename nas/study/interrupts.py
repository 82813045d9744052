"""Ctrl-C, SIGTERM and SIGHUP: never inside a database transaction, never lost, a second one ends at once.

Python raises `KeyboardInterrupt` wherever it happens to be. Inside SQLAlchemy that left a transaction open whose lock
the clean-up then waited for, and inside a weakref callback it was swallowed. Here the handler sets a flag; it raises at
once only where nothing can be left half done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, ClassVar


class Interrupted(KeyboardInterrupt):
    """A signal that ends the run. `exit_code` is 128 plus its number, as shells have it."""

    def __init__(self, number: int) -> None:
        self.reason = f"interrupted by {signal.Signals(number).name}"
        super().__init__(f"{self.reason}; nothing finished is lost: the same call again goes on where it was")
        self.signal = number

    @property
    def exit_code(self) -> int:
        return 128 + self.signal


class Interrupts:
    """A context manager that turns the first signal into `Interrupted` at a safe point.

    A safe point is a call of `check`, or anywhere inside `allowed()`. In a thread other than the main one, which may
    set no handler, it changes nothing. Of two around each other the inner one takes the signals.
    """

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

    active: ClassVar[Interrupts | None] = None
    """The one of the block that this process is in."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._allowed = False
        self._before: dict[int, Any] = {}
        self._outer: Interrupts | None = None

    def __enter__(self) -> Interrupts:
        self._outer = Interrupts.active
        if self._outer is not None:
            self._outer.check()
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:  # nohup ignores SIGHUP: it stays so
                    self._before[number] = before
                    signal.signal(number, self._handle)
            Interrupts.active = self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
        if Interrupts.active is self:
            Interrupts.active = self._outer
        if self._outer is not None and self._number is not None:
            self._outer._number = self._number  # for it too the next is the second
        # A signal after the last safe point is not lost either; and what it raised inside a module in C while that was
        # imported may come out as an ImportError.
        if kind is None or issubclass(kind, ImportError):
            self.check()

    def check(self) -> None:
        """Raise `Interrupted` where a signal has come."""
        if self._number is not None:
            raise Interrupted(self._number)

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal raise at once inside: for waiting, where no write is under way."""
        before, self._allowed = self._allowed, True  # first: a signal between a check and this would have to wait
        try:
            self.check()
            yield
        finally:
            self._allowed = before
        self.check()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._number is not None:
            os._exit(128 + number)  # the second: workers see their pipe close and end by themselves
        self._number = number
        if self._allowed:
            raise Interrupted(number)


def interruptible() -> contextlib.AbstractContextManager[None]:
    """Let a signal raise at once inside; for code that does not know the `Interrupts` around it."""
    return contextlib.nullcontext() if Interrupts.active is None else Interrupts.active.allowed()


def pause(seconds: float) -> None:
    """Sleep, where a signal may raise at once."""
    with interruptible():
        time.sleep(seconds)
