"""Data sets of torchvision by their class names: images of one size with a class each, and the others."""

from __future__ import annotations

import numpy as np
import pytest
import torchvision
from PIL import Image

from nas import data
from nas.errors import DataError, NasError, UsageError


class Toy(torchvision.datasets.VisionDataset):
    """Images of one size with a class each, in two splits."""

    classes = ("zebra", "ant", "cat")

    def __init__(self, root, train=True, download=False):
        super().__init__(root)
        self.train = train

    def __len__(self):
        return 30 if self.train else 12

    def __getitem__(self, place):
        rng = np.random.default_rng((place, self.train))
        return Image.fromarray(rng.integers(0, 255, (12, 12), dtype=np.uint8)), place % 3


class Whole(Toy):
    """One split, and classes without names."""

    classes = None

    def __init__(self, root):
        super().__init__(root)


class Sizes(Toy):
    def __getitem__(self, place):
        return Image.new("RGB", (12, 12 + place % 2)), place % 3


class Boxes(Toy):
    def __getitem__(self, place):
        return Image.new("RGB", (12, 12)), {"boxes": []}


class Needy(Toy):
    def __init__(self, root, split, **kwargs):
        super().__init__(root)


class Absent(Toy):
    def __init__(self, root, train=True, download=False):
        raise RuntimeError("Dataset not found.\nYou can use download=True" if not download else "no network")


@pytest.fixture(autouse=True)
def _known(monkeypatch, image_cache):
    for kind in (Toy, Whole, Sizes, Boxes, Needy, Absent):
        monkeypatch.setattr(torchvision.datasets, kind.__name__, kind, raising=False)
    names = ("Toy", "Whole", "Sizes", "Boxes", "Needy", "Absent")
    monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, *names))


def prepared(name, tmp_path, **options):
    return data.prepare_dataset(f"torchvision:{name}", data_dir=tmp_path, **options)


def test_a_set_is_own_images_from_then_on(tmp_path):
    dataset = prepared("Toy", tmp_path)
    assert (dataset.input_shape, dataset.classes) == ((1, 12, 12), ("ant", "cat", "zebra"))
    assert (dataset.num_train, dataset.num_test, dataset.mirrors) == (30, 12, True)
    training = data.load_training_data(dataset, data_dir=tmp_path, validation=None)
    image, number = Toy(tmp_path)[0]
    assert number == 0
    row = (training.train.images == np.array(image)).flatten(1).all(1).nonzero().item()
    assert dataset.classes[training.train.labels[row]] == "zebra"
    assert prepared("Toy", tmp_path) == dataset
    assert data.find_dataset(dataset.name) == dataset


def test_a_set_without_splits_gets_one_and_numbers_are_names(tmp_path):
    dataset = prepared("Whole", tmp_path)
    assert dataset.classes == ("0", "1", "2")
    assert dataset.num_train + dataset.num_test == 30


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Sizes", DataError, "Sizes has images of several sizes, such as 12x12x3 and 13x12x3: save its images"),
        ("Boxes", DataError, "Boxes does not have one image and one class at a time"),
        ("Needy", DataError, "Needy wants to know its split"),
        ("Absent", DataError, "could not fetch Absent into .*no network"),
        ("FashionMINST", UsageError, "no data set 'FashionMINST': perhaps torchvision:FashionMNIST"),
        ("", UsageError, "no data set ''"),
        ("VisionDataset", UsageError, "no data set 'VisionDataset'"),
        ("../../etc", UsageError, "no data set"),
    ],
)
def test_what_is_no_such_set_gets_a_line(tmp_path, name, error, message):
    with pytest.raises(NasError, match=message) as caught:
        prepared(name, tmp_path)
    assert type(caught.value) is error
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_is_downloaded_where_that_is_not_wanted(tmp_path):
    with pytest.raises(DataError, match=r"Absent is not in .*Dataset not found"):
        prepared("Absent", tmp_path, download=False)
