"""What travels to workers and back: tensors by value, and images in memory that has no name and needs no /dev/shm."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from nas.errors import StorageError
from nas.workers import transport
from nas.workers.transport import Channel, Disconnected, SharedData, dumps


def reply(channel, shared):
    """A process that says what it was given."""
    channel.send((shared["images"].sum(), shared["images"] is shared["again"], shared["empty"].shape, shared["label"]))


def shared_by(value):
    """What a spawned process makes of it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    shared = SharedData(value)
    process = context.Process(target=reply, args=(Channel(theirs), shared), daemon=True)
    process.start()
    theirs.close()
    shared.close()  # the child has its own hold on the memory
    try:
        return Channel(ours).receive()
    finally:
        process.join()


def images():
    found = torch.arange(70_000, dtype=torch.int64).reshape(7, 10_000)[:, ::2]  # not contiguous
    return {"images": found, "again": found, "empty": torch.empty(0, 3), "label": torch.tensor(2.5)}


def check(found):
    total, same, empty, label = found
    assert total.equal(images()["images"].sum())
    assert (same, empty, label.item()) == (True, torch.Size([0, 3]), 2.5)


def test_a_spawned_process_gets_the_object_itself():
    check(shared_by(images()))


def no_memory(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_without_files_of_memory_a_file_in_the_cache_does_and_that_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(os, "memfd_create", no_memory)
    monkeypatch.setenv("NAS_DATA_DIR", str(tmp_path / "cache"))
    check(shared_by(images()))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"No shared memory here (Function not implemented): the workers read their images from a file in "
        f"{tmp_path / 'cache'}"
    )
    assert list((tmp_path / "cache").iterdir()) == []  # it has no name, and nobody has to delete it


def test_no_room_anywhere_is_an_error_of_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "memfd_create", no_memory)
    monkeypatch.setenv("NAS_DATA_DIR", str(tmp_path))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=rf"0 MB, find no room .*{tmp_path}: No space left.*TMPDIR") as caught:
        SharedData(images())
    assert "\n" not in str(caught.value)


def test_where_no_descriptor_can_be_handed_down_a_copy_is(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    shared = SharedData(images())
    function, arguments = shared.__reduce__()
    assert function(*arguments)["images"].equal(images()["images"])
    shared.close()


def test_tensors_travel_by_value_and_parts_without_their_wholes(tmp_path):
    state = {f"weight{number}": torch.randn(100, 10) for number in range(50)}
    state |= {
        "half": torch.randn(3).half(),
        "count": torch.tensor(3),
        "none": torch.empty(0),
        "mask": torch.ones(2) > 0,
    }
    save_file(state, tmp_path / "weights.safetensors")
    mapped = load_file(tmp_path / "weights.safetensors")  # all parts of one memory
    content = dumps(mapped)
    assert len(content) < 1.1 * sum(each.nbytes for each in state.values()) + 10_000
    back = pickle.loads(content)
    assert back.keys() == state.keys()
    for name, each in state.items():
        assert back[name].equal(each)
        assert back[name].dtype == each.dtype
    parameter = torch.nn.Parameter(torch.randn(2, 2))
    assert pickle.loads(dumps(parameter)).equal(parameter.detach())


def test_a_channel_ends_with_its_other_side():
    ours, theirs = (Channel(side) for side in multiprocessing.get_context("spawn").Pipe())
    theirs.send([500])
    assert ours.receive() == [500]
    theirs.close()
    with pytest.raises(Disconnected):
        ours.receive()
    with pytest.raises(Disconnected):
        ours.send(1)


def test_folders_are_tried_without_a_home(monkeypatch):
    def no_home(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(transport, "data_root", no_home)
    assert len(transport._folders()) == 1
