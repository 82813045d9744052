from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
import torchvision
from idx_files import CLASSES, FILES, MNIST, rows, write_idx, write_toy
from torch import Tensor

from nas import data
from nas.data import loading
from nas.errors import DataError


def reachable(value: object) -> Iterator[object]:
    """Every value that the fields, items and attributes of a value lead to."""
    yield value
    if isinstance(value, (tuple, list)):
        children = list(value)
    elif isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    elif is_dataclass(value):
        children = [getattr(value, field.name) for field in fields(value)] + list(vars(value).values())
    else:
        children = []
    for child in children:
        yield from reachable(child)


def test_tensors_are_what_the_files_say(toy):
    loaded = data.load_training_data(MNIST, data_dir=toy, validation=None)
    raw = toy / "MNIST" / "raw"
    pixels, labels = (raw / FILES[0]).read_bytes()[16:], (raw / FILES[1]).read_bytes()[8:]
    assert loaded.train.images.shape == (200, *MNIST.input_shape)
    assert loaded.train.images.dtype == torch.uint8
    assert loaded.train.labels.dtype == torch.int64
    assert loaded.train.images.numpy().tobytes() == pixels
    assert bytes(loaded.train.labels.tolist()) == labels
    assert loaded.hash == hashlib.sha256(pixels + labels).hexdigest()
    assert loaded.validation is None
    expected = loaded.train.images.double() / 255
    assert loaded.normalization.mean == pytest.approx((expected.mean().item(),), rel=1e-12)
    assert loaded.normalization.std == pytest.approx((expected.std(correction=0).item(),), rel=1e-12)


def test_no_test_image_is_reachable_from_training_data(toy):
    loaded = data.load_training_data(MNIST, data_dir=toy)
    test = rows(data.open_test(MNIST, data_dir=toy, log=toy / "log", purpose="law").images)
    values = list(reachable(loaded))
    tensors = [value for value in values if isinstance(value, Tensor)]
    assert len(tensors) >= 4
    for tensor in tensors:
        assert not rows(tensor) & test
    # Nor the way to them: plain values only, and none that says where the files are.
    plain = (
        Tensor,
        tuple,
        dict,
        str,
        int,
        float,
        type(None),
        data.TrainingData,
        data.Split,
        data.Dataset,
        data.Normalization,
    )
    assert all(isinstance(value, plain) for value in values)
    assert not any(str(toy) in value or "t10k" in value for value in values if isinstance(value, str))


@pytest.mark.parametrize("state", ["absent", "broken", "folder"])
def test_training_needs_no_test_file(toy, state):
    expected = data.load_training_data(MNIST, data_dir=toy)
    for name in FILES[2:]:
        path = toy / "MNIST" / "raw" / name
        path.unlink()
        if state == "broken":
            path.write_bytes(b"\x00")
        elif state == "folder":
            path.mkdir()
    assert data.prepare_dataset("mnist", data_dir=toy, download=False) is MNIST
    loaded = data.load_training_data(MNIST, data_dir=toy)
    assert loaded.hash == expected.hash
    with pytest.raises(DataError):
        data.open_test(MNIST, data_dir=toy, log=toy / "log", purpose="law", download=False)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("content", [b"", b"\x00\x00", b"\x00\x00\x08\x03", b"<html>not found</html>", "half"])
def test_a_broken_file_is_named_with_the_next_step(toy, name, content):
    path = toy / "MNIST" / "raw" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError) as caught:
        data.load_training_data(MNIST, data_dir=toy)
    assert str(path) in str(caught.value)
    assert "delete it and run again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_or_labels_of_another_count_are_refused(toy):
    raw = toy / "MNIST" / "raw"
    write_idx(raw / FILES[1], np.arange(190) % CLASSES)
    with pytest.raises(DataError, match="190"):
        data.load_training_data(MNIST, data_dir=toy)
    write_idx(raw / FILES[1], np.arange(200) % (CLASSES - 1))
    with pytest.raises(DataError, match="classes"):
        data.load_training_data(MNIST, data_dir=toy)
    write_toy(raw, shape=(27, 28))
    with pytest.raises(DataError, match="27, 28"):
        data.load_training_data(MNIST, data_dir=toy)


def test_constant_images_are_refused(toy):
    write_idx(toy / "MNIST" / "raw" / FILES[0], np.full((200, 28, 28), 7))
    with pytest.raises(DataError, match="constant"):
        data.load_training_data(MNIST, data_dir=toy)


