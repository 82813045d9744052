"""A page that stays fresh while a search runs, drawn by a process of its own at the lowest priority."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from nas.errors import NasError

LEAST_SECONDS = 30.0
"""Seconds between two pages at least."""

SHARE = 20.0
"""Times as long as a page took that the next one waits: drawing takes a twentieth of an idle core at most."""


class FreshReport:
    """A context manager: inside it, the study's report.html is drawn again after changes, until the end.

    The process that draws it reads the study alone. It ends with this one, however that ends: its standard input
    closes then.
    """

    def __init__(
        self, study: str, storage: str | None, data_dir: Path | None, *, seconds: float = LEAST_SECONDS
    ) -> None:
        self._given = {
            "study": study, "storage": storage, "data_dir": None if data_dir is None else str(data_dir),
            "seconds": seconds,
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> FreshReport:
        code = "from nas.report.fresh import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the search, which ends this one
        )  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(self._given) + "\n")  # not an argument: a storage may hold a password
            self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process; what it was writing is left out, as a page appears whole or not at all."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()


def serve() -> None:
    """Draw the page of the study that standard input names, again and again, until that input closes."""
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(19)
    from nas.report.page import write_report

    seen: Any = None
    data_dir = None if given["data_dir"] is None else Path(given["data_dir"])
    while True:
        began = time.monotonic()
        with contextlib.suppress(NasError):  # not there yet, or a database in trouble: the search tells of it
            if (now := _state(given["study"], given["storage"])) != seen:
                write_report([given["study"]], storage=given["storage"], data_dir=data_dir)
                seen = now
        time.sleep(max(given["seconds"], SHARE * (time.monotonic() - began)))


def _state(study: str, storage: str | None) -> Any:
    """Return what changes when the page would."""
    from nas.study import StudyStore

    store = StudyStore.open(study, storage, read_only=True)
    second = store.open_finalists()
    return [len(each.refresh().finished) for each in (store, second) if each is not None]


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)
