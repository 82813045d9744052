"""Names and folders of studies."""

from __future__ import annotations

import os
from pathlib import Path

from nas.errors import StorageError, UsageError
from nas.files import recover_folder

DATABASE = "study.db"

OPENINGS = "test-openings.jsonl"
"""The record of every opening of the test split, in a study's folder or beside a record's files."""

RECORDS = "records"
"""The folder of the committed records among the studies, each named by its cap, or its data set and its cap."""

REASON = Path("best") / "reason.json"
"""The record of a winner, in a study's folder."""

MOST_NAMED = 8
"""Studies that one message names."""

MAX_NAME_BYTES = 200
"""A folder's name has at most 255 bytes, and temporary folders beside it add to it."""


def studies_dir() -> Path:
    """Return `NAS_STUDIES`, or `studies` in the working directory."""
    return Path(os.environ.get("NAS_STUDIES") or "studies")


def study_folder(name: str) -> Path:
    """Return the folder of a study. Raise `UsageError` for a name that is no plain folder name."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise UsageError(f"a study's name is UTF-8 text, not {name!r}: give another --study") from None
    if not name or name != Path(name).name or name.startswith(".") or "\0" in name:
        raise UsageError(f"a study's name is a plain folder name, not '{name}'")
    if length > MAX_NAME_BYTES:
        raise UsageError(f"a study's name has at most {MAX_NAME_BYTES} bytes, not {length}: give a shorter --study")
    return studies_dir() / name


def study_at(name: str) -> str:
    """Return the name of the study whose folder a path names; any other name, or path of something, as it is.

    Raise `UsageError` for a path where nothing is.
    """
    if not {"/", os.sep} & set(name) and not name.startswith("~"):
        return name
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if not os.path.lexists(path):  # pathlib raises for a name that is too long
        raise UsageError(f"there is no {name}: give a path that is there, or a study's name")
    if (path / DATABASE).is_file() and path.resolve().parent == studies_dir().resolve():
        return path.resolve().name
    return str(path)


def study_names() -> list[str]:
    """List the studies with a database under the studies folder, the latest last; hidden folders are none."""
    found = []
    for path in studies_dir().glob(f"*/{DATABASE}"):
        if path.is_file() and not path.parent.name.startswith("."):
            found.append((path.stat().st_mtime, path.parent.name))
    return [name for _, name in sorted(found)]


def latest_study() -> str:
    """Return the name of the study last written to. Raise `StorageError` where there is none."""
    if not (found := study_names()):
        raise StorageError(f"no study in {_shown(studies_dir())}: run nas search --max-params 8000 first")
    return found[-1]


def require_winner(name: str) -> None:
    """Raise `StorageError` where a study has no folder of a winner, with the names of those that have one."""
    recover_folder(study_folder(name) / REASON.parent)
    if not (study_folder(name) / REASON.parent).is_dir():
        raise StorageError(without_winner(name))


def without_winner(name: str) -> str:
    """Return in words that a study has no winner, with the studies that have one, the latest last, and what to do."""
    known = study_names()
    lead, step = f"no winner in {study_folder(name)}", "run nas search to its end first"
    if name in known:
        latest = "latest " if known[-1] == name else ""
        lead, step = f"the {latest}study '{name}' has no winner", "run its nas search again, to its end"
    others = [each for each in known if (studies_dir() / each / REASON).is_file()]
    if not others:
        return f"{lead}, and no other study has one: {step}"
    listed = ", ".join([*(["..."] if len(others) > MOST_NAMED else []), *others[-MOST_NAMED:]])
    return f"{lead}: name one that has ({listed}), or {step}"


def _shown(path: Path) -> Path:
    """Return the absolute path, or the path as it is where the working directory is gone."""
    try:
        return path.resolve()
    except OSError:
        return path


def make_folder(folder: Path) -> None:
    """Make a folder of a study, where it is not there. Raise `StorageError` where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder} ({error.strerror}): free it, or set NAS_STUDIES") from error
