"""Exports: what is written reads back equal, what is damaged is refused, what is killed or cut leaves the old files."""

from __future__ import annotations

import ast
import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from nas import export
from nas import model as model_module
from nas.architecture import Architecture
from nas.errors import StorageError
from nas.model import build

# Between them: valid and padded, separable, strides, residuals, both heads and norm orders, a bias, no norm, odd maps.
PLAIN = Architecture.parse("8vr s10v M 12n s12+ C G")
ODD = Architecture.parse("3x27x29: 8 8k5+ M s12/2r s12b+ M 16bn G 12k1 C7b")
WINNER_FILES = [
    "architecture.json",
    "architecture.txt",
    "model.py",
    "reason.json",
    "recipe.json",
    "weights.safetensors",
]
RECIPE = {"optimizer": "adamw", "lr": 0.02, "epochs": 15, "rotate": 8.0, "name": "±8°", "clip": None}
REASON = {"mean": 0.9912, "runners_up": [{"schedule": "8 G C", "mean": 0.99}]}


def trained(architecture: Architecture, seed: int = 0) -> nn.Sequential:
    """A network in evaluation mode whose running statistics and affines are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    model = build(architecture, seed=seed).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 3.0, generator=generator)
            module.num_batches_tracked.fill_(60_000 // 128)
            nn.init.uniform_(module.weight, 0.5, 2.0, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return model


def images(architecture: Architecture, count: int) -> torch.Tensor:
    return torch.randn(count, *architecture.input_shape, generator=torch.Generator().manual_seed(1))


def write_winner(folder: Path, architecture: Architecture = PLAIN, **changes) -> list[Path]:
    fields = {"architecture": architecture, "recipe": RECIPE, "reason": REASON}
    return export.export_winner(folder, **{**fields, "state_dict": trained(architecture).state_dict(), **changes})


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden leftovers included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(error: pytest.ExceptionInfo[StorageError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.fixture(scope="module")
def winner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A winner's folder, to be copied before it is touched."""
    folder = tmp_path_factory.mktemp("study") / "best"
    write_winner(folder)
    return folder


@pytest.fixture
def best(winner: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(winner, tmp_path / "best"))


# -- one file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["8vr M ±8°\r\n", b"\x00\xff\r\n", ""])
def test_a_file_is_written_as_given_and_leaves_nothing_beside_it(tmp_path, content):
    (tmp_path / "file").write_text("old")
    export.write_atomic(tmp_path / "file", content)
    assert tree(tmp_path) == {"file": content.encode() if isinstance(content, str) else content}


