"""`nas show`: our studies, copies of them, studies of other programs, names that shells and rich would read."""

from __future__ import annotations

import json
import shutil
import warnings

import optuna
import pytest
import toys

from nas.report.findings import _named
from nas.study import RunState, StudyStore, load_study
from nas.study.run_state import RUN


def test_show_reads_the_study(tiny):
    code, out, err = toys.nas("show")
    assert (code, err) == (0, "")
    store = StudyStore.open("tiny")
    store.refresh()
    counts = store.counts()
    for text in ("tiny: best trials", "validation", "Pareto front", f"generated {counts['generated']}", "winner"):
        assert text in out
    reason = json.loads((tiny / "tiny" / "best" / "reason.json").read_text())
    assert reason["finalists"][0]["schedule"] in out
    assert "\x1b" not in out
    many = len(toys.nas("show")[1].splitlines())
    assert many - len(toys.nas("show", "--top", "1")[1].splitlines()) == counts["complete"] - 1


def test_csv_and_json_are_all_trials(tiny):
    table = load_study("tiny")
    out = toys.nas("show", "--csv")[1]
    assert out.splitlines()[0].startswith("number,state,value,schedule,num_params,macs,loss")
    assert len(out.splitlines()) == len(table) + 1
    rows = json.loads(toys.nas("show", "--json")[1])
    assert [row["schedule"] for row in rows] == table["schedule"].tolist()


def test_a_copied_renamed_or_stray_folder_is_read(tiny):
    shutil.copytree(tiny / "tiny", tiny / "tiny-backup")
    (tiny / ".ipynb_checkpoints").mkdir()
    (tiny / ".ipynb_checkpoints" / "study.db").write_bytes(b"")
    for arguments in (["--study", "tiny-backup"], ["--study", "tiny"], []):
        code, out, err = toys.nas("show", *arguments)
        assert (code, err) == (0, "")
        assert "best trials" in out
        assert "ipynb" not in out
    (tiny / "tiny").rename(tiny / "elsewhere")
    assert toys.nas("show", "--study", "elsewhere")[0] == 0


def test_a_damaged_copy_names_the_command_that_goes_on_with_the_copy(tiny):
    assert toys.nas("study", "copy", "tiny", "a copy", "-q")[0] == 0
    shutil.copytree(tiny / "a copy", tiny / "by-hand")
    for name, quoted in (("a copy", "'a copy'"), ("by-hand", "by-hand")):
        (tiny / name / "best" / "weights.safetensors").write_bytes(b"")
        code, _, err = toys.nas("show", name)
        assert code == 4
        assert err.strip().endswith(f"--study {quoted}")
        assert err.count("--study") == 1
    assert _named("nas search --max-params 8", "b") == "nas search --max-params 8 --study b"
    assert _named("nas search --study=a -q", "b") == _named("nas search --study a -q", "b") == "nas search --study b -q"


def test_a_search_that_runs_is_to_be_watched(tiny):
    state = RunState(phase="finalists", trials=4, stages=(), workers=1, began="2026-01-01T00:00:00+00:00")
    StudyStore.open("tiny").set_attr(f"{RUN}one", state.to_dict())
    shutil.rmtree(tiny / "tiny" / "best")
    for arguments in ([], ["tiny"]):
        code, out, err = toys.nas("show", *arguments)
        assert (code, err) == (0, "")
        assert out.endswith("\nits search is still running: nas watch tiny\n")
        assert "no winner" not in out


def test_storage_can_be_a_path_and_its_only_study_is_taken(tiny):
    path = str(tiny / "tiny" / "study.db")
    for arguments in (["--storage", path], ["--storage", f"sqlite:///{path}"], ["--storage", path, "--study", "tiny"]):
        code, out, err = toys.nas("show", *arguments)
        assert (code, err) == (0, "")
        assert "tiny: best trials" in out
    missing = tiny / "typo.db"
    assert toys.nas("show", "--storage", str(missing))[0] == 4
    assert not missing.exists()  # reading makes nothing


def foreign(folder, **options):
    """A study that plain Optuna makes, with trials of every kind."""
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}", **options)

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 2:
            raise optuna.TrialPruned
        trial.suggest_categorical("activation [relu]", ["relu", "tanh"])
        return x if len(study.directions) == 1 else (x, -x)

    study.optimize(objective, n_trials=4)
    return study


@pytest.mark.parametrize("options", [{}, {"direction": "maximize"}, {"directions": ["minimize", "maximize"]}])
def test_a_foreign_study_is_shown_as_far_as_it_goes_and_never_written_to(folder, options):
    study = foreign(folder / "plain", **options)
    before = (folder / "plain" / "study.db").read_bytes()
    code, out, err = toys.nas("show")
    assert (code, err) == (0, "")
    assert "'plain' was not made by this version of nas" in out
    assert "4 trials, 3 complete" in out
    assert "activation [relu]" in out
    if "directions" not in options:
        assert f"{study.best_value:.6g}" in out.splitlines()[-3]  # the best one first
    assert toys.nas("show", "--csv")[0] == toys.nas("show", "--json")[0] == 0
    code, out, err = toys.nas(*toys.TINY_SEARCH, "--study", "plain", "-q")
    assert (code, out) == (2, "")
    assert "'plain' was not made by nas, and is left untouched" in err
    assert (folder / "plain" / "study.db").read_bytes() == before


def test_an_empty_foreign_study_is_shown(folder):
    (folder / "empty").mkdir(parents=True)
    optuna.create_study(study_name="empty", storage=f"sqlite:///{folder / 'empty' / 'study.db'}")
    code, out, err = toys.nas("show")
    assert (code, err) == (0, "")
    assert "0 trials, 0 complete" in out


@pytest.mark.parametrize("name", ["run[v2]", "[bold]x", "a?b", "a%20b", "my study", "a#b", "it's", "ü☃", "a'b\"c"])
def test_any_name_is_shown_as_it_is(tiny, name):
    (tiny / "tiny").rename(tiny / name)
    code, out, err = toys.nas("show")
    assert (code, err) == (0, "")
    assert name in out.splitlines()[0]
    assert toys.nas("show", "--study", name)[0] == 0


def test_the_confusion_matrix_is_stored_with_the_report_and_of_this_winner_alone(tiny):
    path = tiny / "tiny" / "confusion.json"
    stored = json.loads(path.read_text())
    out = toys.nas("show")[1]
    assert "What is taken for what" in out
    assert "are read right" in out.splitlines()[-1]
    for other in ({"weights_seed": 7}, {"schedule": "4 G C"}, {"counts": [[1]]}, {"counts": [[0] * 4] * 4}):
        path.write_text(json.dumps(stored | other))
        assert toys.nas("show")[1].splitlines()[-1] == "The confusion matrix on validation images: --images"
    path.write_text("{")
    assert "--images" in toys.nas("show")[1].splitlines()[-1]
    path.unlink()
    code, out, err = toys.nas("show", "--images")
    assert (code, err) == (0, "")
    for words in ("Accuracy against parameters", "95 % intervals", "What is taken for what", "are read right"):
        assert words in out
    assert json.loads(path.read_text()) == stored
