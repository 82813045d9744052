"""A winner's folder: it reads back equal, and what is damaged, killed or cut leaves one line and the old files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from exports import (
    ODD,
    PLAIN,
    REASON,
    RECIPE,
    WINNER_FILES,
    network,
    one_line,
    trained,
    tree,
    write_winner,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas import export, files
from nas.errors import StorageError


@pytest.mark.parametrize("architecture", [PLAIN, ODD], ids=str)
def test_a_winner_reads_back_equal(tmp_path, architecture):
    generator = torch.get_rng_state()
    files = write_winner(tmp_path / "best", architecture)
    assert torch.equal(torch.get_rng_state(), generator), "the caller's random numbers are not used up"
    assert files == [tmp_path / "best" / name for name in WINNER_FILES]
    read = export.read_winner(tmp_path / "best")
    inputs = network(architecture).normalization
    added = {"mean": list(inputs.mean), "std": list(inputs.std), "classes": list(network(architecture).classes)}
    assert (read.architecture, read.recipe, read.reason) == (architecture, RECIPE, REASON | added)
    assert (read.dataset, read.target) == ("mnist", 99.4)
    assert (read.network.normalization, read.network.classes) == (inputs, network(architecture).classes)
    state = trained(architecture).state_dict()
    assert list(read.network.state_dict) == list(state)
    for name, tensor in state.items():
        assert read.network.state_dict[name].dtype == tensor.dtype
        assert read.network.state_dict[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_without_its_weights_a_winner_still_names_its_network(best):
    (best / "weights.safetensors").unlink()
    read = export.read_winner(best)
    assert (read.architecture, read.network) == (PLAIN, None)


def test_no_winner_says_what_to_run(tmp_path):
    with pytest.raises(StorageError) as error:
        export.read_winner(tmp_path / "best")
    one_line(error, str(tmp_path / "best"), "nas search")


@pytest.mark.parametrize("name", ["architecture.txt", "architecture.json", "recipe.json", "reason.json"])
def test_a_missing_or_cut_file_is_named(best, name):
    content = (best / name).read_bytes()
    (best / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError) as cut:
        export.read_winner(best)
    (best / name).unlink()
    with pytest.raises(StorageError) as missing:
        export.read_winner(best)
    for error in (cut, missing):
        one_line(error, str(best), "run the command that made it again")


@pytest.mark.parametrize(("text", "problem"), [('{"lr": NaN}', "NaN is not JSON"), ("[1]", "a list, not an object")])
def test_a_recipe_that_is_not_a_strict_json_object_is_refused(best, text, problem):
    (best / "recipe.json").write_text(text)
    with pytest.raises(StorageError) as error:
        export.read_winner(best)
    one_line(error, str(best / "recipe.json"), problem)


def test_text_and_json_at_odds_are_refused(best):
    (best / "architecture.json").write_text(ODD.to_json())
    with pytest.raises(StorageError) as error:
        export.read_winner(best)
    one_line(error, "architecture.json", f"another network than architecture.txt, '{PLAIN}'")


def test_weights_of_another_network_are_refused(best, tmp_path):
    write_winner(tmp_path / "other", ODD)
    shutil.copy(tmp_path / "other" / "weights.safetensors", best)
    with pytest.raises(StorageError) as error:
        export.read_winner(best)
    one_line(error, str(best / "weights.safetensors"), str(ODD), str(PLAIN))


def test_of_a_search_that_kept_no_weights_there_is_no_network(tmp_path):
    files = write_winner(tmp_path / "best", network=None)
    assert [path.name for path in files] == [
        name for name in WINNER_FILES if name.split(".")[0] not in ("model", "weights")
    ]
    read = export.read_winner(tmp_path / "best")
    assert (read.architecture, read.recipe, read.reason, read.network) == (PLAIN, RECIPE, REASON, None)


def test_a_winner_is_read_without_torch(winner):
    code = (
        "import sys; from pathlib import Path; from nas import export; "
        f"print(export.read_winner(Path({str(winner)!r}), weights=False).network, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["None", "False"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dataset": 7}, "'dataset' is 7, not text"),
        ({"target": "high"}, "'target' is 'high', not a number"),
        ({"mean": [0.1, 0.2]}, "one mean and one standard deviation for each channel"),
        ({"mean": "low"}, "'mean' is 'low', not a list"),
        ({"std": [0]}, "a standard deviation is above 0"),
        ({"std": [0.5]}, "its std is [0.31], not [0.5]"),
        ({"classes": ["one"]}, "it has 1 names of classes, not 10"),
        ({"classes": [1] * 10}, "'classes[0]' is 1, not text"),
    ],
)
def test_a_reason_that_does_not_fit_is_refused(best, change, problem):
    path = best / "reason.json"
    fields = json.loads(path.read_text())
    for text in (fields | change, {name: value for name, value in fields.items() if name not in change}):
        path.write_text(json.dumps(text))
        with pytest.raises(StorageError) as error:
            export.read_winner(best)
        one_line(error, "is damaged", problem if text.keys() >= change.keys() else next(iter(change)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_damaged_byte_is_refused_or_changes_nothing(winner, tmp_path, data):
    """Of the network and its weights; a digit changed within recipe.json or reason.json is still a valid file."""
    folder = tmp_path / "damaged"
    if not folder.exists():
        shutil.copytree(winner, folder)
    name = data.draw(st.sampled_from([name for name in WINNER_FILES if name != "model.py"]))
    content = bytearray((winner / name).read_bytes())
    # The first 1,500 bytes hold the header of the weights, where most of the ways to fail are.
    at = data.draw(st.integers(0, min(len(content), 1500) - 1) | st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    try:
        read = export.read_winner(folder)
    except StorageError as error:
        assert "\n" not in str(error)  # noqa: PT017  both outcomes are right
    else:
        assert read.architecture == PLAIN
        for key, tensor in trained(PLAIN).state_dict().items():
            assert torch.equal(read.network.state_dict[key], tensor)
    finally:
        shutil.copy(winner / name, folder / name)


def broken(change):
    state = trained(PLAIN).state_dict()
    change(state)
    return network(state_dict=state)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"network": broken(lambda state: state.pop("0.weight"))}, "'0.weight' is missing"),
        ({"network": broken(lambda state: state.update(more=torch.ones(1)))}, "'more' is unknown"),
        ({"network": broken(lambda state: state.update({"0.weight": torch.ones(8)}))}, "(8, 1, 3, 3)"),
        ({"network": broken(lambda state: state["0.weight"].fill_(float("nan")))}, "not finite"),
        ({"network": broken(lambda state: state.update({k: t.double() for k, t in state.items()}))}, "float64"),
        ({"recipe": {"lr": float("nan")}}, "recipe.json is strict JSON"),
        ({"reason": {"score": float("-inf")}}, "reason.json is strict JSON"),
    ],
)
def test_what_cannot_be_exported_leaves_the_old_winner(best, changes, problem):
    before = tree(best.parent)
    with pytest.raises(StorageError) as error:
        write_winner(best, **changes)
    one_line(error, problem)
    assert tree(best.parent) == before


def test_a_full_disk_keeps_the_old_winner(best, monkeypatch):
    before, fsync, left = tree(best.parent), os.fsync, [4]

    def full_after_four(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_four)
    with pytest.raises(StorageError) as error:
        write_winner(best, ODD)
    one_line(error, "No space left", "free some space")
    assert tree(best.parent) == before


def test_a_reader_after_a_kill_between_the_renames_finds_the_old_winner(best):
    best.rename(files._aside(best))
    assert export.read_winner(best).architecture == PLAIN
    assert sorted(path.name for path in best.iterdir()) == WINNER_FILES


def test_a_link_to_a_folder_stays_a_link(best, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(best, target_is_directory=True)
    write_winner(link, ODD)
    assert link.is_symlink()
    assert export.read_winner(best).architecture == ODD


def test_a_folder_of_other_things_is_never_deleted(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(StorageError) as error:
        write_winner(tmp_path / "home")
    one_line(error, str(tmp_path / "home"), "name another folder")
    assert tree(tmp_path) == {"home/thesis.tex": b"years"}


# Either folder


def test_a_network_is_loaded_from_a_winners_folder_and_from_a_full_runs(best, run):
    for folder, seed in ((best, 0), (str(best), 0), (run, 8)):
        read, batch = export.load_trained(folder), torch.rand(3, *PLAIN.input_shape)
        with torch.no_grad():
            wanted = trained(PLAIN, seed)((batch - 0.13) / 0.31).softmax(1)
        assert torch.allclose(read.predict(batch), wanted, atol=1e-6)
        assert (read.architecture, read.classes) == (PLAIN, tuple("0123456789"))


def test_a_folder_without_a_network_says_so(tmp_path, best):
    with pytest.raises(StorageError) as error:
        export.load_trained(tmp_path)
    one_line(error, f"no network in {tmp_path}")
    (best / "weights.safetensors").unlink()
    with pytest.raises(StorageError) as error:
        export.load_trained(best)
    one_line(error, f"no weights in {best}", "nas train-best")
