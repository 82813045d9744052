"""Data set names to tensors: the data directory, what is missing in it, the training set."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import get_args

import platformdirs
import torch
from torch import Tensor

from nas.data.catalog import DATASETS, PUBLISHED_MD5, find_dataset
from nas.data.dataset import Dataset, Normalization, Split, SplitName, TrainingData
from nas.data.download import download as download_files
from nas.data.folder_options import FolderOptions, ImageProgress, own_path
from nas.data.mnist_5k import INSTALL, Mnist5k
from nas.data.own_images import OwnReader, prepare_own
from nas.data.own_sets import OwnSet, find_own_set
from nas.data.readers import reader_of
from nas.data.splits import VALIDATION_SHARE, held_out_size, sha256, stratified_split
from nas.data.torchvision_sets import PREFIX, fetch_torchvision, torchvision_path
from nas.errors import DataError, UsageError

_CHOOSE = "pass --data-dir DIR or set NAS_DATA_DIR=DIR"


def data_root(data_dir: Path | None) -> Path:
    """Return the directory of the data sets: `data_dir`, else NAS_DATA_DIR, else nas/ in the user's cache folder.

    Raise `DataError` where there is no home folder to be found.
    """
    given = data_dir or (Path(chosen) if (chosen := os.environ.get("NAS_DATA_DIR")) else None)
    if given is not None:
        try:
            return given.expanduser()
        except RuntimeError as error:  # ~nobody-of-this-name, or ~ without a home
            raise DataError(f"no home folder for {given}: {_CHOOSE} without ~") from error
    try:
        return platformdirs.user_cache_path("nas", appauthor=False, opinion=False)
    except RuntimeError as error:
        raise DataError(f"this user has no home folder to keep data sets in: {_CHOOSE}") from error


def prepare_dataset(
    name: str | None, *, data_dir: Path | None, download: bool = True, options: FolderOptions | None = None,
    progress: ImageProgress | None = None,
) -> Dataset:  # fmt: skip
    """Return the data set of that name with its training files present, downloaded if need be (bar on stderr).

    A path, or folder:PATH, is a folder with a folder of images for each class, or a .npz file: it is read by `options`,
    once, and `progress` is told how far that is; so is torchvision:USPS, any set of torchvision by its class. The name
    of the data set that comes of it stands for it from then on.

    Without a name: MNIST where it is present or can be downloaded, else the 5,000-image subset, whose
    `notice` the caller has to show. Call it once, in the parent, before any worker starts: two processes would
    download twice, and `load_training_data` never downloads.

    Raise `UsageError` for an unknown name, `DataError` for files that are missing and cannot be downloaded, and for own
    images that a search must not run on.
    """
    if name is not None and (own := own_source(name)) is not None:
        if name.startswith(PREFIX):
            fetch_torchvision(name, data_root(data_dir), download=download, progress=progress)
        return prepare_own(own, options or FolderOptions(), progress).dataset
    if options is not None and options.given:
        raise UsageError("image options are for own images: give their folder as --dataset PATH")
    if name is not None:
        dataset = find_dataset(name)
        prepare_split(dataset, "train", data_dir, download=download)
        return dataset
    mnist, subset, root = DATASETS["mnist"], DATASETS["mnist-5k"], data_root(data_dir)
    failure = _why_missing(mnist, "train", root, download=download)
    if failure is None:
        return mnist
    if not Mnist5k.installed():
        raise _missing(mnist, "train", root, failure)
    return replace(subset, notice=f"No MNIST in {root} ({failure}). {subset.notice}")


def own_source(name: str) -> Path | OwnSet | None:
    """Return the own images that a name means: a path, or a set that was prepared; None for the catalogue's names."""
    if (path := torchvision_path(name) or own_path(name)) is not None:
        return path
    with contextlib.suppress(UsageError):
        return None if (known := find_dataset(name)).name in DATASETS else find_own_set(known.name)
    return Path(name) if os.path.isdir(name) else None  # noqa: PTH112  pathlib raises for a name that is too long


def prepare_split(dataset: Dataset, split: SplitName, data_dir: Path | None, *, download: bool) -> Path:
    """Return the data directory with the files of a split in it. Raise `DataError` where they are not to be had."""
    if not reader_of(dataset).downloads:
        return Path()
    root = data_root(data_dir)
    if failure := _why_missing(dataset, split, root, download=download):
        raise _missing(dataset, split, root, failure)
    return root


def _why_missing(dataset: Dataset, split: SplitName, root: Path, *, download: bool) -> str | None:
    """Return why files of a split are missing after a download, if wanted and needed; None where all are there."""
    reader = reader_of(dataset)

    def missing() -> str:
        return ", ".join(path.name for path in reader.files(split, root) if not path.is_file())

    if not (names := missing()):
        return None
    if not download:
        return f"{names} not found, and nothing was downloaded"
    if failure := download_files(dataset, reader, split, root):
        return failure
    return f"torchvision did not write {names}" if (names := missing()) else None


