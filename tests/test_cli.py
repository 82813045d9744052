"""The command line: exit codes, what goes to which stream, and a search that is interrupted, killed and resumed."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import toys
import typer.main
from optuna.trial import TrialState

from nas import cli, data, run, search
from nas import study as studies
from nas.architecture import Architecture
from nas.budget import Budget
from nas.export import read_run

COMMANDS = ["search", "tune", "train-best", "evaluate", "show", "count", "space", "dashboard"]


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        monkeypatch.setenv("COLUMNS", "200")
        yield quick / "studies"


@pytest.fixture
def tiny(tmp_path_factory, folder):
    """A copy of the finished tiny search's studies folder."""
    shutil.copytree(toys.finished(tmp_path_factory)[0], folder)
    return folder


# --- quick to talk to -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "allowed"), [(["count", "8 M G C"], set()), (["show"], {"optuna", "pandas"})])
def test_reading_does_not_wait_for_torch(arguments, allowed, tiny):
    script = (
        f"import sys\nfrom nas.cli import main\ntry: main({arguments})\n"
        "except SystemExit as left: assert not left.code\n"
        "print(*{'torch', 'numba', 'optuna', 'pandas'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert set(done.stderr.split()) == allowed


def test_help_imports_nothing_heavy_and_is_quick():
    script = (
        "import sys\nfrom nas.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as left: assert not left.code\n"
        "heavy = {'torch', 'numba', 'optuna', 'pandas', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )

    def seconds(script):
        """Of the processor: what else the machine does is not the command's doing."""
        before = os.times()
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds(script) for _ in range(3)) < 0.5 + min(seconds("pass") for _ in range(3))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example_that_parses(command):
    code, out, err = toys.nas(command, "--help")
    assert (code, err) == (0, "")
    last = [line.strip() for line in out.strip().splitlines() if line.strip()][-1]
    example = re.search(rf"Example: nas ({command}.*)", " ".join(out.split()))
    assert last.startswith("Example: nas ") or "Example: nas" in out.strip().rpartition("╯")[2]
    assert example
    import shlex

    arguments = shlex.split(example[1])
    click_command = typer.main.get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    click_command.make_context(command, arguments[1:])  # raises on an option that there is not


def test_the_commands_are_those_that_are_tested():
    assert sorted(typer.main.get_command(cli.app).commands) == sorted(COMMANDS)  # type: ignore[attr-defined]


def test_version_and_completion():
    assert re.fullmatch(r"nas \d+\.\d+\.\d+\n", toys.nas("--version")[1])
    out = subprocess.run(
        [*toys.COMMAND, "--show-completion", "bash"], capture_output=True, text=True, check=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # there may be no shell above a test
    ).stdout  # fmt: skip
    assert "complete" in out


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "wanted", "arguments"),
    [
        (2, "No such option", ["search", "--nonsense"]),
        (2, "No such command", ["nonsense"]),
        (2, "Missing argument", ["count"]),
        (2, "--max-params", ["search", "--max-params", "many"]),
        (2, "a budget needs a cap", ["search"]),
        (2, "max_params is a whole number of 1 or more, not -5", ["search", "--max-params", "-5"]),
        (2, "no budget 'nonsense'", ["search", "--budget", "nonsense"]),
        (2, "unknown data set 'nonsense'", ["search", "--max-params", "500", "--dataset", "nonsense"]),
        (2, "--timeout is a time", ["search", "--max-params", "500", "--dataset", "synthetic", "--timeout", "soon"]),
        (2, "nowhere", ["search", "--max-params", "500", "--dataset", "synthetic", "--device", "nowhere"]),
        (2, "plain folder name", ["search", "--max-params", "500", "--dataset", "synthetic", "--study", "a/b"]),
        (2, "8q", ["count", "8q M G C"]),
        (2, "8q", ["train-best", "--architecture", "8q M G C", "--dataset", "synthetic"]),
        (2, "without --study", ["train-best", "--reference", "8k", "--study", "tiny"]),
        (2, "without --architecture", ["train-best", "--reference", "8k", "--architecture", "8 M G C"]),
        (2, "without --dataset", ["train-best", "--reference", "8k", "--dataset", "synthetic"]),
        (2, "nowhere", ["evaluate", "--device", "nowhere"]),
        (3, "the smallest has ", ["search", "--max-params", "5", "--dataset", "synthetic"]),
        (3, "the smallest has ", ["space", "--max-macs", "5"]),
        (4, "no study in", ["train-best"]),
        (4, "no winner in", ["train-best", "--study", "nothing"]),
        (4, "no reference '8000'", ["train-best", "--reference", "8k"]),
        (4, "no full run in", ["evaluate"]),
        (4, "no full run in", ["evaluate", "nothing"]),
        (4, "no full run in", ["evaluate", "--against", "nothing"]),
        (4, "no study 'nothing'", ["dashboard", "--study", "nothing"]),
    ],
)
def test_exit_codes_and_one_line(code, wanted, arguments, folder):
    found, out, err = toys.nas(*arguments)
    assert found == code, err
    assert wanted in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert "Traceback" not in err
    assert not folder.exists()


