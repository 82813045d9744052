"""Every refused input is one line and an exit code, before anything is trained or a folder is made."""

from __future__ import annotations

import html
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import toys

from nas.study import StudyStore

SEARCH = ["search", "--max-params", "500", "--dataset", "synthetic"]
BY_HAND = ["train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic"]
DIGITS = "9" * 4000


@pytest.mark.parametrize(
    ("code", "wanted", "arguments"),
    [
        (2, "No such option", ["search", "--nonsense"]),
        (2, "No such command", ["nonsense"]),
        (2, "Missing argument", ["count"]),
        (2, "--max-params", ["search", "--max-params", "many"]),
        (2, "a budget needs a cap", ["search"]),
        (2, "of 1 or more", ["search", "--max-params", "-5"]),
        (2, "at most 30 digits", ["search", "--max-params", DIGITS]),
        (2, "at most 30 digits", ["count", "8 M G C", "--max-params", DIGITS]),
        (2, "at most 30 digits", ["space", "--max-macs", DIGITS]),
        (2, "no budget 'nonsense'", ["search", "--budget", "nonsense"]),
        (2, "unknown data set 'nonsense'", ["search", "--max-params", "500", "--dataset", "nonsense"]),
        (2, "such as 90s, 20m, 2h or 1h30m", [*SEARCH, "--timeout", "soon"]),
        (2, "--timeout", [*SEARCH, "--timeout", "0s"]),
        (2, "nowhere", [*SEARCH, "--device", "nowhere"]),
        (2, "--device", [*SEARCH, "--device", "meta"]),
        (2, "between 1 and 10000", [*SEARCH, "--finalist-epochs", "20000"]),
        (2, "brief_epochs is a whole number from 1 to 10,000", [*SEARCH, "--brief-epochs", "20000"]),
        (2, "unknown word 'X'", [*SEARCH, "--teacher", "8 M X"]),
        (2, "target is an accuracy", [*SEARCH, "--target", "101"]),
        (2, "plain folder name", [*SEARCH, "--study", "a/b"]),
        (2, "plain folder name", [*SEARCH, "--study", ""]),
        (2, "at most 200 bytes, not 300", [*SEARCH, "--study", "a" * 300]),
        (2, "UTF-8", [*SEARCH, "--study", "\udcffx"]),
        (2, "8q", ["count", "8q M G C"]),
        (2, "8q", ["train-best", "--architecture", "8q M G C", "--dataset", "synthetic"]),
        (2, "between 1 and 10000", [*BY_HAND, "--epochs", "20000"]),
        (2, "unknown word 'X'", [*BY_HAND, "--teacher", "8 M X"]),
        (2, "--device", [*BY_HAND, "--device", "meta"]),
        (2, "without --study", ["train-best", "--reference", "8k", "--study", "tiny"]),
        (2, "without --architecture", ["train-best", "--reference", "8k", "--architecture", "8 M G C"]),
        (2, "without --dataset", ["train-best", "--reference", "8k", "--dataset", "synthetic"]),
        (2, "without --recipe", ["train-best", "--reference", "8k", "--recipe", "recipe.json"]),
        (2, "without --architecture", [*BY_HAND, "--pick", "3"]),
        (2, "--recipe nowhere.json cannot be read", [*BY_HAND, "--recipe", "nowhere.json"]),
        (2, "without an architecture", ["tune", "--architecture", "8 M G C", "--study", "tiny"]),
        (2, "between 1 and 10000", ["tune", *BY_HAND[1:], "--epochs", "20000"]),
        (2, "--device", ["evaluate", "--device", "meta"]),
        (2, "nowhere", ["evaluate", "--device", "nowhere"]),
        (2, "at most 200 bytes", ["evaluate", "a" * 300]),
        (2, "--csv and --json exclude each other", ["show", "--csv", "--json"]),
        (2, "--json and --images exclude each other", ["show", "--json", "--images"]),
        (2, "--csv and --json exclude each other", ["predict", "a.png", "--csv", "--json"]),
        (2, "--dry-run and --json exclude each other", [*SEARCH, "--dry-run", "--json"]),
        (2, "--dry-run and --report exclude each other", [*SEARCH, "--dry-run", "--report"]),
        (2, "name the picture to write", ["plot", "-o", "front.svg"]),
        (2, "at most 200 bytes", ["show", "--study", "a" * 300]),
        (2, "UTF-8", ["show", "--study", "\udcffx"]),
        (2, "at most 200 bytes", ["train-best", "--study", "a" * 300]),
        (2, "--port", ["dashboard", "--port", "70000"]),
        (3, "the smallest has ", ["search", "--max-params", "5", "--dataset", "synthetic"]),
        (3, "the smallest has ", ["space", "--max-macs", "5"]),
        (4, "no study in", ["show"]),
        (4, "no study in", ["train-best"]),
        (4, "no winner in", ["train-best", "--study", "nothing"]),
        (4, "no record '8000'", ["train-best", "--reference", "8k"]),
        (4, "no full run in", ["evaluate"]),
        (4, "no full run in", ["evaluate", "nothing"]),
        (4, "no full run in", ["evaluate", "--against", "nothing"]),
        (4, "no study 'nothing'", ["dashboard", "--study", "nothing"]),
        (4, "no database nowhere.db", ["show", "--storage", "nowhere.db"]),
    ],
)
def test_a_refusal_is_an_exit_code_and_a_line(code, wanted, arguments, folder):
    found, out, err = toys.nas(*arguments)
    assert found == code, err
    assert wanted in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert "Traceback" not in err
    boxed = "╭─ Error" in err  # of the parser, below the usage
    assert boxed or (err.startswith("error: ") and err.count("\n") == 1), err
    assert len(err) < 1500
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a":' * 100_000, "cannot be read"), ("", "cannot be read"), ("[1]", "holds no recipe"),
        ('{"momentum": 0.9}', "unknown key 'momentum'"), ('{"epochs": 0}', "between 1 and 10000"),
        ('{"epochs": NaN}', "epochs"), ('{"peak_lr": "high"}', "peak_lr"), ('{"teacher": 3}', "teacher"),
        ('{"teacher": "8 M X"}', "unknown word 'X'"), ('{"scale": 0.9, "teacher": "8 M 8 G C"}', "scale"),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_refused_before_the_test_split_is_opened(text, wanted, tmp_path, folder):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    code, out, err = toys.nas(*BY_HAND, "--recipe", str(path))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert wanted in err
    assert len(err) < 500
    assert not folder.exists()


