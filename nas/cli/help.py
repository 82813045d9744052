"""The layout of `--help`: which panel an option stands in, and a short word for what it takes.

A panel's columns are as wide as its widest option: in short panels the text has the most room.
"""

from __future__ import annotations

from typing import Any

import typer.core

PANELS = {
    "Budget": ("max_params", "max_macs", "max_flash", "max_ram", "board", "budget", "target", "require_target"),
    "Study": ("named", "architecture", "study", "name", "pick", "reference", "recipe"),
    "Data": ("dataset", "data_dir"),
    "Own images": ("image_size", "crop", "grayscale", "background", "skip_unreadable", "allow_duplicates"),
    "Search": ("metric", "trials", "timeout", "patience", "pareto", "sampler", "pruner", "no_published",
               "brief_epochs"),
    "Finalists": ("finalists", "finalist_seeds", "finalist_epochs"),
    "Training": ("epochs", "seeds", "seed", "teacher", "mirror", "augment", "class_weights", "dropout"),
    "Machine": ("workers", "device", "backend", "cluster", "storage", "artifacts"),
    "Targets": ("to", "check", "qat", "cmsis_nn", "soap"),
    "Output": ("output", "folder", "dry_run", "report", "no_report", "tensorboard", "quiet", "as_json", "as_csv"),
}  # fmt: skip
"""The options of each panel, in the order of the panels, by their parameters' names; others are in "Options"."""

METAVARS = {
    "N": ("trials", "patience", "pick", "workers", "seed", "seeds", "epochs", "brief_epochs", "finalists",
          "finalist_seeds", "finalist_epochs", "image_size"),
    "NAME": ("named", "budget", "board", "dataset", "study", "name", "device"),
    "ADDRESS": ("cluster",),
    "FOLDER": ("artifacts",),
    "PERCENT": ("target",),
    "PATH": ("data_dir", "recipe"),
    "URL": ("storage",),
    "TEXT": ("architecture", "teacher", "reference"),
}  # fmt: skip
"""The options that each word stands for, where the option itself has none."""

FEW = 8
"""The most options that need no panels."""

_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
_METAVAR_OF = {name: word for word, names in METAVARS.items() for name in names}


class Command(typer.core.TyperCommand):
    """A command whose options, where it has more than `FEW`, are grouped into `PANELS`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        ours = [param for param in self.params if isinstance(param, typer.core.TyperOption)]
        for param in ours:
            param.metavar = "" if param.is_flag else param.metavar or _METAVAR_OF.get(param.name or "")
            if len(ours) > FEW:
                param.rich_help_panel = _PANEL_OF.get(param.name or "")
        self.params.sort(key=_position)


def _position(param: Any) -> int:
    """Return the place of a parameter's panel in the help; what has no panel comes first, in its own order."""
    panel = getattr(param, "rich_help_panel", None)
    return -1 if panel is None else list(PANELS).index(panel)