def test_the_smallest_count_of_an_impossible_cap_is_possible():
    _, _, err = toys.nas("space", "--max-params", "5")
    smallest = int(re.search(r"the smallest has ([\d,]+)", err)[1].replace(",", ""))
    assert toys.nas("space", "--max-params", str(smallest), "--samples", "10")[0] == 0
    assert toys.nas("space", "--max-params", str(smallest - 1), "--samples", "10")[0] == 3


@pytest.mark.parametrize("command", [["search", "--max-params", "500"], ["train-best", "--architecture", "8 M G C"]])
def test_missing_data_has_three_ways_out(command, tmp_path, monkeypatch, folder):
    monkeypatch.setattr(data, "_fetch", lambda *args, **options: "the download failed: no network")
    code, out, err = toys.nas(*command, "--dataset", "mnist", "--data-dir", str(tmp_path))
    assert (code, out) == (4, "")
    for way in ("(1)", "(2)", "(3)", "--data-dir", "mnist-5k"):
        assert way in err
    assert not folder.exists()


def test_a_study_made_otherwise_is_not_resumed(tiny):
    base = ["search", "--dataset", "synthetic", "--study", "tiny", "--finalist-epochs", "2", "--brief-epochs", "2"]
    code, _, err = toys.nas(*base, "--max-params", "600")
    assert code == 2
    assert "max_params = 500, not 600" in err
    code, _, err = toys.nas(*base[:-1], "3", "--max-params", "500")
    assert code == 2
    assert "recipe.epochs = 2, not 3" in err


# --- what is printed where --------------------------------------------------------------------------------------------


def test_count_prints_a_table_or_json():
    text = "8vr 9vr 10vr M 12vr 16vr 20vr C G"
    code, out, err = toys.nas("count", text, "--max-params", "8000")
    assert (code, err) == (0, "")
    assert "Conv2d-1" in out
    assert "[-1, 8, 26, 26]" in out
    assert "7,568" in out
    assert "Fits: at most 8,000 parameters" in out
    assert "Does not fit" in toys.nas("count", text, "--max-params", "7567")[1]
    assert "Fits" in toys.nas("count", text, "--max-params", "7568")[1]  # a cap is inclusive
    fields = json.loads(toys.nas("count", text, "--json")[1])
    assert fields["num_params"] == sum(layer["num_params"] for layer in fields["layers"]) == 7568
    assert fields["macs"] == Architecture.parse(text).macs
    assert fields["fits"] is None


