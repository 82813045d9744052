"""The recipe study's laws, on a pool whose scores depend on the recipe: what is found, kept, pruned and resumed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import random
import socket
import subprocess
import sys
import zlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from scipy import stats
from test_search import kill_at

from nas import study as studies
from nas import tune
from nas.architecture import Architecture
from nas.errors import InfeasibleError, NasError, UsageError
from nas.export import read_winner
from nas.train import Recipe

NETWORK = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
DEFAULT = Recipe(epochs=2)


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(tune, "STARTUP_TRIALS", 4)  # TPE draws in short studies as well
        yield quick / "studies"


def luck(recipe, seed):
    """Between -1 and 1, out of nothing, the same every time."""
    return zlib.crc32(f"{recipe} {seed}".encode()) / 2**31 - 1


def by_rate(recipe, seed):
    """Best at five times less than the default's rate: by 0.7 points, where luck makes 0.02."""
    return (
        99
        - abs(math.log(recipe.peak_rate / math.sqrt(recipe.batch_size / 128) / 0.004)) / 2.3
        + luck(recipe, seed) / 50
    )


class Pool(toys.Pool):
    """Scores by recipe and seed, percent; the epochs are alike."""

    def __init__(self, count=1, *, judge=by_rate):
        super().__init__(count)
        self.judge = judge
        self.pairs: list[tuple[Recipe, int]] = []

    def live(self, number, job):
        self.pairs.append((job.recipe, job.seed))
        inner = toys.Pool(len(self), score=lambda architecture, seed, epoch: self.judge(job.recipe, seed))
        yield from inner.live(number, job)


def settings(**changes):
    fields = {"architecture": NETWORK, "dataset": "synthetic", "recipe": DEFAULT, "trials": 5, "num_seeds": 3}
    return tune.Settings(**(fields | changes))


def open_study(name="toy", **changes):
    return studies.create(name, None, settings(**changes).shared("hash"), {})


def run(pool, name="toy", view=lambda progress, line: None, **changes):
    record = {"dataset": "synthetic", "target": None}
    return tune.run(open_study(name, **changes), settings(**changes), pool, view, record)


def by_state(study, *states):
    return study.get_trials(deepcopy=False, states=states or None)


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_the_default_is_a_point_of_the_ranges():
    point = tune.encode(Recipe())
    assert tune.decode(point, Recipe()) == Recipe()
    assert point.keys() == tune.RANGES.keys()
    assert all(tune.RANGES[name]._contains(tune.RANGES[name].to_internal_repr(value)) for name, value in point.items())


