"""A database server that is away for a moment: each request is made again until it answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from nas.study.interrupts import pause

PATIENCE_SECONDS = 60.0
"""For how long a server may be away: less than a silent owner has until its trials are given up."""

PAUSE_SECONDS = 1.0


def patient(storage: BaseStorage, shown: str, engine: Engine) -> BaseStorage:
    """Return the storage of a server, whose requests are made again while it is away; `shown` is its URL for a user.

    It has the `engine` of its database, and `again(go)`, which makes any other request in the same way.

    What the server did without being able to say so is done twice: an attribute or a score is then the same, an end of
    a trial is recognised, and a trial begun twice has an owner whose heartbeat stands still, and is given up for it.
    """
    return _PatientStorage(storage, shown, engine)  # type: ignore[no-any-return]


class _Patience:
    def __init__(self, storage: BaseStorage, shown: str, engine: Engine) -> None:
        self.inner, self.shown, self.engine = storage, shown, engine

    def request(self, name: str, *values: Any, **named: Any) -> Any:
        def done() -> bool:
            return name == "set_trial_state_values" and self._ended(*values, **named)

        return self.again(lambda: getattr(self.inner, name)(*values, **named), done)

    def again(self, go: Callable[[], Any], done: Callable[[], bool] = lambda: False) -> Any:
        """Return what `go` does, once the server answers; True where an earlier try has `done` it unheard."""
        away_since: float | None = None
        while True:
            try:
                found = go()
            except UpdateFinishedTrialError:
                if away_since is None or not done():
                    raise
                found = True
            except (SQLAlchemyError, StorageInternalError) as error:
                if not _away(error) or (away_since and time.monotonic() - away_since > PATIENCE_SECONDS):
                    raise
                if away_since is None:
                    away_since = time.monotonic()
                    seconds = f"{PATIENCE_SECONDS:.0f} s"
                    print(f"{self.shown} does not answer: tried again for {seconds}", file=sys.stderr)
                pause(PAUSE_SECONDS)
                continue
            if away_since is not None:
                print(f"{self.shown} answers again", file=sys.stderr)
            return found

    def _ended(self, trial_id: int, state: optuna.trial.TrialState, *_: Any, **__: Any) -> bool:
        """Tell whether a trial was ended in this state: by the first try, whose answer got lost."""
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
