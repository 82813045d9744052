"""Own images, from a folder or an array file to tensors: examined, decoded once, and found again by name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nas.data.arrays import ArrayFile
from nas.data.dataset import Split, SplitName
from nas.data.folder_options import FolderOptions, ImageProgress, default_size, set_name
from nas.data.folder_scan import FolderScan, scan_folder
from nas.data.manifest import Entry, Manifest, across, assign, make_folder, update
from nas.data.own_sets import (
    OwnSet,
    Tensors,
    find_own_set,
    find_seen,
    load_split,
    manifests_dir,
    own_dir,
    read_tensors,
    store_own_set,
    store_seen,
    tensors_dir,
    write_tensors,
)
from nas.data.pictures import Decoded, Pixels, Readers
from nas.errors import DataError, UsageError
from nas.files import cannot_write
from nas.machine import available_memory, cores

VERSION = 1
"""Part of a tensor's key: a change of how pixels are read makes others of the same files."""

COPIES = 3
"""Times that the images are in memory at the most: as loaded, split, and shared with the workers."""

ABANDONED_S = 24 * 3600.0

PARALLEL_FILES, PARALLEL_BYTES = 1500, 30_000_000
"""Files, or bytes of them, from which other processes are worth their start."""

GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))

Decode = Callable[[Sequence[Entry], FolderOptions], tuple[Pixels, list[Decoded]]]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The outcome of reading a folder or an array file, with all that is wrong with it."""

    record: OwnSet
    manifest: Manifest
    scan: FolderScan | None
    has_test: bool
    """False: the test images are drawn from all, once."""
    entries: list[Entry]
    """The images that have pixels: training, validation, test, in the order of the tensors."""
    tensors: Tensors
    broken: dict[str, str]
    """Files that cannot be read, and why."""
    problems: list[str] = field(default_factory=list)
    """A line for everything for which a search refuses the images."""


def prepare_own(source: Path | OwnSet, options: FolderOptions, progress: ImageProgress | None = None) -> OwnSet:
    """Return the record of own images, decoded. Raise `DataError` for what a search must not run on."""
    path, options = _resolved(source, options)
    scan = scan_folder(path) if path.is_dir() else None
    known = scan is not None and Manifest.place(manifests_dir(), path).is_file()
    if scan is not None and known and (seen := find_seen(path, options, scan.stamp)) is not None:
        return seen
    found = _examine(path, options, scan, progress)
    if found.problems:
        more = len(found.problems) - 3
        rest = f"; and {more} more" if more > 0 else ""
        raise DataError(f"{'; '.join(found.problems[:3])}{rest}: nas data check {found.record.source} lists everything")
    found.manifest.write()
    store_own_set(found.record)
    if scan is not None:
        store_seen(path, options, found.record.name)
    return found.record


class OwnReader:
    """A reader of the tensors of an own set; they are made again where they are gone."""

    downloads = False
    archive = None

    def __init__(self, record: OwnSet) -> None:
        self.record = record

    def files(self, split: SplitName, root: Path) -> tuple[Path, ...]:
        return (Path(self.record.source),)

    def fetch(self, split: SplitName, folder: Path) -> None:
        """Do nothing: the files are the user's."""

    def read(self, split: SplitName, root: Path) -> Split:
        try:
            return load_split(self.record.key, split)
        except (OSError, ValueError, EOFError):
            again = prepare_own(self.record, FolderOptions(skip_unreadable=True, allow_duplicates=True))
            if again.key != self.record.key:
                raise DataError(
                    f"the tensors of {self.record.name} are gone, and {self.record.source} has other files now: "
                    "bring its files back as they were"
                ) from None
            return load_split(self.record.key, split)


def examine(source: Path | OwnSet, options: FolderOptions, progress: ImageProgress | None = None) -> Examination:
    """Read own images and tell what is wrong with them; only tensors are written.

    Raise `DataError` for a source without images of two classes, and for more than fits in memory.
    """
    path, options = _resolved(source, options)
    return _examine(path, options, scan_folder(path) if path.is_dir() else None, progress)


