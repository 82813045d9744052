"""A Ray cluster: connecting to one, local or remote, and how much of it one worker takes."""

from __future__ import annotations

import importlib
import logging
import math
import os
import re
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from nas.errors import NasError, UsageError
from nas.machine import cores
from nas.workers.pool import WORKERS_ON_CUDA

T = TypeVar("T")

CPUS_PER_WORKER = 2
"""Ray counts hardware threads, of which a core mostly has two; a second training on one core gains little."""

CONNECT_SECONDS = 5.0
"""For how long an address may be silent before it counts as unreachable."""

END_SECONDS = 1.0
"""For how long calls under way are waited for at the end."""

TOKEN = "RAY_AUTH_TOKEN"
"""The environment variable of the secret that a cluster's processes share."""

_token = secrets.token_hex(32)
_ours: set[str] = set()  # the cluster that this module, and not its caller, has connected to

_ADDRESS = re.compile(r"ray://(?P<host>[^/:\s]+|\[[^\]\s]+\]):(?P<port>\d{1,5})/?")


class ClusterError(NasError):
    """A Ray cluster that cannot be reached, is gone, or is not of this version."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a node that one worker takes."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, workers: int | None, device: str, nodes: Sequence[Mapping[str, float]]) -> Share:
        """Return the share for at most so many workers (None: for any number) on nodes of these resources.

        On a CPU a worker takes two of Ray's CPUs, or one where there is no room for as many workers otherwise; on GPUs,
        a fourth of one, or what makes room for as many.
        """
        if device.startswith("cuda"):
            gpus = sum(node.get("GPU", 0) for node in nodes)
            each = WORKERS_ON_CUDA if workers is None or not gpus else math.ceil(workers / gpus)
            return cls(cpus=0, gpus=math.floor(1e4 / max(1, each)) / 1e4)  # Ray counts in steps of 0.0001
        pair = cls(cpus=CPUS_PER_WORKER, gpus=0)
        return pair if pair.places(nodes) >= (workers or 1) else cls(cpus=1, gpus=0)

    def places(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many workers have room on the nodes."""
        if self.gpus:
            return sum(int(node.get("GPU", 0) / self.gpus + 1e-6) for node in nodes)
        return sum(int(node.get("CPU", 0) / self.cpus + 1e-6) for node in nodes)


class Calls:
    """Makes calls in a thread of its own.

    A signal then raises in whoever waits, and not inside Ray's client: that would leave its locks taken, and the next
    call would wait for ever.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __call__(self, go: Callable[[], T]) -> T:
        """Return what `go` does, once those before it are done."""
        future = Future[T]()
        self._waiting.put((future, go))
        return future.result()

    def end(self) -> None:
        """End the thread after the calls that wait; one that hangs is left to itself."""
        self._waiting.put(None)
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        while (call := self._waiting.get()) is not None:
            future, go = call
            try:
                future.set_result(go())
            except BaseException as error:
                future.set_exception(error)


def connect(cluster: str) -> None:
    """Connect this process to a Ray cluster: `ray`, one of this machine or of RAY_ADDRESS, or `ray://HOST:PORT`.

    A connection that is there already is used. Raise `UsageError` for another text or without Ray, `ClusterError` where
    none answers.
    """
    address = _ADDRESS.fullmatch(cluster)
    if address is None and cluster != "ray":
        raise UsageError(f"--cluster is ray (this machine, or RAY_ADDRESS) or ray://HOST:PORT, not '{cluster}'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at its import: nothing is reported to anybody
    try:
        import ray
    except ImportError:
        raise UsageError("--cluster needs Ray: pip install 'nas[ray]'") from None
    if ray.is_initialized():
        return
    if address is not None:
        _require_answer(cluster, address["host"].strip("[]"), int(address["port"]))
    options: dict[str, Any] = {"address": cluster if address else None}
    if address is None and "RAY_ADDRESS" not in os.environ:
        os.environ[TOKEN] = _token  # Ray would write one into the home folder
        options |= {"address": "local", "num_cpus": cores(), "include_dashboard": False}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what fails is an exception here
            ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
        _ours.add(cluster)
        # It prints the last words of nodes that die on standard output, which is for data, whatever `log_to_driver` is.
        importlib.import_module("ray._private.worker").print_to_stdstream = lambda *_, **__: None  # type: ignore[attr-defined]
    except (ConnectionError, RuntimeError, ValueError, OSError, ImportError, ray.exceptions.RayError) as error:
        named = os.environ.get("RAY_ADDRESS", "this machine") if address is None else cluster
        port = "" if address is None else ", whose port is --ray-client-server-port's of ray start,"
        raise ClusterError(
            f"no Ray cluster at {named} ({_first_line(error)}): check the address{port} and its version"
        ) from None
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray sets one of its own


def disconnect() -> None:
    """End the connection; a cluster that it started on this machine ends with it."""
    import ray

    if _ours:
        ray.shutdown()
        _ours.clear()
    if os.environ.get(TOKEN) == _token:  # it is of no use for another cluster
        del os.environ[TOKEN]


def nodes() -> dict[str, Mapping[str, float]]:
    """Return the resources of each living node, by its id."""
    ray: Any = importlib.import_module("ray")
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def cluster_device(wanted: str) -> str:
    """Return the device of the workers: for `auto`, cuda where a node has a GPU. Raise `UsageError` without one."""
    gpus = any(node.get("GPU") for node in nodes().values())
    if wanted == "auto":
        return "cuda" if gpus else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise UsageError(f"--device is auto, cpu or cuda on a cluster, not {wanted}")
    if wanted == "cuda" and not gpus:
        raise UsageError("no node of the cluster has a GPU: leave --device away")
    return wanted


def describe_cluster() -> str:
    """Return the cluster in words, for the record of a result."""
    import ray

    there = nodes().values()
    amounts = {"node": float(len(there))} | {kind: sum(node.get(kind, 0) for node in there) for kind in ("CPU", "GPU")}
    words = [f"{amount:g} {kind}{'s' * (amount != 1)}" for kind, amount in amounts.items() if amount]
    return f"Ray {ray.__version__}: {', '.join(words)}"


def _require_answer(cluster: str, host: str, port: int) -> None:
    """Raise `ClusterError` where nothing listens: Ray itself would try for half a minute."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ClusterError(
            f"nothing answers at {cluster} ({cause}): start Ray there (ray start --head), or check the address"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
