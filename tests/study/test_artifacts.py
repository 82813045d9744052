"""Weights that all machines of a study find: each studies folder here is another machine."""

from __future__ import annotations

import pytest
import toys
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from nas.errors import StorageError, UsageError
from nas.export import read_weights
from nas.searches import bring_winner
from nas.study import StudyStore, study_folder, use_artifacts


@pytest.fixture
def machine(folder, monkeypatch):
    """A function that goes to another machine."""
    return lambda name: monkeypatch.setenv("NAS_STUDIES", str(folder.parent / name))


@pytest.fixture
def storage(folder):
    return str(folder.parent / "shared.db")


def search(storage, place=None):
    """A tiny search; return what was trained here."""
    pool, store = toys.Pool(), toys.open_study("shared", storage)
    use_artifacts(store, place)
    toys.run(pool, store=store)
    return pool.trained


def weights(name="shared"):
    """The winner's weights here, as numbers: the file has them in any order."""
    found = read_weights(study_folder(name) / "best" / "weights.safetensors")
    return {key: tensor.tolist() for key, tensor in found.items()}


def test_the_winner_is_written_and_brought_wherever_it_was_trained(machine, storage, folder):
    machine("one")
    assert search(storage, str(folder.parent / "artifacts"))
    trained = weights()
    machine("two")
    assert search(storage) == []  # the study remembers the place, and all is trained
    assert weights() == trained
    machine("three")
    bring_winner("shared", storage)
    assert weights() == trained
    mine = study_folder("shared") / "best" / "mine"
    mine.touch()
    bring_winner("shared", storage)  # one of as many trainings stays
    assert mine.is_file()


def test_without_a_place_the_weights_are_where_they_were_trained(machine, storage):
    machine("one")
    search(storage)
    machine("two")
    with pytest.raises(StorageError, match="run this on the machine that trained it, or give all of them --artifacts.*--pick"):
        search(storage)
    bring_winner("shared", storage)
    assert not (study_folder("shared") / "best").exists()


def test_an_artifact_that_was_announced_and_not_written_is_none(machine, storage, folder, monkeypatch):
    machine("one")
    search(storage, str(folder.parent / "artifacts"))
    machine("two")

    def missing(*_):
        raise ArtifactNotFound("gone")

    monkeypatch.setattr(FileSystemArtifactStore, "open_reader", missing)
    with pytest.raises(StorageError, match=r"the winner of 'shared' is not in .*artifacts: run the search again"):
        bring_winner("shared", storage)


@pytest.mark.parametrize(
    ("place", "error", "text"),
    [
        ("s3://", UsageError, "a folder or s3://BUCKET, not s3://"),
        ("s3://bucket/inside", UsageError, "a folder or s3://BUCKET, not s3://bucket/inside"),
        ("/proc/nowhere", StorageError, "the artifacts in /proc/nowhere cannot be used"),
        ("/etc/passwd", StorageError, "the artifacts in /etc/passwd cannot be used"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_before_anything_is_trained(folder, place, error, text):
    store = toys.open_study()
    with pytest.raises(error, match=text):
        use_artifacts(store, place)
    assert StudyStore.open("toy").artifacts is None


def test_without_boto3_the_extra_is_named(folder, monkeypatch):
    def lacking(*_):
        raise ImportError("No module named 'boto3'")

    monkeypatch.setattr("nas.study.artifacts.Boto3ArtifactStore", lacking)
    with pytest.raises(UsageError, match=r"pip install 'nas\[s3\]'"):
        use_artifacts(toys.open_study(), "s3://bucket")


def test_a_study_has_one_place(folder):
    store = toys.open_study()
    use_artifacts(store, str(folder.parent / "a"))
    use_artifacts(store, str(folder.parent / "a"))
    use_artifacts(store, None)
    with pytest.raises(UsageError, match=r"the study 'toy' keeps its weights in .*/a, not .*/b: give that"):
        use_artifacts(store, str(folder.parent / "b"))
