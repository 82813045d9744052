"""Small stand-ins for the tests of the search: a pool without processes, and the study of a tiny real search."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch

from nas import cli, data
from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import Split, TrainingData
from nas.errors import NasError
from nas.export import Provenance
from nas.machine import environment
from nas.model import build
from nas.searches import Search, SearchResult, Settings
from nas.space import SearchSpace
from nas.study import Deadline, StudyStore, View
from nas.train import Epoch, Recipe, Run
from nas.workers import (
    EpochMessage,
    FailureMessage,
    FinalMessage,
    Job,
    LogitsJob,
    LogitsMessage,
    Message,
    RunMessage,
    read_logits,
)

CAP = 500
COMMAND = [sys.executable, "-m", "nas"]
"""`nas`, whatever the PATH."""

ONE_WORKER = ["--workers", "1", "--backend", "torch"]

TINY_SEARCH = [
    "search", "--dataset", "synthetic", "--max-params", str(CAP), "--trials", "4", "--brief-epochs", "2",
    "--finalists", "2", "--finalist-seeds", "2", "--finalist-epochs", "2", *ONE_WORKER,
]  # fmt: skip


def luck(architecture: Architecture, seed: int, epoch: int) -> float:
    """An accuracy out of nothing, the same every time: grows with the epochs, differs with the seed."""
    talent = zlib.crc32(str(architecture).encode()) % 4000
    return (5000 + talent + 300 * (epoch - 1) + zlib.crc32(f"{architecture} {seed}".encode()) % 50) / 100


class Pool:
    """Trains nothing, in this process: an epoch of each job under way at every call of `messages`."""

    def __init__(self, count: int = 1, *, score: Callable[[Architecture, int, int], float] = luck) -> None:
        self.lives: list[tuple[Job, Iterator[Message]] | None] = [None] * count
        self.score, self.stops = score, [False] * count
        self.waiting: set[int] = set()  # workers that wait for an answer
        self.trained: list[tuple[str, int, int]] = []  # schedule, seed and epochs of every training handed in
        self.folds: list[tuple[int, int]] = []  # seed and fold of each
        self.computed: list[tuple[int, int]] = []  # fold and epoch of every job for logits
        self.teacher_logits: list[list[float] | None] = []  # of each training a number for each epoch
        self.stopped: list[Any] = []
        self.starts, self.restarts = 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.lives)

    @property
    def idle(self) -> int | None:
        return next((number for number, life in enumerate(self.lives) if life is None), None)

    @property
    def jobs(self) -> list[Job]:
        return [life[0] for life in self.lives if life is not None]

    def start(self) -> None:
        self.starts += 1

    def submit(self, job: Job) -> int:
        number = self.idle
        assert number is not None
        if isinstance(job, LogitsJob):
            self.computed.append((job.fold, job.epoch))
        else:
            logits = job.teacher_logits
            self.trained.append((str(job.architecture), job.seed, job.recipe.epochs))
            self.folds.append((job.seed, job.fold))
            self.teacher_logits.append(None if logits is None else read_logits(logits)[:, 0, 0].tolist())
        self.stops[number] = False
        self.lives[number] = (job, self.live(number, job))
        return number

    def messages(self, timeout: float) -> Iterator[Message]:
        for number, life in enumerate(list(self.lives)):
            if life is None or number in self.waiting:
                continue
            try:
                message = next(life[1])
            except Exception as error:
                self.lives[number] = None
                raise RuntimeError(f"a worker failed on {life[0].title}:\n{traceback.format_exc()}") from error
            if isinstance(message, FinalMessage):
                self.lives[number] = None
            elif isinstance(message, EpochMessage):
                self.waiting.add(number)
            yield message

    def answer(self, message: EpochMessage, *, stop: bool) -> None:
        self.waiting.discard(message.worker)
        self.stops[message.worker] = stop
        if stop:
            self.stopped.append(message.job.key)

    def end(self, worker: int) -> None:
        job = self.lives[worker][0]
        self.lives[worker] = (job, iter([FailureMessage(worker=worker, job=job, reason="it hung", killed=True)]))

    def restart(self) -> None:
        self.lives, self.waiting = [None] * len(self.lives), set()
        self.restarts += 1

    def close(self) -> None:
        self.restart()

    def live(self, number: int, job: Job) -> Iterator[Message]:
        if isinstance(job, LogitsJob):
            logits = torch.full((8, 4), 100 * job.fold + job.epoch).half()
            yield LogitsMessage(worker=number, job=job, logits=logits)
            return
        epochs: list[Epoch] = []
        for epoch in range(1, job.recipe.epochs + 1):
            try:
                accuracy = self.score(job.architecture, job.seed, epoch)
            except NasError as error:
                yield FailureMessage(worker=number, job=job, reason=str(error), killed=False)
                return
            epochs.append(
                Epoch(
                    number=epoch, train_loss=1.0, train_accuracy=accuracy, loss=1 - accuracy / 100,
                    correct=round(100 * accuracy), count=10_000, seconds=0.0,
                )
            )  # fmt: skip
            yield EpochMessage(worker=number, job=job, epoch=epochs[-1])
            if self.stops[number] and epoch < job.recipe.epochs:
                break
        state, stopped = build(job.architecture, seed=job.seed).state_dict(), len(epochs) < job.recipe.epochs
        run = Run(epochs=tuple(epochs), state_dict=state, backend="toy", seconds=0.1, stopped=stopped)
        yield RunMessage(worker=number, job=job, run=run)


def space(cap: int = CAP) -> SearchSpace:
    return SearchSpace(budget=Budget(max_params=cap), input_shape=(1, 16, 16), num_classes=4)


def settings(cap: int = CAP, **changes: Any) -> Settings:
    fields: dict[str, Any] = {
        "recipe": Recipe(epochs=3), "trials": 4, "finalists": 2, "finalist_seeds": 2, "finalist_epochs": 2,
        "target": 99.4,
    }  # fmt: skip
    return Settings.for_budget(Budget(max_params=cap), synthetic().dataset, **(fields | changes))


def provenance(**changes: Any) -> Provenance:
    """What a toy search's record states of its data and machine."""
    fields = Provenance.of(synthetic(), synthetic().dataset, environment("cpu")).fields()
    return Provenance(**(fields | {"command": "nas search", "time": "2026-01-01T00:00:00+00:00"} | changes))


