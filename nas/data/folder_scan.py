"""A folder of images as it lies on the disk: splits, classes, files, and what is not taken for an image."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from nas.data.pictures import extensions
from nas.errors import DataError

Part = Literal["train", "validation", "test"]

PARTS: Mapping[str, Part] = MappingProxyType({
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
})  # fmt: skip
"""The folders above the classes, in any case of letters, and the split that each is."""

_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "icon\r")
_FOLDERS_LEFT_BY_SYSTEMS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")


@dataclass(frozen=True)
class ImageFile:
    """A file that should be an image; `part` is None where the folder has no splits."""

    name: str  # its path below the folder
    part: Part | None
    label: str
    size: int
    mtime: int  # nanoseconds
    error: str | None = None  # why it is none, as far as the disk tells


@dataclass
class FolderScan:
    """All that a folder holds."""

    root: Path
    files: list[ImageFile] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    """Files and folders that are left out, by kind."""
    nested: int = 0
    """Images in folders below that of their class."""
    parts: dict[Part, str] = field(default_factory=dict)
    """The folder of each split; empty where the classes lie in the root."""
    folders: dict[str, int] = field(default_factory=dict)
    """Images of each class folder, by its path below the root."""
    loose: int = 0
    """Images outside any class folder."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted({file.label for file in self.files}))

    @property
    def stamp(self) -> str:
        """A digest of names, sizes, times and folders: while it is the same, so are the images."""
        listed = "\n".join(f"{file.name}\t{file.size}\t{file.mtime}" for file in self.files)
        told = f"{listed}\n{sorted(self.parts.items())}\n{sorted(self.folders.items())}"
        return hashlib.sha256(os.fsencode(told)).hexdigest()


def scan_folder(root: Path) -> FolderScan:
    """Return what a folder holds. Raise `DataError` for one that cannot be read or has two folders for one split."""
    scan = FolderScan(root)
    tops = list(_folders(scan, ""))
    split = {name: PARTS[name.lower()] for name in tops if name.lower() in PARTS and _has_classes(root / name)}
    if split and "train" in split.values() and (len(split) > 1 or len(tops) == 1):
        for name, part in split.items():
            if part in scan.parts:
                raise DataError(
                    f"{root} has two folders for {part}, {scan.parts[part]} and {name}: rename or merge one of them"
                )
            scan.parts[part] = name
        scan.ignored["folder beside the splits"] += len(tops) - len(split)
        for part, top in scan.parts.items():
            for name in _folders(scan, top):
                _read_class(scan, f"{top}/{name}", name, part)
    else:
        if len(split) == len(tops) and split:
            raise DataError(f"{root} has a folder {tops[0]} and none for train: rename it, or add train/CLASS/ folders")
        for name in tops:
            _read_class(scan, name, name, None)
    return scan


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder} ({error.strerror}): make it readable or remove it") from error


def _folders(scan: FolderScan, below: str) -> Iterator[str]:
    """Yield the folders of classes or splits, and count images that lie beside them."""
    for entry in _entries(scan.root / below):
        if entry.is_dir():
            if _is_hidden(entry.name) or entry.name in _FOLDERS_LEFT_BY_SYSTEMS:
                scan.ignored["hidden"] += 1
            else:
                yield entry.name
        elif left_out := _kind(entry):
            scan.ignored[left_out] += 1
        else:
            scan.loose += 1


def _has_classes(folder: Path) -> bool:
    """Tell a folder of class folders from a class of that name, which holds its images itself."""
    entries = [entry for entry in _entries(folder) if not _is_hidden(entry.name)]
    images = [entry for entry in entries if entry.is_file() and _kind(entry) is None]
    return not images and any(entry.is_dir() for entry in entries)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _kind(entry: os.DirEntry[str]) -> str | None:
    """Return the kind of a file that is no image by its name; None for one that should be an image."""
    if _is_hidden(entry.name):
        return "hidden"
    if entry.name.lower() in _LEFT_BY_SYSTEMS:
        return entry.name
    ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  a hundred thousand of them
    if ending and ending not in extensions():
        return f"*{ending}"
    return None if entry.is_file() or entry.is_symlink() else "no file"


def _read_class(scan: FolderScan, folder: str, name: str, part: Part | None) -> None:
    # macOS writes é as two characters: a class is one, however its folders are spelled.
    label = unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))
    before = len(scan.files)
    _walk(scan, folder, (label, part), (os.path.realpath(scan.root / folder),))
    scan.folders[folder] = len(scan.files) - before


def _walk(scan: FolderScan, folder: str, kind: tuple[str, Part | None], above: tuple[str, ...]) -> None:
    label, part = kind
    for entry in _entries(scan.root / folder):
        path = f"{folder}/{entry.name}"
        if entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if _is_hidden(entry.name) or entry.name in _FOLDERS_LEFT_BY_SYSTEMS:
                scan.ignored["hidden"] += 1
            elif real in above:
                scan.ignored["link to a folder above"] += 1
            else:
                before = len(scan.files)
                _walk(scan, path, kind, (*above, real))
                if len(above) == 1:
                    scan.nested += len(scan.files) - before
        elif left_out := _kind(entry):
            scan.ignored[left_out] += 1
        else:
            scan.files.append(_file(entry, path, label, part))


def _file(entry: os.DirEntry[str], path: str, label: str, part: Part | None) -> ImageFile:
    try:
        status = entry.stat()
    except OSError as error:
        why = "broken link" if entry.is_symlink() else error.strerror
        return ImageFile(path, part, label, 0, 0, why)
    return ImageFile(path, part, label, status.st_size, status.st_mtime_ns, None if status.st_size else "empty")