@pytest.mark.parametrize(
    ("broken", "code", "step"),
    [
        ("fsync", errno.ENOSPC, "free some space"),
        ("replace", errno.EACCES, "a folder that you may write to"),
        ("replace", errno.EIO, "another path"),
    ],
)
def test_a_full_disk_or_a_denied_one_keeps_the_old_file(tmp_path, monkeypatch, broken, code, step):
    (tmp_path / "file").write_text("old")

    def fail(*_args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(StorageError) as error:
        export.write_atomic(tmp_path / "file", "new")
    one_line(error, str(tmp_path / "file"), os.strerror(code), step)
    assert tree(tmp_path) == {"file": b"old"}


def test_a_file_cut_by_a_real_limit_leaves_no_half(tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "file").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError) as error:
            export.write_atomic(tmp_path / "file", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(error, str(tmp_path / "file"))
    assert tree(tmp_path) == {"file": b"old"}


def test_a_path_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("old")
    for write in (lambda path: export.write_atomic(path, "new"), write_winner):
        with pytest.raises(StorageError) as error:
            write(tmp_path / "file" / "best")
        one_line(error, str(tmp_path / "file" / "best"), "another path")
    with pytest.raises(StorageError) as error:
        write_winner(tmp_path / "file")
    one_line(error, str(tmp_path / "file"))
    assert tree(tmp_path) == {"file": b"old"}


# -- one folder --------------------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "a" / "best"
    with export.replace_folder(folder) as new:
        (new / "one").write_text("1")
    with export.replace_folder(folder) as new:
        (new / "two").write_text("2")
        assert tree(folder) == {"one": b"1"}

    def interrupted():
        with export.replace_folder(folder) as new:
            (new / "three").write_text("3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tree(tmp_path) == {"a/best/two": b"2"}
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_of_two_writers_at_once_the_last_wins(tmp_path):
    folder = tmp_path / "best"
    with export.replace_folder(folder) as first:
        (first / "file").write_text("first")
        with export.replace_folder(folder) as second:
            (second / "file").write_text("second")
        assert tree(folder) == {"file": b"second"}
    assert tree(tmp_path) == {"best/file": b"first"}


def test_a_reader_that_renames_back_in_the_gap_does_not_fail_the_writer(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "file").write_text("old")
    rename, gaps = Path.rename, []

    def with_a_reader(self, target):
        rename(self, target)
        if self == folder and not gaps:
            gaps.append(target)
            export._recover(folder)

    monkeypatch.setattr(Path, "rename", with_a_reader)
    with export.replace_folder(folder) as new:
        (new / "file").write_text("new")
    assert gaps
    assert tree(tmp_path) == {"best/file": b"new"}


def test_a_swap_that_fails_for_good_puts_the_old_folder_back(best, monkeypatch):
    before, rename = tree(best.parent), Path.rename

    def fail(self, target):
        if self.name.endswith(".new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StorageError) as error:
        write_winner(best, ODD)
    one_line(error, str(best), "free some space")
    assert tree(best.parent) == before


KILL_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from nas import export

folder, step, seen = Path(sys.argv[1]) / "best", 0, []

def write(text):
    with export.replace_folder(folder) as new:
        export.write_atomic(new / "one", text)
        export.write_atomic(new / "two", text)

write("old")
while True:
    step += 1
    child = os.fork()
    if child == 0:
        left = step
        def hook(event, _):
            global left
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        write("new")
        os._exit(0)
    finished = os.waitpid(child, 0)[1] == 0
    if "gap" not in seen and not folder.exists():
        seen.append("gap")
    export._recover(folder)
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert texts in ({"one": "old", "two": "old"}, {"one": "new", "two": "new"}), (step, texts)
    seen.append(texts["one"])
    export._ABANDONED_S = -1.0
    write("old")
    assert [path.name for path in folder.parent.iterdir()] == ["best"], step
    if finished:
        break
print(*dict.fromkeys(seen))
assert "torch" not in sys.modules
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed at each of its steps: needs fork")
def test_killed_at_any_step_the_folder_is_the_old_or_the_new_one(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_STEP, tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["old", "gap", "new"]  # the gap between the renames was among the steps


def test_another_runs_young_folder_is_left_alone(tmp_path):
    with export.replace_folder(tmp_path / "best") as first:
        with export.replace_folder(tmp_path / "best"):
            pass
        assert first.is_dir()


# -- the winner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [PLAIN, ODD], ids=str)
def test_a_winner_reads_back_equal(tmp_path, architecture):
    generator = torch.get_rng_state()
    files = write_winner(tmp_path / "best", architecture)
    assert torch.equal(torch.get_rng_state(), generator), "the caller's random numbers are not used up"
    assert files == [tmp_path / "best" / name for name in WINNER_FILES]
    read = export.read_winner(tmp_path / "best")
    assert (read.architecture, read.recipe, read.reason) == (architecture, RECIPE, REASON)
    state = trained(architecture).state_dict()
    assert list(read.state_dict) == list(state)
    for name, tensor in state.items():
        assert read.state_dict[name].dtype == tensor.dtype
        assert read.state_dict[name].numpy().tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("architecture", [PLAIN, ODD], ids=str)
def test_model_py_needs_torch_alone_and_is_the_network(tmp_path, architecture):
    write_winner(tmp_path / "best", architecture)
    text = (tmp_path / "best" / "model.py").read_text()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in imports] == ["torch"]
    namespace: dict = {}
    exec(text, namespace)
    model = namespace["build"]()
    model.load_state_dict(export.read_winner(tmp_path / "best").state_dict)
    batch = images(architecture, 5)
    assert torch.equal(model.eval()(batch), trained(architecture)(batch))


def test_views_and_channels_last_weights_read_back_equal(tmp_path):
    state = trained(PLAIN).state_dict()
    flat = torch.cat([state["0.weight"].flatten(), state["3.weight"].flatten()])
    views = {**state, "0.weight": flat[:72].view(8, 1, 3, 3), "3.weight": flat[72:].view(8, 1, 3, 3)}
    name = next(name for name, tensor in state.items() if tensor.shape[1:] == (10, 3, 3))
    views[name] = state[name].to(memory_format=torch.channels_last)
    assert not views[name].is_contiguous()
    write_winner(tmp_path / "best", state_dict=views)
    for name, tensor in export.read_winner(tmp_path / "best").state_dict.items():
        assert torch.equal(tensor, state[name])
        assert tensor.is_contiguous()


def test_without_its_weights_a_winner_still_names_its_network(best):
    (best / "weights.safetensors").unlink()
    read = export.read_winner(best)
    assert (read.architecture, read.state_dict) == (PLAIN, None)


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


@pytest.mark.parametrize(("text", "said"), [('{"lr": NaN}', "NaN is not JSON"), ("[1]", "a list, not an object")])
def test_a_recipe_that_is_not_a_strict_json_object_is_refused(best, text, said):
    (best / "recipe.json").write_text(text)
    with pytest.raises(StorageError) as error:
        export.read_winner(best)
    one_line(error, str(best / "recipe.json"), said)


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
            assert torch.equal(read.state_dict[key], tensor)
    finally:
        shutil.copy(winner / name, folder / name)


def broken_state(change):
    state = trained(PLAIN).state_dict()
    change(state)
    return state


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state_dict": broken_state(lambda state: state.pop("0.weight"))}, "'0.weight' is missing"),
        ({"state_dict": broken_state(lambda state: state.update(more=torch.ones(1)))}, "'more' is unknown"),
        ({"state_dict": broken_state(lambda state: state.update({"0.weight": torch.ones(8)}))}, "(8, 1, 3, 3)"),
        ({"state_dict": broken_state(lambda state: state["0.weight"].fill_(float("nan")))}, "not finite"),
        ({"state_dict": {name: tensor.double() for name, tensor in trained(PLAIN).state_dict().items()}}, "float64"),
        ({"recipe": {"lr": float("nan")}}, "recipe.json is strict JSON"),
        ({"reason": {"mean": float("-inf")}}, "reason.json is strict JSON"),
    ],
)
def test_what_cannot_be_exported_leaves_the_old_winner(best, changes, said):
    before = tree(best.parent)
    with pytest.raises(StorageError) as error:
        write_winner(best, **changes)
    one_line(error, said)
    assert tree(best.parent) == before


def test_a_model_py_that_is_another_network_is_refused(best, monkeypatch):
    before, right = tree(best.parent), model_module.source
    with monkeypatch.context() as patch:
        patch.setattr(model_module, "source", lambda architecture: right(architecture).replace("ReLU", "ELU"))
        with pytest.raises(StorageError) as error:
            write_winner(best)
        one_line(error, "model.py", "does not give the logits")
    with monkeypatch.context() as patch:
        patch.setattr(Architecture, "num_params", property(lambda _: 7))
        with pytest.raises(StorageError) as error:
            write_winner(best)
        one_line(error, "model.py", "parameters, not 7")
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
    best.rename(export._aside(best))
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


# -- weights on their own ----------------------------------------------------------------------------------------------


def test_weights_are_written_whole_with_their_folder(tmp_path):
    path = tmp_path / "a" / "b" / "seed0.safetensors"
    for seed in (0, 1):
        state = trained(PLAIN, seed).to(memory_format=torch.channels_last).state_dict()
        export.write_weights(path, state)
        read = load_file(path)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], tensor) for key, tensor in state.items())
        assert [file.name for file in path.parent.iterdir()] == [path.name]


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


