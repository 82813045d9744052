"""`nas export`: what it prints and records, and what it refuses before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toys
from tiny_run import TINY, write_tiny_run

import nas
from nas.cli.export import _print
from nas.cli.interrupts import resume_line
from nas.errors import StorageError
from nas.export import ExportedTarget
from nas.library import Exported, exporting


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "studies"
    write_tiny_run(folder / "mine" / "full-run-500-abc")
    monkeypatch.setenv("NAS_STUDIES", str(folder))
    return folder


def test_it_writes_checks_and_says_so(studies, tmp_path):
    code, out, err = toys.nas("export", "mine", "--to", "onnx,int8", "-o", str(tmp_path / "out"), "-q")
    assert code == 0, err
    assert out.startswith(f"{TINY}\n{TINY.num_params:,} parameters, from ")
    assert "model-probabilities.onnx" in out
    assert "agreement" in out
    assert "checked on 200 validation images, which it was trained on" in out
    assert (tmp_path / "out" / "model-int8.onnx").is_file()
    assert not (studies / "mine" / "test-openings.jsonl").exists()


def test_a_check_on_the_test_split_is_an_opening(studies, tmp_path):
    code, out, err = toys.nas(
        "export", "mine", "--to", "onnx", "-o", str(tmp_path / "out"), "--check", "test", "--json", "-q"
    )
    assert code == 0, err
    fields = json.loads(out)
    assert (fields["split"], fields["images"], fields["trained_on"]) == ("test", 300, False)
    (line,) = (studies / "mine" / "test-openings.jsonl").read_text().splitlines()
    assert json.loads(line)["purpose"] == f"check the exports of {TINY} to onnx"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["mine", "--to", "tflite"], 2, "no export target 'tflite'"),
        (["mine", "--to", "script"], 2, "cannot export to script"),
        (["mine", "--to", "all"], 2, "torchvision, which has no 'synthetic'"),
        (["nobody", "--to", "onnx"], 4, "no trained network in 'nobody'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(studies, tmp_path, arguments, code, reason):
    found, out, err = toys.nas("export", *arguments, "-o", str(tmp_path / "new" / "out"), "--check", "test", "-q")
    assert (found, out) == (code, "")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert not (studies / "mine" / "test-openings.jsonl").exists()


@pytest.mark.parametrize(
    "place", ["file", "file/out", "file/more/out", "loop/out", "gone", "n" * 300, "n" * 250, "new/" + "n" * 300]
)
def test_a_folder_that_cannot_be_is_refused_before_anything_is_loaded(place, studies, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with monkeypatch.context() as patch:
        patch.setattr("nas.library.export_network", lambda *args, **options: pytest.fail("a network is loaded"))
        code, out, err = toys.nas("export", "mine", "--to", "onnx", "-o", str(tmp_path / place))
    assert (code, out) == (4, "")
    assert err.startswith(f"error: cannot write {tmp_path / place}: ")
    assert err.count("\n") == 1
    monkeypatch.setattr(exporting, "ready_dataset", lambda *args: pytest.fail("images are loaded"))
    with pytest.raises(StorageError, match="cannot write"):
        nas.export_network("mine", to="onnx", folder=tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone", "loop", "studies"]


def test_missing_parents_of_a_folder_are_made(studies, tmp_path):
    code, _, err = toys.nas("export", "mine", "--to", "onnx", "-o", str(tmp_path / "new" / "out"), "-q")
    assert code == 0, err
    assert (tmp_path / "new" / "out" / "export.json").is_file()


def test_a_folder_is_named(studies):
    code, _, err = toys.nas("export", "mine", "--to", "onnx")
    assert code == 2
    assert err == "error: name the folder to write with -o DIR\n"


def test_a_folder_of_other_files_stays(studies, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    code, _, err = toys.nas("export", "mine", "--to", "onnx", "-o", str(tmp_path / "out"), "-q")
    assert code == 4
    assert "holds other files" in err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_what_cannot_be_made_is_refused_before_anything_is_loaded(studies, tmp_path):
    for arguments, words in (
        (["--to", "bad"], "no export target 'bad'"),
        (["--to", "onnx", "--qat"], "export to int8 or c as well"),
        (["--to", "int8", "--cmsis-nn"], "export to c as well"),
    ):
        code, out, err = toys.nas("export", "mine", *arguments, "-o", str(tmp_path / "out"))
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1  # nothing of loading
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["export", "-o"], ["predict", ".", "--picture"], ["report", "-o"], ["plot", "curves", "-o"]]
)
def test_no_path_and_the_root_are_refused(arguments):
    code, out, err = toys.nas(*arguments, "")
    assert (code, out) == (2, "")
    assert "the path is empty" in err
    code, out, err = toys.nas(*arguments, "/")
    assert (code > 1, out, err.count("\n")) == (True, "", 1)
    assert "Traceback" not in err


def test_a_script_alone_is_not_called_checked(capsys):
    targets = [ExportedTarget(name="script", files=("train.py",), difference=None)]
    fields = {
        "folder": Path("out"),
        "source": Path("best"),
        "schedule": "8 G C",
        "num_params": 9,
        "split": "validation",
    }
    _print(Exported(**fields, targets=tuple(targets), images=10, trained_on=True))
    assert capsys.readouterr().out.endswith("train.py\nwritten to out\n")
    targets.append(ExportedTarget(name="torch", files=("model.py",), difference=None))
    _print(Exported(**fields, targets=tuple(targets), images=10, trained_on=False))
    assert capsys.readouterr().out.endswith("checked on 10 validation images; written to out\n")


def test_an_interrupted_export_begins_anew():
    assert resume_line(["export", "1000", "-o", "x y"]) == (
        "interrupted; nothing was written. Run it again: nas export 1000 -o 'x y'"
    )
    assert resume_line(["search"]).endswith("To resume: nas search")
