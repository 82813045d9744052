"""Studies as folders: listed, renamed, copied, deleted; never while a search or a full run works in one."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.errors import NasError, StorageError, UsageError
from nas.files import cannot_write, read_json, remove_folder, replace_folder, write_json
from nas.study.identity import SETTINGS, foreign, require_alike, require_same
from nas.study.ownership import owner_name
from nas.study.paths import DATABASE, REASON, study_folder, study_names
from nas.study.storage import open_sqlite, rename_in_database, storage_errors
from nas.study.store import StudyStore
from nas.values import checked

try:
    import fcntl
except ImportError:  # Windows: there the owners of running trials alone tell that a search runs
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """A line of the list of studies."""

    name: str
    trials: int | None
    """None where the database cannot be read; `problem` then tells why."""
    dataset: str | None = None
    changed: str
    """Time of the last write, UTC."""
    bytes: int
    in_use: bool
    problem: str | None = None


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark a study's folder as worked in, for as long as the block runs or the process lives.

    The mark is a lock of the system's on the folder itself: nothing is left behind by a process that is killed. Several
    processes may work in one study. Raise `UsageError` while the study is renamed, copied or deleted.
    """
    with _lock(folder, exclusive=False) as locked:
        if not locked:
            raise UsageError(f"{folder} is being renamed, copied or deleted: run this again when that is done")
        yield


def is_in_use(name: str) -> bool:
    """Tell whether a process of this machine works in a study's folder."""
    with _lock(study_folder(name), exclusive=True) as locked:
        return not locked


def trials_to_resume(name: str, url: str | None, identity: Mapping[str, Any]) -> int | None:
    """Return how many trials a search of this identity would resume; None where there is no such study.

    `data_hash`, which is known when the images are read, is not compared. Raise `UsageError` where anything else
    differs, or the study is of another origin.
    """
    store = _existing(name, url)
    if store is None:
        return None
    known = store.attrs.get(SETTINGS)
    if known is None and not store.num_trials:  # another process is making it
        return 0
    if not isinstance(known, Mapping):
        raise foreign(name)
    require_same(name, known, {**identity, "data_hash": known.get("data_hash")})
    return store.num_trials


def require_resumable(name: str, url: str | None, part: Mapping[str, Any]) -> None:
    """Raise `UsageError` where a study of this name was made with other settings, by those known so far."""
    store = _existing(name, url)
    if store is not None and isinstance(known := store.attrs.get(SETTINGS), Mapping):
        require_alike(name, known, part)


def _existing(name: str, url: str | None) -> StudyStore | None:
    """Open a study for reading; return None where there is none, or its database cannot be read.

    One of a search that was killed while it was made has no tables yet, or no study. The search completes it, or tells
    what is wrong with it.
    """
    if url is None and not (study_folder(name) / DATABASE).is_file():
        return None
    with contextlib.suppress(StorageError):
        return StudyStore.open(name, url, read_only=True)
    return None


def list_studies() -> list[StudyInfo]:
    """Return the studies of the studies folder, the latest last."""
    return [_info(name) for name in study_names()]


@checked
def rename_study(old: str, new: str) -> Path:
    """Rename a study: its folder with everything in it, its database's study, its winner's record; return the folder.

    Killed in between, it is a study under one of the two names, and whole. Raise `UsageError` where the new name is
    taken or the study is worked in, `StorageError` where it is not there.
    """
    source, target = study_folder(old), _free(new)
    with _alone(old):
        try:
            source.rename(target)
        except OSError as error:
            raise cannot_write(target, error) from error
        _rename_inside(target, old, new)
    return target


@checked
def copy_study(old: str, new: str) -> Path:
    """Copy a study under a new name, and return the copy's folder, which appears whole or not at all.

    Raise as `rename_study` does.
    """
    source, target = study_folder(old), _free(new)
    with _alone(old), replace_folder(target) as folder:
        try:
            for path in source.iterdir():
                if path.is_dir():
                    shutil.copytree(path, folder / path.name, symlinks=True)
                elif not path.name.startswith(DATABASE):  # nor its journal
                    shutil.copy2(path, folder / path.name)
        except (OSError, shutil.Error) as error:
            raise StorageError(f"cannot copy {source} ({error}): free some space, or name another") from error
        with storage_errors(None, old):
            _copy_database(source / DATABASE, folder / DATABASE)
        _rename_inside(folder, old, new)
    return target


@checked
def delete_study(name: str) -> None:
    """Delete a study with its weights, winner and full runs, for good. Raise as `rename_study` does."""
    with _alone(name):
        remove_folder(study_folder(name))


def require_idle(name: str) -> None:
    """Raise as `rename_study` does where a study is not there, or is worked in."""
    with _alone(name):
        pass


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Hold a study that nobody works in; raise `UsageError` where somebody does."""
    folder = study_folder(name)
    if not (folder / DATABASE).is_file():
        StudyStore.open(name)  # raises, and lists what there is
    with _lock(folder, exclusive=True) as locked:
        if not locked:
            raise UsageError(f"the study '{name}' is worked in by another process: end that first")
        for trial, owner in _running(name):
            raise UsageError(
                f"trial {trial} of the study '{name}' is running in {owner}: end that first; if it is gone, resume the "
                "search once, which takes the trial over when its heartbeat has been silent for long enough"
            )
        yield


def _running(name: str) -> list[tuple[int, str]]:
    """List running trials with their owners, but for those that a dead process of this machine has left.

    A damaged database has none.
    """
    found = []
    with contextlib.suppress(NasError):
        for store in StudyStore.open(name).with_finalists():
            store.refresh()
            found += [(trial.number, owner_name(trial.user_attrs)) for trial, left in store.foreign({}) if left > 0]
    return found


def _info(name: str) -> StudyInfo:
    folder = study_folder(name)
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    trials = dataset = problem = None
    try:
        store = StudyStore.open(name)
        trials, dataset = store.num_trials, store.dataset
    except NasError as error:
        problem = str(error)
    return StudyInfo(
        name=name, trials=trials, dataset=dataset, bytes=sum(file.st_size for file in files), in_use=is_in_use(name),
        changed=datetime.fromtimestamp((folder / DATABASE).stat().st_mtime, UTC).isoformat(timespec="seconds"),
        problem=problem,
    )  # fmt: skip


def _free(name: str) -> Path:
    folder = study_folder(name)
    if os.path.lexists(folder):
        raise UsageError(f"{folder} is there already: give another name, or delete that study first")
    return folder


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is between two transactions."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as one,
        contextlib.closing(sqlite3.connect(target)) as other,
    ):
        one.backup(other)


def _rename_inside(folder: Path, old: str, new: str) -> None:
    """Give the new name to what is in a study's folder and knows its name."""
    with storage_errors(None, new):
        storage = open_sqlite(folder / DATABASE, create=False)
        rename_in_database(storage, old, new)
        storage.engine.dispose()
    with contextlib.suppress(StorageError):  # there is no winner yet, or its record is damaged: it stays as it is
        reason = read_json(folder / REASON)
        if "study" in reason:
            write_json(folder / REASON, {**reason, "study": new})


@contextlib.contextmanager
def _lock(folder: Path, *, exclusive: bool) -> Iterator[bool]:
    """Lock a folder, shared or alone, without waiting; yield whether that was possible.

    Where the system or the disk has no such locks, it always is.
    """
    if fcntl is None:
        yield True
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{folder} cannot be opened ({error.strerror}): was it renamed meanwhile?") from error
    try:
        locked = True
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        except OSError:  # a network disk without locks for folders
            pass
        yield locked
    finally:
        os.close(descriptor)