def _resolved(source: Path | OwnSet, options: FolderOptions) -> tuple[Path, FolderOptions]:
    """Return the real path of a folder or array file, and the options for it. Raise `DataError` where it is neither."""
    if isinstance(source, OwnSet):
        options, source = options.over(dict(source.options)), Path(source.source)
    try:
        path = source.expanduser().resolve()
    except (RuntimeError, OSError) as error:
        raise DataError(f"{source} cannot be followed ({error}): give the folder itself") from error
    if not os.access(path, os.R_OK):
        why = "cannot be read: make it readable" if path.exists() else "is not there: give a folder of class folders"
        raise DataError(f"{path} {why}")
    if not path.is_dir() and path.suffix.lower() != ".npz":
        raise DataError(f"{path} is a file: give a folder with a folder for each class, or a .npz file")
    return path, options


def _examine(
    path: Path, options: FolderOptions, scan: FolderScan | None, progress: ImageProgress | None
) -> Examination:
    return _examine_arrays(path, options) if scan is None else _examine_folder(path, options, scan, progress)


def _examine_folder(
    path: Path, options: FolderOptions, scan: FolderScan, progress: ImageProgress | None
) -> Examination:
    if not scan.files:
        loose = f"{scan.loose} images that lie in no class folder" if scan.loose else "no image in any folder"
        raise DataError(f"{path} has {loose}: make a folder for each class, named after it, and put its images there")
    if len(scan.classes) == 1:
        raise DataError(
            f"{path} has one class, '{scan.classes[0]}': give the folder above it, or add a folder for another class"
        )
    manifest = Manifest.open(manifests_dir(), path)
    total = sum(file.size for file in scan.files)
    parallel = len(scan.files) > PARALLEL_FILES or total > PARALLEL_BYTES
    with Readers(cores() if parallel else 1, progress) as readers:
        entries, broken = update(manifest, scan, readers)
        if not entries:
            name, why = next(iter(broken.items()))
            raise DataError(f"{path}: no file can be read ({name}: {why}): give a folder of image files")
        if options.image_size is None:
            size = manifest.defaults.get("image_size")
            size = size or default_size([(entry.header.width, entry.header.height) for entry in entries])
            manifest.defaults["image_size"] = size
            options = dataclasses.replace(options, image_size=size)

        def decode(entries: Sequence[Entry], options: FolderOptions) -> tuple[Pixels, list[Decoded]]:
            _require_memory(len(entries), options)
            make_folder(own_dir())
            _sweep()
            try:
                with tempfile.TemporaryDirectory(prefix=".decode-", dir=own_dir()) as folder:
                    target = Path(folder) / "images.npy"
                    outcomes = readers.decode([path / entry.name for entry in entries], target, options)
                    return np.load(target), outcomes
            except OSError as error:
                raise cannot_write(own_dir(), error) from error

        found = _finish(manifest, (entries, broken), scan.classes, options, (decode, scan))
        return dataclasses.replace(found, has_test="test" in scan.parts)


def _sweep() -> None:
    """Delete what a killed decoding left."""
    for folder in own_dir().glob(".decode-*"):
        with contextlib.suppress(OSError):  # another process's, gone meanwhile
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder)


def _examine_arrays(path: Path, options: FolderOptions) -> Examination:
    arrays = ArrayFile.open(path)
    manifest = Manifest.open(manifests_dir(), path)
    if not arrays.has_test:
        assign(manifest.parts, [(each.label, each.header.sha256) for each in arrays.entries if each.part == "train"])
    entries = arrays.with_parts(manifest.parts)
    if len(arrays.classes) == 1:
        raise DataError(f"{path} has one class, '{arrays.classes[0]}': add images of another")
    found = _finish(manifest, (entries, {}), arrays.classes, options, (arrays.decode, None))
    return dataclasses.replace(found, has_test=arrays.has_test)


