"""Opening a study's database: SQLite by path, any server by URL, an Optuna journal by its suffix."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nas.errors import StorageError, UsageError
from nas.study.paths import DATABASE, study_folder

optuna.logging.set_verbosity(optuna.logging.WARNING)

LOCK_SECONDS = 60
"""For how long a process waits for another one's lock on a SQLite file."""

_SECRET_KEY = re.compile(r"password|passwd|pwd|secret|token", re.IGNORECASE)


def database_url(name: str) -> str:
    """Return the storage URL of a study that lives in its own folder."""
    return URL.create("sqlite", database=str(study_folder(name) / DATABASE)).render_as_string(hide_password=False)


def redact(text: str) -> str:
    """Return a storage as a user may see it: without passwords, and nothing of what has credentials but no form."""
    if "://" not in text:
        return "(a storage with credentials)" if _has_credentials(text) else text
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return f"{text.partition('://')[0]}://..."
    if "@" in (url.host or ""):  # the end of a password with an @ that is not written as %40
        return f"{text.partition('://')[0]}://..."
    hidden = {key: "***" for key in url.query if _SECRET_KEY.search(key)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True) if hidden else url.render_as_string()


def without_secrets(message: str, storage: str | None) -> str:
    """Return a driver's message without the storage's URL and passwords, which some drivers quote."""
    for secret in _secrets(storage or ""):
        message = message.replace(secret, "***")
    return message


def open_storage(storage: str | None, name: str, *, create: bool) -> BaseStorage:
    """Open the database of a study: its own file, a path, a `.log` journal, or a URL.

    Raise `StorageError` where it is not there and must not be made (`create` is False), or cannot be used.
    """
    if storage is None:
        return _sqlite(study_folder(name) / DATABASE, create=create)
    if "://" not in storage:
        if _has_credentials(storage):
            raise UsageError(
                "--storage is a path or a URL with its scheme, such as postgresql://user@host/database: "
                f"give the scheme of {redact(storage)}"
            )
        path = Path(storage).expanduser()
        return _journal(path, create=create) if path.suffix in (".log", ".journal") else _sqlite(path, create=create)
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):
        raise UsageError(
            f"--storage {redact(storage)} is no database URL: write it as postgresql://user@host:5432/database"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        path = Path(str(url.database))
        if not url.query:
            return _sqlite(path, create=create)
        if not create and not str(path).startswith("file:"):
            _require(path)
    return _rdb(storage, {"pool_pre_ping": True}, create=create)


@contextlib.contextmanager
def storage_errors(storage: str | None, name: str) -> Iterator[None]:
    """Turn the failures of a database into a one-line `StorageError` without secrets."""
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError as error:
        raise StorageError(
            "a trial of this search was given up by another process, which had not seen its heartbeat for minutes: "
            "run the same command again to go on"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:  # a journal's is an OSError
        where = redact(storage) if storage else str(study_folder(name) / DATABASE)
        raise StorageError(_problem(where, error, storage)) from None


def _problem(where: str, error: BaseException, storage: str | None) -> str:
    cause = error.__cause__ or getattr(error, "orig", None) or error
    first = (str(getattr(cause, "orig", None) or cause).splitlines() or [type(cause).__name__])[0]
    first = without_secrets(first, storage)
    if storage and "://" in storage and not storage.startswith("sqlite"):
        step = "check that the server runs, then run the same command again: it goes on where it stopped"
    else:
        step = "check the disk, move a damaged file away, or give another --study or --storage"
    return f"the storage {where} cannot be used ({first}): {step}"


def _require(path: Path) -> None:
    if not path.is_file():
        raise StorageError(f"no database {path}: give the path of one, or run nas search first")


def _sqlite(path: Path, *, create: bool) -> RDBStorage:
    """Open a SQLite file by its path: in a URL, a `?` or a `%20` of its name would mean something else."""
    import sqlite3

    if not create:
        _require(path)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False)

    return _rdb("sqlite://", {"creator": connect, "poolclass": QueuePool}, create=create, shown=str(path))


def _journal(path: Path, *, create: bool) -> JournalStorage:
    if not create:
        _require(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = getattr(error, "strerror", None) or "it is no journal of Optuna"
        raise StorageError(f"the storage {path} cannot be used ({cause}): give another --storage") from None


def _rdb(url: str, engine: dict[str, Any], *, create: bool, shown: str | None = None) -> RDBStorage:
    where = shown or redact(url)
    try:
        for attempt in range(20):
            try:
                opened = RDBStorage(url, engine_kwargs=engine, skip_table_creation=not create)
                if opened.engine.dialect.name == "sqlite":
                    _claim_once(opened)
                return opened
            except (OperationalError, IntegrityError, sqlalchemy.exc.ProgrammingError) as error:
                if "already exists" not in str(error) and not isinstance(error, IntegrityError):
                    raise
                if attempt == 19:
                    raise
            time.sleep(0.5)  # another process is making the same tables: they are there in a moment
        raise AssertionError("the last attempt returns or raises")
    # No driver or no such scheme, tables of another Optuna, a port that is no number.
    except (ImportError, RuntimeError, ValueError, ArgumentError) as error:
        cause = without_secrets(str(error.__cause__ or error).splitlines()[0], url)
        raise StorageError(f"the storage {where} cannot be used ({cause}): give another --storage") from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(_problem(where, error, url if shown is None else None)) from None


def _claim_once(storage: RDBStorage) -> None:
    """Take SQLite's write lock at the beginning of every transaction, not at its first change.

    SQLite knows no SELECT FOR UPDATE, with which Optuna keeps two processes from starting the same waiting trial: both
    would read that it waits, and both train it.
    """

    @event.listens_for(storage.engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _has_credentials(text: str) -> bool:
    """Tell whether a storage without a scheme holds user and password before a host; a path may hold an @ as well."""
    return "@" in text and not text.startswith(("/", "~", "."))


def _secrets(storage: str) -> list[str]:
    """Return what of a URL must never be shown, longest first: the URL itself, its password, secrets of its query."""
    found = {storage} if "@" in storage or "?" in storage else set()
    with contextlib.suppress(ArgumentError, ValueError):
        url = make_url(storage)
        found |= {url.host} if url.host and "@" in url.host else set()
        found |= {str(url.password)} if url.password else set()
        for key, value in url.query.items():
            if _SECRET_KEY.search(key):
                found |= {value} if isinstance(value, str) else set(value)
    return sorted((each for each in found if each), key=len, reverse=True)
