"""Image files of any kind as the images that a network takes: uint8, of its size, its polarity and its channels."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.data import FolderOptions, square
from nas.errors import DataError

Polarity = Literal["auto", "as-is", "invert"]
Pixels = NDArray[np.uint8]

MAX_PIXELS = 100_000_000
"""A larger image is refused: opening it would take gigabytes."""

BLANK = "blank: all pixels alike"
BLANK_INSIDE = "blank for the network: all its pixels alike"

_FAINT = 1 / 8
"""Share of the levels that an image spans at least; below it is noted."""

_INK = 0.25
"""Share of the contrast above which a pixel of a drawing belongs to it."""
_DRAWN = 20 / 28
"""Share of the side that a digit of MNIST takes at most; its centre of mass is the image's centre."""
_MIDDLE = 127.5


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The images that a network was trained on, as far as a file has to be made like them."""

    input_shape: tuple[int, int, int]
    light_on_dark: bool
    """True for grey images of light things on a dark ground, as in MNIST and its relatives."""
    digits: bool
    """True for drawings that are centred as MNIST's digits are."""
    own: FolderOptions | None = None
    """The options by which own images were read for training: a file is read in the same way, and nothing guessed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A file's image, made ready."""

    pixels: Pixels
    """(C, H, W)."""
    notes: tuple[str, ...]
    """The changes beyond size and colour, inverted and centred; the first of several pictures, and very low contrast;
    `BLANK` where the file's image has one colour, or `BLANK_INSIDE` where the network's has."""


