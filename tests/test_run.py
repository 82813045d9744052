"""The full run: seeds are kept, summaries are right on toy numbers, results carry their denominators."""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics

import pytest
import toys
from safetensors.torch import load_file

from nas import data, run
from nas.architecture import Architecture
from nas.data import Split
from nas.errors import NasError, StorageError
from nas.model import build
from nas.train import Epoch, Recipe

ARCHITECTURE = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
RECORD = {
    "dataset": "synthetic", "notice": "It is made up.", "num_train": 1200, "opened": "once", "device": "cpu",
    "processor": "a processor", "torch": "2.x", "command": "nas train-best --seeds 2", "mean": (0.1,), "std": (0.3,),
}  # fmt: skip


def epochs(*accuracies):
    return tuple(
        Epoch(
            number=number, train_loss=1.0, train_accuracy=1.0, loss=1.0, correct=round(accuracy * 100), count=10_000,
            seconds=1.0,
        )
        for number, accuracy in enumerate(accuracies, 1)
    )  # fmt: skip


def result(seed, *accuracies):
    return run.SeedResult(seed=seed, epochs=epochs(*accuracies), seconds=3.0, backend="torch")


def full(*seeds, target=99.4, folder):
    return run.FullRun(
        architecture=ARCHITECTURE, recipe=Recipe(epochs=7), seeds=seeds, target=target, folder=folder / "run"
    )


@pytest.fixture
def test_split():
    split = toys.synthetic().validation
    return Split(split.images[:20], split.labels[:20])


def go(tmp_path, test_split, seeds, pool=None, **changes):
    pool = pool or toys.Pool(2)
    options = {"base": tmp_path, "pool": pool, "target": 99.4, "record": RECORD, "heard": lambda message: None}
    recipe = Recipe(epochs=7)
    return run.full_run(ARCHITECTURE, recipe, seeds, toys.synthetic(), test_split, **(options | changes)), pool


def test_the_numbers_of_a_run(tmp_path):
    a = result(0, 10.0, 99.9, 99.41, 99.45, 99.43, 99.47, 99.44)
    b = result(1, 10.0, 99.9, 99.51, 99.55, 99.53, 99.57, 99.39)
    c = result(2, 10.0, 99.9, 99.45, 99.45, 99.45, 99.45, 99.45)
    assert a.last5 == pytest.approx(99.44)
    assert a.final == 99.44
    three = full(a, b, c, folder=tmp_path)
    assert three.mean == pytest.approx(statistics.fmean([99.44, 99.51, 99.45]))
    assert three.sd == pytest.approx(statistics.stdev([99.44, 99.51, 99.45]))
    assert three.lowest == 99.39  # the best epoch, 99.9, is no part of anything
    assert three.held is False
    assert three.typical is c
    assert full(a, b, folder=tmp_path).typical is a
    assert full(a, folder=tmp_path).held is True
    assert full(a, folder=tmp_path).sd is None
    assert full(a, target=None, folder=tmp_path).held is None
    assert result(0, 50.0, 60.0).last5 == pytest.approx(55.0)  # fewer than five epochs: all of them


def test_the_summary_and_the_card_carry_the_denominators(tmp_path):
    two = full(result(0, *[99.0] * 7), result(1, *[99.2] * 7), folder=tmp_path)
    summary = run.summary(two, RECORD)
    assert summary["split"] == "test"
    assert summary["seeds"] == [0, 1]
    assert summary["last5"] == {"0": pytest.approx(99.0), "1": pytest.approx(99.2)}
    assert summary["recipe"]["epochs"] == summary["epochs"] == 7
    assert summary["target_held"] is False
    assert "99.9" not in json.dumps(summary)
    card = run.card(two, RECORD)
    wanted = (
        "synthetic",
        "It is made up.",
        "**99.100 ± 0.141 %**",
        "2 seeds",
        "last 5 of 7 epochs",
        "cpu",
        "torch 2.x",
    )
    for text in (*wanted, "nas train-best --seeds 2", f"{ARCHITECTURE.num_params:,}", "1,200", str(ARCHITECTURE)):
        assert text in card


def test_seeds_are_kept_and_only_new_ones_are_trained(tmp_path, test_split):
    first, pool = go(tmp_path, test_split, range(2))
    assert [seed for _, seed, _ in pool.trained] == [0, 1]
    second, pool = go(tmp_path, test_split, range(3))
    assert [seed for _, seed, _ in pool.trained] == [2]
    assert second.seeds[:2] == first.seeds
    assert second.folder == first.folder
    other, pool = go(tmp_path, test_split, [1])
    assert pool.trained == []
    assert [seed.seed for seed in other.seeds] == [1]


def test_an_interrupted_run_keeps_the_seeds_that_ended(tmp_path, test_split):
    class Interrupted(toys.Pool):
        def messages(self, timeout):
            if len(self.trained) == 3:
                raise KeyboardInterrupt
            yield from super().messages(timeout)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, test_split, range(3), Interrupted(1))
    _, pool = go(tmp_path, test_split, range(3))
    assert [seed for _, seed, _ in pool.trained] == [2]


def test_the_files_are_those_of_the_result(tmp_path, test_split):
    outcome, _ = go(tmp_path, test_split, range(3))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    saved = json.loads((outcome.folder / "result.json").read_text(), parse_constant=refuse)
    assert saved == json.loads(json.dumps(run.summary(outcome, RECORD)))
    with (outcome.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["number"]) for row in rows] == [(str(s), str(e)) for s in range(3) for e in range(1, 8)]
    assert float(rows[-1]["accuracy"]) == outcome.seeds[-1].final
    weights = load_file(outcome.folder / "weights.safetensors")
    middle = build(ARCHITECTURE, seed=outcome.typical.seed).state_dict()
    assert all(weights[key].equal(middle[key]) for key in weights)
    assert (outcome.folder / "model.onnx").is_file()


def test_other_settings_are_another_folder():
    training = toys.synthetic()
    base = toys.Path("base")
    folders = {
        run.folder_of(base, ARCHITECTURE, Recipe(), training),
        run.folder_of(base, ARCHITECTURE, Recipe(epochs=3), training),
        run.folder_of(base, Architecture.parse("1x16x16: 4v M 7 G C4"), Recipe(), training),
        run.folder_of(base, ARCHITECTURE, Recipe(), dataclasses.replace(training, hash="another")),
    }
    assert len(folders) == 4


def test_a_seed_that_fails_ends_the_run_in_one_line(tmp_path, test_split):
    def score(architecture, seed, epoch):
        raise NasError("the loss is nan")

    with pytest.raises(NasError, match=r"seed 0 of .* failed: the loss is nan"):
        go(tmp_path, test_split, range(2), toys.Pool(score=score))


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path, test_split):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write weights"):
        go(tmp_path / "file", test_split, [0])


def test_the_record_names_data_and_machine():
    training = data.training_data(data.named("synthetic"), data_dir=None, validation=None)
    record = run.record_of(training.dataset, training, {"torch": "2.x", "device": "cpu"})
    assert record["num_train"] == 1200
    assert record["data_hash"] == training.hash
    assert record["torch"] == "2.x"
    assert record["notice"]
