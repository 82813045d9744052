"""A time limit that knows how much of it is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """An instant on a monotonic clock after which no more work is started; infinite by default.

    `clock` is injectable, so that a test needs no sleep.
    """

    began: float = 0.0
    seconds: float = math.inf
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float | None, *, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """Return the deadline `seconds` from now; None is no limit."""
        return cls(began=clock(), seconds=math.inf if seconds is None else seconds, clock=clock)

    def share(self, part: float) -> Deadline:
        """Return the deadline at the given share of the same span, counted from the same beginning."""
        return Deadline(began=self.began, seconds=part * self.seconds, clock=self.clock)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.began

    @property
    def left(self) -> float:
        """Seconds left, infinite without a limit; negative once it has passed."""
        return self.seconds - self.elapsed

    @property
    def passed(self) -> bool:
        return self.left < 0