class ImageFiles:
    """The files below folders whose suffix is an image's; hidden ones are passed over, and all others counted."""

    def __init__(self) -> None:
        self.left_out = 0
        """Other files so far: without an image's suffix, links to folders, and what is no regular file."""

    def below(self, folder: Path) -> Iterator[tuple[Path, OSError | None]]:
        """Yield each file in order; with an error, a folder that cannot be read and a link that leads nowhere."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, error
            return
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self.below(path)
                continue
            try:
                regular = stat.S_ISREG(entry.stat().st_mode)
            except OSError as error:
                yield path, error
                continue
            if regular and path.suffix.lower() in Image.registered_extensions():
                yield path, None
            else:
                self.left_out += 1


def read_picture(source: Path | bytes, fit: Fit, polarity: Polarity = "auto") -> Picture:
    """Return a file's image, or that of its bytes, as a network takes it. Raise `DataError` for what is no image.

    Turned as EXIF says; what is transparent becomes the ground; 16 bits, CMYK and palettes become 8-bit grey or RGB;
    the first frame of several. It keeps its shape: the shorter side is filled up with the ground. `polarity` auto
    inverts a grey image with a light ground for a network that knows light things on dark. For a network trained on own
    images (`fit.own`) a file is made ready exactly as they were.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about large or odd files
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise DataError(f"it has {opened.width:,} x {opened.height:,} pixels, which is too many")
                several = _several(opened)
                if fit.own is not None:
                    made = _as_own(opened, fit.own, polarity)
                else:
                    plain = _plain(ImageOps.exif_transpose(opened), channels=fit.input_shape[0])
                    made = _fitted(plain, fit, polarity)
                return replace(made, notes=(*made.notes, *_faint(opened), *several))
    except UnidentifiedImageError as error:
        raise DataError("it is no image that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise DataError("it has too many pixels") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything for a broken file
        raise DataError(getattr(error, "strerror", None) or f"it is damaged ({error})") from error


def _several(image: Image.Image) -> tuple[str, ...]:
    """The note on a file of several pictures: frames, or pages."""
    count = 1
    with contextlib.suppress(Exception):  # a later one is damaged: the first is read all the same
        count = getattr(image, "n_frames", 1)
    image.seek(0)
    return (f"first of {count} pictures",) if count > 1 else ()


def _faint(image: Image.Image) -> tuple[str, ...]:
    """The note on an image with a fraction of the levels that its file can hold, as of 12 bits in 16, and no blank."""
    if image.mode in ("P", "PA"):  # their levels are numbers of colours
        image = image.convert("RGBA")
    low, high = max(_extrema(image), key=lambda ends: ends[1] - ends[0])
    full = 255
    if image.mode.startswith(("I", "F")) and high > 255:
        full = 65535
    elif image.mode == "F" and high <= 1:
        full = 1
    return (f"very low contrast: levels {low:g} to {high:g} of {full}",) if 0 < high - low < full * _FAINT else ()


def _as_own(image: Image.Image, options: FolderOptions, polarity: Polarity) -> Picture:
    made = square(image, options)
    blank = _one_colour(image)  # after `square`, which reads large files at a fraction of their size
    if polarity == "invert":
        made = ImageOps.invert(made)
    levels = np.asarray(made)
    pixels = levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
    return _picture(pixels, ["inverted"] if polarity == "invert" else [], blank)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """The image as 8-bit grey, or RGB, without transparency."""
    kind = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(np.asarray(image).astype(np.float64)).convert(kind)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        levels, alpha = np.asarray(image.convert("L")), np.asarray(image.getchannel("A"))
        seen = levels[alpha > 0]
        dark = bool(seen.size) and float(seen.mean()) > _MIDDLE  # a light drawing lies on black, a dark one on white
        ground = Image.new("RGBA", image.size, "black" if dark else "white")
        image = Image.alpha_composite(ground, image)
    return image if image.mode == kind else image.convert("RGB").convert(kind)


def _eight_bits(levels: NDArray[np.float64]) -> Image.Image:
    """Levels of 0..1, 0..255 or 0..65535 as bytes."""
    largest = float(levels.max(initial=0))
    if not np.isfinite(levels).all():
        raise DataError("it holds numbers that are not finite")
    scale = 255 if 0 < largest <= 1 and (levels % 1).any() else 1 if largest <= 255 else 255 / 65535
    return Image.fromarray(np.clip(np.rint(levels * scale), 0, 255).astype(np.uint8))


def _fitted(image: Image.Image, fit: Fit, polarity: Polarity) -> Picture:
    channels, height, width = fit.input_shape
    notes, blank = [], _one_colour(image)
    ground = _border(np.asarray(image))
    light = fit.light_on_dark and float(ground.mean()) > _MIDDLE
    if polarity == "invert" or (polarity == "auto" and light):
        image, ground = ImageOps.invert(image), 255 - ground
        notes.append("inverted")
    if image.size != (width, height):
        centred = _centred(np.asarray(image), ground, (height, width)) if fit.digits else None
        if centred is not None:
            image = centred
            notes.append("centred")
        else:
            colour: Any = int(ground[0]) if channels == 1 else tuple(int(level) for level in ground)
            image = ImageOps.pad(image, (width, height), Image.Resampling.BOX if _shrinks(image, width, height)
                                 else Image.Resampling.BICUBIC, color=colour)  # fmt: skip
    pixels = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
    return _picture(pixels, notes, blank)


def _picture(pixels: Pixels, notes: list[str], blank: bool) -> Picture:
    if blank or (pixels == pixels[:, :1, :1]).all():
        notes = [*notes, BLANK if blank else BLANK_INSIDE]
    return Picture(pixels=np.ascontiguousarray(pixels), notes=tuple(notes))


def _one_colour(image: Image.Image) -> bool:
    """True where every band of an image has one level."""
    return all(low == high for low, high in _extrema(image))


def _extrema(image: Image.Image) -> tuple[tuple[float, float], ...]:
    """The lowest and the highest level of every band."""
    extrema: Any = image.getextrema()
    return extrema if isinstance(extrema[0], tuple) else (extrema,)


def _shrinks(image: Image.Image, width: int, height: int) -> bool:
    return image.width >= width and image.height >= height


def _border(levels: Pixels) -> NDArray[np.float64]:
    """The median level of the outermost pixels, for each channel."""
    planes = levels.reshape(*levels.shape[:2], -1)
    edge = [planes[0], planes[-1], planes[:, 0], planes[:, -1]]
    return np.asarray(np.median(np.concatenate(edge), axis=0), dtype=np.float64)


def _centred(levels: Pixels, ground: NDArray[np.float64], size: tuple[int, int]) -> Image.Image | None:
    """A light drawing cut out and centred as MNIST's are; None where there is no drawing to see."""
    light = np.clip(levels.astype(np.float64) - ground[0], 0, None)
    strongest = float(np.quantile(light, 0.999))
    if strongest < 255 / 10:
        return None
    light = np.clip(light / strongest, 0, 1)
    drawn = light > _INK
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    cut = Image.fromarray((light * 255).astype(np.uint8)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    factor = min(size[0] * _DRAWN / cut.height, size[1] * _DRAWN / cut.width)
    shape = max(1, round(cut.width * factor)), max(1, round(cut.height * factor))
    small = np.asarray(cut.resize(shape, Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC))
    weight = np.maximum(small.astype(np.float64), 1e-9)
    middle = [float((weight.sum(1 - axis) * np.arange(side)).sum() / weight.sum()) for axis, side in
              enumerate(small.shape)]  # fmt: skip
    whole = np.zeros(size, np.uint8)
    at = [min(max(round((full - 1) / 2 - centre), 0), full - side)
          for full, centre, side in zip(size, middle, small.shape, strict=True)]  # fmt: skip
    whole[at[0] : at[0] + small.shape[0], at[1] : at[1] + small.shape[1]] = small
    return Image.fromarray(whole)
