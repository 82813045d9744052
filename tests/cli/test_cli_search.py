"""`nas search`: what is printed where, defaults, dry runs, names for shells, and no way to the test split."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
import shutil

import pytest
import toys

from nas import data
from nas.cli.search import _print_result, search
from nas.data.synthetic import Synthetic
from nas.searches import SearchResult, Settings, read_reason
from nas.searches.settings import FRONT
from nas.workers import LocalPool


def test_the_command_line_has_the_defaults_of_a_search():
    """They stand in both, as the command line must not import torch to show its help."""
    options = inspect.signature(search, eval_str=True).parameters
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    shared = ("seed", "sampler", "pruner", "pareto", "timeout", "patience")
    assert {name: options[name].default for name in shared} == {name: fields[name] for name in shared}
    assert options["no_published"].default is not fields["published"]
    for name, of_a_front in FRONT.items():  # these depend on --pareto: their helps have both
        assert options[name].default is None
        (option,) = options[name].annotation.__metadata__
        assert [int(number) for number in re.findall(r"\b\d+\b", option.help)] == [fields[name], of_a_front]


def test_dry_run_trains_nothing_and_makes_no_study(folder):
    code, out, _ = toys.nas("search", "--dataset", "synthetic", "--max-params", "500", "--dry-run")
    assert code == 0
    assert out.count("\ndrawn ") == 10
    assert "no study was made" in out
    assert not folder.exists()


def test_caps_and_times_as_people_type_them():
    for cap in ("8k", "8,000", "8_000", "8000", "8K"):
        code, out, err = toys.nas("search", "--max-params", cap, "--timeout", "1h30m", "--dry-run")
        assert code == 0, err
        assert "study mnist-8000-params: at most 8,000 parameters on mnist" in out
    for time in ("90s", "20M", "1.5h", "1d 12h"):
        assert toys.nas("search", "--max-params", "8k", "--timeout", time, "--dry-run")[0] == 0
    assert "on mnist" in toys.nas("search", "--max-params", "8k", "--dataset", "MNIST", "--dry-run")[1]


def test_a_front_has_a_study_of_its_own():
    arguments = ["search", "--max-params", "2000", "--dataset", "synthetic", "--dry-run"]
    _, plain, _ = toys.nas(*arguments)
    code, front, err = toys.nas(*arguments, "--pareto")
    assert code == 0, err
    assert "study synthetic-2000-params:" in plain
    assert "study synthetic-2000-params-pareto:" in front
    assert plain.splitlines()[4:] != front.splitlines()[4:]  # proposals of every size
    assert "\n50 brief trials" in plain
    assert "\n100 brief trials" in front
    assert "4 finalists of 12 epochs, 3 seeds, the weaker half dropped after each" in plain
    assert "10 finalists of 12 epochs, 2 seeds, all points of the front" in front
    _, front, _ = toys.nas(*arguments, "--pareto", "--finalists", "3", "--finalist-seeds", "4")
    assert "3 finalists of 12 epochs, 4 seeds, all points of the front" in front


def test_the_search_says_where_everything_is(tmp_path_factory):
    folder, out, err = toys.finished(tmp_path_factory)
    assert str(folder / "tiny" / "study.db") in out
    assert "nas train-best --study tiny --seeds 3" in out
    assert "nas show --study tiny" in out
    assert "No verdict on a target" in out
    assert "generated " in out
    assert len(re.findall(r"^trial ", err, re.MULTILINE)) == 4
    assert len(re.findall(r"^finalist ", err, re.MULTILINE)) == 4
    assert len(re.findall(r"^trial .* best .*loss \d\.\d{4}", err, re.MULTILINE)) >= 1
    assert err.count("starting workers") == 1
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


@pytest.mark.parametrize("name", ["my study", "run[v2]", "a?b", "it's", "a%20b", "ü☃"])
def test_the_next_steps_can_be_pasted_into_a_shell(tiny, name, capsys):
    (tiny / "tiny").rename(tiny / name)
    best = tiny / name / "best"
    reason = dataclasses.replace(read_reason(best), study=name)
    _print_result(
        SearchResult(finalists=(), reason=reason, folder=best, seconds=1.0, cut=False), None, as_json=False, quiet=False
    )
    out = capsys.readouterr().out
    assert f"winner  {best}\n" in out
    printed = out.partition("next    ")[2]
    commands = [shlex.split(line) for line in printed.splitlines() if line.strip()]
    assert [command[:2] for command in commands] == [["nas", "train-best"], ["nas", "show"], ["nas", "dashboard"]]
    for command in commands:
        assert command[command.index("--study") + 1] == name
    assert toys.nas(*commands[1][1:])[0] == 0


def test_the_next_steps_name_the_storage(tiny, tmp_path):
    shutil.copy(tiny / "tiny" / "study.db", tmp_path / "a study.db")
    storage = str(tmp_path / "a study.db")
    code, out, err = toys.nas(*toys.TINY_SEARCH, "--study", "tiny", "--storage", storage)
    assert code == 0, err
    show = shlex.split(next(line for line in out.splitlines() if "nas show" in line))
    assert show == ["nas", "show", "--study", "tiny", "--storage", storage]
    assert toys.nas(*show[1:])[0] == 0


# --- law 4: the test split --------------------------------------------------------------------------------------------


def test_the_search_never_opens_the_test_split(tiny, monkeypatch):
    """It did not when it ran (its folder would hold the record), nor does it when every way in is trapped."""
    assert not list(tiny.rglob("test-openings.jsonl"))
    toys.synthetic()  # read already, for what the toy search knows of its data
    read = Synthetic.read
    splits = []

    def watched(reader, split, root):
        splits.append(split)
        return read(reader, split, root)

    monkeypatch.setattr(Synthetic, "read", watched)
    monkeypatch.setattr(data, "open_test", lambda *args, **options: pytest.fail("the search opened the test split"))
    training = data.load_training_data(data.find_dataset("synthetic"), data_dir=None)
    pool = LocalPool(toys.part(training, 256), training.validation, backend="torch")
    result = toys.run(pool, trials=2, finalist_seeds=1)
    assert splits == ["train"]
    assert set(vars(training)) == {"dataset", "train", "validation", "normalization", "hash", "warning"}
    assert len(training.train) + len(training.validation) == training.dataset.num_train
    assert "test" not in json.dumps(dataclasses.asdict(read_reason(result.folder))["split"])