def test_space_shows_what_the_space_holds():
    code, out, err = toys.nas("space", "--max-params", "2000", "--samples", "300")
    assert (code, err) == (0, "")
    assert "300 schedules drawn" in out
    fields = json.loads(toys.nas("space", "--max-params", "2000", "--samples", "300", "--json")[1])
    assert fields["samples"] == 300
    assert sum(fields["shares"].values()) == pytest.approx(1)
    assert all(count <= 2000 for _, count in fields["examples"])


def test_the_command_line_has_the_defaults_of_a_search():
    """They stand in both, as the command line must not import torch to show its help."""
    stated = {name: parameter.default for name, parameter in inspect.signature(cli.search).parameters.items()}
    fields = {field.name: field.default for field in dataclasses.fields(search.Settings)}
    shared = ("seed", "sampler", "pruner", "known", "pareto")
    assert {name: stated[name] for name in shared} == {name: fields[name] for name in shared}
    numbers = {"trials": search.FRONT_TRIALS, "finalists": search.POINTS, "finalist_seeds": search.POINT_SEEDS}
    options = inspect.signature(cli.search, eval_str=True).parameters
    for name, of_a_front in numbers.items():  # these depend on --pareto: their helps have both
        (option,) = options[name].annotation.__metadata__
        assert [int(number) for number in re.findall(r"\b\d+\b", option.help)] == [fields[name], of_a_front]


def test_dry_run_trains_nothing_and_makes_no_study(folder):
    code, out, _ = toys.nas("search", "--dataset", "synthetic", "--max-params", "500", "--dry-run")
    assert code == 0
    assert out.count("\ndrawn ") == 10
    assert "no study was made" in out
    assert not folder.exists()


def test_show_reads_the_study(tiny):
    code, out, err = toys.nas("show")
    assert (code, err) == (0, "")
    counts = studies.counts(studies.open_study("tiny"))
    for text in ("tiny: best trials", "validation", "Pareto front", f"generated {counts['generated']}", "winner"):
        assert text in out
    reason = json.loads((tiny / "tiny" / "best" / "reason.json").read_text())
    assert reason["finalists"][0]["schedule"] in out
    assert "\x1b" not in out
    many = len(toys.nas("show")[1].splitlines())
    assert many - len(toys.nas("show", "--top", "1")[1].splitlines()) == counts["complete"] - 1


def test_no_color_means_no_escape_codes():
    """With a terminal to write to there are some, without NO_COLOR."""
    import pty

    def shown(**environment):
        main, side = pty.openpty()
        variables = {**os.environ, "TERM": "xterm-256color", **environment}
        process = subprocess.Popen([*toys.COMMAND, "count", "8 M G C"], stdout=side, stderr=side, env=variables)
        os.close(side)
        out = b""
        try:
            while block := os.read(main, 65536):
                out += block
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(main)
        assert process.wait() == 0
        return out.decode()

    colours = re.compile(r"\x1b\[[0-9;]*m")
    assert colours.search(shown())
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown(NO_COLOR="1"))


def test_the_search_says_where_everything_is(tmp_path_factory):
    folder, out, err = toys.finished(tmp_path_factory)
    assert str(folder / "tiny" / "study.db") in out
    assert "nas train-best --study tiny --seeds 3" in out
    assert "nas show --study tiny" in out
    assert "No verdict on the target" in out
    assert "generated " in out
    assert len(re.findall(r"^trial ", err, re.MULTILINE)) == 4
    assert len(re.findall(r"^finalist ", err, re.MULTILINE)) == 4
    assert "\x1b" not in out + err


def test_a_finished_study_trains_nothing_and_json_is_all_of_standard_output(tiny):
    before = json.loads((tiny / "tiny" / "best" / "reason.json").read_text())
    code, out, err = toys.nas(*toys.TINY_SEARCH, "--study", "tiny", "--json", "--quiet", "--require-target")
    assert code == 1  # no target is met on made-up data
    fields = json.loads(out)
    assert fields["finalists"] == before["finalists"]
    assert fields["counts"] == before["counts"]
    assert "trial" not in err
    assert "\x1b" not in err


