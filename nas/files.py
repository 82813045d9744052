"""Files and folders that are replaced whole or not at all, and strict JSON.

A folder of files (a winner, a full run) is written beside its target and swapped in whole: at whatever instant the
process dies, a reader finds the old folder or the new one. What is read back is checked, and a damaged file is one line
of a `StorageError` that names it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import reprlib
import secrets
import shutil
import stat
import sys
import time
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nas.errors import StorageError

__all__ = [
    "cannot_write",
    "damaged",
    "from_json",
    "make_parent",
    "read_json",
    "read_record",
    "read_text",
    "recover_folder",
    "remove_folder",
    "replace_folder",
    "require_place",
    "short_digest",
    "temporary",
    "write_atomic",
    "write_json",
]

Record = TypeVar("Record")

_ABANDONED_S = 3600.0  # a temporary folder this old is a killed process's: an export takes a minute at most


# One file


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text becomes UTF-8, its line ends as they are.

    Raises `StorageError` if it cannot be written (full disk, no permission, no such folder); a file that is already
    there is then untouched. A device or a pipe, such as /dev/null, is written to: a file must not take its place.
    """
    path = Path(path)
    new = temporary(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            return
        with new.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)  # noqa: PTH105  named like the law
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
    _sync_folder(path.parent)


def make_parent(path: Path) -> None:
    """Make the folder that a file is to be in. Raises `StorageError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def require_place(path: Path, *, folder: bool = False) -> None:
    """Raise `StorageError` unless a file, or a `folder` with its parents, can be made at `path`. For use before work.

    A folder is made and removed beside it, and in a folder that is there: permissions alone tell too little.
    """
    try:
        mode = _mode(path)
        if mode is not None and stat.S_ISDIR(mode) != folder:
            code = errno.ENOTDIR if folder else errno.EISDIR
            raise OSError(code, os.strerror(code))
        if mode is None and os.path.islink(path):  # noqa: PTH114  named like realpath
            raise OSError(errno.ENOENT, "it is a link that leads nowhere")
        new = temporary(Path(os.path.realpath(path)) if folder else Path(path))
        parent = new.parent
        while folder and _mode(parent) is None:
            parent = parent.parent
        for place in (parent, *([Path(path)] if folder and mode is not None else [])):
            (place / new.name).mkdir()
            (place / new.name).rmdir()
    except OSError as error:
        raise cannot_write(path, error) from error


def _mode(path: Path) -> int | None:
    """The mode of what is at a path; None where nothing is."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file; raises `StorageError` if it is missing, unreadable or no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, getattr(error, "strerror", None) or str(error)) from error


def short_digest(text: str) -> str:
    """Return a short, stable name for a text: eight hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# JSON


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as strict JSON and read it back; raises `StorageError`, for NaN and infinities too."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise StorageError(
            f"{path.name} is strict JSON ({error}): leave the number out where there is none, or write null"
        ) from error
    write_atomic(path, text + "\n")
    if read_json(path) != json.loads(text):
        raise damaged(path, "it does not read as it was written")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a strict JSON file; raises `StorageError` for anything else."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    def finite(word: str) -> float:
        if abs(number := float(word)) == float("inf"):  # Python reads 1e999 as infinity
            raise ValueError(f"{word} is too large a number")
        return number

    try:
        value = json.loads(read_text(path), parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise damaged(path, f"it holds a {type(value).__name__}, not an object")
    return value


def read_record(path: Path, kind: type[Record]) -> Record:
    """Return a JSON file as an instance of the dataclass `kind`, by `from_json`; raises `StorageError`."""
    value = read_json(path)
    try:
        return typing.cast(Record, from_json(kind, value))
    except ValueError as error:
        raise damaged(path, str(error)) from error


def from_json(kind: Any, value: Any, name: str = "") -> Any:
    """Return a JSON value as a `kind`, or raise a `ValueError` that says where it is of another type.

    A kind is `str`, `int`, `float`, `bool`, `Any`, `X | None`, `tuple[X, ...]`, `Mapping[K, X]` with K `str` or `int`,
    or a dataclass of such fields: the object then has just these, and those without a default at least. What a
    dataclass refuses with a `ValueError` of its own is refused here. `name` is where in the file the value stands.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        (other,) = set(arguments) - {types.NoneType}
        return None if value is None else from_json(other, value, name)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(from_json(arguments[0], item, f"{name}[{index}]") for index, item in enumerate(value))
    if origin in (dict, Mapping) and isinstance(value, dict):
        keys = [_key(arguments[0], key, name) for key in value]
        items = [from_json(arguments[1], item, _inside(name, key)) for key, item in value.items()]
        return dict(zip(keys, items, strict=True))
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:  # a bool is an int too, but not here
        raise ValueError(f"'{name}' is {reprlib.repr(value)}, not {_description(kind)}")
    return value


