"""Studies: where they live, what they record, and the one loop that asks, trains and tells.

The loop is imported when it is first used: reading a study must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.study.artifacts import fetch_artifact, fetch_file, share_file, use_artifacts
from nas.study.deadline import Deadline
from nas.study.frame import frame, load_study
from nas.study.interrupts import Interrupted, Interrupts, interruptible
from nas.study.manage import (
    StudyInfo,
    copy_study,
    delete_study,
    in_use,
    list_studies,
    rename_study,
    require_idle,
    require_resumable,
    trials_to_resume,
)
from nas.study.ownership import HEARTBEAT_SECONDS, STALE_SECONDS
from nas.study.paths import (
    OPENINGS,
    RECORDS,
    latest_study,
    make_folder,
    require_winner,
    studies_dir,
    study_at,
    study_folder,
    study_names,
    without_winner,
)
from nas.study.progress import STARTING_WORKERS, Event, Progress, Stage, View, WorkerLine
from nas.study.run_state import ENDED, INTERRUPTED, Presence, Runs, RunState, StageState, read_runs
from nas.study.storage import storage_errors
from nas.study.store import ClaimedTrial, StudyStore
from nas.study.table import TrialTable, rank

if TYPE_CHECKING:
    from nas.study.loop import Loop, Observe, Phase

__all__ = [
    "ENDED",
    "HEARTBEAT_SECONDS",
    "INTERRUPTED",
    "OPENINGS",
    "RECORDS",
    "STALE_SECONDS",
    "STARTING_WORKERS",
    "ClaimedTrial",
    "Deadline",
    "Event",
    "Interrupted",
    "Interrupts",
    "Loop",
    "Observe",
    "Phase",
    "Presence",
    "Progress",
    "RunState",
    "Runs",
    "Stage",
    "StageState",
    "StudyInfo",
    "StudyStore",
    "TrialTable",
    "View",
    "WorkerLine",
    "copy_study",
    "delete_study",
    "fetch_artifact",
    "fetch_file",
    "frame",
    "in_use",
    "interruptible",
    "latest_study",
    "list_studies",
    "load_study",
    "make_folder",
    "rank",
    "read_runs",
    "rename_study",
    "require_idle",
    "require_resumable",
    "require_winner",
    "share_file",
    "storage_errors",
    "studies_dir",
    "study_at",
    "study_folder",
    "study_names",
    "trials_to_resume",
    "use_artifacts",
    "without_winner",
]


def __getattr__(name: str) -> Any:
    if name in ("Loop", "Observe", "Phase"):
        return getattr(import_module("nas.study.loop"), name)
    raise AttributeError(f"module 'nas.study' has no attribute '{name}'")