# --- law 4: the test split --------------------------------------------------------------------------------------------


def test_the_search_never_opens_the_test_split(tmp_path_factory, tiny, monkeypatch):
    """It did not when it ran (its folder would hold the record), nor does it when every way in is trapped."""
    assert not list(tiny.rglob("test-openings.jsonl"))
    toys.synthetic()  # read already, for what the toy search knows of its data
    read = data._read
    splits = []

    def watched(dataset, split, root):
        splits.append(split)
        return read(dataset, split, root)

    monkeypatch.setattr(data, "_read", watched)
    monkeypatch.setattr(data, "open_test", lambda *args, **options: pytest.fail("the search opened the test split"))
    training = data.training_data(data.named("synthetic"), data_dir=None)
    pool = toys.TrainingPool(toys.part(training, 256), training.validation)
    toys.run(pool, trials=2, finalist_seeds=1)
    assert splits == ["train"]
    assert set(vars(training)) == {"dataset", "train", "validation", "mean", "std", "hash", "warning"}
    assert len(training.train) + len(training.validation) == training.dataset.num_train


def test_train_best_records_each_opening_and_prints_every_epoch(tiny):
    arguments = ["train-best", "--study", "tiny", "--epochs", "2", "--backend", "torch", "--workers", "1"]
    code, out, err = toys.nas(*arguments)
    assert code == 0, err
    assert len(re.findall(r"epoch +\d+  loss .*Accuracy: \d+/300 \(\d+\.\d\d%\)", out)) == 2
    assert "last-5" in out
    log = tiny / "tiny" / "test-openings.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 1
    assert lines[0]["num_images"] == 300
    assert "full run of" in lines[0]["purpose"]
    code, out, _ = toys.nas(*arguments, "--json", "--require-target")  # kept: nothing is trained
    assert code == 1
    fields = json.loads(out)
    winner = json.loads((tiny / "tiny" / "best" / "reason.json").read_text())["finalists"][0]
    assert fields["schedule"] == winner["schedule"]
    assert fields["target"] is None
    assert len(log.read_text().splitlines()) == 2
    run = tiny / "tiny" / Path(fields["folder"]).name
    assert json.loads((run / "result.json").read_text())["last5_mean"] == fields["last5_mean"]
    assert {"CARD.md", "log.csv", "model.onnx", "model.py", "weights.safetensors"} <= {p.name for p in run.iterdir()}


def test_train_best_picks_any_trial_of_the_study(tiny):
    winner = (tiny / "tiny" / "best" / "architecture.txt").read_text().strip()
    table = studies.load_study("tiny")
    other = table[(table["state"] == "COMPLETE") & (table["schedule"] != winner)].iloc[0]
    arguments = ["train-best", "--study", "tiny", "--epochs", "1", "--backend", "torch", "--workers", "1", "--json"]
    code, out, err = toys.nas(*arguments, "--pick", str(other["number"]))
    assert code == 0, err
    assert json.loads(out)["schedule"] == other["schedule"]
    code, _, err = toys.nas(*arguments, "--pick", "999")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no trial 999" in err
    code, _, err = toys.nas(*arguments, "--pick", "0", "--architecture", "4v M 6 G C")
    assert code == 2
    assert "without --architecture" in err


def test_a_full_run_of_one_seed_has_its_teacher_asked_by_all_workers():
    alone = run.schedule_plan("8 M 8 G C", data.named("mnist"), "by-hand")
    taught = run.with_teacher(alone, "auto")
    assert [len(plan.seeds) for plan in (alone, taught)] == [1, 1]
    assert cli._at_once(taught, "kernels", "cpu") == cli._at_once(taught, "torch", "cuda") == taught.recipe.epochs == 15
    assert cli._at_once(taught, "torch", "cpu") == 1  # a process alone has all the threads
    assert cli._at_once(alone, "kernels", "cpu") == cli._at_once(alone, "torch", "cuda") == 1
    assert cli._at_once(dataclasses.replace(taught, seeds=tuple(range(20))), "kernels", "cpu") == 20


