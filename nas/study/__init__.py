"""Studies: where they live, what they record, and the one loop that asks, trains and tells.

The loop is imported when it is first used: reading a study must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.study.deadline import Deadline
from nas.study.frame import frame, load_study
from nas.study.interrupts import Interrupted, Interrupts
from nas.study.ownership import HEARTBEAT_SECONDS, STALE_SECONDS
from nas.study.paths import latest_study, studies_dir, study_folder, study_names
from nas.study.progress import Event, Progress, Stage, View, WorkerLine
from nas.study.storage import database_url, redact, storage_errors
from nas.study.store import ClaimedTrial, StudyStore
from nas.study.table import TrialTable, rank

if TYPE_CHECKING:
    from nas.study.loop import Loop, Phase

__all__ = [
    "HEARTBEAT_SECONDS",
    "STALE_SECONDS",
    "ClaimedTrial",
    "Deadline",
    "Event",
    "Interrupted",
    "Interrupts",
    "Loop",
    "Phase",
    "Progress",
    "Stage",
    "StudyStore",
    "TrialTable",
    "View",
    "WorkerLine",
    "database_url",
    "frame",
    "latest_study",
    "load_study",
    "rank",
    "redact",
    "storage_errors",
    "studies_dir",
    "study_folder",
    "study_names",
]


def __getattr__(name: str) -> Any:
    if name in ("Loop", "Phase"):
        return getattr(import_module("nas.study.loop"), name)
    raise AttributeError(f"module 'nas.study' has no attribute '{name}'")
