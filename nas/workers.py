"""Workers that only train: the parent hands out jobs, hears of every epoch, and answers go on or stop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from nas import kernels
from nas.architecture import Architecture
from nas.data import Split, TrainingData, fold
from nas.errors import NasError
from nas.train import Backend, Epoch, Recipe, Run, choose_backend, cores, teach, train

BLIND = 10_000
"""The training images that a blind job is scored on, the first of them."""


AT_ONCE = 4
"""Workers on a CUDA device unless said: on an H200 an epoch took 0.9 s alone, and 1.3 s each of four at once."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, or one epoch of a lesson: `key` is the caller's own name for it."""

    key: Any
    architecture: Architecture
    recipe: Recipe
    seed: int
    fold: int = 0  # which validation split, of those that `data.fold` makes
    unseen: tuple[int, ...] = ()  # further ones that it does not train on
    blind: bool = False  # scored on images that it trains on: those of the evaluation are none of its business
    lesson: Tensor | None = None  # of the recipe's teacher, for its student
    teacher: dict[str, Tensor] | None = None  # its weights, where nothing is trained: it answers for an epoch
    epoch: int = 0  # that one, from 0


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a worker says of its job: a step, an epoch (then it waits for `Pool.answer`), its end, or why it failed."""

    worker: int
    job: Job
    step: tuple[int, int] | None = None
    epoch: Epoch | None = None
    run: Run | None = None
    answers: Tensor | None = None  # what `teach` gave
    failure: str | None = None


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None


class Pool:
    """`count` workers of `threads` threads each, spawned at the first job; a context manager, which ends them.

    A worker is a process. On a CUDA device all are threads of one process instead, each with its own stream: a small
    network's kernels leave most of such a device idle, and those of several processes take turns on it.

    The training data travel once, in shared memory. `evaluation` is what every epoch is scored on: the search passes
    the validation split, a full run the test split it was given. A job of another fold is scored on that one instead.
    """

    def __init__(
        self, count: int, training: TrainingData, evaluation: Split, *, device: str, backend: Backend, threads: int = 1
    ) -> None:
        self._context = mp.get_context("spawn")
        self._arguments = (training, evaluation, device, backend, threads)
        self._on_cuda = torch.device(device).type == "cuda"
        self._compiles = choose_backend(device, backend)[0] == "kernels"
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
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
        if not self._workers:
            self._start()
        worker = self._workers[number]
        worker.job = job
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died while idle; messages() will say so
            worker.pipe.send(job)
        return number

    def messages(self, timeout: float) -> Iterator[Message]:
        """What came in within `timeout` seconds; a worker that died is replaced and its job reported as failed."""
        pipes = {worker.pipe: number for number, worker in enumerate(self._workers) if worker.job is not None}
        for pipe in wait(list(pipes), timeout) if pipes else []:
            number = pipes[pipe]  # type: ignore[index]
            worker = self._workers[number]
            assert worker.job is not None
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):  # OSError: it died in the middle of a message
                worker.process.join()
                worker.pipe.close()
                job, code = worker.job, worker.process.exitcode
                (self._workers[number],) = self._spawn(1)
                yield Message(worker=number, job=job, failure=f"the worker died (exit code {code}; out of memory?)")
                continue
            if kind == "bug":
                raise RuntimeError(f"a worker failed on {worker.job.architecture}:\n{value}")
            message = Message(worker=number, job=worker.job, **{kind: value})
            if kind in ("run", "answers", "failure"):
                worker.job = None
            yield message

    def answer(self, message: Message, *, stop: bool) -> None:
        """Let the worker that reported an epoch go on, or stop there."""
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # messages() reports a dead worker
            self._workers[message.worker].pipe.send(stop)

    def close(self) -> None:
        """End every worker at once; jobs under way are lost."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers = []

    def restart(self) -> None:
        """End every worker and its job at once; the next job starts as many new ones."""
        self.close()

    def _start(self) -> None:
        """At the first job: a search that has nothing left to train starts nothing."""
        if self._compiles:
            kernels.compile_all()  # here, once: workers find the kernels in the cache
        at_once = self._count if self._on_cuda else 1
        self._workers = [worker for _ in range(0, self._count, at_once) for worker in self._spawn(at_once)]

    def _spawn(self, count: int) -> list[_Worker]:
        """That many workers in one new process."""
        pipes = [self._context.Pipe() for _ in range(count)]
        threads = self._arguments[-1]
        with _environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads)), _ignoring_interrupts():
            arguments = ([theirs for _, theirs in pipes], *self._arguments)
            process = self._context.Process(target=_host, args=arguments, daemon=True)
            process.start()
        for _, theirs in pipes:
            theirs.close()
        return [_Worker(process=process, pipe=ours) for ours, _ in pipes]


