"""Output for the user: Rich renderables for the terminal (tables, live views), pictures, and the HTML page.

What needs torch is imported when it is first used: a table must not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.report.console import PIPE_WIDTH, can_redraw, make_console
from nas.report.tables import (
    account,
    brief_account,
    cost,
    count_lines,
    deployment_table,
    duration,
    finalist_table,
    layer_table,
    plain,
    print_space,
    recipe_table,
    run_table,
    titled,
    trial_table,
)

if TYPE_CHECKING:
    from nas.report.images import ImageBar, print_check
    from nas.report.live import LiveView, RunView, event_line, screen, sparkline, status
    from nas.report.page import MOST_BYTES, REPORT, write_report
    from nas.report.pictures import PICTURES, Picture, plot, require_name, require_suffix

__all__ = [
    "MOST_BYTES",
    "PICTURES",
    "PIPE_WIDTH",
    "REPORT",
    "ImageBar",
    "LiveView",
    "Picture",
    "RunView",
    "account",
    "brief_account",
    "can_redraw",
    "cost",
    "count_lines",
    "deployment_table",
    "duration",
    "event_line",
    "finalist_table",
    "layer_table",
    "make_console",
    "plain",
    "plot",
    "print_check",
    "print_space",
    "recipe_table",
    "require_name",
    "require_suffix",
    "run_table",
    "screen",
    "sparkline",
    "status",
    "titled",
    "trial_table",
    "write_report",
]

_PLACES = {
    "images": ("ImageBar", "print_check"),
    "page": ("MOST_BYTES", "REPORT", "write_report"),
    "pictures": ("PICTURES", "Picture", "plot", "require_name", "require_suffix"),
    "live": ("LiveView", "RunView", "event_line", "screen", "sparkline", "status"),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"nas.report.{module}"), name)
    raise AttributeError(f"module 'nas.report' has no attribute '{name}'")
