"""The reader of each data set: of the catalogue, or own images."""

from __future__ import annotations

from collections.abc import Mapping

from nas.data.catalog import DATASETS
from nas.data.cifar10 import Cifar10
from nas.data.dataset import Dataset
from nas.data.idx import IDX
from nas.data.mnist_5k import Mnist5k
from nas.data.own_images import OwnReader, find_own
from nas.data.reader import Reader
from nas.data.synthetic import Synthetic

READERS: Mapping[str, Reader] = {
    **IDX,
    "cifar10": Cifar10(),
    "mnist-5k": Mnist5k(),
    "synthetic": Synthetic(DATASETS["synthetic"]),
}


def reader_of(dataset: Dataset) -> Reader:
    """Return the reader of a data set. Raise `UsageError` for one that is not known."""
    return READERS.get(dataset.name) or OwnReader(find_own(dataset.name))
