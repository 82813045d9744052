"""The comparison of two full runs: that its interval is what theory says, and which runs it takes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import toys

from nas.errors import StorageError, UsageError
from nas.final import OPENINGS, compare_runs, comparison_summary, resample


def drawn(odds, seeds, images, rng):
    """The correct images of seeds that differ in chance alone, on images of which each has its own odds."""
    return rng.random((seeds, images)) < odds


def test_a_run_is_not_told_apart_from_itself_nor_from_its_like():
    rng = np.random.default_rng(0)
    odds = rng.beta(8, 0.2, 3000)
    one, other = drawn(odds, 6, 3000, rng), drawn(odds, 6, 3000, rng)
    for second in (one, other):
        differences = resample(one, second, times=1000)
        low, high = np.quantile(differences, (0.025, 0.975))
        assert low < 0 < high
    assert abs(resample(one, one, times=1000).mean()) < 0.05


def test_the_spread_is_that_of_images_and_of_seeds():
    """One seed each: the standard error of a paired difference; more seeds with an offset each: that of their means."""
    rng, images = np.random.default_rng(1), 4000
    first, second = drawn(0.95, 1, images, rng), drawn(0.9, 1, images, rng)
    paired = first[0].astype(float) - second[0]
    found = resample(first, second, times=4000)
    assert found.mean() == pytest.approx(100 * paired.mean(), abs=0.03)
    assert found.std() == pytest.approx(100 * paired.std() / math.sqrt(images), rel=0.05)

    levels = np.repeat([0.9, 0.95], 4)  # of every image the same: only seeds differ
    seeds = np.arange(images)[None] < images * levels[:, None]
    constant = np.arange(images)[None] < images * 0.9
    found = resample(seeds, np.repeat(constant, 8, 0), times=4000)
    of_seeds = 100 * np.std(levels) / math.sqrt(8)
    of_images = 100 * math.sqrt(0.05 * 0.5**2 / images)  # half of the seeds have a twentieth of the images besides
    assert found.mean() == pytest.approx(2.5, abs=0.1)
    assert found.std() == pytest.approx(math.hypot(of_seeds, of_images), rel=0.1)


# --- of real runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(trained, studies):
    return tuple(studies / name / run.folder.name for name, run in zip(("small", "large"), trained, strict=True))


def test_every_seed_scores_as_its_run_did_and_both_openings_are_recorded(folders):
    result = compare_runs(folders, data_dir=None, device="cpu", backend="torch")
    for run, correct in zip(result.runs, result.correct, strict=True):
        assert correct.shape == (2, 300)
        assert [100 * row.mean() for row in correct] == pytest.approx(list(run.result.final.values()))
        lines = [json.loads(line) for line in (run.folder.parent / OPENINGS).read_text().splitlines()]
        assert [line["purpose"] for line in lines] == [
            f"full run of {run.architecture}, seeds 0, 1",
            f"evaluate every seed of {run.folder.name}, {run.architecture}",
        ]
    low, high = result.interval
    assert low < result.difference < high
    assert result.told_apart == (low > 0 or high < 0)


def test_a_summary_has_its_denominators(folders):
    result = compare_runs(folders, data_dir=None, device="cpu", backend="torch")
    summary = comparison_summary(result, {"torch": "2.x"})
    assert json.loads(json.dumps(summary)).keys() == summary.keys()
    for each, run in zip(summary["runs"], result.runs, strict=True):
        assert (each["schedule"], each["seeds"]) == (str(run.architecture), 2)
        assert each["num_params"] == run.architecture.num_params
        assert each["last5_mean"] == run.result.last5_mean
    wanted = {"split": "test", "count": 300, "level": 0.95, "resamples": 10_000, "torch": "2.x"}
    assert {key: summary[key] for key in wanted} == wanted


def test_the_command_line_says_which_one_is_ahead(folders):
    command = ["evaluate", str(folders[0]), "--against", str(folders[1]), "--backend", "torch"]
    code, out, err = toys.nas(*command)
    assert code == 0, err
    assert f"scoring the weights of every seed in {folders[1]} and {folders[0]} on the test split" in err
    assert "made up" in err  # the notice of the data set
    code, text, err = toys.nas(*command, "--json", "--quiet")
    fields = json.loads(text)
    first, second = fields["runs"]
    assert fields["difference"] == pytest.approx(first["accuracy"] - second["accuracy"])
    assert f"difference {fields['difference']:+.3f} points, 95 % {fields['low']:+.3f} to {fields['high']:+.3f}" in out
    ahead = "the first is ahead" if fields["difference"] > 0 else "the second is ahead"
    assert (ahead if fields["told_apart"] else "not told apart") in out
    for each in (first, second):
        assert f"{each['accuracy']:.3f} ± {each['sd']:.3f} (n = 2)" in out
        assert each["schedule"] in out


def test_runs_of_two_data_sets_or_without_a_seeds_weights_are_named(folders):
    path = folders[1] / "result.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"dataset": "mnist"}))
    with pytest.raises(UsageError, match="the runs are on synthetic and mnist"):
        compare_runs(folders, data_dir=None, device="cpu", backend="torch")
    path.write_text(whole)
    (folders[1] / "weights-seed1.safetensors").unlink()
    with pytest.raises(StorageError, match=r"weights-seed1\.safetensors is damaged"):
        compare_runs(folders, data_dir=None, device="cpu", backend="torch")
    assert [len((folder.parent / OPENINGS).read_text().splitlines()) for folder in folders] == [1, 1]
