"""Processes that die: before a write to the database, at an event of the interpreter, at a function call."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import Engine, event

from nas.study import ownership
from nas.study.batch import BatchedConnection
from nas.study.store import StudyStore


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may catch it for good, and no write gets through after it."""


TOKEN = "import runpy, sys; token = runpy.run_path(sys.argv[1])['process_token']()"
"""A script that has its process's token; it loads no torch."""


@cache
def dead_owner() -> str:
    """The token of a process of this machine that has ended."""
    command = [sys.executable, "-c", f"{TOKEN}; print(token)", ownership.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def watched(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` before every commit of a transaction that writes, to any SQLite file."""
    writing: set[int] = set()

    def execute(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.split(None, 1)[0] in ("INSERT", "UPDATE", "DELETE", "CREATE"):
            writing.add(id(connection.connection.dbapi_connection))

    def write(self: BatchedConnection) -> None:
        if id(self) in writing:
            writing.discard(id(self))
            try:
                act()
            except BaseException:
                sqlite3.Connection.rollback(self)  # as the system does for a process that is gone
                raise
        whole(self)

    def rollback(connection: Any) -> None:
        writing.discard(id(connection.connection.dbapi_connection))

    whole = BatchedConnection.write
    listeners = (("before_cursor_execute", execute), ("rollback", rollback))
    for name, listener in listeners:
        event.listen(Engine, name, listener)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BatchedConnection, "write", write)
            yield
    finally:
        for name, listener in listeners:
            event.remove(Engine, name, listener)


def writes_of(go: Callable[[], object]) -> int:
    """How many transactions that write `go` commits."""
    made: list[None] = []
    with watched(lambda: made.append(None)):
        go()
    return len(made)


_processes = itertools.count()


def _as_another_process(patch: pytest.MonkeyPatch) -> None:
    token = f"{dead_owner().rpartition('/')[0]}/{next(_processes)}"  # not that of the one killed before
    patch.setattr(ownership, "process_token", lambda: token)


def kill_at(write: int, go: Callable[[], object]) -> bool:
    """Run `go` as a process that dies before its n-th write to the database; return whether it lived to its end."""
    count = itertools.count()

    def act() -> None:
        if next(count) >= write:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, watched(act):
        _as_another_process(patch)
        try:
            go()
        except Killed:
            return False
    return True


_hooked: list[Callable[[str], None]] = []


def _hook(event: str, _: object) -> None:
    for act in _hooked:
        act(event)


def _add_hook() -> None:
    if not getattr(_hook, "added", False):  # a hook stays for good
        sys.addaudithook(_hook)
        _hook.added = True  # type: ignore[attr-defined]


def kill_at_event(number: int, go: Callable[[], object], *, events: frozenset[str]) -> bool:
    """Run `go` as a process that dies at its n-th audit event of those given; return whether it lived to its end.

    Python raises these before it opens, renames or removes a file: so it dies between any two steps of an export.
    """
    count, dead = itertools.count(), []

    def act(event: str) -> None:
        if event in events and (dead or next(count) >= number):
            dead.append(event)
            raise Killed

    _add_hook()

    def write() -> None:
        if dead:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, watched(write):
        _as_another_process(patch)
        _hooked.append(act)
        try:
            go()
        except Killed:
            return False
        finally:
            _hooked.clear()
    return True


def events_of(go: Callable[[], object], *, events: frozenset[str]) -> int:
    """How many audit events of those given `go` makes."""
    made: list[str] = []
    _add_hook()
    _hooked.append(lambda event: made.append(event) if event in events else None)
    try:
        go()
    finally:
        _hooked.clear()
    return len(made)


def interrupt_at(call: int, go: Callable[[], object], number: int = signal.SIGINT) -> bool:
    """Run `go` and send this process a signal at its n-th function call; return whether it came to its end before."""
    count = itertools.count()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and next(count) == call:
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    sys.setprofile(profile)
    try:
        go()
    except KeyboardInterrupt:
        return False
    finally:
        sys.setprofile(None)
    return True


def calls_of(go: Callable[[], object]) -> int:
    """How many function calls `go` makes."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        go()
    finally:
        sys.setprofile(None)
    return count


def impatient(store: StudyStore) -> StudyStore:
    """The store, for which every other process is gone at once: what was killed between starting a waiting trial and
    naming its owner is otherwise waited for."""
    store.staleness = ownership.Staleness(seconds=0)
    return store


def instants(seed: int, count: int, end: int) -> list[int]:
    """Instants drawn evenly, one of each part of the whole."""
    rng = random.Random(seed)
    return [int((part + rng.random()) * end / count) for part in range(count)]
