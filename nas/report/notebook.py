"""A display in a notebook that is drawn again in place, by IPython's own means; no widgets are needed."""

from __future__ import annotations

import importlib
import io
import sys
import time
from collections import deque
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

REFRESH_SECONDS = 1.0
LINES = 12
"""Trainings that ended, the latest ones, below the screen."""

_FORMAT = (
    "<pre style=\"white-space:pre;overflow-x:auto;line-height:1.3;font-family:Menlo,Consolas,'DejaVu Sans Mono',"
    'monospace">{code}</pre>'
)


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook, which draws what it is handed."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


class NotebookDisplay:
    """One output of a cell: the screen, and the last lines below it."""

    WIDTH = 110

    def __init__(self) -> None:
        self._lines: deque[Text] = deque(maxlen=LINES)
        self._handle: Any = None
        self._shown = float("-inf")

    def add(self, line: Text) -> None:
        self._lines.append(line)

    def show(self, renderable: RenderableType, *, now: bool = False) -> None:
        """Draw, at most once a second; `now` in any case."""
        if not now and time.monotonic() - self._shown < REFRESH_SECONDS:
            return
        ipython = importlib.import_module("IPython.display")
        self._shown = time.monotonic()
        page = ipython.HTML(self.html(renderable))
        if self._handle is None:
            self._handle = ipython.display(page, display_id=True)
        else:
            self._handle.update(page)

    def html(self, renderable: RenderableType) -> str:
        """Return the screen and the lines as markup, their texts escaped."""
        console = Console(record=True, width=self.WIDTH, file=io.StringIO(), force_jupyter=False, force_terminal=True)
        console.print(Group(renderable, *self._lines), no_wrap=True, overflow="ellipsis", crop=True)
        return console.export_html(inline_styles=True, code_format=_FORMAT)