def test_a_budget_file_is_refused_before_anything_is_trained(tmp_path, folder):
    for text, wanted in (
        ("max_params = 500\nfull_epochs = 20000", "full_epochs is a whole number from 1 to 10,000"),
        (f"max_params = {'9' * 4000}", "at most 30 digits"),
        ("max_params = 500\nmore = 1", "unknown key 'more'"),
        ("max_params =", "cannot read the budget"),
    ):
        (tmp_path / "own.toml").write_text(text)
        code, out, err = toys.nas("search", "--budget", str(tmp_path / "own.toml"), "--dataset", "synthetic")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert wanted in err
    assert not folder.exists()


@pytest.mark.parametrize("command", [["search", "--max-params", "500"], ["train-best", "--architecture", "8 M G C"]])
def test_missing_data_has_three_ways_out(command, tmp_path, monkeypatch, folder):
    monkeypatch.setattr("nas.data.loading.download_files", lambda *args, **options: "the download failed: no network")
    code, out, err = toys.nas(*command, "--dataset", "mnist", "--data-dir", str(tmp_path))
    assert code == 4
    assert "accuracy" not in out  # the plan of a full run comes first, and nothing after it
    for way in ("(1)", "(2)", "(3)", "--data-dir", "mnist-5k"):
        assert way in err
    assert not folder.exists()


def test_a_bad_setting_is_refused_before_a_download(tmp_path, monkeypatch):
    def never(*args, **options):
        raise AssertionError("nothing was to be downloaded")

    monkeypatch.setattr("nas.data.loading.download_files", never)
    for wrong in (["--teacher", "8 M X"], ["--finalist-epochs", "20000"], ["--max-params", "5"]):
        code, _, err = toys.nas(
            "search", "--max-params", "500", "--dataset", "mnist", "--data-dir", str(tmp_path), *wrong
        )
        assert code in (2, 3), err


def test_a_study_made_otherwise_is_not_resumed(tiny):
    base = ["search", "--dataset", "synthetic", "--study", "tiny", "--finalist-epochs", "2", "--brief-epochs", "2"]
    code, _, err = toys.nas(*base, "--max-params", "600", "-q")
    assert code == 2
    assert "'tiny' was made otherwise: --max-params 600, the study has 500. Give what it has, or another --study" in err
    code, _, err = toys.nas(*base[:-1], "3", "--max-params", "500", "-q")
    assert code == 2
    assert "--brief-epochs 3, the study has 2" in err
    code, _, err = toys.nas(*base, "--max-params", "500", "--pareto", "--metric", "balanced-accuracy", "-q")
    assert "--pareto, the study has none; --metric balanced-accuracy, the study has none" in err