def test_train_best_says_who_teaches(tmp_path):
    arguments = ["train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--epochs", "1"]
    environment = {"NAS_STUDIES": str(tmp_path)}
    code, out, err = toys.nas(*arguments, "--teacher", "8 M 8 G C", *ONE_WORKER, **environment)
    assert code == 0, err
    assert "learns from 8 M 8 G C" in out
    lines = re.findall(r"^teacher  epoch +1 .* train [0-9.]+ %  [0-9.]+ s$", out, re.MULTILINE)  # no test score
    assert len(lines) == 1
    assert len(list((tmp_path / "teachers").glob("*/teacher.json"))) == 1
    code, _, err = toys.nas(*arguments, "--teacher", "8 M 8 X", *ONE_WORKER, **environment)
    assert code == 2
    assert "unknown word 'X'" in err


def test_a_front_has_a_study_of_its_own(tmp_path):
    arguments = ["search", "--max-params", "2000", "--dataset", "synthetic", "--dry-run"]
    _, plain, _ = toys.nas(*arguments, NAS_STUDIES=str(tmp_path))
    code, front, err = toys.nas(*arguments, "--pareto", NAS_STUDIES=str(tmp_path))
    assert code == 0, err
    assert "study synthetic-2000-params:" in plain
    assert "study synthetic-2000-params-pareto:" in front
    assert plain.splitlines()[4:] != front.splitlines()[4:]  # proposals of every size
    assert "\n50 brief trials" in plain
    assert "\n100 brief trials" in front
    assert "5 finalists of 12 epochs, 4 seeds, each seed for the better" in plain
    assert "10 finalists of 12 epochs, 2 seeds, all points of the front" in front
    arguments += ["--pareto", "--finalists", "3", "--finalist-seeds", "4"]
    _, front, _ = toys.nas(*arguments, NAS_STUDIES=str(tmp_path))
    assert "3 finalists of 12 epochs, 4 seeds, all points of the front" in front


# --- a full run scored and trained again ------------------------------------------------------------------------------