def default_count(device: str) -> int:
    """Workers that make the most of a device."""
    return {"cpu": cores(), "cuda": AT_ONCE}.get(torch.device(device).type, 1)


def each(jobs: Iterable[Job], pool: Pool, heard: Callable[[Message], None]) -> Iterator[Message]:
    """Train all the jobs to their ends; the last words of each as it ends, `heard` being told of everything.

    Raises `NasError` when one fails.
    """
    waiting = deque(jobs)
    while waiting or pool.jobs:
        while waiting and pool.idle is not None:
            pool.submit(waiting.popleft())
        for message in pool.messages(0.5):
            heard(message)
            if message.epoch is not None:
                pool.answer(message, stop=False)
            elif message.failure is not None:
                raise NasError(f"seed {message.job.seed} of {message.job.architecture} failed: {message.failure}")
            elif message.step is None:
                yield message


def _host(
    pipes: list[Connection], training: TrainingData, evaluation: Split, device: str, backend: Backend, threads: int
) -> None:
    """The life of a process of workers: until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # again, for systems that do not hand it down
    torch.set_num_threads(threads)
    training, evaluation = _to(training, device), evaluation.to(device)
    first, *others = (partial(_live, pipe, training, evaluation, device, backend) for pipe in pipes)
    for live in others:
        threading.Thread(target=live).start()
    first()


def _live(*arguments: Any) -> None:
    """A worker that breaks takes its process along: the parent would wait for a thread that is no more."""
    try:
        _work(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _work(pipe: Connection, training: TrainingData, evaluation: Split, device: str, backend: Backend) -> None:
    """A worker's life: jobs until the parent goes."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionError), _stream(device):  # the parent is gone
        while True:
            job: Job = pipe.recv()
            try:
                pipe.send(_done(pipe, job, training, evaluation, device, backend))
            except NasError as error:
                pipe.send(("failure", str(error)))
            except torch.OutOfMemoryError as error:
                pipe.send(("failure", f"out of memory: {str(error).splitlines()[0]}"))
            except (EOFError, BrokenPipeError, ConnectionError):
                raise
            except Exception:
                pipe.send(("bug", traceback.format_exc()))


def _done(
    pipe: Connection, job: Job, training: TrainingData, evaluation: Split, device: str, backend: Backend
) -> tuple[str, Any]:
    """What a job comes to, and which field of a message that is."""
    if job.fold or job.unseen:
        training = fold(training, job.fold, job.unseen)
        assert training.validation is not None
        evaluation = training.validation
    if job.blind:
        evaluation = Split(training.train.images[:BLIND], training.train.labels[:BLIND])
    if job.teacher is None:
        return "run", _train(pipe, job, training, evaluation, device, backend)
    options: dict[str, Any] = {"device": device, "backend": backend}
    return "answers", teach(job.recipe, job.teacher, job.architecture, training, job.epoch, **options)


def _train(pipe: Connection, job: Job, training: TrainingData, evaluation: Split, device: str, backend: Backend) -> Run:
    told = time.monotonic()

    def on_step(step: int, steps: int) -> None:
        nonlocal told
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            pipe.send(("step", (step, steps)))

    def on_epoch(epoch: Epoch) -> bool:
        pipe.send(("epoch", epoch))
        return bool(pipe.recv())

    return train(
        job.architecture, training, evaluation, job.recipe, seed=job.seed, lesson=job.lesson, device=device,
        backend=backend, on_epoch=on_epoch, on_step=on_step,
    )  # fmt: skip


def _to(training: TrainingData, device: str) -> TrainingData:
    validation = None if training.validation is None else training.validation.to(device)
    return dataclasses.replace(training, train=training.train.to(device), validation=validation)


def _stream(device: str) -> contextlib.AbstractContextManager[Any]:
    """On a CUDA device a stream of this thread's own."""
    if torch.device(device).type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A child that is started inside ignores Ctrl-C from its first instant, imports included: the parent decides."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set a signal's action
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for a child that is started inside."""
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
