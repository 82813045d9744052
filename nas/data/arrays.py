"""Array files (.npz) with the images and labels of a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.data.folder_options import FolderOptions
from nas.data.folder_scan import Part
from nas.data.manifest import Entry
from nas.data.pictures import Decoded, Header, Pixels, square
from nas.errors import DataError

_WANTED = "save x_train, y_train, x_test and y_test, or x and y, with numpy.savez"
_NAMES: tuple[tuple[str, str, Part], ...] = (
    ("x_train", "y_train", "train"), ("x_val", "y_val", "validation"), ("x_test", "y_test", "test"), ("x", "y", "train")
)  # fmt: skip


@dataclass(frozen=True)
class ArrayFile:
    """The images (N, H, W) or (N, H, W, 3) of a .npz file, all splits one after the other."""

    images: Pixels
    entries: list[Entry]
    classes: tuple[str, ...]
    has_test: bool

    @classmethod
    def open(cls, path: Path) -> ArrayFile:
        """Read a file. Raise `DataError` for arrays that are missing, or are no images and labels."""
        arrays = _read(path)
        pairs = [(x, y, part) for x, y, part in _NAMES if x in arrays or y in arrays]
        if lone := [name for x, y, _ in pairs for name in (x, y) if name not in arrays]:
            raise DataError(f"{path} has no {lone[0]}: {_WANTED}")
        names = [x for x, _, _ in pairs]
        if ("x" in names and len(names) > 1) or ("x" not in names and "x_train" not in names):
            raise DataError(f"{path} has {', '.join(sorted(arrays)) or 'nothing'}: {_WANTED}")
        images, labels, entries = [], [], []
        for x, y, part in pairs:
            images.append(_images(path, x, arrays[x]))
            labels.append(_labels(path, y, arrays[y], len(images[-1])))
            entries += [
                Entry(f"{x}[{row}]", str(label), part, _header(image))
                for row, (image, label) in enumerate(zip(images[-1], labels[-1], strict=True))
            ]
        if len({part.shape[1:] for part in images}) > 1:
            raise DataError(f"{path} has images of {' and '.join(str(part.shape[1:]) for part in images)}: {_WANTED}")
        every = np.unique(np.concatenate(labels))
        return cls(np.concatenate(images), entries, tuple(str(label) for label in every), "x_test" in names)

    def with_parts(self, parts: Mapping[str, Part]) -> list[Entry]:
        """Return the images, each in the split that `parts` has for its hash where the file has no test images."""
        if self.has_test:
            return self.entries
        return [
            dataclasses.replace(entry, part=parts[entry.header.sha256]) if entry.part == "train" else entry
            for entry in self.entries
        ]

    def decode(self, entries: Sequence[Entry], options: FolderOptions) -> tuple[Pixels, list[Decoded]]:
        """Return the pixels of these images, (N, C, H, W), in their order; their own size without an image size."""
        rows = {entry.name: row for row, entry in enumerate(self.entries)}
        images = self.images[[rows[entry.name] for entry in entries]]
        if options.image_size is not None or (options.grayscale and images.ndim == 4):
            side = options.image_size or 0
            pictures = [Image.fromarray(image) for image in images]
            plain = [square(image, options) if side else image.convert("L") for image in pictures]
            images = np.stack([np.asarray(image) for image in plain])
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        if not options.grayscale and images.shape[1] == 1:
            images = images.repeat(3, axis=1)
        colour = (images != images[:, :1]).any(axis=(1, 2, 3))
        return np.ascontiguousarray(images), [Decoded(colour=bool(each)) for each in colour]


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is cut short, or no .npz file of plain arrays ({error}): {_WANTED}") from error


def _images(path: Path, name: str, values: NDArray[Any]) -> Pixels:
    """Return images as uint8, (N, H, W) or (N, H, W, 3)."""
    if values.ndim == 4 and values.shape[-1] not in (1, 3) and values.shape[1] in (1, 3):
        values = values.transpose(0, 2, 3, 1)
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (3, 4) or (values.ndim == 4 and values.shape[-1] != 3) or values.size == 0:
        raise DataError(
            f"{path} has {name} of shape {values.shape}: images are (N, H, W), (N, H, W, C) or (N, C, H, W), "
            "with 1 or 3 channels"
        )
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise DataError(f"{path} has {name} of {values.dtype}: pixels are 0 to 255, 0 to 1, or 16-bit")
    top = values.max()
    if values.dtype.kind == "f":
        values = (values * 255 if top <= 1 else values).round()
    return (values if top <= 255 else values // 256).astype(np.uint8)


def _labels(path: Path, name: str, values: NDArray[Any], count: int) -> NDArray[Any]:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    whole = values.dtype.kind in "iuU" or (values.dtype.kind == "f" and bool((values == values.round()).all()))
    if values.shape != (count,) or not whole:
        raise DataError(
            f"{path} has {name} of shape {values.shape} and {values.dtype} for {count} images: "
            "labels are a whole number or a text for each image"
        )
    return values.astype(np.int64) if values.dtype.kind == "f" else values


def _header(image: Pixels) -> Header:
    mode = "L" if image.ndim == 2 else "RGB"
    return Header(hashlib.sha256(image.tobytes()).hexdigest(), image.shape[1], image.shape[0], mode)