# -- a full run --------------------------------------------------------------------------------------------------------

LOG = [
    {"seed": 7, "epoch": 1, "loss": 0.25, "accuracy": None},
    {"seed": 7, "epoch": 2, "loss": 1e-05, "accuracy": 99.48, "note": 'a "quoted", one'},
]
RESULT = {"last5": [99.48, 99.5], "seeds": [7, 8], "command": "nas train-best --seeds 2"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full run's folder, with seeds 7 and 8 (typical), written without a word on either stream."""
    folder = tmp_path_factory.mktemp("study") / "full"
    export.export_run(
        folder,
        architecture=PLAIN,
        result=RESULT,
        log=LOG,
        state_dicts={7: trained(PLAIN, 7).state_dict(), 8: trained(PLAIN, 8).state_dict()},
        typical_seed=8,
        images=images(PLAIN, 1100),
        card="# A card\n",
    )
    return folder


def test_a_full_run_holds_its_files_and_they_read_back(run):
    names = (
        "CARD.md architecture.json architecture.txt log.csv model.onnx model.py result.json weights-seed7.safetensors "
    )
    assert sorted(path.name for path in run.iterdir()) == [
        *names.split(), "weights-seed8.safetensors", "weights.safetensors"
    ]  # fmt: skip
    assert json.loads((run / "result.json").read_text()) == RESULT
    assert (run / "CARD.md").read_text() == "# A card\n"
    with (run / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], float(row["loss"]), row["accuracy"], row["note"]) for row in rows] == [
        ("1", 0.25, "", ""),
        ("2", 1e-05, "99.48", 'a "quoted", one'),
    ]
    for name, seed in (("weights", 8), ("weights-seed8", 8), ("weights-seed7", 7)):
        read = export._read_weights(run / f"{name}.safetensors", PLAIN)
        assert all(torch.equal(read[key], tensor) for key, tensor in trained(PLAIN, seed).state_dict().items())
    assert [path.name for path in run.parent.iterdir()] == ["full"]


