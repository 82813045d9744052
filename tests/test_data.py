from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import math
import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from nas import data
from nas.errors import DataError, StorageError, UsageError

MNIST = data.DATASETS["mnist"]
SYNTHETIC = data.DATASETS["synthetic"]
IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
CLASSES = 10
FILES = [f"{s}-{p}-ubyte" for s in ("train", "t10k") for p in ("images-idx3", "labels-idx1")]


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_toy(folder: Path, *, prefixes=("train", "t10k"), shape=(28, 28)) -> None:
    """200 training images in uneven classes and 50 test images, all of them different."""
    rng = np.random.default_rng(0)
    for prefix, count in zip(prefixes, (200, 50), strict=True):
        labels = np.minimum(np.arange(count) % 13, CLASSES - 1)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (count, *shape)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", rng.permutation(labels))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_toy(tmp_path / "MNIST" / "raw")
    return tmp_path


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served on the loopback address, and torchvision's MNIST told to download from there."""
    folder = tmp_path / "mirror"
    write_toy(folder)
    resources = []
    for name in FILES:
        packed = gzip.compress((folder / name).read_bytes())
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", "http://127.0.0.1:9/b/"])


def rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


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


# Finding and fetching


def test_locate_takes_the_option_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NAS_DATA_DIR", str(tmp_path / "env"))
    assert data.locate(tmp_path / "option") == tmp_path / "option"
    assert data.locate(None) == tmp_path / "env"
    assert data.locate(Path("~/x")) == Path.home() / "x"
    monkeypatch.delenv("NAS_DATA_DIR")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.locate(None) == tmp_path / "cache" / "nas"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification says to ignore it
    assert data.locate(None) == Path.home() / ".cache" / "nas"
    monkeypatch.setattr("sys.platform", "darwin")
    assert data.locate(None) == Path.home() / "Library" / "Caches" / "nas"


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UsageError) as caught:
        data.resolve("imagenet", data_dir=tmp_path)
    assert "'imagenet'" in str(caught.value)
    assert all(name in str(caught.value) for name in data.DATASETS)


def test_present_files_are_resolved_without_the_network(toy, no_network):
    assert data.resolve("mnist", data_dir=toy) is MNIST
    assert data.resolve(None, data_dir=toy) is MNIST
    assert MNIST.notice is None
    assert MNIST.comparable


@pytest.mark.parametrize("download", [True, False])
def test_missing_data_names_three_ways_out(tmp_path, no_network, download):
    with pytest.raises(DataError) as caught:
        data.resolve("mnist", data_dir=tmp_path, download=download)
    message = str(caught.value)
    assert "\n" not in message
    assert all(way in message for way in ("(1) connect", "(2) put", "(3) try"))
    assert all(hint in message for hint in (*FILES, "MNIST/raw", "--data-dir", "NAS_DATA_DIR", "mnist-5k"))
    assert str(tmp_path / "MNIST" / "raw") in message
    if download:
        assert message.count("refused") == 1  # both mirrors failed alike: said once


def test_without_a_name_and_without_mnist_the_subset_says_what_it_is(tmp_path, no_network):
    dataset = data.resolve(None, data_dir=tmp_path)
    assert dataset.name == "mnist-5k"
    assert not dataset.comparable
    assert dataset.notice is not None
    assert "5,000" in dataset.notice
    assert str(tmp_path) in dataset.notice


def test_download_unpacks_and_keeps_standard_output_clean(mirror, tmp_path, capsys):
    before = socket.getdefaulttimeout()
    root = tmp_path / "fresh"
    assert data.resolve("mnist", data_dir=root) is MNIST
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Downloading MNIST" in printed.err
    assert "100%" in printed.err
    assert socket.getdefaulttimeout() == before
    for name in FILES:
        assert (root / "MNIST" / "raw" / name).read_bytes() == (mirror / name).read_bytes()
    assert len(data.training_data(MNIST, data_dir=root, validation=None).train) == 200


