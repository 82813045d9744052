"""The comparison of two full runs: that its interval is what theory says, and which runs it takes."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import toys

from nas import compare, data, export, run
from nas.architecture import Architecture
from nas.errors import StorageError, UsageError
from nas.train import Recipe

SYNTHETIC = data.named("synthetic")
SMALL, LARGE = (
    Architecture.parse(text, input_shape=SYNTHETIC.input_shape, num_classes=SYNTHETIC.num_classes)
    for text in ("3 M 4 G C", "6 M 8 8 G C")
)


def drawn(odds, seeds, images, rng):
    """Hits of seeds that differ in chance alone, on images of which each has its own odds."""
    return rng.random((seeds, images)) < odds


def test_a_run_is_not_told_apart_from_itself_nor_from_its_like():
    rng = np.random.default_rng(0)
    odds = rng.beta(8, 0.2, 3000)
    one, other = drawn(odds, 6, 3000, rng), drawn(odds, 6, 3000, rng)
    for second in (one, other):
        differences = compare.resample(one, second, times=1000)
        low, high = np.quantile(differences, (0.025, 0.975))
        assert low < 0 < high
    assert abs(compare.resample(one, one, times=1000).mean()) < 0.05


def test_the_spread_is_that_of_images_and_of_seeds():
    """One seed each: the standard error of a paired difference; more seeds with an offset each: that of their means."""
    rng, images = np.random.default_rng(1), 4000
    first, second = drawn(0.95, 1, images, rng), drawn(0.9, 1, images, rng)
    paired = first[0].astype(float) - second[0]
    found = compare.resample(first, second, times=4000)
    assert found.mean() == pytest.approx(100 * paired.mean(), abs=0.03)
    assert found.std() == pytest.approx(100 * paired.std() / math.sqrt(images), rel=0.05)

    levels = np.repeat([0.9, 0.95], 4)  # of every image the same: only seeds differ
    seeds = np.arange(images)[None] < images * levels[:, None]
    constant = np.arange(images)[None] < images * 0.9
    found = compare.resample(seeds, np.repeat(constant, 8, 0), times=4000)
    of_seeds = 100 * np.std(levels) / math.sqrt(8)
    of_images = 100 * math.sqrt(0.05 * 0.5**2 / images)  # half of the seeds have a twentieth of the images besides
    assert found.mean() == pytest.approx(2.5, abs=0.1)
    assert found.std() == pytest.approx(math.hypot(of_seeds, of_images), rel=0.1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Full runs of two networks, of two seeds and one epoch, on the synthetic set."""
    training = data.training_data(SYNTHETIC, data_dir=None, validation=None)
    folders = []
    for architecture in (SMALL, LARGE):
        base = tmp_path_factory.mktemp("studies") / f"reference-{architecture.num_params}"
        test = data.open_test(training.dataset, data_dir=None, log=base / run.OPENINGS, purpose="full run")
        record = run.record_of(
            training.dataset, training, {"processor": "a processor", "torch": "2.x", "device": "cpu", "time": "2026"}
        )
        record |= {"opened": "once", "command": "nas train-best"}
        options = {"base": base, "pool": toys.TrainingPool(training, test), "target": None, "record": record}
        recipe = Recipe(epochs=1, batch_size=32)
        made = run.full_run(architecture, recipe, (0, 1), training, test, heard=lambda _: None, **options)
        folders.append(made.folder)
    return folders


@pytest.fixture
def folders(runs, tmp_path):
    return [shutil.copytree(each.parent, tmp_path / each.parent.name) / each.name for each in runs]


def test_every_seed_scores_as_its_run_did_and_both_openings_are_recorded(folders):
    result = compare.compare(tuple(folders), data_dir=None, device="cpu", backend="torch")
    for made, hits in zip(result.runs, result.hits, strict=True):
        assert hits.shape == (2, 300)
        assert [100 * row.mean() for row in hits] == pytest.approx(list(made.result["final"].values()))
        lines = [json.loads(line) for line in (made.folder.parent / run.OPENINGS).read_text().splitlines()]
        assert [line["purpose"] for line in lines] == [
            "full run",
            f"evaluate every seed of {made.folder.name}, {made.architecture}",
        ]
    low, high = result.interval
    assert low < result.difference < high
    assert result.told_apart == (low > 0 or high < 0)


def test_it_is_said_which_one_is_ahead(folders):
    command = ["evaluate", str(folders[0]), "--against", str(folders[1]), "--backend", "torch"]
    code, out, err = toys.nas(*command)
    assert code == 0
    assert f"scoring the weights of every seed in {folders[1]} and {folders[0]} on the test split" in err
    assert "made up" in err  # the notice of the data set
    code, text, err = toys.nas(*command, "--json", "--quiet")
    fields = json.loads(text)
    first, second = fields["runs"]
    assert fields["difference"] == pytest.approx(first["accuracy"] - second["accuracy"])
    assert f"difference {fields['difference']:+.3f} points, 95 % {fields['low']:+.3f} to {fields['high']:+.3f}" in out
    ahead = "the first is ahead" if fields["difference"] > 0 else "the second is ahead"
    assert (ahead if fields["told_apart"] else "not told apart") in out
    for each, architecture in ((first, SMALL), (second, LARGE)):
        assert (each["schedule"], each["seeds"]) == (str(architecture), 2)
        assert f"{each['accuracy']:.3f} ± {each['sd']:.3f} (n = 2)" in out


def test_runs_of_two_data_sets_or_without_a_seeds_weights_are_named(folders):
    path = folders[1] / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "mnist"}))
    with pytest.raises(UsageError, match="the runs are of synthetic and mnist"):
        compare.compare(tuple(folders), data_dir=None, device="cpu", backend="torch")
    (folders[0] / "weights-seed1.safetensors").unlink()
    with pytest.raises(StorageError, match=r"weights-seed1\.safetensors is damaged"):
        export.read_seeds(export.read_run(folders[0]))
