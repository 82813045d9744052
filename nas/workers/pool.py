"""The contract of every pool of workers, wherever these are."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

import torch

from nas.errors import NasError
from nas.machine import cores
from nas.train import Backend
from nas.workers.jobs import EpochMessage, FailureMessage, Job, LogitsMessage, Message, RunMessage

WORKERS_ON_CUDA = 4
"""Default on a CUDA device, which a small network leaves mostly idle."""

MAX_DEATHS = 2
"""Times that a training is tried again whose worker was killed: a full memory is no fault of its network."""

WORKERS_OF_A_POPULATION = 32
"""Default where all trainings are one. Not measured on a device: `tests/benchmarks/population.py` is to say."""

OnMessage = Callable[[Message], None]


class Pool(Protocol):
    """A number of workers, each with one job at a time; a context manager, which closes it.

    Nothing starts before the first job.
    """

    def __len__(self) -> int:
        """Return the number of workers."""

    @property
    def idle(self) -> int | None:
        """The number of a worker without a job, or None."""

    @property
    def jobs(self) -> list[Job]:
        """The jobs under way."""

    def start(self) -> None:
        """Start the workers, if none run; the first job does it otherwise, and may then wait for compiled kernels."""

    def submit(self, job: Job) -> int:
        """Hand `job` to an idle worker, of which there must be one, and return its number."""

    def messages(self, timeout: float) -> Iterator[Message]:
        """Yield what comes in within `timeout` seconds.

        A job's last message is a `FinalMessage`, and its worker is idle before that is yielded. A worker that died is
        replaced, and its job's last message is a failure with `killed` set. Raises `RuntimeError` with the traceback of
        a job that failed for no known reason; the pool stays usable.
        """

    def answer(self, message: EpochMessage, *, stop: bool) -> None:
        """Let the worker that reported an epoch go on, or stop there."""

    def end(self, worker: int) -> None:
        """End a worker that hangs; its job's last message is then a failure with `killed` set."""

    def restart(self) -> None:
        """Drop all jobs at once; the workers are idle again."""

    def close(self) -> None:
        """Drop all jobs at once and end the workers."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def default_workers(device: str, backend: Backend = "auto") -> int:
    """Return the number of workers that makes the most of a device; as a population, the number of its networks."""
    if backend == "population":
        return WORKERS_OF_A_POPULATION
    return {"cpu": cores(), "cuda": WORKERS_ON_CUDA}.get(torch.device(device).type, 1)


def run_jobs(jobs: Iterable[Job], pool: Pool, on_message: OnMessage) -> Iterator[RunMessage | LogitsMessage]:
    """Run all jobs, none stopped early; yield the final message of each as it arrives.

    A job whose worker was killed is done again, at most twice. `on_message` sees every message. Raises `NasError` when
    a job fails.
    """
    waiting, deaths = deque(jobs), Counter[int]()
    while waiting or pool.jobs:
        while waiting and pool.idle is not None:
            pool.submit(waiting.popleft())
        for message in pool.messages(0.5):
            on_message(message)
            if isinstance(message, EpochMessage):
                pool.answer(message, stop=False)
            elif isinstance(message, FailureMessage) and message.killed and deaths[id(message.job)] < MAX_DEATHS:
                deaths[id(message.job)] += 1  # it waits, so that its id stays its own
                waiting.appendleft(message.job)
            elif isinstance(message, FailureMessage):
                raise NasError(f"{message.job.title} failed: {message.reason}")
            elif isinstance(message, RunMessage | LogitsMessage):
                yield message