ONE_WORKER = ["--workers", "1", "--backend", "torch"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of studies with one reference, 700: two seeds of two epochs on the synthetic set."""
    studies_dir = tmp_path_factory.mktemp("kept") / "studies"
    arguments = ["train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--epochs", "2"]
    code, _, err = toys.nas(*arguments, "--seeds", "2", *ONE_WORKER, NAS_STUDIES=str(studies_dir))
    assert code == 0, err
    shutil.rmtree(next((studies_dir / "by-hand").glob("*.seeds")))  # a clone has none
    (studies_dir / "by-hand").rename(studies_dir / "reference-700")
    return studies_dir


@pytest.fixture
def reference(kept, folder):
    """The full run of a copy of it."""
    shutil.copytree(kept, folder)
    return next((folder / "reference-700").glob("full-run-*"))


def openings(study):
    return [json.loads(line) for line in (study / "test-openings.jsonl").read_text().splitlines()]


def test_evaluate_prints_what_the_run_stated_beside_what_is_found(reference):
    stated = json.loads((reference / "result.json").read_text())
    seed = stated["typical_seed"]
    correct = round(stated["final"][str(seed)] * 3)
    code, out, err = toys.nas("evaluate", str(reference), "--backend", "torch")
    assert code == 0, err
    assert "made up" in err  # the notice of the data set
    assert str(reference) in err
    assert re.findall(r"(\d+)/300 \(\d+\.\d\d%\)", out) == [str(correct)] * 2
    wanted = (stated["schedule"], f"{stated['num_params']:,} parameters", "synthetic stripes", "cpu, torch",
              f"weights of seed {seed} (the middle one of 2 seeds) after 2 epochs", "test split", "result.json",
              "agrees", "the same test images", "differ by 0, at most 2")  # fmt: skip
    for text in wanted:
        assert text in out
    log = openings(reference.parent)
    assert [line["purpose"].split()[0] for line in log] == ["full", "evaluate"]
    code, out, err = toys.nas("evaluate", "--backend", "torch", "--json", "--quiet")  # the latest full run there is
    assert code == 0
    assert "scoring" not in err
    fields = json.loads(out)
    assert (fields["correct"], fields["stated_correct"], fields["count"]) == (correct, correct, 300)
    assert (fields["seed"], fields["epochs"], fields["split"], fields["agrees"]) == (seed, 2, "test", True)
    assert {"torch", "device", "backend", "command", "num_params", "schedule", "dataset"} <= fields.keys()
    assert len(openings(reference.parent)) == 3


def test_an_evaluation_that_disagrees_says_so_and_leaves_with_1(reference):
    path = reference / "result.json"
    fields = json.loads(path.read_text())
    seed = str(fields["typical_seed"])
    fields["final"][seed] -= 100 * 3 / 300
    path.write_text(json.dumps(fields))
    code, out, err = toys.nas("evaluate", "reference-700", "--backend", "torch")
    assert code == 1
    assert "DISAGREES: the numbers of correct images differ by 3, at most 2" in out
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "more than 2 apart" in last
    assert "test images" in last
    code, out, _ = toys.nas("evaluate", "reference-700", "--backend", "torch", "--json")
    assert (code, json.loads(out)["agrees"]) == (1, False)


def test_damaged_weights_are_an_error_in_one_line_and_open_nothing(reference):
    weights = reference / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, out, err = toys.nas("evaluate", "reference-700", "--quiet")
    assert (code, out) == (4, "")
    assert len(err.splitlines()) == 1
    assert f"{weights} is damaged" in err
    assert len(openings(reference.parent)) == 1


def test_a_reference_is_trained_again_beside_it_and_comes_out_the_same(reference, folder):
    """Same seeds, device, threads and versions: the same bits; and not a byte of the reference changes."""
    before = {path: path.read_bytes() for path in reference.parent.rglob("*") if path.is_file()}
    stated = json.loads((reference / "result.json").read_text())
    code, out, err = toys.nas("train-best", "--reference", "700", "--quiet", *ONE_WORKER)
    assert code == 0, err
    assert {path: path.read_bytes() for path in reference.parent.rglob("*") if path.is_file()} == before
    number = f"{stated['last5_mean']:.3f} ± {stated['last5_sd']:.3f} (n = 2), 2 epochs, cpu"
    assert f"here       {number}" in out
    assert f"committed  {number}" in out
    assert "training images are not those" not in out
    again = folder / "reproduction-700" / reference.name
    result = json.loads((again / "result.json").read_text())
    assert (result["last5"], result["recipe"]) == (stated["last5"], stated["recipe"])
    assert result["reference"]["last5_mean"] == stated["last5_mean"]
    ours, theirs = (read_run(run).state_dict for run in (again, reference))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert openings(folder / "reproduction-700")[0]["purpose"] == f"full run of {stated['schedule']}, seeds 0, 1"
    code, out, _ = toys.nas("train-best", "--reference", "700", "--seeds", "1", "--json", *ONE_WORKER)  # kept: quick
    assert code == 0
    assert json.loads(out)["seeds"] == [0]
    assert json.loads(out)["reference"]["seeds"] == [0, 1]


# --- law 5: interrupted, killed, resumed ------------------------------------------------------------------------------


def complete(path, name):
    """The complete trials of a study, read past every cache: number -> value."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        try:
            rows = connection.execute(
                "select t.number, v.value from trials t join studies s using (study_id) "
                "join trial_values v using (trial_id) where s.study_name = ? and t.state = 'COMPLETE'", [name]
            ).fetchall()  # fmt: skip
        except sqlite3.OperationalError:  # no tables yet
            return {}
    return dict(rows)


def test_interrupted_and_killed_and_run_again(folder):
    """Ctrl-C and SIGKILL of the real thing in both phases, by the same command, to the end."""
    # Enough epochs that a quick machine is still searching when the signal comes.
    epochs = ["--brief-epochs", "12", "--finalist-epochs", "12"]
    arguments = [*toys.TINY_SEARCH, *epochs, "--study", "hunted", "--pruner", "none"]
    database = folder / "hunted" / "study.db"
    seen: dict[str, dict[int, float]] = {"hunted": {}, "hunted/finalists": {}}

    def hunt(name, count, how):
        process = toys.spawn(*arguments, studies_dir=folder)
        try:
            toys.until(lambda: database.exists() and len(complete(database, name)) >= count, 60)
            time.sleep(0.1)  # into the next one
            how(process)
            out, err = process.communicate(timeout=30)
            toys.until(lambda: not toys.group(process.pid), 10)  # no orphan lives on
        finally:
            for pid in toys.group(process.pid):
                os.kill(pid, signal.SIGKILL)
        for study, kept in seen.items():
            now = complete(database, study)
            assert now.items() >= kept.items(), "a finished trial changed"
            seen[study] = now
        return process.returncode, out, err

    code, out, err = hunt("hunted", 1, lambda process: os.killpg(process.pid, signal.SIGINT))
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    resume = err.strip().splitlines()[-1]
    assert resume.endswith("To resume: nas " + " ".join(arguments))
    assert hunt("hunted", 2, lambda process: os.kill(process.pid, signal.SIGKILL))[0] == -signal.SIGKILL
    assert hunt("hunted/finalists", 1, lambda process: os.kill(process.pid, signal.SIGKILL))[0] == -signal.SIGKILL
    process = toys.spawn(*arguments, studies_dir=folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    for study, kept in seen.items():
        assert complete(database, study).items() >= kept.items()
    study = optuna.load_study(study_name="hunted", storage=f"sqlite:///{database}")
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 4
    assert TrialState.RUNNING not in states
    cut = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert all(trial.user_attrs["interrupted"] and trial.user_attrs["reason"] for trial in cut)
    done = {trial.user_attrs["schedule"] for trial in study.trials if trial.state == TrialState.COMPLETE}
    assert len(done) == 4
    assert {trial.user_attrs["schedule"] for trial in cut if "schedule" in trial.user_attrs} <= done
    second = optuna.load_study(study_name=study.user_attrs["finalists"], storage=f"sqlite:///{database}")
    scored = [trial.params for trial in second.trials if trial.state == TrialState.COMPLETE]
    assert len(scored) == 4
    assert (folder / "hunted" / "best" / "weights.safetensors").is_file()


# --- real MNIST -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mnist_from_the_search_to_the_full_run(mnist_dir, folder):
    code, out, err = toys.nas(
        "search", "--dataset", "mnist", "--data-dir", str(mnist_dir), "--max-params", "2000", "--trials", "4",
        "--brief-epochs", "1", "--finalists", "2", "--finalist-seeds", "1", "--finalist-epochs", "1", "--json",
    )  # fmt: skip
    assert code == 0, err
    reason = json.loads(out)
    winner = reason["finalists"][0]
    assert winner["mean"] > 90
    assert winner["num_params"] <= 2000
    assert reason["counts"]["complete"] + reason["counts"]["pruned"] + reason["counts"]["fail"] == 4
    code, out, err = toys.nas("train-best", "--epochs", "1", "--data-dir", str(mnist_dir), "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["schedule"] == winner["schedule"]
    assert result["teacher"]["num_params"] == 84_892  # on MNIST there is one unless told otherwise
    assert result["last5_mean"] > 90
    assert result["target"] == Budget.target
    assert result["target_held"] is (result["last5_mean"] >= Budget.target)
