"""Weights that all machines of a study find: each studies folder here is another machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import pytest
import toys
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from nas.errors import StorageError, UsageError
from nas.export import read_weights
from nas.searches import bring_winner
from nas.study import Interrupted, StudyStore, study_folder, use_artifacts

AWS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server with a bucket, `weights`."""
    server = pytest.importorskip("moto.server", reason="no S3 server here: pip install 'moto[s3,server]' 'nas[s3]'")
    boto3 = pytest.importorskip("boto3", reason="no boto3 here: pip install 'nas[s3]'")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWS.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="weights")
    yield address
    running.stop()


@pytest.fixture(params=["folder", "bucket"])
def place(request, folder, monkeypatch):
    """A place for weights of each kind."""
    if request.param == "folder":
        return str(folder.parent / "artifacts")
    for name, value in (*AWS.items(), ("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))):
        monkeypatch.setenv(name, value)
    return "s3://weights/of/ours/"


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


def test_the_winner_is_written_and_brought_wherever_it_was_trained(machine, storage, place):
    machine("one")
    assert search(storage, place)
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
    with pytest.raises(StorageError, match=r"on the machine that trained it, or give all of them --artifacts.*--pick"):
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
        ("s3://", UsageError, "a folder or s3://BUCKET/PREFIX, not s3://"),
        ("gs://bucket", UsageError, "a folder or s3://BUCKET/PREFIX, not gs://bucket"),
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
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match=r"pip install 'nas\[s3\]'"):
        use_artifacts(toys.open_study(), "s3://bucket")


def test_a_study_has_one_place(folder):
    store = toys.open_study()
    use_artifacts(store, str(folder.parent / "a"))
    use_artifacts(store, str(folder.parent / "a"))
    use_artifacts(store, None)
    with pytest.raises(UsageError, match=r"the study 'toy' keeps its weights in .*/a, not .*/b: give that"):
        use_artifacts(store, str(folder.parent / "b"))


@contextlib.contextmanager
def cut_upload(then):
    """The winner's archive is written by half; then comes what is given."""

    def write(store, artifact_id, content):
        data = content.read()
        archive = data.startswith(b"PK")
        (store._base_path / artifact_id).write_bytes(data[: len(data) // 2] if archive else data)
        if archive:
            then()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSystemArtifactStore, "write", write)
        yield


def kill():
    raise SystemExit(137)


def silence():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)


@pytest.mark.parametrize(("then", "ends"), [(kill, SystemExit), (silence, Interrupted)])
def test_a_winner_that_was_cut_in_its_upload_is_uploaded_by_the_next_command(machine, storage, folder, then, ends):
    began = time.monotonic()
    machine("one")
    with cut_upload(then), pytest.raises(ends):
        search(storage, str(folder.parent / "artifacts"))
    assert time.monotonic() - began < 15  # a signal does not wait for a place that is silent
    trained = weights()
    machine("two")
    bring_winner("shared", storage)
    assert not (study_folder("shared") / "best").exists()
    machine("one")
    assert search(storage) == []
    machine("two")
    bring_winner("shared", storage)
    assert weights() == trained


def test_a_bucket_that_is_not_there_or_silent_is_one_line(folder, place, monkeypatch):
    if not place.startswith("s3"):
        pytest.skip("a folder is made")
    with pytest.raises(StorageError, match=r"the artifacts in s3://nowhere cannot be used \(.*NoSuchBucket"):
        use_artifacts(toys.open_study(), "s3://nowhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(UsageError, match="the server of s3://weights has no valid address: Invalid endpoint"):
        use_artifacts(toys.open_study(), "s3://weights")