def _dataclass(kind: Any, value: dict[str, Any], name: str) -> Any:
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    if unknown := sorted(value.keys() - {field.name for field in fields}):
        raise ValueError(f"'{_inside(name, unknown[0])}' is unknown")
    found = {}
    for field in fields:
        if field.name in value:
            found[field.name] = from_json(hints[field.name], value[field.name], _inside(name, field.name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"'{_inside(name, field.name)}' is missing")
    return kind(**found)


def _key(kind: Any, key: str, name: str) -> Any:
    """Return the key of an object, which JSON holds as text, as `kind`."""
    if kind is not int:
        return key
    if not (key.isascii() and key.removeprefix("-").isdigit() and str(int(key)) == key):
        raise ValueError(f"'{name}' has the key {reprlib.repr(key)}, not a whole number")
    return int(key)


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _description(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    plain = {str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}
    return plain.get(origin, "an object")


# One folder


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Give a fresh folder to fill, which takes the place of `folder` when the block ends without an error.

    No system swaps two folders portably, so the old one is renamed aside, the new one renamed in, the old one deleted;
    if the process dies between the renames, the next `replace_folder` or `recover_folder` renames the old one back. On
    an error `folder` stays as it was and the new one is removed. Of two writers at once, the last wins. Raises
    `StorageError`.
    """
    folder = Path(folder).resolve()  # a link stays a link: what it points to is replaced
    new = temporary(folder)
    try:
        try:
            _rename_back(folder)
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            new.mkdir()
        except OSError as error:
            raise cannot_write(folder, error) from error
        yield new
        try:
            _sync_folder(new)
            _swap(new, folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _sync_folder(folder.parent)


def recover_folder(folder: Path) -> None:
    """Bring the old folder back if a process died between the two renames of `replace_folder`; for readers."""
    with contextlib.suppress(OSError):  # a read-only disk: the reader then finds the folder missing, and says so
        _rename_back(Path(folder).resolve())


def remove_folder(folder: Path) -> None:
    """Delete a folder at once for every reader: it is renamed aside first, and swept later where that is cut short.

    A link is removed, not what it points to. Raises `StorageError`.
    """
    aside = temporary(Path(folder))
    try:
        folder.rename(aside)
        if aside.is_symlink():
            aside.unlink()
        else:
            shutil.rmtree(aside)
    except OSError as error:
        raise StorageError(f"cannot delete {folder} ({error.strerror or error}): free it, and try again") from error


def _rename_back(folder: Path) -> None:
    if not folder.exists() and _aside(folder).is_dir():
        _aside(folder).rename(folder)


def _swap(new: Path, folder: Path) -> None:
    aside = _aside(folder)
    for attempts_left in (2, 1, 0):
        try:
            if folder.exists():
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
            new.rename(folder)
            break
        except OSError:
            # Another writer, or a reader that took the gap for a killed process, may have put a folder there meanwhile.
            if not attempts_left:
                raise
        finally:
            _rename_back(folder)
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        print(f"warning: {aside}, what {folder} was before, cannot be removed: remove it", file=sys.stderr)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left beside `folder`."""
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
    for path in folder.parent.iterdir():
        if path.name.startswith(f".{folder.name}.") and path.name.endswith(".new"):
            with contextlib.suppress(OSError):  # another process's, gone meanwhile
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(path)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def temporary(path: Path) -> Path:
    """Return a name of its own for what is to take the place of `path`, beside it. Raise `StorageError` for a root."""
    if not path.name:
        raise cannot_write(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")


def _sync_folder(folder: Path) -> None:
    """Make renames in the folder outlast a power cut, on systems that can: Windows and some network disks cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Errors


def damaged(path: Path, problem: str) -> StorageError:
    """Return the error of a file that is missing or not what was written."""
    problem = " ".join(problem.split())  # it may quote the file, line breaks and all
    step = "delete it and run" if os.path.lexists(path) else "run"
    return StorageError(f"{path} is damaged: {problem}; {step} the command that made it again")


def cannot_write(path: Path, error: OSError) -> StorageError:
    """Return the error of a file or folder that cannot be written, with what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        step = "free some space and run the same command again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        step = "name a folder that you may write to"
    else:
        step = "name another path"
    return StorageError(f"cannot write {path}: {error.strerror or error}; {step}")