@given(st.fixed_dictionaries(
    {
        name: st.sampled_from(range_.choices) if hasattr(range_, "choices") else st.floats(range_.low, range_.high)
        for name, range_ in tune.RANGES.items()
    }
))  # fmt: skip
def test_every_point_is_a_recipe(point):
    recipe = tune.decode(point, DEFAULT)
    assert recipe.peak_rate == pytest.approx(point["rate_at_128"] * (point["batch_size"] / 128) ** 0.5, rel=1e-3)
    for name in ("degrees", "translate", "scale", "shear"):
        assert getattr(recipe, name) == pytest.approx(getattr(DEFAULT, name) * point["augmentation"], rel=1e-3)
    drawn = {"optimizer", "batch_size", "peak_rate", "warm_up", "weight_decay", "average", "label_smoothing"}
    rest = {field.name for field in dataclasses.fields(Recipe)} - drawn - {"degrees", "translate", "scale", "shear"}
    assert all(getattr(recipe, name) == getattr(DEFAULT, name) for name in rest)
    assert Recipe.from_dict(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_best_recipe_is_found_and_written(folder):
    reason = run(Pool(2), trials=18)
    first, rest = open_study().get_trials()[0], open_study().get_trials()[1:]
    assert first.user_attrs["recipe"] == dataclasses.asdict(DEFAULT)
    assert len(rest) == 17
    (kept,) = [row for row in reason["recipes"] if row["kept"]]
    assert reason["verdict"] == f"trial {kept['trial']} is better than the default"
    assert kept["trial"] == open_study().best_trial.number
    assert kept["difference"] > 0.5
    assert kept["interval"][0] > 0
    winner = read_winner(folder / "toy" / "best")
    assert winner.architecture == NETWORK
    assert winner.recipe == kept["recipe"]
    assert winner.reason == json.loads(json.dumps(reason))
    ours = Recipe.from_dict(winner.recipe)
    assert abs(math.log(ours.peak_rate / math.sqrt(ours.batch_size / 128) / 0.004)) < 0.5
    learnt = [t.params["rate_at_128"] for t in rest]  # TPE goes where the score is
    assert np.mean(np.abs(np.log(np.array(learnt[-8:]) / 0.004))) < np.mean(
        np.abs(np.log(np.array(learnt[:8]) / 0.004))
    )


def test_chance_alone_keeps_the_default():
    """A hundred studies of twelve equal recipes: the best is ahead of the default in most, and beyond chance in few."""
    rng, ahead, better = np.random.default_rng(0), 0, 0
    for _ in range(100):
        reason = tune.standing(frozen(*(scored(n, list(99 + rng.normal(0, 0.05, 4))) for n in range(12))))
        ahead += max(row["difference"] or 0 for row in reason["recipes"]) > 0.03
        better += not next(row for row in reason["recipes"] if row["trial"] == 0)["kept"]
    assert ahead > 60
    assert better <= 5  # one-sided, at 2.5 % for all of them together
    reason = run(Pool(judge=lambda recipe, seed: 99 + luck(recipe, seed) / 20), trials=6)
    assert [row["trial"] for row in reason["recipes"] if row["kept"]] == [0]
    assert reason["verdict"].endswith("keep it")


class Frozen:
    """A study that holds these trials, and nothing more."""

    def __init__(self, trials):
        self.study_name, self.user_attrs, self.trials = "frozen", {studies.SETTINGS: settings().shared("hash")}, trials

    def get_trials(self, deepcopy=True, states=None):
        return [trial for trial in self.trials if states is None or trial.state in states]


def scored(number, scores, *, state=TrialState.COMPLETE):
    attributes = {"scores": scores, "seconds": 1.0, "recipe": dataclasses.asdict(DEFAULT)}
    return SimpleNamespace(number=number, state=state, params=tune.encode(DEFAULT), user_attrs=attributes)


def frozen(*trials):
    return Frozen(list(trials))


def test_with_two_recipes_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    for n in (2, 3, 5):
        ours, theirs = (list(99 + rng.normal(0, 0.1, n)) for _ in range(2))
        row = next(row for row in tune.standing(frozen(scored(0, ours), scored(1, theirs)))["recipes"] if row["trial"])
        expected = stats.ttest_rel(theirs, ours).confidence_interval(0.95)
        assert row["interval"] == pytest.approx(tuple(expected))


def test_noise_is_what_least_squares_leaves_of_the_better_half():
    rng = np.random.default_rng(2)
    rows = [list(99 - i / 10 + rng.normal(0, 0.02, 4)) for i in range(6)] + [[60.0, 90.0, 10.0, 80.0]]
    sd, degrees = tune.noise(rows)
    table = np.array(rows[:4])  # four of seven, the best by their means
    design = np.array([np.r_[np.eye(4)[i], np.eye(4)[j]] for i in range(4) for j in range(4)])
    rest = table.ravel() - design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]
    assert degrees == 9
    assert sd == pytest.approx(math.sqrt((rest**2).sum() / 9))
    assert tune.noise([[99.0], [98.0]]) == tune.noise([[99.0, 98.0]]) == tune.noise([]) == (None, 0)