def test_warning_says_which_part_differs_from_the_published_set(toy, monkeypatch):
    raw = toy / "MNIST" / "raw"
    sums = tuple(hashlib.md5((raw / name).read_bytes()).hexdigest() for name in FILES[:2])
    loaded = data.load_training_data(MNIST, data_dir=toy)
    assert loaded.warning is not None
    assert all(md5 in loaded.warning for md5 in (*sums, "6bbc9ace898e44ae57da46a324031adb"))
    monkeypatch.setattr(loading, "PUBLISHED_MD5", {"mnist": sums})
    assert data.load_training_data(MNIST, data_dir=toy).warning is None
    monkeypatch.setattr(loading, "PUBLISHED_MD5", {"mnist": (sums[0], "0" * 32)})
    warning = data.load_training_data(MNIST, data_dir=toy).warning
    assert warning is not None
    assert "labels" in warning
    assert "images" not in warning


def test_emnist_is_turned_upright(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    write_toy(folder, prefixes=("emnist-digits-train", "emnist-digits-test"))
    stored = (folder / "emnist-digits-train-images-idx3-ubyte").read_bytes()[16:]
    by_columns = np.frombuffer(stored, dtype=np.uint8).reshape(200, 28, 28)
    dataset = data.prepare_dataset("emnist-digits", data_dir=tmp_path, download=False)
    loaded = data.load_training_data(dataset, data_dir=tmp_path, validation=None)
    assert np.array_equal(loaded.train.images[:, 0].numpy(), by_columns.transpose(0, 2, 1))


@pytest.mark.parametrize(("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_relatives_of_mnist_take_the_same_path(tmp_path, name, folder):
    write_toy(tmp_path / folder / "raw")
    dataset = data.prepare_dataset(name, data_dir=tmp_path, download=False)
    assert len(data.load_training_data(dataset, data_dir=tmp_path, validation=20).train) == 180
    assert len(data.open_test(dataset, data_dir=tmp_path, log=tmp_path / "log", purpose="law")) == 50


def test_cifar10_is_checked_and_read_by_channels(tmp_path, monkeypatch):
    cifar10 = torchvision.datasets.CIFAR10
    folder = tmp_path / cifar10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(1)

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    batches = [
        {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [*range(10), *range(10)]} for _ in range(6)
    ]
    lists = [write(f"data_batch_{i}", batches[i]) for i in range(1, 6)]
    name, md5 = write("batches.meta", {"label_names": [str(i) for i in range(10)]})
    monkeypatch.setattr(cifar10, "train_list", lists)
    monkeypatch.setattr(cifar10, "test_list", [write("test_batch", batches[0])])
    monkeypatch.setattr(cifar10, "meta", {"filename": name, "key": "label_names", "md5": md5})

    dataset = data.DATASETS["cifar10"]
    test = data.open_test(dataset, data_dir=tmp_path, log=tmp_path / "log", purpose="law")
    assert test.images.numpy().tobytes() == batches[0]["data"].tobytes()  # stored as C, H, W
    (folder / "test_batch").unlink()
    loaded = data.load_training_data(
        data.prepare_dataset("cifar10", data_dir=tmp_path), data_dir=tmp_path, validation=None
    )
    inside = data.load_training_data(dataset, data_dir=folder, validation=None)  # the folder of the batches itself
    assert inside.hash == loaded.hash
    assert loaded.train.images.shape == (100, 3, 32, 32)
    assert loaded.train.images[:20].numpy().tobytes() == batches[1]["data"].tobytes()
    assert len(loaded.normalization.mean) == len(loaded.normalization.std) == 3
    expected = (loaded.train.images.double() / 255).mean((0, 2, 3))
    assert loaded.normalization.mean == pytest.approx(expected.tolist(), rel=1e-12)
    (folder / "data_batch_3").write_bytes(b"half")
    with pytest.raises(DataError, match=r"data_batch_3 .*differ"):
        data.load_training_data(dataset, data_dir=tmp_path)


def test_real_mnist(mnist_dir, tmp_path):
    loaded = data.load_training_data(
        data.prepare_dataset("mnist", data_dir=mnist_dir, download=False), data_dir=mnist_dir
    )
    assert loaded.validation is not None
    assert (len(loaded.train), len(loaded.validation)) == (50_000, 10_000)
    whole = data.load_training_data(MNIST, data_dir=mnist_dir, validation=None).train
    counts = whole.labels.bincount()
    exact = counts.double() / 6
    assert ((loaded.validation.labels.bincount() - exact).abs() < 1).all()
    assert whole.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert loaded.normalization.mean[0] == pytest.approx(0.1307, abs=5e-4)
    # The sums are made from tensors and headers made again: they have to be those of the files.
    raw = mnist_dir / "MNIST" / "raw"
    sums = [hashlib.md5((raw / name).read_bytes()).hexdigest() for name in FILES[:2]]
    published = loading.PUBLISHED_MD5["mnist"]
    for part, found, right in zip(("images", "labels"), sums, published, strict=True):
        assert (found != right) == (f"{part} (md5 {found}" in (loaded.warning or ""))
    assert len(data.open_test(MNIST, data_dir=mnist_dir, log=tmp_path / "log", purpose="law")) == 10_000