STATED = {
    "schedule": str(PLAIN), "epochs": 15, "seeds": [7, 8], "typical_seed": 8, "final": {"7": 99.4, "8": 99.5},
    "last5_mean": 99.45, "last5_sd": None, "target": None, "recipe": RECIPE, "dataset": "mnist", "data_hash": "0f",
    "mean": [0.13], "std": [0.31], "device": "cpu", "torch": "2.x", "time": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def study(run: Path, tmp_path: Path) -> Path:
    """A study's folder with one full run, `full-run-a`, whose result.json is whole."""
    folder = Path(shutil.copytree(run, tmp_path / "study" / "full-run-a"))
    (folder / "result.json").write_text(json.dumps(STATED))
    return folder.parent


def test_a_full_run_reads_back_with_its_typical_seeds_weights(study):
    read = export.read_run(study / "full-run-a")
    assert (read.folder, read.architecture, read.result) == (study / "full-run-a", PLAIN, STATED)
    assert list(read.state_dict) == list(build(PLAIN).state_dict())
    assert all(torch.equal(read.state_dict[key], tensor) for key, tensor in trained(PLAIN, 8).state_dict().items())


def test_the_full_run_of_a_study_is_the_one_begun_last(study):
    """Whatever the times of the files: a clone makes all of them at once, in any order."""
    first, studies = study / "full-run-a", study.parent
    assert {export.find_run(folder) for folder in (first, study, studies)} == {first}
    for name, time in (("full-run-c", "2026-03-01T00:00:00+00:00"), ("full-run-b", "2026-02-01T00:00:00+00:00")):
        shutil.copytree(first, study / name)
        (study / name / "result.json").write_text(json.dumps({**STATED, "time": time}))
    os.utime(study / "full-run-c" / "result.json", (0, 0))
    assert export.find_run(study) == study / "full-run-c"
    assert export.find_run(studies) == study / "full-run-c"
    assert export.find_run(study / "full-run-b") == study / "full-run-b"
    (study / "full-run-c" / "result.json").write_text("{}")
    with pytest.raises(StorageError) as error:
        export.find_run(study)
    one_line(error, "full-run-c", "'schedule' is missing")


def test_a_folder_without_a_full_run_says_so(tmp_path):
    (tmp_path / "study" / "full-run-a.seeds").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "study", tmp_path / "nowhere"):
        with pytest.raises(StorageError) as error:
            export.find_run(folder)
        one_line(error, f"no full run in {folder}", "nas train-best")


@pytest.mark.parametrize("name", ["architecture.txt", "architecture.json", "result.json", "weights.safetensors"])
def test_a_missing_or_cut_file_of_a_full_run_is_named(study, name):
    path = study / "full-run-a" / name
    content = path.read_bytes()
    for damage in (lambda: path.write_bytes(content[: len(content) // 2]), path.unlink):
        damage()
        with pytest.raises(StorageError) as error:
            export.read_run(path.parent)
        one_line(error, str(path), "is damaged")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schedule": "8 G C"}, "it is of '8 G C', not of"),
        ({"typical_seed": 9}, "no final accuracy of its typical seed, 9"),
        ({"mean": []}, "one mean and one standard deviation a channel"),
        ({"std": ["wide"]}, "'std' holds other things than numbers"),
        ({"final": {"8": None}}, "'final' holds other things than numbers"),
        ({"recipe": None}, "'recipe' is None"),
    ],
)
def test_a_result_that_is_not_of_the_run_is_refused(study, change, said):
    (study / "full-run-a" / "result.json").write_text(json.dumps(STATED | change))
    with pytest.raises(StorageError) as error:
        export.read_run(study / "full-run-a")
    one_line(error, "result.json", said)


@pytest.mark.parametrize("name", list(STATED))
def test_a_result_without_one_of_its_fields_is_refused(study, name):
    (study / "full-run-a" / "result.json").write_text(json.dumps({k: v for k, v in STATED.items() if k != name}))
    with pytest.raises(StorageError) as error:
        export.read_run(study / "full-run-a")
    one_line(error, f"'{name}' is missing")


def test_weights_of_another_network_or_with_a_flipped_bit_are_refused(study):
    path = study / "full-run-a" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError) as error:
        export.read_run(path.parent)
    one_line(error, str(path), "checksum")
    export._write_weights(path, ODD, trained(ODD).state_dict())
    with pytest.raises(StorageError) as error:
        export.read_run(path.parent)
    one_line(error, str(path), f"its weights are those of '{ODD}'")


