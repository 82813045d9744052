"""Own image sets that were prepared: the record of each by its name, and its images as tensors in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray

from nas.data.dataset import Dataset, Split, SplitName
from nas.data.folder_options import FolderOptions
from nas.data.manifest import make_folder
from nas.data.pictures import Pixels
from nas.errors import DataError, StorageError
from nas.files import cannot_write, read_json, read_record, replace_folder, write_json

STEPS_OF = 40_000
"""Training images below which default epochs are multiplied, ten times at most: a set needs as many steps."""

FULL_EPOCHS_OWN = 30
"""Epochs of a full run on own images, before that factor."""

SHIFT = 1.4 / 28
"""Largest shift of an image as a share of its side: MNIST's, whose recipe has it in pixels."""


@dataclass(frozen=True, kw_only=True)
class OwnSet:
    """A set of own images as it was last prepared."""

    name: str
    title: str
    source: str
    """The folder or file, absolute."""
    options: Mapping[str, Any]
    """The pixel options, with the defaults that the images chose."""
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    num_train: int
    """Training images, those for validation included."""
    num_validation: int
    """The last of them, where the folder has a split of its own for validation; otherwise 0."""
    num_test: int
    stamp: str
    """The digest of the folder's names, sizes and times; nothing for an array file."""
    key: str
    """The name of its tensors: of all files' hashes and splits, and the options."""
    warning: str | None

    @property
    def dataset(self) -> Dataset:
        channels, height, width = self.input_shape
        return Dataset(
            name=self.name, title=self.title, input_shape=(channels, height, width), classes=self.classes,
            num_train=self.num_train, num_test=self.num_test,
            epoch_factor=max(1, min(10, round(STEPS_OF / max(1, self.num_train)))), full_epochs=FULL_EPOCHS_OWN,
            mirrors=True, augmentation={"translate": round(SHIFT * min(height, width), 2)},
        )  # fmt: skip


def own_dir() -> Path:
    """Return the folder of manifests, records and tensors: NAS_CACHE_DIR, else nas/ in the user's cache folder.

    Raise `DataError` where there is no home folder to be found.
    """
    if chosen := os.environ.get("NAS_CACHE_DIR"):
        return Path(chosen) / "folders"
    try:
        return platformdirs.user_cache_path("nas", appauthor=False, opinion=False) / "folders"
    except RuntimeError as error:
        raise DataError("this user has no home folder for the tensors of images: set NAS_CACHE_DIR=DIR") from error


def manifests_dir() -> Path:
    return own_dir() / "manifests"


def find_own_set(name: str) -> OwnSet | None:
    """Return the own set of this name, or None. Raise `StorageError` for a damaged record."""
    if not name or name != Path(name).name:
        return None
    try:
        path = own_dir() / "sets" / f"{name}.json"
    except DataError:  # no home: no set either
        return None
    try:
        return read_record(path, OwnSet) if path.is_file() else None
    except OSError:  # a name too long for a file
        return None


def store_own_set(record: OwnSet) -> None:
    """Write a record; tensors of the images that it had before go. Raise `StorageError` where it cannot be written."""
    path = own_dir() / "sets" / f"{record.name}.json"
    before = None
    with contextlib.suppress(StorageError):
        before = find_own_set(record.name)
    if before == record:
        return
    make_folder(path.parent)
    write_json(path, asdict(record))
    if before is not None and before.key != record.key:
        shutil.rmtree(tensors_dir(before.key), ignore_errors=True)


# The short way: a folder that has not changed since it was accepted with the same options


def find_seen(source: Path, options: FolderOptions, stamp: str) -> OwnSet | None:
    """Return the record of a folder that was accepted as it is now; None where everything has to be looked at."""
    try:
        record = find_own_set(str(read_json(_seen(source, options))["name"]))
    except (StorageError, LookupError):
        return None
    there = record is not None and record.stamp == stamp and (tensors_dir(record.key) / "info.json").is_file()
    return record if there else None


def store_seen(source: Path, options: FolderOptions, name: str) -> None:
    """Write down that a folder was accepted with these options. Raise `StorageError` where that fails."""
    make_folder(_seen(source, options).parent)
    write_json(_seen(source, options), {"name": name})


def _seen(source: Path, options: FolderOptions) -> Path:
    identity = json.dumps([os.fsencode(source).hex(), asdict(options)])
    return own_dir() / "seen" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


# Tensors


def tensors_dir(key: str) -> Path:
    return own_dir() / "tensors" / key


@dataclass(frozen=True)
class Tensors:
    """The contents of a key's tensors, besides pixels."""

    failures: Mapping[str, str]
    """Files that have a header and no pixels, and why."""
    labels: Mapping[SplitName, NDArray[np.int64]]
    num_validation: int
    """The last of the training images."""


def read_tensors(key: str) -> Tensors | None:
    """Return what is there under a key; None where nothing is, or it is damaged and has to be made again."""
    folder = tensors_dir(key)
    with contextlib.suppress(StorageError, LookupError, OSError, ValueError):
        stored = read_json(folder / "info.json")
        splits: tuple[SplitName, ...] = ("train", "test")
        labels = {split: np.load(folder / f"{split}-labels.npy") for split in splits}
        for split in splits:
            if len(np.load(folder / f"{split}-images.npy", mmap_mode="r")) != len(labels[split]):
                return None
        return Tensors(stored["failures"], labels, stored["num_validation"])
    return None


def write_tensors(
    key: str, splits: Mapping[SplitName, tuple[Pixels, Any]], failures: Mapping[str, str], held_out: int
) -> None:
    """Write images (N, C, H, W) and labels of both splits; the last `held_out` training images are for validation.

    Raise `StorageError` where they cannot be written.
    """
    make_folder(tensors_dir(key).parent)
    try:
        with replace_folder(tensors_dir(key)) as folder:
            for split, (images, labels) in splits.items():
                np.save(folder / f"{split}-images.npy", images)
                np.save(folder / f"{split}-labels.npy", np.asarray(labels, dtype=np.int64))
            write_json(folder / "info.json", {"failures": dict(failures), "num_validation": held_out})
    except OSError as error:
        raise cannot_write(tensors_dir(key), error) from error


def load_split(key: str, split: SplitName) -> Split:
    """Return the images of a split. Raise `OSError` or `ValueError` where they are not there whole."""
    folder = tensors_dir(key)
    images, labels = np.load(folder / f"{split}-images.npy", mmap_mode="c"), np.load(folder / f"{split}-labels.npy")
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
