"""The loop's answer to workers that die or hang, and to trainings that fail."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from nas.errors import NasError
from nas.workers import MAX_DEATHS

DEATHS_PER_WORKER = 3
"""Deaths after which one training less runs at once: memory that is too small for all kills them one by one."""

LEAST_ENDED = 6
"""Trainings that have ended before a search gives up because most of them failed."""

HANG_FACTOR, LEAST_HANG_SECONDS, FIRST_HANG_SECONDS = 5.0, 60.0, 900.0
"""A worker hangs that has been silent for so many times the longest training so far, and at least the second number of
seconds; before any training has ended, for the third."""


class MostFailed(NasError):
    """Most trainings failed for one reason: going on would fail the rest as well."""

    exit_code = 4


class Supervisor:
    """Counts deaths, failures and silence of one phase."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.fewer = 0
        """By how many fewer trainings than there are workers may run at once."""
        self._clock = clock
        self._deaths: Counter[int] = Counter()
        self._died_alone = 0  # not with its whole machine
        self._failures: Counter[str] = Counter()
        self._ended = 0
        self._longest = 0.0
        self._last: dict[int, float] = {}  # when each worker was last known to live

    def alive(self, worker: int) -> None:
        """Note a message, or a new job, of a worker."""
        self._last[worker] = self._clock()

    def excuse(self, seconds: float) -> None:
        """Leave a time out of every worker's silence, in which nobody listened."""
        self._last = {worker: since + seconds for worker, since in self._last.items()}

    def died(self, trial: int, *, lost_node: bool = False) -> bool:
        """Note the death of a trial's worker; return whether to try the trial again."""
        self._deaths[trial] += 1
        self._died_alone += not lost_node
        if not lost_node and self._died_alone % DEATHS_PER_WORKER == 0:
            self.fewer += 1
        return self._deaths[trial] <= MAX_DEATHS

    def ended(self, seconds: float) -> None:
        """Note a training that ended well."""
        self._ended += 1
        self._longest = max(self._longest, seconds)

    def failed(self, reason: str) -> None:
        """Note a failure. Raise `MostFailed` where one reason has failed most of the trainings."""
        kind = re.sub(r"\d[\d.,]*", "N", reason)
        self._ended += 1
        self._failures[kind] += 1
        if self._ended >= LEAST_ENDED and 2 * self._failures[kind] > self._ended:
            raise MostFailed(
                f"{self._failures[kind]} of {self._ended} trainings failed ({reason}): remove the cause, then run the "
                "same command again"
            )

    def hanging(self, busy: Iterable[int]) -> list[int]:
        """Return the busy workers that have been silent for too long."""
        limit = max(LEAST_HANG_SECONDS, HANG_FACTOR * self._longest) if self._longest else FIRST_HANG_SECONDS
        now = self._clock()
        return [worker for worker in busy if now - self._last.get(worker, now) > limit]