def test_another_study_is_refused_before_its_images_are_loaded(tiny, monkeypatch):
    def load(*_, **__):
        raise AssertionError("images are loaded")

    monkeypatch.setattr("nas.library.searching.load_training_data", load)
    for more in (["--max-params", "600"], ["--max-params", "500", "--finalist-epochs", "9"]):
        code, _, err = toys.nas("search", "--dataset", "synthetic", "--study", "tiny", *more, "-q")
        assert (code, "the study has" in err) == (2, True), err


def test_a_path_where_nothing_is_is_named_as_a_path(tiny, tmp_path):
    gone = str(tmp_path / "gone")
    for command in (
        ["evaluate", gone], ["evaluate", "--against", gone], ["predict", "x.png", "--network", gone],
        ["export", gone, "-o", "out"], ["report", gone], ["plot", "layers", "--study", gone], ["show", gone],
        ["watch", gone], ["train-best", gone], ["count", "4 G C", "--budget", f"{gone}.toml"],
    ):  # fmt: skip
        code, _, err = toys.nas(*command)
        assert (code, f"there is no {gone}" in err) == (2, True), err
    from nas.errors import UsageError
    from nas.final import locate_network, locate_run

    for locate in (locate_run, locate_network):
        with pytest.raises(UsageError, match="there is no"):
            locate(gone)


def test_a_study_is_named_by_its_place_by_its_option_or_by_its_path(tiny, tmp_path):
    for name in (["tiny"], ["--study", "tiny"], [str(tiny / "tiny")]):
        assert toys.nas("show", *name, "--csv")[0] == 0
        assert toys.nas("watch", *name)[:2] == (0, "tiny: the search has ended\n")
        assert toys.nas("report", *name, "-o", str(tmp_path / "a.html"))[0] == 0
        assert toys.nas("evaluate", *name)[0] == 4  # there is no full run of it
        code, _, err = toys.nas("export", *name, "--to", "torch", "-o", str(tmp_path / f"out{len(name)}"))
        assert code == 0, err
        assert "two studies are named" in toys.nas("show", "tiny", "--study", "other")[2]


# --- what the system has in the way -----------------------------------------------------------------------------------


