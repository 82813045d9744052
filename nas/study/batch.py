"""Several writes of Optuna in one commit: one of SQLite waits for the disk, some 25 ms; a trial's end had three.

Optuna's storage commits at every call. Inside a `Batch` each of its transactions is a part of one that is committed at
the end, so that all of it is there or none: in SQLite a savepoint; for servers see `patience`.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Protocol

from sqlalchemy import Connection


class Waiting(Protocol):
    """Writes that wait for the end of a batch."""

    def write(self) -> None:
        """Commit them for good."""
        ...

    def rollback(self) -> None:
        """Take them back."""
        ...


class Batch(threading.local):
    """A context manager, used again and again: one commit for the writes inside; of nested ones, the outermost's.

    It is of one thread, and of all databases that are open.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.waiting: set[Waiting] = set()

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.depth -= 1
        if self.depth:
            return
        waiting, self.waiting = self.waiting, set()
        for writes in waiting:
            if kind is None:
                writes.write()
            else:
                writes.rollback()


batch = Batch()


class BatchedConnection(sqlite3.Connection):
    """A connection whose commits wait for the end of the batch."""

    read_only = False
    _part = False  # a transaction of Optuna's is under way inside the batch

    def begin(self, *, write: bool) -> None:
        """Begin a transaction; one that writes takes the lock now, not at its first change."""
        if not self.in_transaction:
            self.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        if batch.depth:
            batch.waiting.add(self)
            self.execute("SAVEPOINT part")
            self._part = True

    def commit(self) -> None:
        if not batch.depth:
            self.write()
        elif self._part:
            self._part = False
            self.execute("RELEASE part")

    def rollback(self) -> None:
        """Take back what has not been committed; a pool also calls this for a connection that is handed back."""
        part, self._part = self._part, False
        if not batch.depth or not self.in_transaction:  # on a full disk SQLite has taken all back itself
            super().rollback()
        elif part:
            self.execute("ROLLBACK TO part")
            self.execute("RELEASE part")

    def write(self) -> None:
        """Commit for good; where that fails, nothing of it is there."""
        try:
            super().commit()
        except BaseException:
            super().rollback()
            raise


def begin(connection: Connection) -> None:
    """Begin a transaction of SQLAlchemy's.

    SQLite knows no SELECT FOR UPDATE, with which Optuna keeps two processes from starting the same waiting trial: both
    would read that it waits, and both train it. Reading need not wait for another's write.
    """
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, BatchedConnection)
    raw.begin(write=not raw.read_only and not connection.get_execution_options().get("nas_reading", False))
