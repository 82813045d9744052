"""Weights: what is written reads back equal, what is damaged or of another network is refused."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from exports import ODD, PLAIN, network, one_line, trained, tree
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nas import export
from nas.data import Normalization
from nas.errors import StorageError


def test_weights_are_written_whole_with_their_folder(tmp_path):
    path = tmp_path / "a" / "b" / "seed0.safetensors"
    for seed in (0, 1):
        state = trained(PLAIN, seed).to(memory_format=torch.channels_last).state_dict()
        export.write_weights(path, state)
        for read in (load_file(path), export.read_weights(path)):
            assert read.keys() == state.keys()
            assert all(torch.equal(read[key], tensor) for key, tensor in state.items())
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_tensors_of_any_type_read_back_equal_and_outlive_their_file(tmp_path):
    path = tmp_path / "teacher.safetensors"
    state = {
        "logits": torch.randn(3, 5, 4).half(), "brain": torch.randn(7).bfloat16(), "seconds": torch.tensor(1.5),
        "none": torch.zeros(0, 3), "count": torch.tensor(7), "flags": torch.tensor([True, False]),
    }  # fmt: skip
    export.write_weights(path, state, metadata={"teacher": "12 G C"})
    read = export.read_weights(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert read.keys() == state.keys()
    assert all(read[key].dtype == state[key].dtype and torch.equal(read[key], state[key]) for key in state)


def test_weights_that_cannot_be_written_keep_the_old_ones(tmp_path, monkeypatch):
    path = tmp_path / "seed0.safetensors"
    export.write_weights(path, trained(PLAIN, 0).state_dict())
    before = tree(tmp_path)

    def fail(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError) as error:
        export.write_weights(path, trained(PLAIN, 1).state_dict())
    one_line(error, str(path), "free some space")
    assert tree(tmp_path) == before
    with pytest.raises(StorageError) as error:
        export.write_weights(path / "below" / "seed0.safetensors", trained(PLAIN, 1).state_dict())
    one_line(error, "another path")


@given(data=st.data())
def test_one_damaged_byte_is_refused_or_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "logits.safetensors"
    state = {"logits": torch.arange(40).view(2, 5, 4).half(), "seconds": torch.tensor(1.5)}
    export.write_weights(path, state)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    try:
        read = export.read_weights(path)
    except StorageError as error:
        assert "\n" not in str(error)  # noqa: PT017  both outcomes are right
    else:
        assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, None, "folder"])
def test_what_is_no_weights_file_is_one_line(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError) as error:
        export.read_weights(path)
    one_line(error, f"{path} is damaged")


def test_a_file_without_a_checksum_is_refused(tmp_path):
    save_file(trained(PLAIN).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(StorageError, match="checksum"):
        export.read_weights(tmp_path / "weights.safetensors")


# Of a network


def test_the_metadata_say_what_the_network_takes_and_gives(tmp_path):
    path, classes = tmp_path / "weights.safetensors", ("Äpfel", *"123456789")
    written = network(classes=classes)
    export.write_network(path, written)
    with safe_open(path, "pt") as file:
        stated = file.metadata()
    assert {name: value for name, value in stated.items() if name != "sha256"} == {
        "schedule": str(PLAIN),
        "num_params": str(PLAIN.num_params),
        "mean": json.dumps(written.normalization.mean),
        "std": json.dumps(written.normalization.std),
        "classes": json.dumps(classes),
    }
    assert len(stated["sha256"]) == 64
    read = export.read_network(path, PLAIN, written.normalization, classes)
    assert (read.architecture, read.normalization, read.classes) == (PLAIN, written.normalization, classes)
    assert list(read.state_dict) == list(written.state_dict)
    assert all(torch.equal(read.state_dict[key], written.state_dict[key]) for key in read.state_dict)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"architecture": ODD}, f"its weights are those of '{PLAIN}', not of '{ODD}'"),
        ({"normalization": Normalization(mean=(0.14,), std=(0.31,))}, "its mean is [0.13], not [0.14]"),
        ({"normalization": Normalization(mean=(0.13,), std=(0.3,))}, "its std is [0.31], not [0.3]"),
        ({"classes": tuple("abcdefghij")}, "its classes is"),
    ],
)
def test_weights_that_state_another_network_are_refused(tmp_path, changes, problem):
    path, written = tmp_path / "weights.safetensors", network()
    export.write_network(path, written)
    fields = {"architecture": PLAIN, "normalization": written.normalization, "classes": written.classes} | changes
    with pytest.raises(StorageError) as error:
        export.read_network(path, **fields)
    one_line(error, str(path), problem)


def test_views_and_channels_last_weights_read_back_equal(tmp_path):
    path, state = tmp_path / "weights.safetensors", trained(PLAIN).state_dict()
    flat = torch.cat([state["0.weight"].flatten(), state["3.weight"].flatten()])
    views = {**state, "0.weight": flat[:72].view(8, 1, 3, 3), "3.weight": flat[72:].view(8, 1, 3, 3)}
    name = next(name for name, tensor in state.items() if tensor.shape[1:] == (10, 3, 3))
    views[name] = state[name].to(memory_format=torch.channels_last)
    assert not views[name].is_contiguous()
    export.write_network(path, network(state_dict=views))
    for name, tensor in export.read_weights(path, PLAIN).items():
        assert torch.equal(tensor, state[name])
        assert tensor.is_contiguous()