def _finish(
    manifest: Manifest, files: tuple[list[Entry], dict[str, str]], classes: tuple[str, ...], options: FolderOptions,
    origin: tuple[Decode, FolderScan | None],
) -> Examination:  # fmt: skip
    """Decode what is not decoded yet, and list what is wrong."""
    decode, scan = origin
    entries = sorted(files[0], key=lambda entry: ("train", "validation", "test").index(entry.part))
    key, tensors, options = _tensors(manifest, entries, classes, options, decode)
    broken = files[1] | dict(tensors.failures)
    readable = [entry for entry in entries if entry.name not in broken]
    images = np.load(tensors_dir(key) / "train-images.npy", mmap_mode="r")
    record = OwnSet(
        name=set_name(manifest.source, options, classes), title=manifest.source.name or str(manifest.source),
        source=str(manifest.source), options=options.pixels, classes=classes, input_shape=images.shape[1:],
        num_train=len(tensors.labels["train"]), num_validation=tensors.num_validation,
        num_test=len(tensors.labels["test"]), key=key, warning=None,
        stamp="" if scan is None else scan.stamp,
    )  # fmt: skip
    found = Examination(
        record=record, manifest=manifest, scan=scan, has_test=True, entries=readable, tensors=tensors, broken=broken,
        problems=_problems(readable, broken, classes, scan, options),
    )  # fmt: skip
    warnings = list_warnings(found, options)
    return dataclasses.replace(found, record=dataclasses.replace(record, warning="; ".join(warnings) or None))


def _tensors(
    manifest: Manifest, entries: Sequence[Entry], classes: tuple[str, ...], options: FolderOptions, decode: Decode
) -> tuple[str, Tensors, FolderOptions]:
    """Return the tensors of the images, by their key, and the options with all defaults chosen."""
    grey = options.grayscale if options.grayscale is not None else manifest.defaults.get("grayscale")
    chosen = dataclasses.replace(options, grayscale=grey)
    if grey is not None and (ready := read_tensors(key := _key(entries, classes, chosen))):
        return key, ready, chosen
    all_grey = all(entry.header.mode in GREY_MODES for entry in entries)
    images, outcomes = decode(entries, dataclasses.replace(options, grayscale=all_grey if grey is None else grey))
    if grey is None:
        grey = not any(outcome.colour for outcome in outcomes)
        manifest.defaults["grayscale"] = grey
    chosen = dataclasses.replace(options, grayscale=grey)
    whole = np.array([outcome.error is None for outcome in outcomes])
    labels = np.array([classes.index(entry.label) for entry in entries], dtype=np.int64)
    parts = np.array([entry.part for entry in entries])
    images = images[:, :1] if grey else images
    key = _key(entries, classes, chosen)
    train, test = (parts != "test") & whole, (parts == "test") & whole
    write_tensors(
        key,
        {"train": (images[train], labels[train]), "test": (images[test], labels[test])},
        {entry.name: outcome.error for entry, outcome in zip(entries, outcomes, strict=True) if outcome.error},
        int(((parts == "validation") & whole).sum()),
    )
    ready = read_tensors(key)
    if ready is None:
        raise DataError(f"the tensors in {tensors_dir(key)} were removed while they were read: run again")
    return key, ready, chosen


def _key(entries: Sequence[Entry], classes: tuple[str, ...], options: FolderOptions) -> str:
    listed = [[entry.name, entry.header.sha256, entry.label, entry.part] for entry in entries]
    return hashlib.sha256(json.dumps([VERSION, options.pixels, classes, listed]).encode()).hexdigest()[:24]


