"""The options by which own images become squares of one size, and the name that a set of them has."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas.errors import UsageError
from nas.files import short_digest
from nas.values import require_fields

SIZES = (16, 28, 32, 48, 64, 96)
"""The sides that an image has by default: the one nearest to the images' own."""

SMALLEST, LARGEST = 8, 512

Background = Literal["white", "black"]
ImageProgress = Callable[[str, int, int], None]
"""Called with a task, and how many images of how many are done."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How own images are read. A default of None is chosen by the images at first sight, and stays."""

    image_size: int | None = None
    """The side of the square in pixels."""
    crop: bool = False
    """Cut the middle square out, instead of adding bars to the shorter side."""
    grayscale: bool | None = None
    """One channel instead of three (default: where no image has a colour)."""
    background: Background | None = None
    """The colour behind transparent pixels and of the bars (default: white behind pixels, black bars)."""
    skip_unreadable: bool = False
    """Leave out files that cannot be read, instead of refusing the folder."""
    allow_duplicates: bool = False
    """Take a folder with the same file in two splits."""

    def __post_init__(self) -> None:
        size = self.image_size
        if size is not None and not (type(size) is int and SMALLEST <= size <= LARGEST):
            raise UsageError(f"the image size is a whole number from {SMALLEST} to {LARGEST} pixels, not {size!r}")
        require_fields(self)

    @property
    def pixels(self) -> dict[str, Any]:
        """The options that change pixels, which are part of a data set's identity."""
        return {name: getattr(self, name) for name in ("image_size", "crop", "grayscale", "background")}

    @property
    def words(self) -> str:
        """The pixel options in words, such as `32 x 32, RGB, black bars on the shorter sides, transparent on white`."""
        rule = "the middle square cut out" if self.crop else f"{self.background or 'black'} bars on the shorter sides"
        side, kind = self.image_size, "grey" if self.grayscale else "RGB"
        return f"{side} x {side}, {kind}, {rule}, transparent on {self.background or 'white'}"

    @property
    def given(self) -> bool:
        """True where any option is not its default."""
        return self != FolderOptions()

    def over(self, stored: dict[str, Any]) -> FolderOptions:
        """Return the same with pixel options of a stored data set. Raise `UsageError` for one that differs."""
        default = FolderOptions()
        for name, value in self.pixels.items():
            if value != getattr(default, name) and value != stored[name]:
                raise UsageError(
                    f"this data set has {name} = {stored[name]}, not {value}: give its folder as --dataset for another"
                )
        return dataclasses.replace(self, **stored)


def default_size(sides: Sequence[tuple[int, int]]) -> int:
    """Return the side of `SIZES` nearest to the median side of images (width, height), by ratio."""
    side = statistics.median_low([width * height for width, height in sides]) ** 0.5
    return min(SIZES, key=lambda size: abs(math.log(size / side)))


def set_name(path: Path, options: FolderOptions, classes: Collection[str]) -> str:
    """Return a data set's name: that of the folder, and a digest of its path, pixel options and classes.

    Files that come or go leave it as it is; the hash of the images tells them apart.
    """
    identity = [os.fsencode(path).hex(), options.pixels, list(classes)]
    stem = path.stem if path.suffix == ".npz" else path.name
    plain = re.sub(r"[^\w.-]+", "-", os.fsencode(stem).decode("utf-8", "replace")).strip("-.")
    short = plain.encode()[:60].decode(errors="ignore")  # a study's name has at most 200 bytes
    return f"{short or 'images'}-{short_digest(json.dumps(identity))}"


def own_path(name: str) -> Path | None:
    """Return the path that a user means by `folder:PATH` or by something that looks like one; None for a plain name."""
    if name.startswith("folder:"):
        return Path(name.removeprefix("folder:"))
    looks = os.sep in name or name.startswith((".", "~")) or name.lower().endswith(".npz")
    return Path(name) if looks else None
