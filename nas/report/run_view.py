"""The view of a full run: a line for each epoch to standard output, a bar for each seed to standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from nas.report.console import can_redraw
from nas.workers import EpochMessage, LogitsMessage, Message, StepMessage, TrainJob


class RunView:
    """A full run as it goes: a line for each epoch to standard output, a bar for each seed to standard error."""

    def __init__(self, console: Console, epochs: int, seeds: Sequence[int], *, quiet: bool) -> None:
        self.quiet, self.many, self.epochs = quiet, len(seeds) > 1, epochs
        self.bars = Bars(
            TextColumn("{task.fields[who]}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
            disable=quiet or not can_redraw(console),
        )  # fmt: skip
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> RunView:
        self.bars.start()
        if not self.quiet:
            self._task("starting workers (the first run compiles the kernels)", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, message: Message) -> None:
        self._started()
        if isinstance(message, LogitsMessage):
            self.bars.advance(self._task("teacher logits", total=self.epochs))
        elif isinstance(message, StepMessage):
            completed = round(message.step / message.steps * self.epochs, 1)
            self.bars.update(self._task(_who(message.job), total=self.epochs), completed=completed)
        elif isinstance(message, EpochMessage):  # steps are told now and then: the last of an epoch need not be
            self.bars.update(self._task(_who(message.job), total=self.epochs), completed=message.epoch.number)
            if not self.quiet:
                self._print(self._epoch(message))

    def _epoch(self, message: EpochMessage) -> str:
        epoch, who = message.epoch, _who(message.job)
        lead = f"{who}  " if self.many or who == "teacher" else ""
        test = f"test loss {epoch.loss:.4f}  Accuracy: {epoch.correct}/{epoch.count} ({epoch.accuracy:.2f}%)  "
        return (
            f"{lead}epoch {epoch.number:>2}  loss {epoch.train_loss:.4f}  train {epoch.train_accuracy:.2f} %  "
            f"{'' if message.job.evaluate_on_train else test}{epoch.seconds:.1f} s"
        )

    def _task(self, who: str, *, total: float | None) -> Any:
        if who not in self.tasks:
            self.tasks[who] = self.bars.add_task("", total=total, who=who)
        return self.tasks[who]

    def _started(self) -> None:
        for who in [who for who in self.tasks if who.startswith("starting")]:
            self.bars.remove_task(self.tasks.pop(who))

    def _print(self, line: str) -> None:
        """Standard output is for data; the bars on standard error must not run through it on a terminal."""
        if self.bars.disable or not sys.stdout.isatty():
            print(line, flush=True)
        else:
            self.bars.console.print(line, highlight=False, soft_wrap=True, markup=False)


def _who(job: TrainJob) -> str:
    return "teacher" if job.key == "teacher" else f"seed {job.seed}"
