"""Output for the user: Rich renderables for the terminal (tables, live views), pictures, and the HTML page.

What needs torch is imported when it is first used: a table must not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.report.console import PIPE_WIDTH, can_redraw, make_console
from nas.report.names import PICTURE_NAMES, require_name, require_suffix
from nas.report.tables import (
    STUDY_COLUMNS,
    account,
    brief_account,
    cost,
    count_lines,
    deployment_table,
    duration,
    epochs_text,
    finalist_table,
    layer_table,
    plain,
    print_space,
    recall_text,
    recipe_table,
    run_table,
    studies_table,
    study_rows,
    titled,
    trial_table,
)

if TYPE_CHECKING:
    from nas.report.dashboard import artifact_store, publish
    from nas.report.event_lines import event_line, status
    from nas.report.findings import Findings, findings_of, read_findings
    from nas.report.fresh import FreshReport
    from nas.report.images import ImageBar, print_check
    from nas.report.in_terminal import confusion_view, study_view
    from nas.report.live import LiveView
    from nas.report.page import MOST_BYTES, REPORT, write_page, write_report
    from nas.report.pictures import PICTURES, Picture, plot
    from nas.report.run_view import RunView
    from nas.report.search_screen import screen, sparkline
    from nas.report.sheet import write_augmented
    from nas.report.step_view import StepView
    from nas.report.tensorboard import TensorBoard
    from nas.report.text_chart import TextChart
    from nas.report.watch import Watcher

__all__ = [
    "MOST_BYTES",
    "PICTURES",
    "PICTURE_NAMES",
    "PIPE_WIDTH",
    "REPORT",
    "STUDY_COLUMNS",
    "Findings",
    "FreshReport",
    "ImageBar",
    "LiveView",
    "Picture",
    "RunView",
    "StepView",
    "TensorBoard",
    "TextChart",
    "Watcher",
    "account",
    "artifact_store",
    "brief_account",
    "can_redraw",
    "confusion_view",
    "cost",
    "count_lines",
    "deployment_table",
    "duration",
    "epochs_text",
    "event_line",
    "finalist_table",
    "findings_of",
    "layer_table",
    "make_console",
    "plain",
    "plot",
    "print_check",
    "print_space",
    "publish",
    "read_findings",
    "recall_text",
    "recipe_table",
    "require_name",
    "require_suffix",
    "run_table",
    "screen",
    "sparkline",
    "status",
    "studies_table",
    "study_rows",
    "study_view",
    "titled",
    "trial_table",
    "write_augmented",
    "write_page",
    "write_report",
]

_PLACES = {
    "findings": ("Findings", "findings_of", "read_findings"),
    "dashboard": ("artifact_store", "publish"),
    "fresh": ("FreshReport",),
    "tensorboard": ("TensorBoard",),
    "images": ("ImageBar", "print_check"),
    "page": ("MOST_BYTES", "REPORT", "write_page", "write_report"),
    "sheet": ("write_augmented",),
    "pictures": ("PICTURES", "Picture", "plot"),
    "event_lines": ("event_line", "status"),
    "live": ("LiveView",),
    "run_view": ("RunView",),
    "step_view": ("StepView",),
    "search_screen": ("screen", "sparkline"),
    "in_terminal": ("confusion_view", "study_view"),
    "text_chart": ("TextChart",),
    "watch": ("Watcher",),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"nas.report.{module}"), name)
    raise AttributeError(f"module 'nas.report' has no attribute '{name}'")
