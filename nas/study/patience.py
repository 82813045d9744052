"""A database server that is away for a moment: each request is made again until it answers.

The writes of a batch are one transaction. Where the connection breaks before its end, all of it is made again.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from nas.study.batch import batch
from nas.study.interrupts import pause

PATIENCE_SECONDS = 60.0
"""For how long a server may be away: less than a silent owner has until its trials are given up."""

PAUSE_SECONDS = 1.0


def patient(backend: RDBStorage, shown: str) -> BaseStorage:
    """Return the storage of a server, whose requests are made again while it is away; `shown` is its URL for a user.

    It has the `engine` of its database, and `again(go)`, which makes any other request in the same way.

    What the server did without being able to say so is done twice: an attribute or a score is then the same, an end of
    a trial is recognised, and a trial begun twice has an owner whose heartbeat stands still, and is given up for it.
    """
    return _PatientStorage(backend, shown)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class _Write:
    name: str
    values: tuple[Any, ...]
    named: dict[str, Any]
    result: Any

    @property
    def ends(self) -> bool:
        """True where it gives a trial its state: begins or ends it."""
        return self.name == "set_trial_state_values"


class _Patience:
    def __init__(self, backend: RDBStorage, shown: str) -> None:
        self.backend, self.shown, self.engine = backend, shown, backend.engine
        self.inner = get_storage(backend)
        self._writes: list[_Write] = []  # of the batch under way
        self._open: tuple[Connection, RootTransaction] | None = None  # that of the batch
        self._away_since: float | None = None  # until the server answers again

    def request(self, name: str, *values: Any, **named: Any) -> Any:
        def go() -> Any:
            if batch.depth:
                self._begin()
            return getattr(self.inner, name)(*values, **named)

        def done() -> bool:
            return not batch.depth and name == "set_trial_state_values" and self._ended(*values, **named)

        if batch.depth:
            batch.waiting.add(self)
        result = self.again(go, done)
        if batch.depth and name.startswith(("set_", "create_")):
            self._writes.append(_Write(name=name, values=values, named=named, result=result))
        return result

    def again(self, go: Callable[[], Any], done: Callable[[], bool] = lambda: False) -> Any:
        """Return what `go` does, once the server answers; True where an earlier try has `done` it unheard."""
        waited = False
        while True:
            try:
                found = go()
            except UpdateFinishedTrialError:
                if not waited or not done():
                    raise
                found = True
            except (SQLAlchemyError, StorageInternalError) as error:
                if not _away(error):
                    raise
                if self._away_since is None:
                    self._away_since = time.monotonic()
                    seconds = f"{PATIENCE_SECONDS:.0f} s"
                    print(f"{self.shown} does not answer: tried again for {seconds}", file=sys.stderr)
                elif time.monotonic() - self._away_since > PATIENCE_SECONDS:  # later requests are not waited for anew
                    raise
                waited = True
                pause(PAUSE_SECONDS)
                continue
            if self._away_since is not None:
                self._away_since = None
                print(f"{self.shown} answers again", file=sys.stderr)
            return found

    def write(self) -> None:
        """Commit the batch."""

        def commit() -> None:
            self._begin().commit()

        def done() -> bool:
            self._close()
            return all(self._holds(write) for write in self._writes)

        try:
            self.again(commit, done)
        finally:
            self.rollback()

    def rollback(self) -> None:
        """Let go of the batch; what of it is not committed is lost."""
        self._close()
        self._writes = []

    def _begin(self) -> RootTransaction:
        """Return the transaction of the batch; one that was lost begins anew, with all that was written in it."""
        if self._open is None or not self._open[1].is_active:
            self._close()
            connection = self.engine.connect()
            self._open = connection, connection.begin()
            self._bind(connection)
            for write in self._writes:
                result = getattr(self.inner, write.name)(*write.values, **write.named)
                if write.ends and result != write.result:
                    raise UpdateFinishedTrialError("another process began the trial")
        return self._open[1]

    def _close(self) -> None:
        """End the transaction of the batch, which takes back what is not committed."""
        if self._open is None:
            return
        (connection, _), self._open = self._open, None
        self._bind(self.engine)
        self.inner = get_storage(self.backend)  # the one before may remember trials that are not there
        with contextlib.suppress(SQLAlchemyError):  # it may be broken
            connection.close()

    def _bind(self, to: Connection | Engine) -> None:
        """Have Optuna's sessions work on a connection: inside its transaction, which they do not commit."""
        self.backend.remove_session()
        self.backend.scoped_session.configure(bind=to)

    def _holds(self, write: _Write) -> bool:
        """Tell whether a trial has the state or the attribute that a write gave it; others cannot have failed."""
        if write.ends:
            return self._ended(*write.values, **write.named)
        if write.name != "set_trial_user_attr":
            return True
        trial_id, key, value = write.values
        return bool(self.request("get_trial", trial_id).user_attrs.get(key) == json.loads(json.dumps(value)))

    def _ended(self, trial_id: int, state: TrialState, *_: Any, **__: Any) -> bool:
        """Tell whether a trial was given this state: by the first try, whose answer got lost."""
        return bool(self.request("get_trial", trial_id).state == state)


def _requesting(name: str) -> Callable[..., Any]:
    def call(self: _Patience, *values: Any, **named: Any) -> Any:
        return self.request(name, *values, **named)

    return call


_METHODS = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]
_PatientStorage: Any = type("_PatientStorage", (_Patience, BaseStorage), {name: _requesting(name) for name in _METHODS})


def _away(error: BaseException) -> bool:
    """Tell whether a server, or the connection to it, is gone for a while, rather than that a statement is wrong."""
    causes: list[BaseException | None] = [error, error.__cause__]
    return any(isinstance(cause, OperationalError | InterfaceError) for cause in causes)
