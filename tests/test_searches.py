"""The comparison of real searches: what Optuna proposes as it comes, and how the record is written and read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import optuna
import pytest
import toys
from optuna.samplers import GPSampler
from optuna.trial import TrialState
from rich.console import Console

from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import find_dataset
from nas.searches import Search, Settings
from nas.space import DUPLICATE, OVER_CAP

searches = toys.benchmark("searches")
OPTIONS = {"seconds": 60.0, "max_params": 8000}


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        yield quick


@pytest.mark.parametrize("arm", [searches.SHIPPED, "AutoSampler"])
def test_as_shipped_draws_what_optuna_draws_and_trains_what_fits(arm):
    space, store = toys.space(), toys.open_study()
    propose = searches.OPTUNA[arm](space, 0)
    settings = toys.settings(trials=30, published=False)
    search = Search(store, space, settings, toys.Pool(), lambda progress, event: None, propose=propose)
    search.run(toys.synthetic(), toys.provenance())
    drawn, table = propose.study.trials, store.refresh()
    assert drawn[0].params == optuna.create_study(sampler=propose.sampler(0)).ask(space.distributions).params
    trained = {trial.user_attrs["schedule"]: trial for trial in table.learned}
    assert len(trained) == 30
    seen, rejected = set(), 0
    for trial in drawn:
        checked = space.check(trial.params, seen)
        if not isinstance(checked, Architecture):
            assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {})
            rejected += 1
            continue
        seen.add(str(checked))
        ours = trained[str(checked)]
        assert trial.params == ours.params
        if trial.state != TrialState.RUNNING:  # the last ones trained, of which it was not told
            assert (trial.state, trial.intermediate_values) == (ours.state, ours.intermediate_values)
    assert seen == set(trained)
    assert sum(trial.state == TrialState.RUNNING for trial in drawn) <= 1
    assert {trial.state for trial in table.learned} >= {TrialState.COMPLETE}
    counts = store.counts()
    assert rejected > 10
    assert (counts["generated"], counts["unaccounted"], counts["running"]) == (30 + rejected, 0, 0)


def test_the_gaussian_process_is_told_of_the_cap_as_a_constraint():
    space, store = toys.space(), toys.open_study()
    propose = searches.OPTUNA["GP"](space, 0)
    propose.study.sampler = GPSampler(seed=0, n_startup_trials=8)  # so that few are of the process, seconds each
    settings = toys.settings(trials=7, published=False)
    search = Search(store, space, settings, toys.Pool(), lambda progress, event: None, propose=propose)
    search.run(toys.synthetic(), toys.provenance())
    table = store.refresh()
    trained = {trial.user_attrs["schedule"]: trial for trial in table.learned}
    assert len(trained) == 7
    over = 0
    for trial in propose.study.get_trials(states=[TrialState.COMPLETE]):
        (excess,) = trial.constraints.values()
        checked = space.check(trial.params, ())
        if isinstance(checked, Architecture):
            assert excess == checked.num_params / toys.CAP - 1 <= 0
            assert trial.value == trained[str(checked)].value
        else:
            assert excess > 0
            over += 1
    assert over > 0
    told = {trial.number for trial in propose.study.trials if "gp:relative_params:0" in trial.system_attrs}
    assert told  # it came to predict
    assert store.counts()["unaccounted"] == 0


def test_a_network_that_is_there_has_the_accuracy_that_it_had():
    space, table = toys.space(), toys.open_study().refresh()
    propose = searches.OPTUNA["GP"](space, 0)
    proposal = propose(table)
    trial = propose.proposed[str(proposal.architecture)]
    propose.values[str(proposal.architecture)], propose.values["other"] = 60.0, 80.0
    propose.reject(trial, DUPLICATE)
    assert propose.study.trials[trial.number].value == 60.0
    over = propose.study.ask(space.distributions)
    propose.reject(over, OVER_CAP)
    assert propose.study.trials[over.number].value == 70.0  # the mean, as it has none


def test_the_settings_of_an_arm_are_those_of_nas_search():
    """But for the published designs, the total and the time, and what proposes."""
    chosen = searches._settings("tpe", 3, 60.0, 8000)
    usual = Settings.for_budget(Budget(max_params=8000), find_dataset("mnist"))
    changed = {"published": False, "trials": chosen.trials, "timeout": 60.0, "seed": 3, "sampler": "tpe"}
    assert chosen == dataclasses.replace(usual, **changed)
    assert searches._settings(searches.SHIPPED, 3, 60.0, 8000).recipe == usual.recipe


def record():
    """Two arms of two seeds; one search's winner is not trained fully yet."""
    made = toys.benchmark("records").load(Path("none.json"), OPTIONS, "searches", "finals")
    for key, schedule, trained in (
        ("guided 0", "8 G C", 30),
        ("guided 1", "9 G C", 34),
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
        "guided": [(0, pytest.approx(99.55)), (1, pytest.approx(99.41))],
        "random": [(0, pytest.approx(99.51))],
    }
    Console(width=160).print(searches.table(record()))
    lines = capsys.readouterr().out.splitlines()
    (random,) = (line for line in lines if "random" in line and "40" in line)
    (guided,) = (line for line in lines if "99.410" in line)
    for shown in ("99.510", "0.040", "1 of 1"):
        assert shown in random
    for shown in ("32", "99.550, 99.410", "99.480", "0.070", "1 of 2"):
        assert shown in guided


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


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    calls = []

    def started(call):
        calls.append(call)
        if "tpe" in call and "fail" not in calls:
            calls.append("fail")
            raise SystemExit("left with 1")
        return {"schedule": "8 G C", "trained": 3, "last5": 99.5}

    monkeypatch.setattr(searches, "_started", started)
    monkeypatch.setattr(searches, "prepare", lambda max_params, seeds: None)
    monkeypatch.setattr(searches, "cores", lambda: 1)
    monkeypatch.setattr("nas.machine.cores", lambda root=None: 1)
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
    with pytest.raises(SystemExit, match="no arm 'cma'"):
        searches.main(arm=["cma"], only_table=True)
