"""The comparison of samplers: what its surrogate says of a table, and that its searches keep the time and the rules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

from nas.architecture import Architecture
from nas.budget import Budget
from nas.designs import PUBLISHED_DESIGNS
from nas.space import SearchSpace

runs_of, samplers = toys.benchmark("truth_runs"), toys.benchmark("samplers")
SPACE = SearchSpace(budget=Budget(max_params=8000))


def error(architecture: Architecture) -> float:
    """Percent wrong of a full run, where size and depth are all that counts."""
    return 0.4 * (8000 / architecture.num_params) ** 0.5 * (6 / architecture.depth) ** 0.5


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of 60 networks, whose brief runs of three epochs have four, three and twice the error; a second an epoch."""
    path: Path = tmp_path_factory.mktemp("table") / "runs.csv"
    for number, schedule in enumerate(runs_of.draw(60, 0)["schedule"]):
        architecture = Architecture.parse(schedule)
        wrong, seeds = error(architecture), 0.002 * (-1) ** number
        known = {"schedule": schedule, "num_params": architecture.num_params}
        for seed, last in ((0, 100 - wrong + seeds), (1, 100 - wrong - seeds)):
            runs_of.append(path, {**known, "fidelity": "full", "seed": seed, "last": last, "seconds": 15.0})
        curve = " ".join(str(100 - times * wrong) for times in (4, 3, 2))
        brief = {
            "fidelity": "e3",
            "seed": 0,
            "last": 100 - 2 * wrong,
            "seconds": 3 + 0.01 * (number % 7),
            "accuracies": curve,
        }
        runs_of.append(path, {**known, **brief})
    return samplers.Table(runs_of.load(path), "e3")


def test_the_surrogate_learns_what_its_features_explain(table):
    fits = {name: (left, sd, rho) for name, left, sd, rho in table.fits()}
    left, sd, rho = fits["log error, full"]
    assert left < 0.4 * sd
    assert rho > 0.9
    assert table.seed_sd == pytest.approx(0.002 * math.sqrt(120 / 59))
    noise = np.random.default_rng(0).normal(size=(8, len(table.errors)))  # one draw of so few has no variance of 1
    left = [samplers.GaussianProcess(table.full.points, each).loo_residuals for each in noise]
    assert float(np.mean(np.square(left))) > 0.8  # of noise it explains nothing that was left out


def test_a_world_says_the_same_of_a_schedule_and_another_world_something_else(table):
    schedule = PUBLISHED_DESIGNS[0].text
    world, other = samplers.World(table, 0), samplers.World(table, 1)
    assert world.score(schedule) == world.score(schedule) == samplers.World(table, 0).score(schedule)
    assert world.score(schedule) != other.score(schedule)
    assert world.score(schedule) == pytest.approx(100 - error(Architecture.parse(schedule)), abs=0.1)
    assert world.seconds(schedule) == pytest.approx(1, rel=0.03)
    first, second, third = world.curve(schedule)
    assert first < second < third < world.score(schedule)


@pytest.mark.parametrize("arm", samplers.ARMS, ids=lambda arm: arm.name)
def test_a_search_keeps_the_cap_and_the_time(table, arm, monkeypatch):
    trained = []
    curve = samplers.World.curve
    monkeypatch.setattr(
        samplers.World, "curve", lambda world, schedule: trained.append(schedule) or curve(world, schedule)
    )
    world = samplers.World(table, 0)
    score, count, proposed = samplers.simulate(arm, world, SPACE, seed=0, seconds=30, published=True)
    assert len(trained) == count <= proposed
    assert all(Architecture.parse(schedule).num_params <= 8000 for schedule in trained)
    # Two workers of 30 seconds, a second an epoch, three epochs a trial; the last ones may end later.
    assert 2 * 30 / 3 <= count <= (2 * 30 / 3 + 2 if "none" in arm.name else 2 * 30 + 2)
    assert min(map(world.score, trained)) <= score <= max(map(world.score, trained))
    assert score >= np.median([world.score(schedule) for schedule in trained])
    assert len(set(trained)) == count
    again = samplers.simulate(arm, samplers.World(table, 0), SPACE, seed=0, seconds=30, published=True)
    assert again == (score, count, proposed)


def test_the_hill_climb_finds_no_less_than_a_search(table):
    world = samplers.World(table, 0)
    best = world.best(SPACE, 0, [known.text for known in PUBLISHED_DESIGNS])
    assert samplers.simulate(samplers.ARMS[0], world, SPACE, seed=0, seconds=60, published=True)[0] <= best


def test_the_comparison_is_shown_and_needs_a_table(table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samplers, "Table", lambda runs, fidelity: table)
    samplers.main(fidelity="e3", replays=2, seconds=10, published=False, max_params=8000, folder=tmp_path)
    out = capsys.readouterr().out
    assert all(arm.name in out for arm in samplers.ARMS)
    assert "2 replays, 10 s of e3 trials, at most 8,000 parameters, without the published designs" in out
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="at least 20; train more"):
        samplers.main(fidelity="e3", replays=2, seconds=10, published=False, max_params=8000, folder=tmp_path)
