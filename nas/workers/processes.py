"""A pool of workers in processes of their own, the parent's side."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Self

import torch

from nas.data import Split, TrainingData
from nas.kernels import compile_all
from nas.machine import caller_left_out
from nas.train import Backend, choose_backend
from nas.workers.jobs import BugMessage, EpochMessage, FailureMessage, FinalMessage, Job, Message, checked
from nas.workers.transport import Channel, Disconnected, SharedData
from nas.workers.worker import INTERRUPTS, Serve, host, serve_each

JOIN_SECONDS = 1.0
"""For how long killed workers are waited for: one in the middle of a write to a slow disk ends later, by itself."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    channel: Channel
    job: Job | None = None


class ProcessPool:
    """`count` workers of `threads` threads each, spawned at the first job; see `Pool`.

    A worker is a process. On a CUDA device all are threads of one process instead, each with its own stream: a small
    network's kernels leave most of such a device idle, and those of several processes take turns on it.

    `evaluation` is what every epoch is scored on: the search passes the validation split, a full run the test split it
    was given. A job of another fold is scored on that one instead.
    """

    def __init__(
        self, count: int, training: TrainingData, evaluation: Split, *, device: str, backend: Backend, threads: int = 1
    ) -> None:
        self._count, self._images = count, (training, evaluation)
        self._device, self._backend, self._threads = device, backend, threads
        self._one_process = torch.device(device).type == "cuda"
        self._serve: Serve = serve_each
        self._compiles = choose_backend(device, backend)[0] == "kernels"
        self._context = multiprocessing.get_context("spawn")
        self._shared: SharedData | None = None
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._count

    @property
    def idle(self) -> int | None:
        """The number of a worker without a job, or None."""
        if not self._workers:
            return 0
        return next((number for number, worker in enumerate(self._workers) if worker.job is None), None)

    @property
    def jobs(self) -> list[Job]:
        """The jobs under way."""
        return [worker.job for worker in self._workers if worker.job is not None]

    def submit(self, job: Job) -> int:
        """Hand `job` to an idle worker and return that worker's number."""
        number = self.idle
        assert number is not None, "submit needs an idle worker"
        self.start()
        worker = self._workers[number]
        worker.job = job
        with contextlib.suppress(Disconnected):  # it died while idle; messages() will say so
            worker.channel.send(job)
        return number

    def messages(self, timeout: float) -> Iterator[Message]:
        """Yield what comes in within `timeout` seconds, one message of each worker at most."""
        busy = {worker.channel.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy), timeout) if busy else []:
            worker = busy[connection]  # type: ignore[index]
            if worker not in self._workers:  # whoever took the last message restarted the pool
                return
            number, job = self._workers.index(worker), worker.job
            assert job is not None
            try:
                report = worker.channel.receive()
            except Disconnected:
                yield from self._lost(number)
                continue
            message = report(worker=number, job=job)
            if isinstance(message, FinalMessage | BugMessage):
                worker.job = None
            yield checked(message)

    def answer(self, message: EpochMessage, *, stop: bool) -> None:
        """Let the worker that reported an epoch go on, or stop there."""
        with contextlib.suppress(Disconnected):  # messages() reports a dead worker
            self._workers[message.worker].channel.send(stop)

    def end(self, worker: int) -> None:
        """Kill a worker's process, stopped or not; `messages` reports its job as lost."""
        self._workers[worker].process.kill()

    def restart(self) -> None:
        """End every worker and its job at once; the next job starts as many new ones."""
        for worker in self._workers:
            worker.process.kill()
        end = time.monotonic() + JOIN_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.channel.close()
        self._workers = []

    def close(self) -> None:
        """End every worker at once; jobs under way are lost."""
        self.restart()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def start(self) -> None:
        """Start all workers, if none run."""
        if self._workers:
            return
        if self._compiles:
            compile_all()  # here, once: workers find the kernels in the cache
        together = self._count if self._one_process else 1
        self._workers = [worker for _ in range(0, self._count, together) for worker in self._spawn(together)]

    def _lost(self, number: int) -> Iterator[Message]:
        """Replace a worker that died, and those of the same process with it; yield the last message of each job."""
        process = self._workers[number].process
        process.join()
        lost = {number: worker for number, worker in enumerate(self._workers) if worker.process is process}
        new = dict(zip(lost, self._spawn(len(lost)), strict=True))
        for place, worker in new.items():
            self._workers[place] = worker
        for place, worker in lost.items():
            if worker.job is not None and new[place] in self._workers:  # else whoever took the last restarted the pool
                yield checked(_last_message(place, worker, worker.job))
            worker.channel.close()

    def _spawn(self, count: int) -> list[_Worker]:
        """Start one process of `count` workers."""
        self._shared = self._shared or SharedData(self._images)
        pipes = [self._context.Pipe() for _ in range(count)]
        channels = [Channel(theirs) for _, theirs in pipes]
        arguments = (self._serve, channels, self._shared, (self._device, self._backend), self._threads)
        threads = str(self._threads)
        with caller_left_out(), _environment(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads), _interrupts_blocked():
            process = self._context.Process(target=host, args=arguments, daemon=True)
            process.start()
        for channel in channels:
            channel.close()
        return [_Worker(process=process, channel=Channel(ours)) for ours, _ in pipes]


def _last_message(number: int, worker: _Worker, job: Job) -> Message | BugMessage:
    """Return the last message that a worker sent before it died; a failure where its job had not ended."""
    with contextlib.suppress(Disconnected):
        while True:
            message = worker.channel.receive()(worker=number, job=job)
            if isinstance(message, FinalMessage | BugMessage):
                return message
    reason = f"the worker died (exit code {worker.process.exitcode}; out of memory?)"
    return FailureMessage(worker=number, job=job, reason=reason, killed=True)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block interrupts for a child that is started inside, from its first instant, imports included.

    This process gets one that comes meanwhile a little later.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first child would start it, and that unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for a child that is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
