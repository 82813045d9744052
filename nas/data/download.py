"""Downloading into the data directory: all of a data set's files or nothing, with a bar on standard error."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from nas.data.dataset import Dataset, SplitName
from nas.data.reader import MALFORMED, Reader, one_line

# Seconds that an address of a mirror may stay silent: a firewall dropping packets must not hang a first run.
DOWNLOAD_TIMEOUT = 10.0

# Those, and what a download and its unpacking add: no network, a full disk, a cut connection, a broken archive.
_FAILURES = (
    *MALFORMED,
    OSError,
    http.client.HTTPException,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def download(dataset: Dataset, reader: Reader, split: SplitName, root: Path) -> str | None:
    """Bring the files of a data set that are not there yet under `root`; return why that failed, or None.

    They come by way of a folder of their own, so that what is cut off or fails its checksum is never taken for a
    file of the data set, and a failure leaves nothing behind.
    """
    print(f"Downloading {dataset.title} to {root}", file=sys.stderr)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # the one way in: torchvision hands urlopen no timeout
    try:
        # Standard output is for data.
        with contextlib.redirect_stdout(sys.stderr), _temporary_folder(root) as folder:
            if reader.archive and (root / reader.archive).is_file():
                (folder / reader.archive).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / reader.archive, folder / reader.archive)
            reader.fetch(split, folder)
            _move(reader, folder, root)
    except _FAILURES as error:
        return f"the download failed: {one_line(error)}"
    finally:
        socket.setdefaulttimeout(before)
    return None


@contextlib.contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    """Make an empty folder inside `root`, and take it away again with every folder made on the way that stays empty."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]  # innermost first
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
            yield Path(folder)
    finally:
        with contextlib.suppress(OSError):  # not empty, or never made
            for empty in made:
                empty.rmdir()


def _move(reader: Reader, folder: Path, root: Path) -> None:
    for split in get_args(SplitName):
        for path in reader.files(split, folder):
            target = root / path.relative_to(folder)
            if path.is_file() and not target.exists():  # what the user put there stays
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
