"""Searches at work on a study: each writes its phase and a heartbeat there, for the others and for those who watch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nas.files import from_json
from nas.study.ownership import HEARTBEAT_SECONDS, Staleness, is_alive, owner_name, process_token
from nas.study.progress import Progress
from nas.study.store import StudyStore

RUN = "run:"
"""The beginning of the study's attributes that hold the searches, one for each process."""

ENDED, INTERRUPTED = "ended", "interrupted"


@dataclass(frozen=True, kw_only=True)
class StageState:
    name: str
    work: float
    """In epochs of one brief trial."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of one search."""

    phase: str
    """The name of a stage, or `ENDED` or `INTERRUPTED`."""
    trials: int
    stages: tuple[StageState, ...]
    workers: int
    began: str
    """UTC."""
    owner: str = dataclasses.field(default_factory=process_token)
    heartbeat: int = 0
    entered: str = ""
    """UTC at which it entered its phase; empty in the record of an earlier version."""

    @classmethod
    def of(cls, progress: Progress, phase: str, trials: int) -> RunState:
        """Return the state of this process's search as it enters a phase."""
        now = datetime.now(UTC)
        began = now - timedelta(seconds=progress.clock() - progress.began)
        return cls(
            phase=phase, trials=trials,
            stages=tuple(StageState(name=stage.name, work=stage.work) for stage in progress.stages),
            workers=len(progress.lines), began=began.isoformat(), entered=now.isoformat(),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def name(self) -> str:
        """The process of the search for people: host and pid."""
        return owner_name({"owner": self.owner})

    @property
    def is_over(self) -> bool:
        """Tell whether the search has written that it ended."""
        return self.phase in (ENDED, INTERRUPTED)

    @property
    def seconds(self) -> float:
        """Seconds since this search began."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.began)).total_seconds()


def read_runs(attrs: Mapping[str, Any]) -> list[RunState]:
    """Return the searches that a study's attributes hold, the latest last; those of another version are left out."""
    found = []
    for key, value in attrs.items():
        try:
            if key.startswith(RUN):
                run = from_json(RunState, value)
                datetime.fromisoformat(run.began)
                found.append(run)
        except (ValueError, AttributeError, TypeError):
            continue
    return sorted(found, key=lambda run: run.began)


class Runs:
    """The searches of one study as one observer sees them: which of them are at work."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._staleness = Staleness(clock=clock)

    def at_work(self, attrs: Mapping[str, Any]) -> list[RunState]:
        """Return the searches that run: not over, and neither dead nor, on another machine, silent for too long."""
        return [run for run in read_runs(attrs) if not run.is_over and self._lives(run)]

    def _lives(self, run: RunState) -> bool:
        return is_alive(run.owner) or self._staleness.seconds_left(run.owner, run.to_dict()) > 0


class Presence:
    """The search of this process in its study: where it is, that it lives, and who else is at work there."""

    def __init__(self, store: StudyStore, progress: Progress, trials: int) -> None:
        self.store, self.progress, self.trials = store, progress, trials
        self._runs = Runs(clock=progress.clock)
        self._state = RunState.of(progress, progress.phase, trials)
        self._next = 0.0
        self._met: set[str] = set()

    def enter(self, phase: str) -> None:
        """Write that the search enters a phase, or is over."""
        beat = self._state.heartbeat + 1
        self._state = dataclasses.replace(RunState.of(self.progress, phase, self.trials), heartbeat=beat)
        self._write()

    def beat(self) -> list[RunState]:
        """Show, when it is time for it, that the search lives; return searches at work that are met the first time."""
        if self.progress.clock() < self._next:
            return []
        self._next = self.progress.clock() + HEARTBEAT_SECONDS
        self._state = dataclasses.replace(self._state, heartbeat=self._state.heartbeat + 1)
        self._write()
        others = [run for run in self._runs.at_work(self.store.attrs) if run.owner != self._state.owner]
        new = [run for run in others if run.owner not in self._met]
        self._met |= {run.owner for run in new}
        return new

    def _write(self) -> None:
        self.store.set_attr(RUN + self._state.owner, self._state.to_dict())
