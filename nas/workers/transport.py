"""How things travel to workers: the images once, in memory that all of them map; all else by value, through pipes.

torch would put each tensor into a file of /dev/shm, of which a container has 64 MB by default.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nas.data import data_root
from nas.errors import DataError, StorageError

ALIGNMENT = 64
"""Bytes; a tensor that starts within a cache line is read more slowly."""


class Disconnected(Exception):
    """The other side of a channel is gone."""


class Channel:
    """One side of a pipe that carries any object; raises `Disconnected` when the other side is gone."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, value: Any) -> None:
        content = dumps(value)
        try:
            self.connection.send_bytes(content)
        except OSError as error:
            raise Disconnected from error

    def receive(self) -> Any:
        try:
            content = self.connection.recv_bytes()
        except (EOFError, OSError) as error:  # OSError: it died in the middle of a message
            raise Disconnected from error
        return pickle.loads(content)  # of a process of our own

    def close(self) -> None:
        self.connection.close()


class SharedData:
    """An object whose tensors lie in memory that processes share; a spawned process gets the object itself.

    The memory has no name: it is gone with the last process that maps it, however that ends.
    """

    def __init__(self, value: Any) -> None:
        self._value, self._file = value, None
        if sys.platform == "win32":  # a child inherits no descriptors there: each gets a copy
            return
        buffers: list[pickle.PickleBuffer] = []
        self._head = dumps(value, buffers.append)
        self._spans: list[tuple[int, int]] = []  # bounds of each buffer
        end = 0
        for buffer in buffers:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + buffer.raw().nbytes
            self._spans.append((start, end))
        self._file = _unnamed_file(buffers, self._spans)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Only while a process is being spawned."""
        if self._file is None:
            return pickle.loads, (dumps(self._value),)
        return _attach, (self._head, self._spans, DupFd(self._file.fileno()))

    def close(self) -> None:
        """Let go of the memory; processes that map it keep it."""
        if self._file is not None:
            self._file.close()


def dumps(value: Any, take: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Return the pickled `value` with its tensors by value, or without their contents, which `take` is given."""
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=take).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        # torch's own would pickle the whole memory of which a tensor is a part: a file of weights, for each weight.
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.detach().cpu().contiguous().numpy(),)
        return NotImplemented


def _attach(head: bytes, spans: list[tuple[int, int]], descriptor: Any) -> Any:
    """Return the object, in the process that was spawned: its tensors are the shared memory itself."""
    number: int = descriptor.detach()
    try:
        if not spans:
            return pickle.loads(head)
        # A copy on write: nobody writes to images, and torch warns of memory that cannot be written to.
        view = memoryview(mmap.mmap(number, spans[-1][1], access=mmap.ACCESS_COPY))
    finally:
        os.close(number)
    return pickle.loads(head, buffers=[view[start:end] for start, end in spans])


def _unnamed_file(buffers: list[pickle.PickleBuffer], spans: list[tuple[int, int]]) -> IO[bytes]:
    """Return a file with these contents: of memory where the system has such, else in a folder.

    A file of memory does not count towards the size of /dev/shm. Raises `StorageError` where no folder has room.
    """
    refused: OSError | None = None
    if hasattr(os, "memfd_create"):
        try:
            return _filled(os.fdopen(os.memfd_create("nas-training-data"), "w+b", buffering=0), buffers, spans)
        except OSError as error:
            refused = error
    failures = []
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _filled(tempfile.TemporaryFile(dir=folder, buffering=0), buffers, spans)  # noqa: SIM115  it stays
        except OSError as error:
            failures.append(f"{folder}: {error.strerror or error}")
            continue
        if refused is not None:
            why = f"No shared memory here ({refused.strerror or refused})"
            print(f"{why}: the workers read their images from a file in {folder}", file=sys.stderr)
        return file
    megabytes = spans[-1][1] / 1e6 if spans else 0
    raise StorageError(
        f"the training data, {megabytes:,.0f} MB, find no room that workers share ({'; '.join(failures)}): "
        f"set TMPDIR to a folder that has it"
    )


def _filled(file: IO[bytes], buffers: list[pickle.PickleBuffer], spans: list[tuple[int, int]]) -> IO[bytes]:
    try:
        for buffer, (start, _) in zip(buffers, spans, strict=True):
            rest = buffer.raw()
            while rest:  # Linux writes 2 GB at a time
                start += (written := os.pwrite(file.fileno(), rest, start))
                rest = rest[written:]
    except OSError:
        file.close()
        raise
    return file


def _folders() -> list[Path]:
    """The cache first: a temporary folder may be memory as well."""
    try:
        return [data_root(None), Path(tempfile.gettempdir())]
    except (DataError, RuntimeError, OSError):  # there is no home, or no temporary folder
        return [Path(tempfile.gettempdir())]