def test_a_deleted_working_directory_is_one_line(tmp_path):
    gone = tmp_path / "gone"
    for arguments in (["show"], ["count", "8 M G C"], ["evaluate"], ["train-best"]):
        gone.mkdir()
        environment = {name: value for name, value in os.environ.items() if name != "NAS_STUDIES"}
        command = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *toys.COMMAND, *arguments]
        ran = subprocess.run(command, cwd=gone, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in ran.stderr
        assert ran.returncode == {"count": 0, "show": 4, "train-best": 4}.get(arguments[0], 2), ran.stderr
        assert arguments[0] == "count" or ran.stderr.startswith("error: ")


def test_a_port_in_use_is_one_line(tiny):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = toys.nas("dashboard", "--study", "tiny", "--port", str(port))
    assert (code, out) == (2, "")
    assert f"error: 127.0.0.1:{port} cannot be listened on" in err.splitlines()[-1]
    assert "--port" in err.splitlines()[-1]
    assert "Traceback" not in err


# --- damaged files of ours --------------------------------------------------------------------------------------------


def test_a_damaged_reason_is_one_line_everywhere_and_the_search_writes_it_anew(tiny):
    path = tiny / "tiny" / "best" / "reason.json"
    whole = path.read_text()
    fields = json.loads(whole)
    wrong = (
        fields | {"finalists": "none"},
        fields | {"dataset": 3},
        fields | {"counts": [1]},
        fields | {"target": "x"},
    )
    for content in ("{}", "", whole[: len(whole) // 2], "[" * 100_000, *map(json.dumps, wrong)):
        path.write_text(content)
        code, _, err = toys.nas("show", "--study", "tiny")
        assert (code, err.count("\n")) == (4, 1), err
        assert f"error: {path} is damaged" in err
        if content in ("{}", "") or 'dataset": 3' in content:
            for more in ([], ["--pick", "0"]):
                code, out, err = toys.nas("train-best", "--study", "tiny", *more)
                assert (code, out, err.count("\n")) == (4, "", 1), err
                assert "reason.json is damaged" in err
    assert toys.nas(*toys.TINY_SEARCH, "--study", "tiny", "--quiet")[0] == 0
    assert json.loads(path.read_text())["finalists"] == fields["finalists"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.safetensors", lambda whole: whole[: len(whole) // 2]),
        ("weights.safetensors", lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])),
        ("weights.safetensors", lambda whole: b""),
        ("reason.json", lambda whole: whole.replace(b"num_validation", b"number")),
        ("reason.json", None),
        ("recipe.json", lambda whole: b"["),
        ("architecture.json", lambda whole: b"{}"),
        ("architecture.txt", lambda whole: b"8 X"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_the_winner_is_named_with_the_command_that_writes_it_anew(tiny, name, content):
    path = tiny / "tiny" / "best" / name
    whole = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content(whole))
    command = StudyStore.open("tiny").attrs["command"]
    code, out, err = toys.nas("show")
    assert (code, err.count("\n")) == (4, 1), err
    assert err.startswith(f"error: {path} is damaged: ")
    assert err.strip().endswith(f"run the command that made it again: {command} --study tiny")
    assert "best trials" in out
    assert "no weights" not in out + err
    code, out, err = toys.nas("report")
    assert (code, out.strip()) == (0, str(tiny / "tiny" / "report.html"))
    assert f"warning: {path} is damaged: " in err
    assert command in err
    page = html.unescape((tiny / "tiny" / "report.html").read_text())
    assert f"{path} is damaged" in page
    for words in ("there are no weights", "no winner has been written"):
        assert words not in page
    code, out, err = toys.nas("plot", "confusion", "-o", str(tiny / "a.svg"))
    assert (code, f"{path} is damaged" in err) == (2, True), err
    code, out, err = toys.nas("plot", "filters", "-o", str(tiny / "a.svg"))
    assert code == 0 or f"{path} is damaged" in err  # weights that can be read are drawn
    assert code == 2 or "weights" not in name


def test_damaged_files_of_a_full_run_are_named(tiny):
    code, _, err = toys.nas("train-best", "--epochs", "1", *toys.ONE_WORKER, "--quiet", "--no-report")
    assert code == 0, err
    for name in ("weights.safetensors", "result.json"):
        (path,) = (tiny / "tiny").glob(f"full-run-*/{name}")
        path.write_bytes(path.read_bytes()[:20])
        assert f"error: {path} is damaged" in toys.nas("show")[2]
        assert f"warning: {path} is damaged" in toys.nas("report")[2]


OTHERWISE = {
    "--brief-epochs 3, the study has 2": ["--brief-epochs", "3"],
    "--class-weights 1.0, the study has none": ["--brief-epochs", "2", "--class-weights", "1"],
    "--finalist-epochs 9, the study has 2": ["--brief-epochs", "2", "--finalist-epochs", "9"],
    "--metric balanced-accuracy, the study has none": ["--brief-epochs", "2", "--metric", "balanced-accuracy"],
}
REFUSED = """
import json, sys, nas.cli
for arguments in json.loads(sys.argv[1]):
    try:
        nas.cli.main(arguments)
    except SystemExit as left:
        print(left.code, "torch" in sys.modules)
"""


def test_a_study_made_otherwise_is_refused_before_torch_is_imported(tiny):
    toys.nas("study", "rename", "tiny", "synthetic-500-params")
    cases = [
        [*SEARCH, *changes, *named]
        for named in ([], ["--study", "synthetic-500-params"])
        for changes in OTHERWISE.values()
    ]
    command = [sys.executable, "-c", REFUSED, json.dumps(cases)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.splitlines() == ["2 False"] * len(cases), ran.stderr
    for line, wanted in zip(ran.stderr.splitlines(), [*OTHERWISE] * 2, strict=True):
        assert "'synthetic-500-params' was made otherwise: " in line
        assert wanted in line


def test_damaged_weights_of_the_winner_are_one_line_in_the_search(tiny):
    shutil.rmtree(tiny / "tiny" / "best")
    for path in (tiny / "tiny" / "weights").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    code, out, err = toys.nas(*toys.TINY_SEARCH, "--study", "tiny", "--quiet")
    assert (code, out) == (4, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert "safetensors is damaged" in err
    assert "Traceback" not in err


def test_a_database_that_is_none_is_one_line(tiny):
    (tiny / "tiny" / "study.db").write_bytes(b"no database" * 100)
    for arguments in (["show", "--study", "tiny"], [*toys.TINY_SEARCH, "--study", "tiny", "-q"]):
        code, out, err = toys.nas(*arguments)
        assert (code, out) == (4, ""), err
        assert err.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in err
