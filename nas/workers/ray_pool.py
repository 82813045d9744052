"""A pool of workers on a Ray cluster: each is an actor, and the images and teacher logits lie in Ray's object store."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch

from nas.data import Split, TrainingData
from nas.errors import NasError
from nas.kernels import compile_all, folder_name
from nas.train import Backend, choose_backend
from nas.workers.cluster import Calls, ClusterError, Share, nodes
from nas.workers.jobs import (
    BugMessage,
    EpochMessage,
    FailureMessage,
    FinalMessage,
    Job,
    Message,
    StepMessage,
    TrainJob,
    checked,
    read_logits,
)
from nas.workers.local import Work
from nas.workers.transport import dumps
from nas.workers.worker import Setting

T = TypeVar("T")

LOOK_SECONDS = 2.0
"""Time between two looks at the nodes, of which some may have come or gone."""

Packed = tuple[bytes, list[Any]]
"""A pickled object, and the contents of its tensors, which Ray maps into the memory of each reader."""


def package_identity() -> dict[str, str]:
    """Return what must be the same on all nodes: the package's version and the digest of its kernels."""
    return {"nas": version("nas"), "kernels": folder_name().removeprefix("kernels-")}


def pack(value: Any) -> Packed:
    """Return an object for Ray's object store."""
    buffers: list[pickle.PickleBuffer] = []
    head = dumps(value, buffers.append)
    return head, [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]


def unpack(packed: Packed) -> Any:
    """Return the object; its tensors are the store's own memory, which nobody writes to."""
    head, buffers = packed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ")
        return pickle.loads(head, buffers=buffers)


class Trainer:
    """The worker's side, an actor. Each call that begins or continues a job returns that job's next report."""

    _setting: Setting
    _work: Work

    def identity(self) -> tuple[dict[str, str], str]:
        """Return `package_identity` here, and the id of the node."""
        import ray

        return package_identity(), ray.get_runtime_context().get_node_id()

    def load(self, images: Packed, device: str, backend: Backend, threads: int) -> None:
        torch.set_num_threads(threads)
        if choose_backend(device, backend)[0] == "kernels":
            compile_all()
        training, evaluation = unpack(images)
        setting = Setting(training=training, evaluation=evaluation, device=device, backend=backend)
        self._setting = setting.on_device()

    def begin(self, content: bytes, logits: Packed | None) -> bytes:
        job: Job = pickle.loads(content)
        if logits is not None:
            assert isinstance(job, TrainJob)
            job = dataclasses.replace(job, teacher_logits=unpack(logits))
        self._work = Work(job, self._setting)
        return self.next()

    def answer(self, stop: bool) -> bytes:
        self._work.answers.put(stop)
        return self.next()

    def next(self) -> bytes:
        return dumps(self._work.reports.get())


@dataclass(eq=False)
class _Worker:
    actor: Any
    call: Any  # the call under way, or None where nothing is to come
    node: str | None = None  # known once its version is found to be ours
    ready: bool = False
    job: Job | None = None


