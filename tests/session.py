"""Run a small search on real MNIST and draw what a terminal shows of it: `.github/session.svg`.

    NAS_DATA_DIR=... python tests/session.py    # minutes

The run is real and its numbers with it; small, so that it can be drawn again whenever the screen changes.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

from rich.console import Console

from nas import report
from nas.budget import Budget
from nas.data import load_training_data, prepare_dataset
from nas.library import Machine
from nas.searches import Search, SearchResult, Settings
from nas.study import Event, Progress, StudyStore
from nas.workers import ProcessPool, default_workers

PICTURE = Path(__file__).parent.parent / ".github" / "session.svg"
WIDTH = 108
TRIALS = 6
COMMAND = f"nas search --max-params 2000 --trials {TRIALS} --finalists 2 --finalist-seeds 2"


class Recorder:
    """The view of a search: its lines as they come, and once, in the middle of the brief trials, the live screen."""

    def __init__(self, console: Console) -> None:
        self.console, self.drawn = console, False

    def __call__(self, progress: Progress, event: Event | None) -> None:
        if event is not None:
            line = report.event_line(event, WIDTH)
            self.console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        midway = progress.phase == "brief trials" and progress.done >= TRIALS // 2
        if not self.drawn and midway and all(len(line.history) > 1 for line in progress.lines):
            self.drawn = True
            self.console.print()
            self.console.print(report.screen(progress, WIDTH))
            self.console.print()


def search(view: Recorder) -> SearchResult:
    """Run what `COMMAND` runs, on the view."""
    machine = Machine().resolved()
    found = prepare_dataset("mnist", data_dir=None)
    settings = Settings.for_budget(Budget(max_params=2000), found, trials=TRIALS, finalists=2, finalist_seeds=2)
    training, space = load_training_data(found, data_dir=None), settings.space(found)
    assert training.validation is not None
    provenance = machine.provenance(training, found)
    record = provenance.fields() | {"target": settings.target, "num_validation": len(training.validation)}
    store = StudyStore.create(settings.study_name, None, settings.identity(space, training.hash), record)
    workers = default_workers(machine.device)
    with ProcessPool(workers, training, training.validation, device=machine.device, backend="auto") as pool:
        return Search(store, space, settings, pool, view).run(training, provenance)


def main() -> None:
    console = Console(record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(f"$ {COMMAND}", style="bold", highlight=False)
    with contextlib.ExitStack() as stack:
        if "NAS_STUDIES" not in os.environ:
            os.environ["NAS_STUDIES"] = stack.enter_context(tempfile.TemporaryDirectory())
        result = search(Recorder(console))
    console.print(report.finalist_table(result.reason))
    console.print(f"\n{report.account(result.reason.counts)}", markup=False, highlight=False)
    console.print(report.cost(result.reason), highlight=False)
    console.save_svg(str(PICTURE), title="nas search")


if __name__ == "__main__":
    main()
