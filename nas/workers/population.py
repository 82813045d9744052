"""A pool whose trainings are one population: its workers' side, and the parent's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.data import Split, TrainingData
from nas.train import Epoch, Member, Population
from nas.workers.jobs import (
    EpochMessage,
    FailureMessage,
    Job,
    LogitsJob,
    RunMessage,
    StepMessage,
    TrainJob,
    read_logits,
)
from nas.workers.processes import ProcessPool
from nas.workers.transport import Channel, Disconnected
from nas.workers.worker import STEP_SECONDS, Report, Setting, execute, report_of, stream

QUIET_SECONDS = 0.2
"""Time without a new job after which an epoch begins, though there are workers without one."""


class PopulationPool(ProcessPool):
    """`count` workers whose trainings are one, in one process; see `Pool`.

    An epoch begins when every training has its answer, and its networks go through it step by step together. What is
    submitted meanwhile joins at the next.
    """

    def __init__(self, count: int, training: TrainingData, evaluation: Split, *, device: str, threads: int = 1) -> None:
        super().__init__(count, training, evaluation, device=device, backend="torch", threads=threads)
        self._one_process, self._serve = True, serve


class _Seat:
    """A worker: its channel, its job, and the network that the job trains."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.job: Job | None = None
        self.member: Member | None = None
        self.waits = False  # for the answer to an epoch

    def end(self, report: Report) -> None:
        """Send a job's last report."""
        self.job = self.member = None
        self.waits = False
        self.channel.send(report)


def serve(channels: Sequence[Channel], setting: Setting) -> None:
    """Be the workers of these channels, until one of them is closed."""
    with contextlib.suppress(Disconnected), stream(setting.device):
        workplace = _Workplace(channels, setting)
        while True:
            workplace.receive()
            workplace.work()


class _Workplace:
    """The workers' one population, and the images and teacher logits that its members share."""

    def __init__(self, channels: Sequence[Channel], setting: Setting) -> None:
        self._seats = [_Seat(channel) for channel in channels]
        self._setting, self._population = setting, Population(setting.device)
        self._settings: dict[Any, Setting] = {}
        self._logits: dict[Path, Tensor] = {}
        self._sent = time.monotonic()

    def receive(self) -> None:
        """Take jobs and answers, until every epoch has its answer and no more jobs come."""
        while True:
            listening = {seat.channel.connection: seat for seat in self._seats if seat.job is None or seat.waits}
            busy = any(seat.job is not None for seat in self._seats)
            waits = any(seat.waits for seat in self._seats)
            full = all(seat.job is not None for seat in self._seats)
            ready = wait(list(listening), None if waits or not busy else 0 if full else QUIET_SECONDS)
            if not ready:
                return
            for connection in ready:
                seat = listening[connection]  # type: ignore[index]
                value = seat.channel.receive()
                if seat.waits:
                    self._answer(seat, bool(value))
                else:
                    self._begin(seat, value)

    def _answer(self, seat: _Seat, stop: bool) -> None:
        seat.waits, member = False, seat.member
        assert member is not None
        last = len(member.epochs) == member.recipe.epochs
        if stop or last:
            seat.end(partial(RunMessage, run=self._population.remove(member, stopped=stop and not last)))

    def _begin(self, seat: _Seat, job: Job) -> None:
        seat.job = job
        if not isinstance(job, TrainJob):
            return
        try:
            there = self._setting_of(job)
            member = Member(
                architecture=job.architecture, training=there.training, evaluation=there.evaluation, recipe=job.recipe,
                seed=job.seed, teacher_logits=self._logits_of(job),
            )  # fmt: skip
            self._population.add(member)
        except Exception as error:
            seat.end(report_of(error))
        else:
            seat.member = member

    def _setting_of(self, job: TrainJob) -> Setting:
        """Return the images of a job: the same tensors for all jobs of the same folds, as a population needs it."""
        key = job.fold, job.held_out_folds, job.evaluate_on_train
        if key not in self._settings:
            self._settings[key] = self._setting.of(job)
        return self._settings[key]

    def _logits_of(self, job: TrainJob) -> Tensor | None:
        """Return a teacher's logits: the same tensor for all jobs in training with the same file."""
        source = job.teacher_logits
        if not isinstance(source, Path):
            return source
        used = {id(member.teacher_logits) for member in self._population.members}
        self._logits = {path: logits for path, logits in self._logits.items() if id(logits) in used}
        if source not in self._logits:
            self._logits[source] = read_logits(source)
        return self._logits[source]

    def work(self) -> None:
        """Do the jobs for teacher logits, one by one, and then an epoch of all trainings."""
        for seat in self._seats:
            if isinstance(seat.job, LogitsJob):
                seat.end(execute(seat.job, self._setting, seat.channel))
        training = {seat.member: seat for seat in self._seats if seat.member is not None}
        if not training:
            return
        try:
            results = self._population.train_epoch(partial(self._on_step, training))
        except Disconnected:
            raise
        except Exception as error:  # of no member in particular
            self._population = Population(self._setting.device)
            for seat in training.values():
                seat.end(report_of(error))
            return
        for member, result in results:
            seat = training[member]
            if isinstance(result, Epoch):
                seat.waits = True
                seat.channel.send(partial(EpochMessage, epoch=result))
            else:
                seat.end(partial(FailureMessage, reason=str(result), killed=False))

    def _on_step(self, training: dict[Member, _Seat], members: Sequence[Member], number: int) -> None:
        if time.monotonic() - self._sent < STEP_SECONDS:
            return
        self._sent = time.monotonic()
        for member in members:
            steps = len(member.batches)
            report = partial(StepMessage, step=len(member.epochs) * steps + number, steps=member.recipe.epochs * steps)
            training[member].channel.send(report)
