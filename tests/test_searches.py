"""The comparison of real searches: what Optuna proposes as it comes, and how the record is kept and read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import optuna
import pytest
import toys
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from rich.console import Console

from nas import search
from nas import study as studies
from nas.errors import UsageError

searches = toys.benchmark("searches")
OPTIONS = {"seconds": 60.0, "max_params": 8000}


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        yield quick


@pytest.fixture
def ours(monkeypatch):
    """`ship` changes the search of its process: here it is taken back."""
    for name in ("Proposer", "ask"):
        monkeypatch.setattr(search, name, getattr(search, name))


def test_as_shipped_draws_what_optuna_draws_and_trains_what_fits(ours):
    space, study = toys.space(), toys.open_study()
    searches.ship(0)
    toys.run(toys.Pool(), study=study, trials=30, known=False)
    trials = study.get_trials(deepcopy=False)
    assert trials[0].params == optuna.create_study(sampler=TPESampler(seed=0)).ask(space.distributions).params
    for trial in trials[:30]:  # the last was asked for when those that do not fit had made up the total
        try:
            architecture = space.decode(trial.params)
            fits = space.budget.admits(architecture.num_params, architecture.macs)
        except UsageError:
            fits = False
        assert fits == bool(trial.intermediate_values)
        if not fits:
            assert trial.state == TrialState.PRUNED
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.COMPLETE]
    assert sum(not trial.intermediate_values for trial in trials) > 10
    assert studies.counts(study)["running"] == 0


def record():
    """Two arms of two seeds; one search's winner is not trained fully yet."""
    made = toys.benchmark("records").load(Path("none.json"), OPTIONS, "searches", "finals")
    for key, schedule, trained in (
        ("evolution 0", "8 G C", 30),
        ("evolution 1", "9 G C", 34),
        ("random 0", "7 G C", 40),
        ("random 1", "6 G C", 42),
    ):
        made["searches"][key] = {"schedule": schedule, "trained": trained}
    scores = {"8 G C": (99.5, 99.6), "9 G C": (99.4, 99.42), "7 G C": (99.52, 99.5), "6 G C": (99.9,)}
    for schedule, each in scores.items():
        for seed, last5 in zip(searches.FINAL_SEEDS, each, strict=False):
            made["finals"][f"{schedule} {seed}"] = {"last5": last5}
    return made


def test_regret_is_to_the_best_winner_of_those_trained_fully(capsys):
    assert searches.results(record()) == {
        "evolution": [(0, pytest.approx(99.55)), (1, pytest.approx(99.41))],
        "random": [(0, pytest.approx(99.51))],
    }
    Console(width=160).print(searches.table(record()))
    lines = capsys.readouterr().out.splitlines()
    (random,) = (line for line in lines if "random" in line and "40" in line)
    (evolution,) = (line for line in lines if "99.410" in line)
    for shown in ("99.510", "0.040", "1 of 1"):
        assert shown in random
    for shown in ("32", "99.550, 99.410", "99.480", "0.070", "1 of 2"):
        assert shown in evolution


def test_regret_is_to_the_best_known_network_too(capsys):
    known = record()
    for seed in searches.FINAL_SEEDS:
        known["finals"][f"5 5 G C {seed}"] = {"last5": 99.7}
    Console(width=160).print(searches.table(known))
    out = capsys.readouterr().out
    assert "the best 99.700, 5 5 G C" in " ".join(out.split())
    (random,) = (line for line in out.splitlines() if "random" in line and "40" in line)
    assert "0.190" in random
    assert "0 of 1" in random


def test_what_is_done_is_kept_and_not_done_again(tmp_path, monkeypatch):
    calls = []

    def started(call):
        calls.append(call)
        if "tpe" in call and "fail" not in calls:
            calls.append("fail")
            raise SystemExit("left with 1")
        return {"schedule": "8 G C", "trained": 3, "last5": 99.5}

    monkeypatch.setattr(searches, "_started", started)
    monkeypatch.setattr(searches, "prepare", lambda max_params: None)
    monkeypatch.setattr(searches, "cores", lambda: 1)
    monkeypatch.setattr("nas.train.cores", lambda: 1)
    path = tmp_path / "searches.json"
    with pytest.raises(SystemExit, match="left with 1"):
        searches.compare(path, ("random", "tpe"), 1, 60.0, 8000)
    assert list(json.loads(path.read_text())["searches"]) == ["random 0"]
    done = searches.compare(path, ("random", "tpe"), 1, 60.0, 8000)
    assert calls.count("searched('random', 0, 60.0, 8000)") == 1
    assert list(done["searches"]) == ["random 0", "tpe 0"]
    assert list(done["finals"]) == [f"8 G C {seed}" for seed in searches.FINAL_SEEDS]  # of one winner, once
    assert all(row["cores"] == 1 and row["time"] for part in ("searches", "finals") for row in done[part].values())
    assert done == json.loads(path.read_text())
    done = searches.compare(path, ("random", "tpe"), 1, 60.0, 8000, ("9 G C",))
    assert f"9 G C {searches.FINAL_SEEDS[-1]}" in done["finals"]
    with pytest.raises(SystemExit, match="name another"):
        searches.compare(path, ("random",), 1, 61.0, 8000)


def test_an_unknown_arm_is_named():
    with pytest.raises(SystemExit, match="no arm 'gp'"):
        searches.main(arm=["gp"], only_table=True)