def test_one_seed_proves_nothing():
    reason = run(Pool(), num_seeds=1)
    assert [row["trial"] for row in reason["recipes"] if row["kept"]] == [0]
    assert "one seed says nothing" in reason["verdict"]
    assert all(row["interval"] is None for row in reason["recipes"])


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_behind_is_the_one_sided_paired_t_test():
    rng, verdicts = np.random.default_rng(0), set()
    for _ in range(200):
        shared = rng.normal(0, 0.1, 3)
        best, other = 99 + shared + rng.normal(0, 0.03, 3), 98.9 + shared + rng.normal(0, 0.03, 3)
        best, other = (best, other) if best.mean() >= other.mean() else (other, best)
        more = [*best, 50.0]  # seeds that only one has are not compared
        study = frozen(scored(0, list(more)), scored(1, list(other), state=TrialState.RUNNING))
        expected = bool(stats.ttest_rel(best, other, alternative="greater").pvalue < 0.05)
        assert tune.is_behind(study, 1) == expected
        assert not tune.is_behind(study, 0)
        verdicts.add(expected)
    assert verdicts == {True, False}
    assert not tune.is_behind(frozen(scored(0, [99.0]), scored(1, [9.0], state=TrialState.RUNNING)), 1)


def test_what_is_clearly_behind_gets_no_more_seeds_and_the_default_gets_all():
    pool = Pool(2, judge=lambda recipe, seed: by_rate(recipe, seed) - 50 * (recipe == DEFAULT))
    reason = run(pool, trials=14, num_seeds=4)
    study = open_study(trials=14, num_seeds=4)
    pruned = by_state(study, TrialState.PRUNED)
    assert len(pruned) >= 4
    assert all(2 <= len(trial.user_attrs["scores"]) < 4 for trial in pruned)
    assert all(
        list(trial.intermediate_values) == list(range(1, len(trial.user_attrs["scores"]) + 1)) for trial in pruned
    )
    assert study.trials[0].state == TrialState.COMPLETE
    best = max(study.best_value, *(t.value for t in by_state(study, TrialState.COMPLETE)))
    assert all(trial.value < best for trial in pruned)
    assert reason["counts"]["pruned"] == len(pruned)
    assert reason["trainings"] == len(pool.pairs) < 14 * 4
    assert Counter(seed for _, seed in pool.pairs)[1] == 14


# --- resume and determinism -------------------------------------------------------------------------------------------


def facts(study):
    return [(t.number, t.state, t.value, t.params, t.user_attrs["scores"]) for t in study.get_trials()]


