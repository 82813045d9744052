"""The loops that training.py times, and the processes that they run in."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fma_peak import fma_peak

from nas.architecture import Architecture

BATCH = 128
IMAGES = 60_000
STEPS = -(-IMAGES // BATCH)
WARM_UP = 10
"""Steps before the clock starts: they fill the loader's queue and touch every buffer once."""


# --- what is timed ----------------------------------------------------------------------------------------------------


def plain_loop(model: Any, data_dir: Path, num_workers: int, *, epochs: int, on_step: Callable[[int], None]) -> None:
    """What one would write today; `on_step` is the clock."""
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.RandomAffine(
                degrees=8,
                translate=(0.05, 0.05),
                scale=(0.93, 1.07),
                shear=(-4, 4, -4, 4),
                interpolation=transforms.InterpolationMode.BILINEAR,
            ),
            transforms.ToTensor(),
            transforms.Normalize((0.1307,), (0.3081,)),
        ]
    )
    train = datasets.MNIST(data_dir, train=True, transform=transform)
    loader = DataLoader(train, batch_size=BATCH, shuffle=True, num_workers=num_workers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=epochs * len(loader), pct_start=0.2)
    model.train()
    step = 0
    for _ in range(epochs):
        total, correct = 0.0, 0
        for images, labels in loader:
            optimizer.zero_grad()
            logits = model(images)
            loss = functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
            step += 1
            on_step(step)


def our_loop(
    architecture: Architecture, training: Any, backend: Any, *, epochs: int, on_step: Callable[[int], None]
) -> None:
    """`nas.train.train` as it is; at the end of an epoch it scores ten images, as it has to score something."""
    from nas.data import Split
    from nas.train import Recipe, train

    few = Split(training.train.images[:10], training.train.labels[:10])
    recipe = Recipe(epochs=epochs, batch_size=BATCH)
    train(architecture, training, few, recipe, backend=backend, on_step=lambda step, _: on_step(step))


# --- in a child -------------------------------------------------------------------------------------------------------


class Finished(Exception):
    """The timed steps are done."""


class Clock:
    """Times `steps` steps after `WARM_UP` others, and then ends the loop; all processes of a barrier start together."""

    def __init__(self, steps: int, barrier: Any = None) -> None:
        self.steps, self.barrier, self.began, self.seconds = steps, barrier, 0.0, 0.0

    def time(self, loop: Callable[..., None]) -> float:
        """Seconds of the timed steps of `loop(epochs=..., on_step=...)`."""
        with contextlib.suppress(Finished):
            loop(epochs=-(-(WARM_UP + self.steps) // STEPS), on_step=self._step)
            raise AssertionError("the loop ended before its clock did")
        return self.seconds

    def _step(self, step: int) -> None:
        if step == WARM_UP:
            if self.barrier is not None:
                self.barrier.wait()
            self.began = time.perf_counter()
        elif step == WARM_UP + self.steps:
            self.seconds = time.perf_counter() - self.began  # before the DataLoader's workers are ended
            raise Finished


@dataclass(frozen=True, kw_only=True)
class Child:
    """The work of a child process: each method is a job, its answer goes back through the pipe."""

    number: int
    count: int
    barrier: Any
    training: Any  # TrainingData, shared; None for the plain loop, which reads its own
    data_dir: Path

    def start(self) -> tuple[int, float]:
        """Torch's threads, and the memory that the libraries alone take."""
        import torch

        for name in ("torchvision", "nas.model") if self.training is None else ("nas.train",):
            importlib.import_module(name)
        return torch.get_num_threads(), self.memory()

    def plain(self, text: str, steps: int, num_workers: int) -> float:
        from nas.model import build

        model = build(Architecture.parse(text), seed=0)
        return Clock(steps).time(partial(plain_loop, model, self.data_dir, num_workers))

    def ours(self, text: str, steps: int, backend: str) -> float:
        return Clock(steps, self.barrier).time(partial(our_loop, Architecture.parse(text), self.training, backend))

    def peak(self) -> float:
        return fma_peak(self.barrier)

    def memory(self) -> float:
        """Peak resident set so far, MB. On Linux not `ru_maxrss`, which starts at the peak of the parent."""
        status = Path("/proc/self/status")
        if status.exists():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024 / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6

    def sampled(self, number: int, cap: int, seed: int, steps: int, rounds: int) -> list[dict[str, Any]]:
        """This child's share of `number` random networks: milliseconds per step, the backends taking turns."""
        results = []
        for text in _sample(number, cap, seed)[self.number :: self.count]:
            architecture = Architecture.parse(text)
            times: dict[str, list[float]] = {"torch": [], "kernels": []}
            for _ in range(rounds):
                for backend, each in times.items():
                    seconds = Clock(steps).time(partial(our_loop, architecture, self.training, backend))
                    each.append(1000 * seconds / steps)
            results.append(
                {"network": text, "num_params": architecture.num_params, "macs": architecture.macs}
                | {backend: statistics.median(each) for backend, each in times.items()}
                | {"ratio": statistics.median(a / b for a, b in zip(times["torch"], times["kernels"], strict=True))}
            )
        return results


def _sample(number: int, cap: int, seed: int) -> list[str]:
    """Different networks under the cap, drawn as the search draws its first ones."""
    import numpy as np

    from nas.architecture import Architecture
    from nas.budget import Budget
    from nas.space import SearchSpace

    space, rng = SearchSpace(budget=Budget(max_params=cap)), np.random.default_rng(seed)
    found: list[str] = []
    while len(found) < number:
        architecture = space.check(space.random(rng), found)
        if isinstance(architecture, Architecture):
            found.append(str(architecture))
    return found


def _live(pipe: Any, child: Child) -> None:
    """A child's life: jobs until the parent goes."""
    with contextlib.suppress(EOFError):
        while True:
            name, options = pipe.recv()
            pipe.send(getattr(child, name)(*options))


# --- in the parent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Options:
    processes: int
    rounds: int
    steps: int
    images: int  # in the timed steps of one process
    training: Any
    data_dir: Path


class Crew:
    """The spawned processes of one loop: ours, one a core, of one thread; plain, one with torch's default threads."""

    def __init__(self, options: Options, *, plain: bool = False) -> None:
        import torch.multiprocessing

        context = torch.multiprocessing.get_context("spawn")
        count = 1 if plain else options.processes
        self.barrier = context.Barrier(count, timeout=300)  # held on to: the children open it by name
        self.processes, self.pipes = [], []
        with _threads(None if plain else 1):
            for number in range(count):
                pipe, theirs = context.Pipe()
                child = Child(
                    number=number,
                    count=count,
                    barrier=self.barrier,
                    training=None if plain else options.training,
                    data_dir=options.data_dir,
                )
                process = context.Process(target=_live, args=(theirs, child))
                process.start()
                theirs.close()
                self.processes.append(process)
                self.pipes.append(pipe)

    def do(self, name: str, *options: Any) -> list[Any]:
        """The answers of all processes to a job, which they do at the same time."""
        for pipe in self.pipes:
            pipe.send((name, options))
        try:
            return [pipe.recv() for pipe in self.pipes]
        except (EOFError, ConnectionError):
            raise SystemExit("a process of the benchmark died: its message is above") from None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
            process.join()


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """The environment of a child that is started inside; None takes away what the user's own says of threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    if count is not None:
        os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
