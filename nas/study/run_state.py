"""The phase that a search is in, written into its study at every change, for those who watch it from elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nas.files import from_json
from nas.study.ownership import process_token
from nas.study.progress import Progress

RUN = "run"
"""The study's attribute that holds it."""

ENDED, INTERRUPTED = "ended", "interrupted"


@dataclass(frozen=True, kw_only=True)
class StageState:
    name: str
    work: float
    """In epochs of one brief trial."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of the search that wrote last; of several on one study, that is the one of the latest change."""

    phase: str
    """The name of a stage, or `ENDED` or `INTERRUPTED`."""
    trials: int
    stages: tuple[StageState, ...]
    workers: int
    began: str
    """UTC."""
    owner: str = dataclasses.field(default_factory=process_token)

    @classmethod
    def of(cls, progress: Progress, phase: str, trials: int) -> RunState:
        """Return the state of this process's search as it enters a phase."""
        began = datetime.now(UTC) - timedelta(seconds=progress.clock() - progress.began)
        return cls(
            phase=phase, trials=trials,
            stages=tuple(StageState(name=stage.name, work=stage.work) for stage in progress.stages),
            workers=len(progress.lines), began=began.isoformat(),
        )  # fmt: skip

    @classmethod
    def read(cls, attrs: Mapping[str, Any]) -> RunState | None:
        """Return what a study's attributes hold; None where no search wrote it, or one of another version."""
        try:
            found = from_json(cls, attrs.get(RUN))
            datetime.fromisoformat(found.began)
        except (ValueError, AttributeError, TypeError):
            return None
        return found  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def seconds(self) -> float:
        """Seconds since this search began."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.began)).total_seconds()
