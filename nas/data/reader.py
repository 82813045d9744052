"""The `Reader` protocol for the files of a data set, and how its errors become one line."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from nas.data.dataset import Split, SplitName

# Errors of torchvision's readers for a file that is not what its name says.
MALFORMED = (RuntimeError, ValueError, AssertionError, TypeError, LookupError, EOFError)


class Reader(Protocol):
    """The files of one data set: where they are, where they come from, what they hold."""

    @property
    def downloads(self) -> bool:
        """True: the files are fetched into the data directory. False: it needs no data directory."""

    @property
    def archive(self) -> str | None:
        """The archive, relative to the data directory, that `fetch` unpacks without the network if it is there."""

    def files(self, split: SplitName, root: Path) -> tuple[Path, ...]:
        """Return the files of a split: as found under the data directory `root`, or else as looked for first."""

    def fetch(self, split: SplitName, folder: Path) -> None:
        """Download the split into an empty data directory. Raise whatever network and unpacking raise."""

    def read(self, split: SplitName, root: Path) -> Split:
        """Return the split, on the CPU. Raise `DataError` for files that are missing or broken."""


def one_line(error: BaseException) -> str:
    """Return the message without headings ("Tried <mirror>, got:") and repetitions: mirrors mostly fail alike."""
    lines = dict.fromkeys(line.strip() for line in str(error).splitlines())
    return "; ".join(line for line in lines if line and not line.endswith(":")) or type(error).__name__
