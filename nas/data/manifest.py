"""The manifest of a folder of own images: each file's hash and split, written down at first sight."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.data.folder_scan import FolderScan, Part
from nas.data.pictures import Header, Readers
from nas.errors import DataError, StorageError
from nas.files import cannot_write, read_json, write_atomic

FORMAT = 1
SEED = 0
TEST_SHARE = 1 / 6
"""The share of each class that a folder without a test split sets aside."""


@dataclass(frozen=True)
class Entry:
    """An image file that has a header: where it is, what it holds, and the split it belongs to for good."""

    name: str
    label: str
    part: Part
    header: Header


@dataclass
class Manifest:
    """The files, splits and defaults written down of a folder or an array file; `path` is where."""

    path: Path
    source: Path
    files: dict[str, list[Any]] = field(default_factory=dict)
    """[bytes, nanoseconds of change, sha256, width, height, mode, split] of each file."""
    parts: dict[str, Part] = field(default_factory=dict)
    """The split of each image that has one by rule, by its sha256; those that are gone stay here."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """The options that the images chose at first sight."""
    since: dict[str, int] = field(default_factory=dict)
    """Files added, changed and removed since then."""

    @staticmethod
    def place(folder: Path, source: Path) -> Path:
        """Return the file of a source's manifest."""
        return folder / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:16]}.json"

    @classmethod
    def open(cls, folder: Path, source: Path) -> Manifest:
        """Return the manifest of a source, empty at first sight. Raise `DataError` for a damaged one."""
        path = cls.place(folder, source)
        if not path.is_file():
            return cls(path, source)
        try:
            stored = read_json(path)
            if stored["format"] != FORMAT:
                raise DataError(f"{path} is of another version of nas: remove it, and {source} is split anew")
            return cls(path, source, stored["files"], stored["parts"], stored["defaults"], stored["since"])
        except (StorageError, LookupError) as error:
            raise DataError(
                f"{path}, which says what images of {source} are test images, is damaged: bring it back, or remove it "
                "and every result on these images, as they are split anew"
            ) from error

    def __post_init__(self) -> None:
        self._stored = (self.files, dict(self.parts), dict(self.defaults), dict(self.since))

    def write(self) -> None:
        """Write the manifest, whole or not at all, where it has changed. Raise `StorageError` where that fails."""
        if self._stored == (self.files, self.parts, self.defaults, self.since) and self.path.is_file():
            return
        text = json.dumps({
            "format": FORMAT, "source": str(self.source), "seed": SEED, "defaults": self.defaults,
            "since": self.since, "files": self.files, "parts": self.parts,
        })  # fmt: skip
        make_folder(self.path.parent)
        write_atomic(self.path, text)


def update(manifest: Manifest, scan: FolderScan, readers: Readers) -> tuple[list[Entry], dict[str, str]]:
    """Bring a manifest up to date; return its images, and why other files are none. Nothing is written.

    A file that has its size and time of change is not read again. A new one goes to a split by its content alone, so
    that where others stand never changes; a changed one stays in its split.
    """
    broken = {file.name: file.error for file in scan.files if file.error is not None}
    present = [file for file in scan.files if file.error is None]
    before, first = manifest.files, not manifest.files and not manifest.parts
    fresh = [file for file in present if before.get(file.name, [])[:2] != [file.size, file.mtime]]
    read = dict(zip(
        (file.name for file in fresh), readers.headers([scan.root / file.name for file in fresh]), strict=True
    ))  # fmt: skip
    headers: dict[str, Header] = {}
    for file in present:
        header = read.get(file.name) or Header(*before[file.name][2:6])
        if isinstance(header, str):
            broken[file.name] = header
        else:
            headers[file.name] = header
    good = [file for file in present if file.name in headers]
    if "test" not in scan.parts:
        earlier = {file.name: before[file.name][6] for file in good if file.name in before}
        _assign(
            manifest.parts,
            [
                (file.label, headers[file.name].sha256, earlier.get(file.name))
                for file in good
                if file.part != "validation"
            ],
            first=not manifest.parts,
        )
    entries = [
        Entry(file.name, file.label, _part(file.part, headers[file.name], manifest.parts, scan), headers[file.name])
        for file in good
    ]
    sizes = {file.name: [file.size, file.mtime] for file in good}
    manifest.files = {entry.name: [*sizes[entry.name], *_fields(entry.header), entry.part] for entry in entries}
    if not first:
        known = manifest.files.keys() & before.keys()
        counts = {
            "added": len(manifest.files.keys() - known), "removed": len(before.keys() - known),
            "changed": sum(before[name][2] != manifest.files[name][2] for name in known),
        }  # fmt: skip
        manifest.since = {name: manifest.since.get(name, 0) + count for name, count in counts.items()}
    return entries, broken


def _fields(header: Header) -> list[Any]:
    return [header.sha256, header.width, header.height, header.mode]


def _part(given: Part | None, header: Header, parts: Mapping[str, Part], scan: FolderScan) -> Part:
    """Return the split of a file: that of its folder, or by rule where the folder has no test images."""
    if given == "validation" or (given is not None and "test" in scan.parts):
        return given
    return parts[header.sha256]


def make_folder(folder: Path) -> None:
    """Make a folder of the cache. Raise `StorageError` where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def assign(parts: dict[str, Part], images: Iterable[tuple[str, str]]) -> None:
    """Add to `parts` the split of each image (label, sha256) that has none yet: see `TEST_SHARE`."""
    _assign(parts, [(label, sha256, None) for label, sha256 in images], first=not parts)


def _assign(parts: dict[str, Part], images: Sequence[tuple[str, str, Part | None]], *, first: bool) -> None:
    """At first, take the test images of each class in proportion; later, send each image where its hash says.

    Equal files have one hash, so they are in one split, whatever their names and classes.
    """
    for _, sha256, part in images:
        if part is not None:
            parts.setdefault(sha256, part)
    classes: dict[str, set[str]] = defaultdict(set)
    for label, sha256, _ in images:
        classes[label].add(sha256)
    known = set(parts)
    for label in sorted(classes):
        drawn = sorted((name for name in classes[label] if name not in parts), key=_rank)
        if first or not classes[label] & known:  # a class that is new as well
            count = max(1, round(TEST_SHARE * len(drawn))) if len(drawn) > 1 else 0
            tested = set(drawn[:count])
        else:
            tested = {name for name in drawn if _rank(name) < TEST_SHARE}
        parts.update({name: "test" if name in tested else "train" for name in drawn})


def _rank(sha256: str) -> float:
    """Return a number in 0..1 that only the content and the seed decide."""
    return int(hashlib.sha256(f"{SEED} {sha256}".encode()).hexdigest()[:13], 16) / 16**13


def across(entries: Collection[Entry]) -> list[tuple[Entry, Entry]]:
    """Return pairs of equal files in two splits, the test image first."""
    held = {entry.header.sha256: entry for entry in reversed(list(entries)) if entry.part == "train"}
    held_out = {entry.header.sha256: entry for entry in entries if entry.part == "validation"}
    pairs = [
        (entry, (held.get(entry.header.sha256) or held_out[entry.header.sha256]))
        for entry in entries
        if entry.part == "test" and (entry.header.sha256 in held or entry.header.sha256 in held_out)
    ]
    return pairs + [(entry, held[entry.header.sha256]) for entry in held_out.values() if entry.header.sha256 in held]
