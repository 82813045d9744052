"""Where idx files may lie and how they may be called."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
import torch
from idx_files import FILES, MNIST, write_toy

from nas import data
from nas.data import loading
from nas.errors import DataError

FASHION = data.DATASETS["fashion-mnist"]
KAGGLE = [name.replace("-idx", ".idx") for name in FILES]


def loads(root: Path, dataset: data.Dataset = MNIST) -> data.TrainingData:
    """The training set of a folder, found without the network; test opens as well."""
    assert data.prepare_dataset(dataset.name, data_dir=root, download=False) is dataset
    test = data.open_test(dataset, data_dir=root, log=root.parent / "log", purpose="law", download=False)
    assert len(test) == 50
    return data.load_training_data(dataset, data_dir=root)


@pytest.fixture
def whole(toy: Path) -> str:
    """The hash of the toy's training set."""
    return data.load_training_data(MNIST, data_dir=toy).hash


@pytest.mark.parametrize("names", [KAGGLE, [f"{name}.gz" for name in FILES], [f"{name}.gz" for name in KAGGLE]])
def test_kaggles_names_and_compressed_files_are_read(toy, whole, names):
    raw = toy / "MNIST" / "raw"
    for old, new in zip(FILES, names, strict=True):
        content = (raw / old).read_bytes()
        (raw / old).unlink()
        (raw / new).write_bytes(gzip.compress(content) if new.endswith(".gz") else content)
    before = sorted(path.name for path in raw.iterdir())
    assert loads(toy).hash == whole
    assert sorted(path.name for path in raw.iterdir()) == before  # the user's folder may be read-only


def test_an_unpacked_file_comes_before_a_compressed_one(toy, whole):
    for name in FILES:
        (toy / "MNIST" / "raw" / f"{name}.gz").write_bytes(b"cut off")
    assert loads(toy).hash == whole


def test_kaggles_folders_of_the_files_names_are_no_files(toy, whole):
    raw = toy / "MNIST" / "raw"
    for plain, kaggle in zip(FILES, KAGGLE, strict=True):  # as the archive unpacks
        (raw / plain).rename(raw / kaggle)
        (raw / plain).mkdir()
    assert loads(toy).hash == whole


@pytest.mark.parametrize("content", [b"", b"cut off", gzip.compress(b"something else" * 99)[:-20], gzip.compress(b"x")])
def test_a_broken_compressed_file_is_named_with_the_next_step(toy, content):
    path = toy / "MNIST" / "raw" / FILES[0]
    path.unlink()
    path = path.with_name(f"{FILES[0]}.gz")
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.load_training_data(MNIST, data_dir=toy)
    assert str(path) in str(caught.value)
    assert "delete it and run again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "given"),
    [
        ("MNIST/raw", "MNIST"),
        ("MNIST/raw", "MNIST/raw"),
        ("MNIST", "."),
        ("MNIST", "MNIST"),
        ("mnist/raw", "mnist"),
        ("mnist/raw", "mnist/raw"),
        ("archive", "archive"),
        ("raw", "raw"),
    ],
)
def test_the_folder_itself_may_be_given(tmp_path, monkeypatch, folder, given):
    write_toy(tmp_path / folder)
    assert len(loads(tmp_path / given).train) == 167
    monkeypatch.chdir(tmp_path / given)
    assert len(data.load_training_data(MNIST, data_dir=Path()).train) == 167


@pytest.mark.parametrize("given", ["MNIST", "MNIST/raw", "."])
def test_a_relative_of_the_same_file_names_is_not_taken_for_another(toy, given):
    with pytest.raises(DataError, match="no train split of Fashion-MNIST"):
        data.prepare_dataset("fashion-mnist", data_dir=toy / given, download=False)


def test_images_and_labels_come_from_one_folder(toy):
    raw = toy / "MNIST" / "raw"
    (raw / FILES[1]).rename(toy / FILES[1])
    with pytest.raises(DataError, match=f"{FILES[1]} not found"):
        data.prepare_dataset("mnist", data_dir=toy, download=False)


def test_a_folder_without_a_name_is_known_by_its_labels(tmp_path, monkeypatch):
    write_toy(tmp_path)
    sums = tuple(hashlib.md5((tmp_path / name).read_bytes()).hexdigest() for name in FILES[:2])
    monkeypatch.setattr(loading, "PUBLISHED_MD5", {"mnist": sums, "fashion-mnist": ("0" * 32, "0" * 32)})
    assert data.load_training_data(MNIST, data_dir=tmp_path).warning is None
    for other in (FASHION, data.DATASETS["kmnist"]):
        with pytest.raises(DataError, match=r"are those of MNIST, not of .* use --dataset mnist") as caught:
            data.load_training_data(other, data_dir=tmp_path)
        assert str(tmp_path / FILES[1]) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_real_mnist_by_its_folder(mnist_dir):
    inside = data.load_training_data(MNIST, data_dir=mnist_dir / "MNIST" / "raw")
    assert torch.equal(inside.train.images, data.load_training_data(MNIST, data_dir=mnist_dir).train.images)
