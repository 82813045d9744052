from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from idx_files import FILES, MNIST

from nas import data
from nas.data import download
from nas.errors import DataError


def test_download_unpacks_and_keeps_standard_output_clean(mirror, tmp_path, capsys):
    before = socket.getdefaulttimeout()
    root = tmp_path / "fresh"
    assert data.prepare_dataset("mnist", data_dir=root) is MNIST
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Downloading MNIST" in printed.err
    assert "100%" in printed.err
    assert socket.getdefaulttimeout() == before
    for name in FILES:
        assert (root / "MNIST" / "raw" / name).read_bytes() == (mirror / name).read_bytes()
    assert len(data.load_training_data(MNIST, data_dir=root, validation=None).train) == 200


def test_a_download_with_another_checksum_is_refused(mirror, tmp_path):
    (mirror / f"{FILES[0]}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match="download failed"):
        data.prepare_dataset("mnist", data_dir=tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()  # or the next run would take the rejected file for the data set's


def test_compressed_files_put_by_hand_need_no_network(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    raw = tmp_path / "fresh" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (mirror / f"{name}.gz").rename(raw / f"{name}.gz")
    assert data.prepare_dataset("mnist", data_dir=tmp_path / "fresh") is MNIST


def test_a_silent_mirror_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        with pytest.raises(DataError, match="timed out"):
            data.prepare_dataset("mnist", data_dir=tmp_path)
    assert socket.getdefaulttimeout() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", ["", "new", "new/and/deeper"])
def test_a_failed_download_leaves_nothing(tmp_path, no_network, root):
    base = tmp_path / "base"
    base.mkdir()
    with pytest.raises(DataError, match="download failed"):
        data.prepare_dataset("mnist", data_dir=base / root)
    assert list(base.rglob("*")) == []
    (base / "new" / "mine").mkdir(parents=True)
    with pytest.raises(DataError, match="download failed"):
        data.prepare_dataset("mnist", data_dir=base / root)
    assert sorted(base.rglob("*")) == [base / "new", base / "new" / "mine"]


def test_an_interrupted_download_leaves_nothing(mirror, tmp_path, monkeypatch):
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_dataset("mnist", data_dir=tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_a_download_brings_the_files_of_the_data_set_alone_and_replaces_none(mirror, tmp_path):
    raw = tmp_path / "fresh" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / FILES[2]).write_bytes(b"the user's own")
    data.prepare_dataset("mnist", data_dir=tmp_path / "fresh")
    assert sorted(path.name for path in raw.iterdir()) == sorted(FILES)
    assert (raw / FILES[2]).read_bytes() == b"the user's own"
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["MNIST"]


def test_an_archive_put_by_hand_needs_no_network(tmp_path, monkeypatch):
    cifar10, folder = torchvision.datasets.CIFAR10, tmp_path / "packed"
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    (folder / cifar10.base_folder).mkdir(parents=True)
    for name in names:
        (folder / cifar10.base_folder / name).write_bytes(pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]}))
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / cifar10.filename, "w:gz") as archive:
        archive.add(folder / cifar10.base_folder, cifar10.base_folder)
    md5 = hashlib.md5((root / cifar10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "tgz_md5", md5)
    monkeypatch.setattr(cifar10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar10, "_check_integrity", lambda self: (Path(self.root) / self.base_folder).is_dir())
    monkeypatch.setattr(cifar10, "_load_meta", lambda self: None)
    data.prepare_dataset("cifar10", data_dir=root)
    assert sorted(path.name for path in root.iterdir()) == [cifar10.base_folder, cifar10.filename]
    assert {path.name for path in (root / cifar10.base_folder).iterdir()} == set(names)
