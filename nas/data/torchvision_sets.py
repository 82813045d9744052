"""Any data set of torchvision by its class name, as a .npz file in the user's cache: from then on own images."""

from __future__ import annotations

import difflib
import inspect
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.data.folder_options import ImageProgress
from nas.data.manifest import make_folder
from nas.data.own_sets import own_dir
from nas.data.pictures import Pixels
from nas.data.reader import one_line
from nas.errors import DataError, UsageError
from nas.files import write_atomic

PREFIX = "torchvision:"
_OTHER_WAY = "save its images as a folder for each class, or as a .npz file, and give the path as --dataset"


def torchvision_path(name: str) -> Path | None:
    """Return where `torchvision:USPS` lies as a .npz file, there or not; None for another name."""
    if not name.startswith(PREFIX):
        return None
    return own_dir() / "torchvision" / f"{name.removeprefix(PREFIX)}.npz"


def fetch_torchvision(name: str, root: Path, *, download: bool, progress: ImageProgress | None) -> None:
    """Write the .npz file of `torchvision:USPS` where it is not there, downloaded into `root` if need be.

    Raise `UsageError` for a name that torchvision does not have, `DataError` for a set that is missing, or that is not
    made of images of one size with a class each.
    """
    path = torchvision_path(name)
    assert path is not None
    label = name.removeprefix(PREFIX)
    kind = _kind(label)
    if path.is_file():
        return
    names = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "": ("x", "y")}
    arrays: dict[str, Any] = {}
    for part, given in _parts(label, kind):
        dataset = _open(label, kind, root, given, download)
        arrays.update(zip(names[part], _arrays(label, dataset, progress), strict=True))
    make_folder(path.parent)
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomic(path, content.getvalue())


def _kind(label: str) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, label, None)
    if label not in datasets.__all__ or not inspect.isclass(kind) or kind is datasets.VisionDataset:
        near = difflib.get_close_matches(label, datasets.__all__, n=1, cutoff=0.5)
        meant = f": perhaps {PREFIX}{near[0]}?" if near else ": give the name of a class, such as torchvision:USPS"
        raise UsageError(f"torchvision has no data set '{label}'{meant}")
    return kind


def _parts(label: str, kind: Any) -> Sequence[tuple[str, dict[str, Any]]]:
    """Return the splits of a set, each with the arguments that choose it."""
    takes = inspect.signature(kind).parameters
    required = [
        name for name, each in takes.items()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD and name != "root"
    ]  # fmt: skip
    if required:
        raise DataError(f"torchvision's {label} wants to know its {' and '.join(required)}: {_OTHER_WAY}")
    if "train" in takes:
        return [("train", {"train": True}), ("test", {"train": False})]
    if "split" in takes:
        return [("train", {"split": "train"}), ("test", {"split": "test"})]
    return [("", {})]


def _open(label: str, kind: Any, root: Path, given: dict[str, Any], download: bool) -> Any:
    """Return a split, downloaded where it is not there."""
    if "root" in inspect.signature(kind).parameters:
        given = {"root": root, **given}
    try:
        return kind(**given)
    except Exception as error:  # each set has its own way to say that it is not there
        if not download or "download" not in inspect.signature(kind).parameters:
            raise DataError(f"torchvision's {label} is not in {root} ({one_line(error)}): {_OTHER_WAY}") from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        return kind(**given, download=True)
    except Exception as error:
        raise DataError(f"torchvision could not fetch {label} into {root} ({one_line(error)}): {_OTHER_WAY}") from error


def _arrays(label: str, dataset: Any, progress: ImageProgress | None) -> tuple[Pixels, Any]:
    """Return the images of a split and their classes, by name where the set names them."""
    images: list[Pixels] = []
    labels: list[int] = []
    for image, number in _items(label, dataset, progress):
        if images and image.shape != images[0].shape:
            sizes = " and ".join("x".join(map(str, each.shape)) for each in (images[0], image))
            raise DataError(f"torchvision's {label} has images of several sizes, such as {sizes}: {_OTHER_WAY}")
        images.append(image)
        labels.append(number)
    if not images:
        raise DataError(f"torchvision's {label} has no image: {_OTHER_WAY}")
    names = [str(each) for each in getattr(dataset, "classes", None) or ()]
    numbers = np.array(labels, dtype=np.int64)
    named = len(set(names)) == len(names) > numbers.max() and numbers.min() >= 0
    return np.stack(images), np.array(names)[numbers] if named else numbers


def _items(label: str, dataset: Any, progress: ImageProgress | None) -> Iterator[tuple[Pixels, int]]:
    for place in range(len(dataset)):
        item = dataset[place]
        number = item[1] if isinstance(item, tuple) and len(item) == 2 else None
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not hasattr(item[0], "convert"):
            raise DataError(f"torchvision's {label} does not have one image and one class at a time: {_OTHER_WAY}")
        yield np.asarray(item[0].convert("L" if item[0].mode in ("1", "L") else "RGB")), int(number)
        if progress is not None and place % 500 == 0:
            progress(f"reading {label}", place, len(dataset))