def told(reason):
    """The table but for the seconds, which hold what a kill made vain."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in reason["recipes"]]


def test_draws_depend_on_seed_and_number_and_the_total_counts():
    pool = Pool()
    whole = run(pool, "whole", trials=7)
    run(Pool(), "parts", trials=3)
    run(Pool(), "parts", trials=6)
    parts = run(Pool(), "parts", trials=7)
    assert facts(open_study("whole")) == facts(open_study("parts"))
    assert parts["recipes"] == whole["recipes"]
    again = Pool()
    assert run(again, "whole", trials=7)["recipes"] == whole["recipes"]
    assert again.pairs == []
    run(Pool(), "other", trials=7, seed=1)
    draws = [
        {str(t.params) for t in open_study(name, seed=seed).trials[1:]} for name, seed in (("whole", 0), ("other", 1))
    ]
    assert not draws[0] & draws[1]
    assert len(draws[0]) == 6


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("seed", range(3))
def test_killed_before_any_write_and_run_again(seed, dead_pid, monkeypatch):
    """With one worker it comes out as if it had never been killed, and only what was under way is trained again."""
    rng, pools = random.Random(seed), []
    expected = run(whole := Pool(), "whole")

    def go():
        pools.append(Pool())
        run(pools[-1])

    kills = 0
    for _ in range(4):
        kills += not kill_at(rng.randrange(8, 50), dead_pid, monkeypatch, go)
    pools.append(Pool())
    reason = run(pools[-1])
    assert kills >= 2
    assert facts(open_study()) == facts(open_study("whole"))
    assert told(reason) == told(expected)
    jobs = Counter(pair for pool in pools for pair in pool.pairs)
    assert jobs.keys() == set(whole.pairs)
    assert sum(jobs.values()) <= len(whole.pairs) + kills
    for before, after in itertools.pairwise(pools):  # none but the last one before a kill is seen again
        assert not set(before.pairs[:-1]) & set(after.pairs)


def test_two_workers_killed_lose_no_seed(dead_pid, monkeypatch):
    pools = [Pool(3), Pool(3)]
    assert not kill_at(60, dead_pid, monkeypatch, lambda: run(pools[0]))
    kept = {trial.number: trial.user_attrs.get("scores", []) for trial in open_study().get_trials()}
    assert any(kept.values())
    assert by_state(open_study(), TrialState.RUNNING)
    reason = run(pools[1])
    study = open_study()
    assert not by_state(study, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL)
    assert len(study.trials) == 5
    for trial in study.trials:
        assert trial.user_attrs["scores"][: len(kept.get(trial.number, []))] == kept.get(trial.number, [])
    assert len(pools[1].pairs) == reason["trainings"] - sum(map(len, kept.values()))


def test_ctrl_c_and_the_time_limit_leave_what_runs_to_the_next_start():
    class Interrupting(Pool):
        def messages(self, timeout):
            if len(self.pairs) == 3:
                raise KeyboardInterrupt
            yield from super().messages(timeout)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupting())
    (left,) = by_state(open_study(), TrialState.RUNNING)
    assert len(left.user_attrs["scores"]) == 2
    reason = run(Pool(), timeout=1e-9)
    assert reason["cut"]
    assert "has all its seeds" in reason["verdict"]
    assert [row["kept"] for row in reason["recipes"]] == [True]
    last = run(pool := Pool())
    assert not last["cut"]
    assert len(pool.pairs) == last["trainings"] - 2
    run(Pool(), "whole")
    assert facts(open_study()) == facts(open_study("whole"))
    with pytest.raises(InfeasibleError, match="longer --timeout"):
        run(Pool(), "none", timeout=1e-9)


def test_a_living_process_keeps_its_trials():
    study = open_study()
    study.sampler = tune.Proposer(0)
    ours = tune._claim(study, settings(), {})
    assert ours.user_attrs["owner"] == f"{socket.gethostname()}:{os.getpid()}"
    theirs = tune._claim(study, settings(), {})
    assert theirs.number == ours.number + 1
    ours.set_user_attr("stamp", tune.LONG_AGO)
    assert tune._claim(study, settings(), {}).number == ours.number


def test_a_failure_of_its_own_ends_a_trial():
    def judge(recipe, seed):
        if recipe.batch_size != Recipe().batch_size and seed == 2:
            raise NasError("the loss is nan in epoch 1")
        return by_rate(recipe, seed)

    reason = run(Pool(judge=judge), trials=8)
    failed = by_state(open_study(), TrialState.FAIL)
    assert failed
    assert all(trial.user_attrs["reason"] == "the loss is nan in epoch 1" for trial in failed)
    assert all(len(trial.user_attrs["scores"]) == 1 for trial in failed)
    assert not {row["trial"] for row in reason["recipes"] if row["kept"]} & {trial.number for trial in failed}
    assert sum(reason["counts"].values()) == 8
    again = Pool(judge=judge)
    run(again, trials=8)
    assert again.pairs == []


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("architecture", {"architecture": Architecture.parse("4v M 8 G C", input_shape=(1, 16, 16), num_classes=4)}),
        ("dataset", {"dataset": "mnist"}),
        ("recipe.epochs", {"recipe": Recipe(epochs=3)}),
        ("seeds", {"num_seeds": 2}),
        ("seeds", {"seed": 5}),
    ],
)
def test_a_study_made_otherwise_is_refused_by_name(key, changes):
    open_study()
    with pytest.raises(UsageError, match=f"was made with {key} = "):
        open_study(**changes)
    with pytest.raises(UsageError, match="data_hash"):
        studies.create("toy", None, settings().shared("other"), {})


def test_the_view_hears_every_seed_and_the_time_left():
    lines, seen = [], []

    def view(progress, line):
        lines.append(line)
        seen.append((progress.done, progress.total, progress.best))

    reason = run(Pool(2), view=view)
    said = [line for line in lines if line]
    assert sum("seed" in line for line in said) == reason["trainings"]
    assert sum("mean of" in line for line in said) == 5
    assert all(done <= total for done, total, _ in seen)
    assert seen[-1][0] == seen[-1][1] == reason["trainings"]
    assert seen[-1][2][0] == pytest.approx(max(row["mean"] for row in reason["recipes"] if row["state"] == "complete"))


# --- the command ------------------------------------------------------------------------------------------------------

TINY = [
    "tune", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--trials", "2", "--seeds", "2", "--epochs", "1",
    "--workers", "1", "--backend", "torch", "--name", "tiny",
]  # fmt: skip


def test_the_command_from_the_study_to_a_full_run(folder, tmp_path):
    code, out, err = toys.nas(*TINY)
    assert code == 0, err
    assert "default" in out
    assert "nas train-best --study tiny" in out
    recipe = folder / "tiny" / "best" / "recipe.json"
    assert str(recipe) in out
    assert err.count("seed ") >= 4
    assert not list(folder.rglob("test-openings.jsonl"))  # the test split stays closed
    reason = json.loads((folder / "tiny" / "best" / "reason.json").read_text())
    assert {"data_hash", "torch", "command", "num_validation", "device"} <= reason.keys()
    code, out, _ = toys.nas(*TINY, "--json", "--quiet")  # finished: trains nothing
    assert code == 0
    assert json.loads(out)["recipes"] == reason["recipes"]
    code, out, _ = toys.nas("show", "--study", "tiny")
    assert code == 0
    assert reason["verdict"] in out
    code, _, err = toys.nas(*TINY, "--epochs", "2")
    assert code == 2
    assert "recipe.epochs" in err
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps({**json.loads(recipe.read_text()), "batch_size": 200}))
    for arguments, batch in ((["--study", "tiny"], None), (["--recipe", str(changed)], 200)):
        code, out, err = toys.nas("train-best", *arguments, "--workers", "1", "--backend", "torch", "--json")
        assert code == 0, err
        result = json.loads(out)
        expected = json.loads(recipe.read_text()) | ({} if batch is None else {"batch_size": batch})
        assert (result["recipe"], result["schedule"]) == (expected, str(NETWORK))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, "cannot be read (No such file"),
        ("{", "cannot be read"),
        ("[1]", "holds no recipe"),
        ('{"nonsense": 1}', "unknown key 'nonsense'"),
        ('{"epochs": 0}', "epochs"),
        ('{"peak_rate": NaN}', "peak_rate"),
    ],
)
def test_a_recipe_that_is_none_is_an_error_in_one_line(tmp_path, text, wanted):
    path = tmp_path / "recipe.json"
    if text is not None:
        path.write_text(text)
    arguments = ["train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--recipe", str(path)]
    code, out, err = toys.nas(*arguments)
    assert (code, out) == (2, "")
    assert wanted in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["train-best", "--reference", "8k", "--recipe", "any.json"], "without --recipe"),
        (["tune", "--architecture", "8 M G C", "--study", "any"], "without --architecture"),
        (["tune", "--architecture", "8q M G C"], "8q"),
        (["tune", "--timeout", "soon"], "--timeout is a time"),
    ],
)
def test_options_that_do_not_go_together(arguments, wanted):
    code, out, err = toys.nas(*arguments)
    assert (code, out) == (2, "")
    assert wanted in err
