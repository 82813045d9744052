"""MNIST and its relatives: pairs of idx files, named and placed as torchvision, Kaggle or a browser leaves them."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nas.data.catalog import plain_name
from nas.data.dataset import Split, SplitName
from nas.data.reader import MALFORMED, one_line
from nas.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Idx:
    """A reader of two idx files per split."""

    folder: str  # torchvision's class, and the folder that it keeps under the data directory
    prefixes: Mapping[SplitName, str] = field(default_factory=lambda: {"train": "train", "test": "t10k"})
    emnist_split: str | None = None  # EMNIST's class holds six data sets

    downloads = True

    @property
    def archive(self) -> str | None:
        return None if self.emnist_split is None else f"{self.folder}/raw/gzip.zip"

    def files(self, split: SplitName, root: Path) -> tuple[Path, ...]:
        names = [f"{self.prefixes[split]}-{part}-ubyte" for part in ("images-idx3", "labels-idx1")]
        folders = list(self._folders(root))
        for folder in folders:
            found = [_find(folder, name) for name in names]
            if all(path.is_file() for path in found):  # images and labels of one folder: never mixed
                return tuple(found)
        return tuple(_find(folders[0], name) for name in names)

    def fetch(self, split: SplitName, folder: Path) -> None:
        from torchvision import datasets

        if self.emnist_split is None:
            getattr(datasets, self.folder)(folder, download=True)
        else:
            datasets.EMNIST(folder, split=self.emnist_split, train=split == "train", download=True)

    def read(self, split: SplitName, root: Path) -> Split:
        # torchvision's parser, but not its data set class, which would ask for the other split's files as well.
        from torchvision.datasets import mnist

        images, labels = self.files(split, root)
        pixels = _parse(images, mnist.read_image_file)
        if self.emnist_split is not None:
            pixels = pixels.transpose(1, 2)  # EMNIST stores its images by columns
        return Split(pixels.unsqueeze(1).contiguous(), _parse(labels, mnist.read_label_file))

    def _folders(self, root: Path) -> Iterator[Path]:
        """Yield the folders to look in: DIR/MNIST/raw, DIR/MNIST, and DIR itself where it may hold this set."""
        yield root / self.folder / "raw"
        yield root / self.folder
        here = root.absolute()
        named = plain_name(here.parent.name if here.name == "raw" else here.name)
        if named == plain_name(self.folder):
            yield root / "raw"
        # The relatives' files have the same names: a folder named after one of them holds no other.
        if named == plain_name(self.folder) or named not in {plain_name(reader.folder) for reader in IDX.values()}:
            yield root


IDX: Mapping[str, Idx] = {
    "mnist": Idx(folder="MNIST"),
    "fashion-mnist": Idx(folder="FashionMNIST"),
    "kmnist": Idx(folder="KMNIST"),
    "emnist-digits": Idx(
        folder="EMNIST", prefixes={"train": "emnist-digits-train", "test": "emnist-digits-test"}, emnist_split="digits"
    ),
}


def _find(folder: Path, name: str) -> Path:
    """Return the file of that name as it is there: as published, as Kaggle names it, or compressed."""
    stem, part, ending = name.rsplit("-", 2)  # train-images, idx3, ubyte
    spellings = (name, f"{stem}.{part}-{ending}", f"{name}.gz", f"{stem}.{part}-{ending}.gz")
    return next((folder / each for each in spellings if (folder / each).is_file()), folder / name)


def _parse(path: Path, parse: Callable[[str], Tensor]) -> Tensor:
    broken = "delete it and run again to fetch it anew"
    try:
        if path.suffix != ".gz":
            return parse(str(path))
        with tempfile.TemporaryDirectory() as folder:  # the parser takes a path only
            unpacked = Path(folder) / path.stem
            with gzip.open(path) as packed, unpacked.open("wb") as whole:
                shutil.copyfileobj(packed, whole)
            return parse(str(unpacked))
    except (gzip.BadGzipFile, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(f"{path} is cut short or no gzip file ({one_line(error)}): {broken}") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({one_line(error)}): make it readable") from error
    except MALFORMED as error:
        raise DataError(f"{path} is cut short or no idx file ({one_line(error)}): {broken}") from error