def _missing(dataset: Dataset, split: SplitName, root: Path, failure: str) -> DataError:
    reader = reader_of(dataset)
    folder = reader.files(split, root)[0].parent
    wanted = [path for each in get_args(SplitName) for path in reader.files(each, Path("DIR"))]
    names = dict.fromkeys(path.name for path in wanted)
    install = "" if Mnist5k.installed() else f", after {INSTALL}"
    return DataError(
        f"no {split} split of {dataset.title} in {folder} ({failure}). Three ways out: "
        f"(1) connect to the network and run again; "
        f"(2) put {', '.join(names)} into a folder {wanted[0].parent} and {_CHOOSE}; "
        f"(3) try the tool on a 5,000-image subset of MNIST with --dataset mnist-5k{install}"
    )


def load_training_data(
    dataset: Dataset,
    *,
    data_dir: Path | None,
    validation: int | float | None = VALIDATION_SHARE,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> TrainingData:
    """Load the training set as tensors on `device`, without reading or needing the test files. Never download.

    `validation` is a number of images, or a share when below 1, drawn class
    by class from `seed`; None leaves the whole training set in `train`. Own images with a folder for validation have
    just those, whatever the number.

    Raise `DataError` for files that are missing, broken, of another shape or of another data set, `UsageError` for a
    split that leaves fewer images than classes.
    """
    root = prepare_split(dataset, "train", data_dir, download=False)
    whole = read_split(dataset, "train", root)
    reader = reader_of(dataset)
    own = reader.record if isinstance(reader, OwnReader) else None
    warning = _difference(dataset, whole, root) if own is None else own.warning
    train, held_out = whole, None
    if validation is not None and own is not None and own.num_validation:
        first = len(whole) - own.num_validation
        train, held_out = (
            Split(whole.images[part].clone(), whole.labels[part].clone()) for part in (slice(first), slice(first, None))
        )
    elif validation is not None:
        size = held_out_size(len(whole), validation, 0 if own is None else dataset.num_classes)
        train, held_out = stratified_split(whole, size, dataset.num_classes, torch.Generator().manual_seed(seed))
    return TrainingData(
        dataset=dataset,
        train=train.to(device),
        validation=None if held_out is None else held_out.to(device),
        normalization=Normalization.from_images(train.images),
        hash=sha256(whole),
        warning=warning,
    )


def read_split(dataset: Dataset, split: SplitName, root: Path) -> Split:
    """Read a split and check its shape and classes; for this module and `open_test`. Raise `DataError`."""
    reader = reader_of(dataset)
    read = reader.read(split, root)
    found = (tuple(read.images.shape), tuple(read.labels.shape), sorted(set(read.labels.tolist())))
    every = list(range(dataset.num_classes))
    if isinstance(reader, OwnReader) and set(found[2]) <= set(every):  # what it lacks was told when it was prepared
        every = found[2]
    needed = ((len(read), *dataset.input_shape), (len(read),), every)
    if found != needed:
        raise DataError(
            f"the {split} split of {dataset.title} has images, labels and classes {found}, not {needed}: "
            f"replace the files in {reader.files(split, root)[0].parent}"
        )
    return read


def _difference(dataset: Dataset, whole: Split, root: Path) -> str | None:
    """Return a warning when the training set is not the published one, for the sets whose md5 sums are known.

    Raise `DataError` when its labels are those of another set: MNIST and its relatives share their file names.
    """
    # The sums are those of the files: their headers (magic number, sizes) are made again here.
    num_images, _, height, width = whole.images.shape
    labels = _md5(struct.pack(">2I", 0x801, num_images), whole.labels.to(torch.uint8))
    for name, (_, published) in PUBLISHED_MD5.items():
        if name != dataset.name and labels == published:
            raise DataError(
                f"the training labels in {reader_of(dataset).files('train', root)[-1]} are those of "
                f"{DATASETS[name].title}, not of {dataset.title}: use --dataset {name}, or {_CHOOSE}"
            )
    if dataset.name not in PUBLISHED_MD5:
        return None
    found = (_md5(struct.pack(">4I", 0x803, num_images, height, width), whole.images), labels)
    parts = zip(("images", "labels"), found, PUBLISHED_MD5[dataset.name], strict=True)
    differing = [f"{part} (md5 {md5}, published {right})" for part, md5, right in parts if md5 != right]
    if not differing:
        return None
    return (
        f"training {' and '.join(differing)} differ from the official {dataset.title}: "
        f"results may differ slightly from published ones"
    )


def _md5(header: bytes, values: Tensor) -> str:
    digest = hashlib.md5(header, usedforsecurity=False)
    digest.update(values.numpy().data)
    return digest.hexdigest()