def open_study(name: str = "toy", storage: str | None = None, chosen: Settings | None = None) -> StudyStore:
    chosen = chosen or settings()
    space_ = space(chosen.budget.max_params or CAP)
    record = {"dataset": "synthetic", "target": 99.4}
    return StudyStore.create(name, storage, chosen.identity(space_, "hash"), record)


def run(
    pool: Pool, *, store: StudyStore | None = None, view: View = lambda progress, event: None,
    command: str = "nas search", deadline: Deadline | None = None, **changes: Any,
) -> SearchResult:  # fmt: skip
    """A toy search to its end."""
    chosen = settings(**changes)
    store = store or open_study(chosen=chosen)
    search = Search(store, space(chosen.budget.max_params or CAP), chosen, pool, view)
    return search.run(synthetic(), provenance(command=command), deadline=deadline)


@cache
def synthetic() -> TrainingData:
    return data.load_training_data(data.find_dataset("synthetic"), data_dir=None)


def part(training: TrainingData, count: int) -> TrainingData:
    """Its first images."""
    import dataclasses

    split = Split(training.train.images[:count], training.train.labels[:count])
    return dataclasses.replace(training, train=split)


def benchmark(name: str) -> Any:
    """The module of a script of the benchmarks, which are no package."""
    folder = str(Path(__file__).parent / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def nas(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """`nas` in this process: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(list(arguments))
    except SystemExit as left:
        code = left.code or 0
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return int(code), out.getvalue(), err.getvalue()


def spawn(*arguments: str, studies_dir: Path, **environment: str) -> subprocess.Popen[str]:
    """`nas` in a process group of its own, which Ctrl-C reaches even where the shell above ignores it, in a background
    job."""
    variables = {**os.environ, "NAS_STUDIES": str(studies_dir), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [*COMMAND, *arguments], env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def group(leader: int) -> list[int]:
    """The living processes of a process group, from /proc; zombies do not live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """A temporary folder, in memory where there is one: a toy search is all database, and a disk makes it ten times
    slower."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """What `condition` gives once it is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return value


_finished: list[tuple[Path, str, str]] = []


def finished(factory: Any) -> tuple[Path, str, str]:
    """The studies folder of one tiny real search, run by a spawned worker, and what it printed; made once a session."""
    if _finished:
        return _finished[0]
    folder: Path = factory.mktemp("finished") / "studies"
    before = torch.get_num_threads()
    code, out, err = nas(*TINY_SEARCH, "--study", "tiny", NAS_STUDIES=str(folder))
    torch.set_num_threads(before)
    assert code == 0, err
    _finished.append((folder, out, err))
    return _finished[0]