def _require_memory(count: int, options: FolderOptions) -> None:
    """Raise `DataError` for more images than fit in memory."""
    assert options.image_size is not None
    channels, side = (1 if options.grayscale else 3), options.image_size
    need, free = COPIES * count * channels * side**2, available_memory()
    if free is not None and need > free:
        smaller = int(side * (free / need) ** 0.5)
        raise DataError(
            f"{count:,} images of {channels}x{side}x{side} take {need / 1e9:.1f} GB for {COPIES} copies of them, and "
            f"{free / 1e9:.1f} GB are available: give --image-size {smaller} or less"
            f"{'' if options.grayscale else ', or --grayscale'}"
        )


# What is wrong


def _problems(
    entries: Sequence[Entry], broken: dict[str, str], classes: tuple[str, ...], scan: FolderScan | None,
    options: FolderOptions,
) -> list[str]:  # fmt: skip
    lines = []
    if broken and not options.skip_unreadable:
        named = some([f"{name}: {why}" for name, why in broken.items()])
        lines.append(f"{plural(len(broken), 'file')} cannot be read ({named}); repair or remove, or --skip-unreadable")
    for folder in empty_folders(scan, classes):
        lines.append(f"the folder {folder} has no image; put images there, or remove it")
    train = Counter(entry.label for entry in entries if entry.part == "train")
    least = 1 if any(entry.part == "validation" for entry in entries) else 2
    for label in classes:
        if train[label] < least:
            count = plural(train[label], "image") if train[label] else "no image"
            lines.append(f"the class '{label}' has {count} to train with; add some, or remove the class")
    if not any(entry.part == "test" for entry in entries):
        lines.append("there is no test image")
    if not options.allow_duplicates and (pairs := across(entries)):
        named = some([f"{first.name} = {second.name}" for first, second in pairs])
        lines.append(
            f"{plural(len(pairs), 'file')} in two splits ({named}), which makes scores too high; remove, or "
            "--allow-duplicates"
        )
    return lines


def list_warnings(found: Examination, options: FolderOptions) -> list[str]:
    """Return a line for everything that a result on these images has to state."""
    lines, entries = [], found.entries
    if since := [f"{count} {what}" for what, count in found.manifest.since.items() if count]:
        lines.append(f"files since these images were first split: {', '.join(since)}")
    if options.skip_unreadable and found.broken:
        lines.append(f"{plural(len(found.broken), 'unreadable file')} left out ({some(list(found.broken))})")
    if options.allow_duplicates and (pairs := across(entries)):
        lines.append(f"{plural(len(pairs), 'file')} in two splits")
    by_part = {part: {entry.label for entry in entries if entry.part == part} for part in ("validation", "test")}
    for part, labels in by_part.items():
        if labels and (missing := sorted(set(found.record.classes) - labels)):
            quoted = some([f"'{label}'" for label in missing])
            lines.append(f"no {part} image of the {'class' if len(missing) == 1 else 'classes'} {quoted}")
    labels_of: dict[str, set[str]] = {}
    for entry in entries:
        labels_of.setdefault(entry.header.sha256, set()).add(entry.label)
    if torn := sum(len(labels) > 1 for labels in labels_of.values()):
        lines.append(f"{plural(torn, 'image')} in two classes")
    return lines


def empty_folders(scan: FolderScan | None, classes: tuple[str, ...]) -> list[str]:
    """Return the class folders without an image, of classes that have none elsewhere either."""
    folders = {} if scan is None else scan.folders
    return [folder for folder, count in folders.items() if not count and Path(folder).name not in classes]


def some(names: Sequence[str]) -> str:
    """Return the first three of names, and how many others there are."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def find_own(name: str) -> OwnSet:
    """Return the own set of this name. Raise `UsageError` where there is none."""
    if (found := find_own_set(name)) is None:
        raise UsageError(f"no own images are named '{name}': give their folder as --dataset PATH")
    return found


def own_options(name: str) -> FolderOptions | None:
    """Return the pixel options of the own set of this name; None where it is not known on this machine."""
    found = find_own_set(name)
    return None if found is None else FolderOptions(**found.options)
