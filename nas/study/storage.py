"""Opening a study's database: SQLite by path, any server by URL, an Optuna journal by its suffix."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nas.errors import StorageError, UsageError
from nas.files import temporary
from nas.machine import REDACTED, redact_url
from nas.study.batch import BatchedConnection, begin
from nas.study.paths import DATABASE, study_folder
from nas.study.patience import patient

LOCK_SECONDS = 60
"""For how long a process waits for another one's lock on a SQLite file."""

FINALISTS = "/finalists"
"""The end of the name of a study of finalists, beside that of their search in the same database."""
CONNECT_SECONDS = 10
"""For how long a database server may take to answer."""

_OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}
"""Some of the tables that Optuna makes, the first of them included."""

_SECRET_KEY = re.compile(r"password|passwd|pwd|secret|token", re.IGNORECASE)


def without_secrets(message: str, storage: str | None) -> str:
    """Return a driver's message without the storage's URL and passwords, which some drivers quote."""
    for secret in _secrets(storage or ""):
        message = message.replace(secret, "***")
    return message


def open_storage(storage: str | None, name: str, *, create: bool, read_only: bool = False) -> BaseStorage:
    """Open the database of a study: its own file, a path, a `.log` journal, or a URL.

    With `read_only`, a SQLite file is never written to, and reading it takes no writer's lock. Raise `StorageError`
    where it is not there and must not be made (`create` is False), or cannot be used.
    """
    if storage is None:
        return open_sqlite(study_folder(name) / DATABASE, create=create, read_only=read_only)
    if "://" not in storage:
        if _has_credentials(storage):
            raise UsageError(
                "--storage is a path or a URL with its scheme, such as postgresql://user@host/database: "
                f"give the scheme of {redact_url(storage)}"
            )
        path = Path(storage).expanduser()
        if path.suffix in (".log", ".journal"):
            return _journal(path, create=create)
        return open_sqlite(path, create=create, read_only=read_only)
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):
        raise UsageError(
            f"--storage {redact_url(storage)} is no database URL: write it as postgresql://user@host:5432/database"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        path = Path(str(url.database))
        if not url.query:
            return open_sqlite(path, create=create, read_only=read_only)
        if not create and not str(path).startswith("file:"):
            _require(path)
    if url.get_backend_name() != "sqlite":
        return _server(url, create=create)
    memory = "memory" in storage  # of one connection anyway
    engine = {"connect_args": {"factory": BatchedConnection}, **({} if memory else {"pool_use_lifo": True})}
    return _rdb(storage, engine, create=create)


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
    # A journal's is an OSError; SQLite's own is that of a batch.
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError, OSError) as error:
        where = redact_url(storage) if storage else str(study_folder(name) / DATABASE)
        raise StorageError(_problem(where, error, storage)) from None


def make_study(storage: BaseStorage, name: str) -> None:
    """Make a study in a storage, unless it is there; Optuna's line about it is not shown, its log level stays."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
            storage.create_new_study([StudyDirection.MAXIMIZE], name)
    finally:
        optuna.logging.set_verbosity(before)


def rename_in_database(storage: RDBStorage, old: str, new: str) -> None:
    """Give a study, and that of its finalists, another name; Optuna has no function for that."""
    change = sqlalchemy.text("UPDATE studies SET study_name = :new WHERE study_name = :old")
    with storage.engine.begin() as connection:
        for suffix in ("", FINALISTS):
            connection.execute(change, {"old": old + suffix, "new": new + suffix})


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


def open_sqlite(path: Path, *, create: bool, read_only: bool = False) -> RDBStorage:
    """Open a SQLite file by its path: in a URL, a `?` or a `%20` of its name would mean something else.

    Raise `StorageError` where it is not there and must not be made, or cannot be used.
    """
    if not create:
        _require(path)
    elif path.is_file():
        _require_optuna(path)
    elif not path.exists() and path.parent.is_dir():
        _make_sqlite(path)
    return _sqlite(path, create=create, read_only=read_only, shown=path)


def _require_optuna(path: Path) -> None:
    """Raise `StorageError` for another program's database, to which Optuna would add its tables, or an emptied one."""
    emptied = path.name == DATABASE and path.stat().st_size == 0
    if emptied and any((path.parent / name).is_dir() for name in ("weights", "best")):  # else it was never filled
        raise StorageError(
            f"{path} is empty, its trials are lost: bring it back from a copy, or delete it to begin anew"
        )
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection:
            found = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error:  # no database, or one that cannot be read: Optuna says how
        return
    if found and not found & _OPTUNA_TABLES:
        raise StorageError(
            f"{path} holds the tables of another program ({', '.join(sorted(found)[:3])}): give another --storage"
        )


def _make_sqlite(path: Path) -> None:
    """Make a database whole or not at all.

    Optuna makes tables and then their indexes, one by one. Of a process that was killed in between it completes the
    tables alone: names of studies would not be unique.
    """
    new = temporary(path)
    try:
        _sqlite(new, create=True, shown=path).engine.dispose()
        os.link(new, path)  # unlike a rename, it leaves a database alone that another process has made meanwhile
    except OSError:
        pass  # it is there; or a disk that knows no links, on which Optuna makes it in place
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _sqlite(path: Path, *, create: bool, read_only: bool = False, shown: Path) -> RDBStorage:
    def connect() -> BatchedConnection:
        connection = sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False, factory=BatchedConnection)
        connection.read_only = read_only
        if read_only:  # not mode=ro, which cannot clear up after a writer that was killed
            connection.execute("PRAGMA query_only = ON")
        return connection

    engine = {"creator": connect, "poolclass": QueuePool, "pool_use_lifo": True}  # a batch is of one connection
    return _rdb("sqlite://", engine, create=create, shown=str(shown))


def _server(url: URL, *, create: bool) -> BaseStorage:
    """Open the database of a server, which may be away for a moment later on. PostgreSQL is spoken to by psycopg 3."""
    if url.password == REDACTED:  # a command as it was printed: PGPASSWORD or ~/.pgpass has the password
        url = url._replace(password=None)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if url.drivername == "postgresql+psycopg" and "connect_timeout" not in url.query:
        engine["connect_args"] = {"connect_timeout": CONNECT_SECONDS}  # else a host that is off is waited for
    opened = _rdb(url.render_as_string(hide_password=False), engine, create=create)
    return patient(opened, redact_url(url.render_as_string(hide_password=False)))


def _journal(path: Path, *, create: bool) -> JournalStorage:
    if not create:
        _require(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = getattr(error, "strerror", None) or "it is no journal of Optuna"
        raise StorageError(f"the storage {path} cannot be used ({cause}): give another --storage") from None


def _rdb(url: str, engine: dict[str, Any], *, create: bool, shown: str | None = None) -> RDBStorage:
    where = shown or redact_url(url)
    try:
        for attempt in range(20):
            try:
                opened = RDBStorage(url, engine_kwargs=engine, skip_table_creation=not create)
                if opened.engine.dialect.name == "sqlite":
                    event.listen(opened.engine, "begin", begin)
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
        if isinstance(error, ImportError) and "psycopg" in cause:
            raise UsageError("a study on PostgreSQL needs psycopg: pip install 'nas[postgres]'") from None
        raise StorageError(f"the storage {where} cannot be used ({cause}): give another --storage") from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(_problem(where, error, url if shown is None else None)) from None


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
