"""A pool of one worker in this process: for notebooks, debugging and tests."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, Self

from nas.data import Split, TrainingData
from nas.train import Backend
from nas.workers.jobs import BugMessage, EpochMessage, FailureMessage, FinalMessage, Job, Message, checked
from nas.workers.transport import Disconnected
from nas.workers.worker import Report, Setting, execute, stream


class LocalPool:
    """Does one job at a time in this process; see `Pool`.

    A job has a thread, since a training is one call that calls back; the caller's thread waits for messages, so that
    Ctrl-C gets through.
    """

    def __init__(
        self, training: TrainingData, evaluation: Split, *, device: str = "cpu", backend: Backend = "auto"
    ) -> None:
        self._setting = Setting(training=training, evaluation=evaluation, device=device, backend=backend)
        self._work: Work | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return 1

    @property
    def idle(self) -> int | None:
        """0, or None while there is a job."""
        return 0 if self._work is None else None

    @property
    def jobs(self) -> list[Job]:
        """The job under way."""
        return [] if self._work is None else [self._work.job]

    def start(self) -> None:
        """Move the images to the device."""
        self._setting = self._setting.on_device()

    def submit(self, job: Job) -> int:
        """Start the job and return 0."""
        assert self._work is None, "submit needs an idle worker"
        self.start()
        self._work = Work(job, self._setting)
        return 0

    def messages(self, timeout: float) -> Iterator[Message]:
        """Yield the next message, if it comes within `timeout` seconds."""
        if (work := self._work) is None:
            return
        try:
            report = work.reports.get(timeout=timeout)
        except queue.Empty:
            return
        message = report(worker=0, job=work.job)
        if isinstance(message, FinalMessage | BugMessage):
            self._work = None
        yield checked(message)

    def answer(self, message: EpochMessage, *, stop: bool) -> None:
        """Let the training go on, or stop there."""
        if self._work is not None:
            self._work.answers.put(stop)

    def end(self, worker: int) -> None:
        """Give the job up: a thread cannot be killed, so it is left to itself, and reported as lost."""
        if self._work is not None:
            self._work.reports.put(partial(FailureMessage, reason="the worker hung, and was given up", killed=True))

    def restart(self) -> None:
        """Drop the job: it ends at its next message."""
        if self._work is not None:
            self._work.drop()
            self._work = None

    def close(self) -> None:
        """Drop the job."""
        self.restart()


class Work:
    """A job in a thread of its own, which ends with it: what torch sets for a thread does not outlast the job."""

    def __init__(self, job: Job, setting: Setting) -> None:
        self.job = job
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._dropped = False
        self._thread = threading.Thread(target=self._do, args=(setting,), daemon=True)
        self._thread.start()

    def send(self, report: Report) -> None:
        if self._dropped:
            raise Disconnected
        self.reports.put(report)

    def receive(self) -> Any:
        stop = self.answers.get()
        if self._dropped:
            raise Disconnected
        return stop

    def drop(self) -> None:
        """End the job where it is, and wait for that."""
        self._dropped = True
        self.answers.put(None)  # it may wait for one
        self._thread.join()

    def _do(self, setting: Setting) -> None:
        with contextlib.suppress(Disconnected), stream(setting.device):
            self.reports.put(execute(self.job, setting, self))