class RayPool:
    """Workers on the cluster that this process is connected to; see `Pool`.

    There are as many as the cluster has room for, by `Share`, and at most `count` where that is given. Their number
    grows with nodes that join; a worker whose node is gone starts anew where there is room. `evaluation` is as in
    `ProcessPool`.
    """

    def __init__(
        self, count: int | None, training: TrainingData, evaluation: Split, *, device: str, backend: Backend,
        threads: int = 1,
    ) -> None:  # fmt: skip
        self._ray: Any = importlib.import_module("ray")
        self._count, self._images = count, (training, evaluation)
        # The same backend on all nodes, whatever `auto` would be there.
        self._options = (device, choose_backend(device, backend)[0], threads)
        self._nodes = nodes()
        self._share = Share.of(count, device, list(self._nodes.values()))
        self._workers: list[_Worker] = []
        self._first = True  # workers that were there at the start take jobs before they are ready
        self._stored_images: Any = None
        self._stored_logits: dict[Path, Any] = {}
        self._looked = time.monotonic()
        self._calls: Calls | None = None
        if self._room == 0:
            raise ClusterError("the cluster has no room for a worker: add a node, or give another --device")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._workers) or self._room

    @property
    def _room(self) -> int:
        places = self._share.places(list(self._nodes.values()))
        return places if self._count is None else min(self._count, places)

    @property
    def idle(self) -> int | None:
        """The number of a worker that takes a job, or None."""
        if not self._workers:
            return 0
        self._look()
        takes = (number for number, each in enumerate(self._workers) if each.job is None and self._takes(each))
        return next(takes, None)

    def _takes(self, worker: _Worker) -> bool:
        return worker.ready or self._first

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
        if worker.ready:
            worker.call = self._do(partial(self._begin, worker.actor, job))
        return number

    def messages(self, timeout: float) -> Iterator[Message]:
        """Yield what comes in within `timeout` seconds, one message of each worker at most."""
        if all(worker.call is None for worker in self._workers):
            return
        ended = self._do(partial(self._wait, timeout))
        self._look()
        for worker in ended:
            if worker not in self._workers:
                continue
            message = self._do(partial(self._receive, self._workers.index(worker), worker))
            if message is not None:
                yield checked(message)

    def answer(self, message: EpochMessage, *, stop: bool) -> None:
        """Let the worker that reported an epoch go on, or stop there."""
        worker = self._workers[message.worker]
        worker.call = self._do(partial(worker.actor.answer.remote, stop))

    def end(self, worker: int) -> None:
        """Kill a worker; `messages` reports its job as lost."""
        self._do(partial(self._ray.kill, self._workers[worker].actor))

    def restart(self) -> None:
        """End every worker and its job at once; the next job starts new ones."""
        for worker in self._workers:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._do(partial(self._ray.kill, worker.actor))
        self._workers, self._first = [], True

    def close(self) -> None:
        """End every worker at once; jobs under way are lost."""
        self.restart()
        self._stored_images, self._stored_logits = None, {}
        if self._calls is not None:
            self._calls.end()
            self._calls = None

    def start(self) -> None:
        """Start workers, if none run: as many as there is room for now, and later those that must wait for it."""
        if self._workers:
            return
        if self._options[1] == "kernels":
            compile_all()  # nodes of this machine find the kernels in the cache
        self._do(self._spawn_all)

    def _do(self, go: Callable[[], T]) -> T:
        if self._calls is None:
            self._calls = Calls()
        with _lost_cluster():
            return self._calls(go)

    def _wait(self, timeout: float) -> list[_Worker]:
        """Return the workers whose calls have ended within `timeout` seconds, or at the first that does."""
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}  # hashing one may wait
        ready, waiting = self._ray.wait(list(calls), timeout=timeout)
        if ready and waiting:
            ready += self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        return [calls[call] for call in ready]

    def _spawn_all(self) -> None:
        if self._stored_images is None:
            self._stored_images = self._ray.put(pack(self._images))
        room = self._room
        if self._count is None:  # others may use the cluster too: what they leave now, and the rest when it is free
            room = max(1, min(room, self._share.places([self._ray.available_resources()])))
        self._workers = [self._spawn() for _ in range(room)]

    def _spawn(self) -> _Worker:
        actor = self._ray.remote(Trainer).options(
            num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        ).remote()  # fmt: skip
        return _Worker(actor=actor, call=actor.identity.remote())

    def _look(self) -> None:
        """Note which nodes there are; start workers for new ones, and anew those without a job whose node is gone."""
        if self._workers and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._do(self._follow_nodes)

    def _follow_nodes(self) -> None:
        self._nodes, self._looked = nodes(), time.monotonic()
        for number, worker in enumerate(self._workers):
            if worker.job is None and worker.node is not None and worker.node not in self._nodes:
                self._workers[number] = self._spawn()
        more = [self._spawn() for _ in range(self._room - len(self._workers))]
        if more:
            self._first = False
            self._workers += more

    def _receive(self, number: int, worker: _Worker) -> Message | BugMessage | None:
        """Act on what a worker's call returned; return its message, if it is one."""
        try:
            value = self._ray.get(worker.call)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, NasError) else ClusterError(_import_problem(error))) from error
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
            return self._died(number, worker, error)
        worker.call = None
        if worker.node is None:
            theirs, worker.node = value
            _require_same(theirs, worker.node)
            worker.call = worker.actor.load.remote(self._stored_images, *self._options)
        elif not worker.ready:
            worker.ready = True
            if worker.job is not None:
                worker.call = self._begin(worker.actor, worker.job)
        else:
            report: Callable[..., Message | BugMessage] = pickle.loads(value)
            message = report(worker=number, job=worker.job)
            if isinstance(message, StepMessage):
                worker.call = worker.actor.next.remote()
            elif isinstance(message, FinalMessage | BugMessage):
                worker.job = None
            return message
        return None

    def _died(self, number: int, worker: _Worker, error: Exception) -> FailureMessage | None:
        """Put a new worker in the place of one that died; return the failure of its job, if it had one."""
        if "failed to import" in str(error) or "ModuleNotFoundError" in str(error):
            raise ClusterError(_import_problem(error)) from error
        self._first = False
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)  # one that was out of reach for a moment
        self._workers[number] = self._spawn()
        if worker.job is None:
            return None
        # The raylet of a node that lives reports a worker that died; where the raylet is gone too, it is out of reach.
        gone = worker.node is not None and worker.node not in nodes()
        lost = gone or isinstance(error, self._ray.exceptions.ActorUnavailableError)
        reason = "the worker's node left the cluster" if lost else "the worker died (out of memory?)"
        return FailureMessage(worker=number, job=worker.job, reason=reason, killed=True, lost_node=lost)

    def _begin(self, actor: Any, job: Job) -> Any:
        """Begin a job, and return the call of its first report."""
        logits = None
        content = dataclasses.replace(job, key=None)
        if isinstance(content, TrainJob):
            content = dataclasses.replace(content, checkpoint=None)  # a file of this machine
        if isinstance(content, TrainJob) and isinstance(content.teacher_logits, Path):
            try:
                logits = self._logits(content.teacher_logits)
            except NasError as error:
                return self._ray.put(dumps(partial(FailureMessage, reason=str(error), killed=False)))
            content = dataclasses.replace(content, teacher_logits=None)
        return actor.begin.remote(dumps(content), logits)

    def _logits(self, path: Path) -> Any:
        """Return the reference of a file of teacher logits, which goes to the object store once."""
        if path not in self._stored_logits:
            self._stored_logits[path] = self._ray.put(pack(read_logits(path)))
        return self._stored_logits[path]


def _require_same(theirs: dict[str, str], node: str) -> None:
    """Raise `ClusterError` where a node has another version of the package."""
    ours = package_identity()
    if theirs != ours:
        raise ClusterError(
            f"a node of the cluster ({node[:8]}) has {_named(theirs)}, this machine {_named(ours)}: "
            "install the same on both"
        )


def _import_problem(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"a worker of the cluster does not start ({lines[-1][:200]}), this machine has {_named(package_identity())}: "
        "install the same on every node"
    )


def _named(identity: dict[str, str]) -> str:
    return f"nas {identity['nas']} with kernels {identity['kernels']}"


@contextlib.contextmanager
def _lost_cluster() -> Iterator[None]:
    """Turn the loss of the whole cluster, and a cluster without `nas`, into one line."""
    import ray

    try:
        yield
    except ImportError as error:  # the server of a remote cluster reads what it is sent
        raise ClusterError(_import_problem(error)) from error
    except (ConnectionError, ray.exceptions.RaySystemError, ray.exceptions.RpcError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterError(f"the Ray cluster is gone ({first}): run the same command again to go on") from error
