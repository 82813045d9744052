"""Single image files: what their headers hold, and their pixels as a square; many of them in parallel processes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.data.folder_options import FolderOptions, ImageProgress
from nas.data.reader import one_line
from nas.errors import DataError
from nas.machine import caller_left_out

CHUNK = 64

Pixels = NDArray[np.uint8]
Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Header:
    """An image file without its pixels."""

    sha256: str
    width: int
    height: int
    mode: str


@dataclass(frozen=True)
class Decoded:
    """The outcome of a decoding: `error` where there are no pixels; `colour` where channels differ."""

    error: str | None = None
    colour: bool = False


@cache
def extensions() -> frozenset[str]:
    """Return the endings, in lower case with their dot, of files that Pillow reads by itself."""
    known = Image.registered_extensions()  # loads its plugins
    return frozenset(ending for ending, name in known.items() if name in Image.OPEN and name not in ("EPS", "PDF"))


def read_header(path: Path) -> Header | str:
    """Return the header of an image file, or why it has none."""
    try:
        content = path.read_bytes()
        with _quiet(), Image.open(io.BytesIO(content)) as image:
            return Header(hashlib.sha256(content).hexdigest(), *image.size, image.mode)
    except Exception as error:  # Pillow's plugins raise nearly anything for a broken file
        return reason(error)


def square(image: Image.Image, options: FolderOptions) -> Image.Image:
    """Return an image as a square of `options.image_size`, of mode RGB, or L with `options.grayscale`."""
    assert options.image_size is not None
    side = options.image_size
    image.draft(None, (2 * side, 2 * side))  # large JPEG files: an eighth of the work
    plain = _flat(ImageOps.exif_transpose(image), options.background or "white")
    plain = plain.convert("L" if options.grayscale else "RGB")
    if plain.size == (side, side):
        return plain
    if options.crop:
        return ImageOps.fit(plain, (side, side), Image.Resampling.BICUBIC)
    scale = side / max(plain.size)
    width, height = (max(1, round(length * scale)) for length in plain.size)
    canvas = Image.new(plain.mode, (side, side), options.background or "black")
    canvas.paste(plain.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
    return canvas


def _flat(image: Image.Image, background: str) -> Image.Image:
    """Return an image of mode L or RGB: eight bits, without transparency."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, background)
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _eight_bits(values: NDArray[Any]) -> Pixels:
    """Return values of 16 bits, of 32 bits or floating, by their range: 0..1, 0..255 or 0..65535."""
    found = np.nan_to_num(values.astype(np.float64))
    top = found.max(initial=0.0)
    if values.dtype.kind == "f" and top <= 1:
        found = found * 255
    elif values.dtype.itemsize == 2 or top > 255:
        found = found // 256
    return np.clip(found.round(), 0, 255).astype(np.uint8)


def decode_file(path: Path, options: FolderOptions) -> Pixels:
    """Return the pixels of a file, (C, S, S). Raise whatever Pillow raises."""
    with _quiet(), Image.open(path) as image:
        found = np.asarray(square(image, options))
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


def _headers(paths: Sequence[Path]) -> list[Header | str]:
    return [read_header(path) for path in paths]


def _decode(rows: Sequence[tuple[int, Path]], target: Path, options: FolderOptions) -> list[tuple[int, Decoded]]:
    """Write the pixels of files into their rows of the array in `target`."""
    images, found = np.load(target, mmap_mode="r+"), []
    for row, path in rows:
        try:
            pixels = decode_file(path, options)
            images[row] = pixels
            found.append((row, Decoded(colour=len(pixels) == 3 and bool((pixels != pixels[:1]).any()))))
        except Exception as error:  # as above
            found.append((row, Decoded(error=reason(error))))
    return found


class Readers:
    """Processes that read image files; a context manager. They start at the first files; with a count of 1, none do."""

    def __init__(self, count: int, progress: ImageProgress | None) -> None:
        self._count, self._progress = count, progress
        self._executor: Executor | None = None

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def headers(self, paths: Sequence[Path]) -> list[Header | str]:
        """Return the header of each file, or why it has none."""
        chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
        found = dict(self._map("reading files", _headers, chunks))
        return [header for place in range(len(chunks)) for header in found[place]]

    def decode(self, paths: Sequence[Path], target: Path, options: FolderOptions) -> list[Decoded]:
        """Write the pixels of all files to a new array (N, C, S, S) in `target`, and return how each went."""
        side = options.image_size or 0
        shape = (len(paths), 1 if options.grayscale else 3, side, side)
        np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape).flush()
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; in the midst of an array it is a signal
            with target.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, target.stat().st_size)
        rows = list(enumerate(paths))
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        work = partial(_decode, target=target, options=options)
        found = dict(pair for _, answer in self._map("decoding images", work, chunks) for pair in answer)
        return [found[row] for row in range(len(paths))]

    def _map(
        self, task: str, work: Callable[[Sequence[Task]], list[Answer]], chunks: Sequence[Sequence[Task]]
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Yield each chunk's place and answer as they come, and tell the caller how many images are done."""
        total, done = sum(len(chunk) for chunk in chunks), 0
        for place, answer in self._answers(work, chunks):
            done += len(chunks[place])
            if self._progress is not None:
                self._progress(task, done, total)
            yield place, answer

    def _answers(
        self, work: Callable[[Sequence[Task]], list[Answer]], chunks: Sequence[Sequence[Task]]
    ) -> Iterator[tuple[int, list[Answer]]]:
        if self._count == 1 or not chunks:
            yield from ((place, work(chunk)) for place, chunk in enumerate(chunks))
            return
        if self._executor is None:
            # Not forked: the parent may hold torch's threads.
            self._executor = ProcessPoolExecutor(self._count, multiprocessing.get_context("spawn"), initializer=_begin)
        with caller_left_out():  # processes are started as work comes
            places = {self._executor.submit(work, chunk): place for place, chunk in enumerate(chunks)}
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that reads images was killed (out of memory?): free memory, or give a smaller --image-size"
            ) from error


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it: a process that waits for work is not told of its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings away: of odd metadata, which no pixel depends on, and of large images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def reason(error: Exception) -> str:
    """Return why a file cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)
