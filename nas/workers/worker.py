"""The worker's side: jobs are done with the images at hand, and a process of workers lives until its parent goes."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from nas.data import Split, TrainingData, with_fold
from nas.errors import NasError
from nas.train import Backend, Epoch, Run, compute_teacher_logits, train
from nas.workers.jobs import (
    BugMessage,
    EpochMessage,
    FailureMessage,
    Job,
    LogitsJob,
    LogitsMessage,
    Message,
    RunMessage,
    StepMessage,
    TrainJob,
    read_logits,
)
from nas.workers.transport import Channel, Disconnected

TRAIN_EVALUATION_IMAGES = 10_000
"""Training images that a job with `evaluate_on_train` is scored on, the first of them."""

STEP_SECONDS = 0.5
"""Least time between two messages of a training's steps."""

Report = Callable[..., Message | BugMessage]
"""A message that lacks what the worker does not know: its own number, and the job as its owner has it."""

INTERRUPTS = {
    getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)
}  # Windows has no SIGHUP  # fmt: skip
"""Signals that a terminal sends to all of its processes: the parent decides what becomes of its workers."""


class Owner(Protocol):
    """A worker's side of its pool."""

    def send(self, report: Report) -> None:
        """Pass on a report; raises `Disconnected` when nobody wants it any more."""

    def receive(self) -> Any:
        """Wait for the answer to an epoch, and return whether to stop; raises `Disconnected`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """The images that jobs are done with, and where."""

    training: TrainingData
    evaluation: Split
    device: str
    backend: Backend

    def on_device(self) -> Setting:
        """Return the setting with its images on the device."""
        device, validation = self.device, self.training.validation
        moved = None if validation is None else validation.to(device)
        training = dataclasses.replace(self.training, train=self.training.train.to(device), validation=moved)
        return dataclasses.replace(self, training=training, evaluation=self.evaluation.to(device))

    def of(self, job: Job) -> Setting:
        """Return the setting with the images that the job trains and is scored on."""
        held_out = job.held_out_folds if isinstance(job, TrainJob) else ()
        training, evaluation = self.training, self.evaluation
        if job.fold or held_out:
            training = with_fold(training, job.fold, held_out)
            assert training.validation is not None
            evaluation = training.validation
        if isinstance(job, TrainJob) and job.evaluate_on_train:
            count = TRAIN_EVALUATION_IMAGES
            evaluation = Split(training.train.images[:count], training.train.labels[:count])
        return dataclasses.replace(self, training=training, evaluation=evaluation)


def execute(job: Job, setting: Setting, owner: Owner) -> Report:
    """Do a job and return its last report; `owner` gets those before. Raises `Disconnected` alone."""
    try:
        if isinstance(job, LogitsJob):
            return partial(LogitsMessage, logits=_logits(job, setting.of(job)))
        return partial(RunMessage, run=_train(job, setting.of(job), owner))
    except Disconnected:
        raise
    except Exception as error:
        return report_of(error)


def report_of(error: Exception) -> Report:
    """Return the report of a job that failed, for a known reason or as a bug."""
    if isinstance(error, NasError):
        return partial(FailureMessage, reason=str(error), killed=False)
    if _out_of_memory(error):
        lines = str(error).splitlines()
        return partial(FailureMessage, reason=f"out of memory: {''.join(lines[:1])}", killed=False)
    return partial(BugMessage, traceback="".join(traceback.format_exception(error)))


def _train(job: TrainJob, setting: Setting, owner: Owner) -> Run:
    told = time.monotonic()

    def on_step(step: int, steps: int) -> None:
        nonlocal told
        if time.monotonic() - told > STEP_SECONDS:
            told = time.monotonic()
            owner.send(partial(StepMessage, step=step, steps=steps))

    def on_epoch(epoch: Epoch) -> bool:
        owner.send(partial(EpochMessage, epoch=epoch))
        return bool(owner.receive())

    return train(
        job.architecture, setting.training, setting.evaluation, job.recipe, seed=job.seed,
        teacher_logits=None if job.teacher_logits is None else read_logits(job.teacher_logits),
        device=setting.device, backend=setting.backend, on_epoch=on_epoch, on_step=on_step,
        checkpoint=job.checkpoint,
    )  # fmt: skip


def _logits(job: LogitsJob, setting: Setting) -> Tensor:
    return compute_teacher_logits(
        job.recipe, job.weights, setting.training, job.epoch, device=setting.device, backend=setting.backend
    )


def _out_of_memory(error: Exception) -> bool:
    """Also on a CPU, where torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


Serve = Callable[[list[Channel], Setting], None]
"""Being the workers of some channels, until the parent goes."""


def host(serve: Serve, channels: list[Channel], images: Any, place: tuple[str, Backend], threads: int) -> None:
    """Be a process of workers, one for each channel, until the parent goes.

    `images` are the training data and the evaluation split, which arrive from a `SharedData`; `place` is the device and
    the backend.
    """
    for number in INTERRUPTS:  # blocked from the first instant; again, for systems that do not hand that down
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    (training, evaluation), (device, backend) = images, place
    serve(channels, Setting(training=training, evaluation=evaluation, device=device, backend=backend).on_device())


def serve_each(channels: list[Channel], setting: Setting) -> None:
    """Be workers that have a thread each."""
    first, *others = (partial(_live, channel, setting) for channel in channels)
    for live in others:
        threading.Thread(target=live).start()
    first()


def _end_with_parent() -> None:
    """A parent that is killed says no good-bye, and a job sends nothing for a while."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _live(channel: Channel, setting: Setting) -> None:
    """Be one worker. One that breaks takes its process along: the parent would wait for a thread that is no more."""
    try:
        with contextlib.suppress(Disconnected), stream(setting.device):
            while True:
                job: Job = channel.receive()
                channel.send(execute(job, setting, channel))
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def stream(device: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context with a stream of this thread's own, on a CUDA device."""
    if torch.device(device).type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