def test_a_download_with_another_checksum_is_refused(mirror, tmp_path):
    (mirror / f"{FILES[0]}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match="download failed"):
        data.resolve("mnist", data_dir=tmp_path / "fresh")


def test_compressed_files_put_by_hand_need_no_network(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    raw = tmp_path / "fresh" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (mirror / f"{name}.gz").rename(raw / f"{name}.gz")
    assert data.resolve("mnist", data_dir=tmp_path / "fresh") is MNIST


def test_a_silent_mirror_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        with pytest.raises(DataError, match="timed out"):
            data.resolve("mnist", data_dir=tmp_path)
    assert socket.getdefaulttimeout() is None


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path, no_network):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="Three ways out"):
        data.resolve("mnist", data_dir=tmp_path / "file")


def test_training_data_never_downloads(mirror, tmp_path):
    with pytest.raises(DataError, match="nothing was downloaded"):
        data.training_data(MNIST, data_dir=tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


# Loading


def test_tensors_are_what_the_files_say(toy):
    loaded = data.training_data(MNIST, data_dir=toy, validation=None)
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
    assert loaded.mean == pytest.approx((expected.mean().item(),), rel=1e-12)
    assert loaded.std == pytest.approx((expected.std(correction=0).item(),), rel=1e-12)


def test_no_test_image_is_reachable_from_training_data(toy):
    loaded = data.training_data(MNIST, data_dir=toy)
    test = rows(data.open_test(MNIST, data_dir=toy, log=toy / "log", purpose="law").images)
    values = list(reachable(loaded))
    tensors = [value for value in values if isinstance(value, Tensor)]
    assert len(tensors) >= 4
    for tensor in tensors:
        assert not rows(tensor) & test
    # Nor the way to them: plain values only, and none that says where the files are.
    plain = (Tensor, tuple, str, int, float, type(None), data.TrainingData, data.Split, data.Dataset)
    assert all(isinstance(value, plain) for value in values)
    assert not any(str(toy) in value or "t10k" in value for value in values if isinstance(value, str))


@pytest.mark.parametrize("state", ["absent", "broken", "folder"])
def test_training_needs_no_test_file(toy, state):
    expected = data.training_data(MNIST, data_dir=toy)
    for name in FILES[2:]:
        path = toy / "MNIST" / "raw" / name
        path.unlink()
        if state == "broken":
            path.write_bytes(b"\x00")
        elif state == "folder":
            path.mkdir()
    assert data.resolve("mnist", data_dir=toy, download=False) is MNIST
    loaded = data.training_data(MNIST, data_dir=toy)
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
        data.training_data(MNIST, data_dir=toy)
    assert str(path) in str(caught.value)
    assert "delete it and run again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_or_labels_of_another_count_are_refused(toy):
    raw = toy / "MNIST" / "raw"
    write_idx(raw / FILES[1], np.arange(190) % CLASSES)
    with pytest.raises(DataError, match="190"):
        data.training_data(MNIST, data_dir=toy)
    write_idx(raw / FILES[1], np.arange(200) % (CLASSES - 1))
    with pytest.raises(DataError, match="classes"):
        data.training_data(MNIST, data_dir=toy)
    write_toy(raw, shape=(27, 28))
    with pytest.raises(DataError, match="27, 28"):
        data.training_data(MNIST, data_dir=toy)


def test_constant_images_are_refused(toy):
    write_idx(toy / "MNIST" / "raw" / FILES[0], np.full((200, 28, 28), 7))
    with pytest.raises(DataError, match="constant"):
        data.training_data(MNIST, data_dir=toy)


def test_warning_says_which_part_differs_from_the_published_set(toy, monkeypatch):
    raw = toy / "MNIST" / "raw"
    sums = tuple(hashlib.md5((raw / name).read_bytes()).hexdigest() for name in FILES[:2])
    loaded = data.training_data(MNIST, data_dir=toy)
    assert loaded.warning is not None
    assert all(md5 in loaded.warning for md5 in (*sums, "6bbc9ace898e44ae57da46a324031adb"))
    monkeypatch.setattr(data, "_PUBLISHED_MD5", {"mnist": sums})
    assert data.training_data(MNIST, data_dir=toy).warning is None
    monkeypatch.setattr(data, "_PUBLISHED_MD5", {"mnist": (sums[0], "0" * 32)})
    warning = data.training_data(MNIST, data_dir=toy).warning
    assert warning is not None
    assert "labels" in warning
    assert "images" not in warning


def test_emnist_is_turned_upright(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    write_toy(folder, prefixes=("emnist-digits-train", "emnist-digits-test"))
    stored = (folder / "emnist-digits-train-images-idx3-ubyte").read_bytes()[16:]
    by_columns = np.frombuffer(stored, dtype=np.uint8).reshape(200, 28, 28)
    dataset = data.resolve("emnist-digits", data_dir=tmp_path, download=False)
    loaded = data.training_data(dataset, data_dir=tmp_path, validation=None)
    assert np.array_equal(loaded.train.images[:, 0].numpy(), by_columns.transpose(0, 2, 1))


@pytest.mark.parametrize(("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_relatives_of_mnist_take_the_same_path(tmp_path, name, folder):
    write_toy(tmp_path / folder / "raw")
    dataset = data.resolve(name, data_dir=tmp_path, download=False)
    assert len(data.training_data(dataset, data_dir=tmp_path, validation=20).train) == 180
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
    loaded = data.training_data(data.resolve("cifar10", data_dir=tmp_path), data_dir=tmp_path, validation=None)
    assert loaded.train.images.shape == (100, 3, 32, 32)
    assert loaded.train.images[:20].numpy().tobytes() == batches[1]["data"].tobytes()
    assert len(loaded.mean) == len(loaded.std) == 3
    expected = (loaded.train.images.double() / 255).mean((0, 2, 3))
    assert loaded.mean == pytest.approx(expected.tolist(), rel=1e-12)
    (folder / "data_batch_3").write_bytes(b"half")
    with pytest.raises(DataError, match=r"data_batch_3 .*differ"):
        data.training_data(dataset, data_dir=tmp_path)


# Splits


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    where=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_split_is_stratified_exactly(counts: list[int], where: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    total, num_classes = sum(counts), len(counts)
    labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(counts))
    labels = labels[torch.randperm(total, generator=generator)]
    whole = data.Split(torch.arange(total), labels)
    size = num_classes + round(where * (total - 2 * num_classes))
    if not num_classes <= size <= total - num_classes:
        with pytest.raises(UsageError):
            data._divide(whole, size, num_classes, generator)
        return
    rest, chosen = data._divide(whole, size, num_classes, generator)
    assert len(chosen) == size
    assert sorted(rest.images.tolist() + chosen.images.tolist()) == list(range(total))
    for split in (rest, chosen):
        assert torch.equal(split.labels, labels[split.images])  # images kept their labels
        assert split.images.tolist() == sorted(split.images.tolist())  # and their order
    for label, count in enumerate(counts):
        share = count * size / total
        assert math.floor(share) <= int((chosen.labels == label).sum()) <= math.ceil(share)


def test_validation_is_one_sixth_disjoint_and_decided_by_the_seed(toy):
    whole = rows(data.training_data(MNIST, data_dir=toy, validation=None).train.images)
    first, again, other = (data.training_data(MNIST, data_dir=toy, seed=seed) for seed in (1, 1, 2))
    assert first.validation is not None
    assert again.validation is not None
    assert other.validation is not None
    assert len(first.validation) == 33
    assert not rows(first.train.images) & rows(first.validation.images)
    assert rows(first.train.images) | rows(first.validation.images) == whole
    assert torch.equal(first.validation.images, again.validation.images)
    assert torch.equal(first.train.labels, again.train.labels)
    assert rows(first.validation.images) != rows(other.validation.images)
    assert first.hash == other.hash  # of the whole training set, however it is split


def test_folds_are_disjoint_parts_of_the_training_images_in_proportion(toy):
    first = data.training_data(MNIST, data_dir=toy, validation=40)
    assert data.fold(first, 0) is first
    folds = [data.fold(first, number) for number in range(6)]
    held_out = [rows(each.validation.images) for each in folds]
    assert held_out[4] == held_out[1]  # 160 images have three other parts of 40 and an image a class to learn from
    assert held_out[5] == held_out[2]
    for each in folds[:4]:
        assert len(each.validation) == 40
        shares = torch.bincount(each.validation.labels) / torch.bincount(first.train.labels)
        assert shares.max() - shares.min() < 0.2
        together = rows(torch.cat([each.train.images, each.validation.images]))
        assert sorted(together) == sorted(rows(torch.cat([first.train.images, first.validation.images])))
        assert (each.mean, each.std) == data._moments(each.train.images)
        assert each.hash == first.hash
    assert len({row for part in held_out[:4] for row in part}) == 4 * 40
    again = data.fold(first, 2)
    assert rows(again.validation.images) == held_out[2]
    assert again.validation.labels.equal(folds[2].validation.labels)
    thin = data.training_data(MNIST, data_dir=toy, validation=40, fraction=0.2)
    assert data.fold(thin, 3) is thin


def test_training_data_can_be_sent_to_a_spawned_worker(toy):
    loaded = data.training_data(MNIST, data_dir=toy)
    sent = pickle.loads(pickle.dumps(loaded))
    assert torch.equal(sent.train.images, loaded.train.images)
    assert (sent.dataset, sent.mean, sent.std, sent.hash) == (MNIST, loaded.mean, loaded.std, loaded.hash)


def test_mean_and_std_leave_validation_out(toy):
    loaded = data.training_data(MNIST, data_dir=toy)
    assert loaded.mean[0] == pytest.approx((loaded.train.images.double() / 255).mean().item(), rel=1e-12)
    assert loaded.mean != data.training_data(MNIST, data_dir=toy, validation=None).mean


def test_fraction_thins_training_and_leaves_validation(toy):
    full = data.training_data(MNIST, data_dir=toy, validation=40)
    thin = data.training_data(MNIST, data_dir=toy, validation=40, fraction=0.25)
    assert full.validation is not None
    assert thin.validation is not None
    assert len(thin.train) == 40
    assert rows(thin.train.images) < rows(full.train.images)
    assert torch.equal(full.validation.images, thin.validation.images)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("validation", 9),
        ("validation", 191),
        ("validation", 0),
        ("fraction", 0),
        ("fraction", 1.5),
        ("fraction", 0.01),
    ],
)
def test_splits_without_an_image_a_class_are_refused(toy, option, value):
    with pytest.raises(UsageError):
        data.training_data(MNIST, data_dir=toy, **{option: value})


# The test split


def test_each_opening_of_test_is_recorded(toy, monkeypatch):
    log = toy / "study" / "test_openings.jsonl"
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/nas", "train-best", "--study", "my study"])
    split = data.open_test(MNIST, data_dir=toy, log=log, purpose="full run")
    data.open_test(MNIST, data_dir=toy, log=log, purpose="evaluate")
    assert len(split) == 50
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["purpose"] for line in lines] == ["full run", "evaluate"]
    raw = toy / "MNIST" / "raw"
    content = (raw / FILES[2]).read_bytes()[16:] + (raw / FILES[3]).read_bytes()[8:]
    for line in lines:
        assert line["dataset"] == "mnist"
        assert line["sha256"] == hashlib.sha256(content).hexdigest()
        assert line["command"] == "nas train-best --study 'my study'"
        assert line["utc"].endswith("+00:00")


@pytest.mark.parametrize("log", ["", "MNIST/raw", f"MNIST/raw/{FILES[0]}/log"])
def test_test_stays_closed_when_the_opening_cannot_be_recorded(toy, log):
    for name in FILES[2:]:
        (toy / "MNIST" / "raw" / name).write_bytes(b"broken")  # a read would raise DataError
    with pytest.raises(StorageError, match="stays closed"):
        data.open_test(MNIST, data_dir=toy, log=toy / log, purpose="law")


def test_a_failed_opening_is_not_recorded_as_one(toy):
    (toy / "MNIST" / "raw" / FILES[2]).write_bytes(b"broken")
    with pytest.raises(DataError):
        data.open_test(MNIST, data_dir=toy, log=toy / "log", purpose="law")
    assert (toy / "log").read_text() == ""


# The sets that need no files


def test_mnist_5k_is_split_evenly_and_disjointly(tmp_path):
    dataset = data.resolve("mnist-5k", data_dir=tmp_path)
    loaded = data.training_data(dataset, data_dir=tmp_path, validation=None)
    test = data.open_test(dataset, data_dir=tmp_path, log=tmp_path / "log", purpose="law")
    assert loaded.train.labels.bincount().tolist() == [400] * CLASSES
    assert test.labels.bincount().tolist() == [100] * CLASSES
    assert len(rows(test.images)) == 1000
    assert not rows(loaded.train.images) & rows(test.images)
    assert loaded.hash == "513cb34b57f94e8cb7271524b8e9acfde6507011966c3ff7e008bea84ece013a"  # one rule, for ever
    assert loaded.train.images.shape[1:] == dataset.input_shape
    assert not dataset.comparable
    assert dataset.notice is not None


def test_synthetic_is_the_same_everywhere(tmp_path):
    loaded = data.training_data(SYNTHETIC, data_dir=tmp_path, validation=None)
    test = data.open_test(SYNTHETIC, data_dir=tmp_path, log=tmp_path / "log", purpose="law")
    assert loaded.hash == "91fe29ea8d12226cbe9dd100d6ada0c9290f86f587a7fa461c462bc5824332f6"
    assert (len(loaded.train), len(test)) == (SYNTHETIC.num_train, SYNTHETIC.num_test)
    assert loaded.train.labels.bincount().tolist() == [SYNTHETIC.num_train // 4] * 4
    assert not rows(loaded.train.images) & rows(test.images)


def test_synthetic_can_be_learned_but_not_at_a_glance(tmp_path):
    loaded = data.training_data(SYNTHETIC, data_dir=tmp_path)
    assert loaded.validation is not None
    images, labels = data.normalise(loaded.train.images, loaded.mean, loaded.std), loaded.train.labels
    unseen = data.normalise(loaded.validation.images, loaded.mean, loaded.std)
    # The nearest class mean, which sees pixels and not stripes, is left near chance.
    means = torch.stack([images[labels == label].mean(0) for label in range(4)]).flatten(1)
    nearest = torch.cdist(unseen.flatten(1), means).argmin(1)
    assert (nearest == loaded.validation.labels).float().mean() < 0.45

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    for _ in range(2):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    accuracy = (model.eval()(unseen).argmax(1) == loaded.validation.labels).float().mean()
    assert 0.4 < accuracy < 0.99


# Batches


def draw(num_samples: int = 1, *, seed: int = 0, size: tuple[int, int] = (28, 28), **ranges: float) -> Tensor:
    zeros = {"degrees": 0.0, "translate_px": 0.0, "scale": 0.0, "shear": 0.0}
    generator = torch.Generator().manual_seed(seed)
    return data.random_affine(num_samples, **(zeros | ranges), image_size=size, generator=generator)


def in_pixels(theta: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A (N, 2, 2) and t (N, 2) of the map in pixels: D theta D^-1, with D the half sizes."""
    half = torch.tensor([size[1] / 2, size[0] / 2])
    return theta[:, :, :2] * half.view(2, 1) / half.view(1, 2), theta[:, :, 2] * half


def picture(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 32, 32), (2, 1, 12, 20)])
def test_the_identity_map_changes_nothing(shape):
    images = picture(*shape)
    mean, std = (0.1307,) * shape[1], (0.3081,) * shape[1]
    moved = data.augment(images, IDENTITY.expand(shape[0], 2, 3), mean, std)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, data.normalise(images, mean, std), atol=1e-4, rtol=0)
    torch.testing.assert_close(draw(shape[0], size=shape[2:]), IDENTITY.expand(shape[0], 2, 3))


def test_normalise_is_per_channel_and_leaves_its_input_alone():
    images = picture(4, 3, 8, 8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = torchvision.transforms.functional.normalize(images / 255, mean, std)
    torch.testing.assert_close(data.normalise(images, mean, std), expected)
    scaled = images.float() / 255
    before = scaled.clone()
    torch.testing.assert_close(data.normalise(scaled, mean, std), expected)
    theta = IDENTITY.expand(4, 2, 3)
    torch.testing.assert_close(data.augment(scaled, theta, mean, std), expected, atol=1e-4, rtol=0)
    assert torch.equal(scaled, before)


def test_equal_images_in_a_batch_get_different_maps():
    images = picture(1, 1, 28, 28).expand(64, 1, 28, 28)
    theta = draw(64, degrees=8, translate_px=1.4, scale=0.07, shear=0.07)
    moved = data.augment(images, theta, (0.0,), (1.0,))
    assert len(rows(moved)) == 64
    alone = torch.cat([data.augment(images[i : i + 1], theta[i : i + 1], (0.0,), (1.0,)) for i in range(64)])
    assert torch.equal(moved, alone)  # a sample does not depend on its neighbours


@pytest.mark.parametrize("size", [(28, 28), (16, 24)])
def test_rotation_is_torchvisions_of_the_same_angle(size):
    images = picture(6, 1, *size)
    theta = draw(6, degrees=25, size=size, seed=3)
    moved = data.augment(images, theta, (0.0,), (1.0,))
    matrix, _ = in_pixels(theta, size)
    angles = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    assert angles.abs().max() > 5
    for image, angle, result in zip(images, angles, moved, strict=True):
        expected = affine(image / 255, -angle.item(), [0, 0], 1.0, [0.0], InterpolationMode.BILINEAR)
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)


def test_translation_counts_in_pixels_and_brings_in_black():
    images, (mean, std) = picture(1, 1, 10, 14), (0.25, 0.5)
    theta = IDENTITY.clone().view(1, 2, 3)
    theta[0, 0, 2], theta[0, 1, 2] = 3 * 2 / 14, -2 * 2 / 10  # read 3 to the right, 2 above
    moved = data.augment(images, theta, (mean,), (std,))
    expected = torch.zeros(1, 1, 10, 14)
    expected[..., 2:, :11] = images[..., :8, 3:] / 255
    torch.testing.assert_close(moved, (expected - mean) / std, atol=1e-4, rtol=0)
    _, shift = in_pixels(draw(5000, translate_px=1.4, size=(10, 14)), (10, 14))
    for axis in range(2):
        assert 1.35 < shift[:, axis].abs().max() <= 1.4 + 1e-6


def test_draws_follow_the_formula_and_fill_their_ranges():
    ranges = {"degrees": 8.0, "translate_px": 1.4, "scale": 0.07, "shear": 0.07}
    theta = draw(20_000, **ranges, size=(20, 30))
    assert theta.dtype == torch.float32
    matrix, shift = in_pixels(theta, (20, 30))
    # The same draws in the documented order, put together as the docstring says, in float64.
    uniform = torch.rand(6, 20_000, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    ranges_of_draws = torch.tensor([math.radians(8), 0.07, 0.07, 0.07, 1.4, 1.4])
    for n in range(5):
        a, s, h, k, tx, ty = (uniform[:, n] * ranges_of_draws).tolist()
        rotation = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        expected = (1 + s) * rotation @ torch.tensor([[1.0, h], [k, 1.0]])
        torch.testing.assert_close(matrix[n], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(shift[n], torch.tensor([tx, ty]), atol=1e-5, rtol=0)
    for axis in range(2):  # uniform: mean 0, standard deviation range / sqrt 3
        assert abs(shift[:, axis].mean().item()) < 0.03
        assert shift[:, axis].std().item() == pytest.approx(1.4 / math.sqrt(3), rel=0.02)
    only_scale, _ = in_pixels(draw(20_000, scale=0.07), (28, 28))
    assert torch.equal(only_scale[:, 0, 0], only_scale[:, 1, 1])  # isotropic
    assert only_scale[:, 0, 1].abs().max() == 0
    assert only_scale[:, 0, 0].min().item() == pytest.approx(0.93, abs=1e-3)
    assert only_scale[:, 0, 0].max().item() == pytest.approx(1.07, abs=1e-3)
    assert torch.equal(theta, draw(20_000, **ranges, size=(20, 30)))
    assert not torch.equal(theta, draw(20_000, seed=1, **ranges, size=(20, 30)))


# MNIST itself


def test_real_mnist(mnist_dir, tmp_path):
    loaded = data.training_data(data.resolve("mnist", data_dir=mnist_dir, download=False), data_dir=mnist_dir)
    assert loaded.validation is not None
    assert (len(loaded.train), len(loaded.validation)) == (50_000, 10_000)
    whole = data.training_data(MNIST, data_dir=mnist_dir, validation=None).train
    counts = whole.labels.bincount()
    exact = counts.double() / 6
    assert ((loaded.validation.labels.bincount() - exact).abs() < 1).all()
    assert whole.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert loaded.mean[0] == pytest.approx(0.1307, abs=5e-4)
    # The sums are made from tensors and headers made again: they have to be those of the files.
    raw = mnist_dir / "MNIST" / "raw"
    sums = [hashlib.md5((raw / name).read_bytes()).hexdigest() for name in FILES[:2]]
    published = data._PUBLISHED_MD5["mnist"]
    for part, found, right in zip(("images", "labels"), sums, published, strict=True):
        assert (found != right) == (f"{part} (md5 {found}" in (loaded.warning or ""))
    assert len(data.open_test(MNIST, data_dir=mnist_dir, log=tmp_path / "log", purpose="law")) == 10_000