def test_the_graph_is_the_typical_seeds_model_at_any_batch_size(run):
    for count in (1, 3, 1001):
        assert export.check_onnx(run / "model.onnx", trained(PLAIN, 8), images(PLAIN, count), 1e-4) < 1e-5


def test_the_graph_is_one_file_and_names_no_machine(run):
    proto = onnx.load(run / "model.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert {item.key: item.value for item in proto.metadata_props} == {
        "schedule": str(PLAIN),
        "num_params": str(PLAIN.num_params),
    }
    assert [(value.name, value.type.tensor_type.shape.dim[0].dim_param) for value in proto.graph.input] == [
        ("images", "batch")
    ]
    assert [value.name for value in proto.graph.output] == ["logits"]
    content = (run / "model.onnx").read_bytes()
    for path in (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), 'File "'):
        assert path.encode() not in content


def test_a_graph_of_other_weights_is_refused(run):
    with pytest.raises(StorageError) as error:
        export.check_onnx(run / "model.onnx", trained(PLAIN, 7), images(PLAIN, 10), 1e-4)
    one_line(error, str(run / "model.onnx"), "over the tolerance 0.0001")
    nan = trained(PLAIN, 8)
    nn.init.constant_(nan[0].weight, float("nan"))
    with pytest.raises(StorageError, match="differs by nan"):
        export.check_onnx(run / "model.onnx", nan, images(PLAIN, 10), 1e-4)


def test_the_last_image_counts_as_the_first(run):
    """The check covers the whole set: an image that differs in the last, short chunk is found."""
    batch = images(PLAIN, 1001)
    model = trained(PLAIN, 8)

    class Off(nn.Module):
        def forward(self, x):
            return model(x) + 0.01 * (x == batch[-1]).flatten(1).all(1, keepdim=True)

    assert export.check_onnx(run / "model.onnx", Off().eval(), batch[:-1], 1e-4) < 1e-5
    with pytest.raises(StorageError):
        export.check_onnx(run / "model.onnx", Off().eval(), batch, 1e-4)


def test_a_prediction_that_differs_beyond_the_tolerance_is_refused(run):
    """Logits that all differ by less than the tolerance can still turn over a margin of up to twice the tolerance."""
    batch, model = images(PLAIN, 1), trained(PLAIN, 8)
    with torch.no_grad():
        (first, second), (_, runner_up) = (part[0].tolist() for part in model(batch).topk(2))
    tolerance = 1.2 * (first - second)
    shift = torch.full((10,), -0.95 * tolerance)
    shift[runner_up] = 0.95 * tolerance

    class TurnedOver(nn.Module):
        def forward(self, x):
            return model(x) + shift

    with pytest.raises(StorageError, match="1 of 1 predictions"):
        export.check_onnx(run / "model.onnx", TurnedOver().eval(), batch, tolerance)


@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_a_damaged_graph_is_refused(run, tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError) as error:
        export.check_onnx(path, trained(PLAIN, 8), images(PLAIN, 1), 1e-4)
    one_line(error, str(path), "export again")


def test_a_result_with_nan_is_refused_before_anything_slow(run):
    before = tree(run.parent)
    with pytest.raises(StorageError) as error:
        export.export_run(
            run,
            architecture=PLAIN,
            result={"last5": float("nan")},
            log=LOG,
            state_dicts={0: trained(PLAIN).state_dict()},
            typical_seed=0,
            images=None,
            card="",
        )
    one_line(error, "result.json is strict JSON")
    assert tree(run.parent) == before


def test_the_odd_network_exports_to_the_same_bytes_without_a_word(tmp_path, capfd, recwarn):
    model = trained(ODD)
    export.export_onnx(tmp_path / "one.onnx", model, ODD)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert export.check_onnx(tmp_path / "one.onnx", model, images(ODD, 64), 1e-4) < 1e-5
    export.export_onnx(tmp_path / "two.onnx", model, ODD)
    assert tree(tmp_path)["one.onnx"] == tree(tmp_path)["two.onnx"]
    assert set(tree(tmp_path)) == {"one.onnx", "two.onnx"}
