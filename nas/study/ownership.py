"""Ownership of a running trial, and when another process may take it over.

Optuna's own heartbeat is meant for `Study.optimize`, and compares with the database's clock alone. Here an owner is a
random token of its process with a beat that it counts up. A dead process of this machine is known at once; any other
owner is gone when its beat has not moved for `STALE_SECONDS` on the observer's own clock, so that the clocks of two
machines are never compared.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 90.0

Attributes = Mapping[str, Any]


def process_token() -> str:
    """Return this process's identity: machine and boot, pid namespace, pid, start time, and a random part.

    Two containers share a kernel's boot id and may share a host name, but not a pid namespace; a pid is used again, but
    not with the same start time.
    """
    return _token(os.getpid())  # a forked process is another one


@cache
def _token(pid: int) -> str:
    return "/".join((socket.gethostname(), *_place(), str(pid), _start_time(pid), secrets.token_hex(8)))


def owner_attrs() -> dict[str, Any]:
    """Return the user attributes of a trial that this process owns from now on."""
    return {"owner": process_token(), "heartbeat": 0}


def owner_name(attributes: Attributes) -> str:
    """Return the owner of a trial for people: host and pid."""
    parts = str(attributes.get("owner", "")).split("/")
    return f"{parts[0]} (pid {parts[3]})" if len(parts) == 6 else "an unknown process"


class Staleness:
    """The silence of owners, by the heartbeats that one observer has seen."""

    def __init__(self, *, seconds: float = STALE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._seen: dict[int | str, tuple[tuple[Any, ...], float]] = {}  # what runs -> its owner and beat, since when

    def seconds_left(self, running: int | str, attributes: Attributes) -> float:
        """Return for how long the owner of a running trial or search may still be silent; 0 where it is gone."""
        beat = (attributes.get("owner"), attributes.get("heartbeat"))
        if is_dead(str(attributes.get("owner", ""))):
            return 0.0
        known = self._seen.get(running)
        if known is None or known[0] != beat:
            self._seen[running] = known = (beat, self._clock())
        return max(0.0, known[1] + self._seconds - self._clock())


def is_dead(owner: str) -> bool:
    """Tell whether the owner is a process of this machine and namespace that runs no more."""
    parts = owner.split("/")
    if len(parts) != 6 or owner == process_token():
        return False
    _, boot, namespace, pid, start, _ = parts
    if not boot or (boot, namespace) != _place() or not pid.isdigit():
        return False
    return _start_time(int(pid)) != start or not _alive(int(pid))


def is_alive(owner: str) -> bool:
    """Tell whether the owner is a process of this machine and namespace that runs."""
    parts = owner.split("/")
    return len(parts) == 6 and bool(parts[1]) and (parts[1], parts[2]) == _place() and not is_dead(owner)


@cache
def _place() -> tuple[str, str]:
    """Return the boot id and the pid namespace, empty where the system has none to tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  a link that is no path
        return boot, namespace.replace("/", "")
    except OSError:
        return "", ""


def _start_time(pid: int) -> str:
    """Return a process's start in clock ticks since boot; empty where there is no such process or no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if fields[0] not in ("Z", "X") else ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
