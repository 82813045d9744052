"""The full run: seeds are stored and not trained twice, numbers are right on toy runs, results carry denominators."""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
from pathlib import Path

import pytest
import toys
from safetensors.torch import load_file

from nas.architecture import Architecture
from nas.data import Split
from nas.errors import NasError, StorageError
from nas.export import read_run
from nas.final import FullRunPlan, SeedResult, full_run, run_result
from nas.final.card import card
from nas.model import build
from nas.teachers import TEACHER_SEED
from nas.train import Epoch, Recipe

ARCHITECTURE = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
PLAN = FullRunPlan(
    architecture=ARCHITECTURE, recipe=Recipe(epochs=7), dataset="synthetic", target=99.4, base=Path("base")
)


def result(seed, *accuracies):
    epochs = tuple(
        Epoch(
            number=number, train_loss=1.0, train_accuracy=1.0, loss=1.0, correct=round(accuracy * 100), count=10_000,
            seconds=1.0,
        )
        for number, accuracy in enumerate(accuracies, 1)
    )  # fmt: skip
    return SeedResult(seed=seed, epochs=epochs, seconds=3.0, backend="torch")


def came_to(*seeds, target=99.4):
    plan = dataclasses.replace(PLAN, target=target, seeds=tuple(seed.seed for seed in seeds))
    provenance = toys.provenance(processor="a processor", torch="2.x", command="nas train-best --seeds 2")
    return run_result(plan, seeds, None, provenance, "once")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A full run on toys: what it came to, and the pool that trained it."""
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path))
    split = toys.synthetic().validation
    test = Split(split.images[:20], split.labels[:20])

    def go(seeds, pool=None, **changes):
        pool = pool or toys.Pool(2)
        plan = dataclasses.replace(PLAN, **({"base": tmp_path / "study", "seeds": tuple(seeds)} | changes))
        made = full_run(
            plan, toys.synthetic(), test, pool, toys.provenance(), opened="once", on_message=lambda message: None
        )
        return made, pool

    return go


def test_the_numbers_of_a_run():
    a = result(0, 10.0, 99.9, 99.41, 99.45, 99.43, 99.47, 99.44)
    b = result(1, 10.0, 99.9, 99.51, 99.55, 99.53, 99.57, 99.39)
    c = result(2, 10.0, 99.9, 99.45, 99.45, 99.45, 99.45, 99.45)
    assert a.last5 == pytest.approx(99.44)
    assert a.final == 99.44
    three = came_to(a, b, c)
    assert three.last5_mean == pytest.approx(statistics.fmean([99.44, 99.51, 99.45]))
    assert three.last5_sd == pytest.approx(statistics.stdev([99.44, 99.51, 99.45]))
    assert three.lowest_of_last5 == 99.39  # the best epoch, 99.9, is no part of anything
    assert "99.9" not in json.dumps(dataclasses.asdict(three))
    assert three.target_held is False
    assert three.typical_seed == 2
    assert came_to(a, b).typical_seed == 0
    assert came_to(a).target_held is True
    assert came_to(a).last5_sd is None
    assert came_to(a, target=None).target_held is None
    assert result(0, 50.0, 60.0).last5 == pytest.approx(55.0)  # fewer than five epochs: all of them


def test_the_result_and_the_card_carry_the_denominators():
    seeds = result(0, *[99.0] * 7), result(1, *[99.2] * 7)
    two = came_to(*seeds)
    assert (two.split, two.seeds, two.epochs) == ("test", (0, 1), 7)
    assert two.last5 == {0: pytest.approx(99.0), 1: pytest.approx(99.2)}
    assert two.recipe["epochs"] == 7
    assert two.target_held is False
    assert two.opened == "once"
    text = card(two, seeds)
    wanted = (
        "synthetic", toys.synthetic().dataset.notice, "**99.100 ± 0.141 %**", "2 seeds", "last 5 of 7 epochs", "cpu",
        "torch 2.x", "a processor", "nas train-best --seeds 2", f"{ARCHITECTURE.num_params:,}", "1,000",
        str(ARCHITECTURE), "| 1 | 99.200 | 99.20 | 99.20 |",
    )  # fmt: skip
    for each in wanted:
        assert each in text


def test_seeds_are_stored_and_only_new_ones_are_trained(run):
    first, pool = run(range(2))
    assert [seed for _, seed, _ in pool.trained] == [0, 1]
    second, pool = run(range(3))
    assert [seed for _, seed, _ in pool.trained] == [2]
    assert second.seeds[:2] == first.seeds
    assert second.folder == first.folder
    other, pool = run([1])
    assert pool.trained == []
    assert [seed.seed for seed in other.seeds] == [1]


def test_an_interrupted_run_loses_at_most_the_seeds_under_way(run):
    class Interrupted(toys.Pool):
        def messages(self, timeout):
            if len(self.trained) == 3:
                raise KeyboardInterrupt
            yield from super().messages(timeout)

    with pytest.raises(KeyboardInterrupt):
        run(range(3), Interrupted(1))
    _, pool = run(range(3))
    assert [seed for _, seed, _ in pool.trained] == [2]


def test_the_files_are_those_of_the_result(run):
    made, _ = run(range(3))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    saved = json.loads((made.folder / "result.json").read_text(), parse_constant=refuse)
    assert saved == json.loads(json.dumps(dataclasses.asdict(made.result)))
    assert read_run(made.folder).result == made.result
    with (made.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["number"]) for row in rows] == [(str(s), str(e)) for s in range(3) for e in range(1, 8)]
    assert float(rows[-1]["accuracy"]) == made.seeds[-1].final
    weights = load_file(made.folder / "weights.safetensors")
    middle = build(ARCHITECTURE, seed=made.result.typical_seed).state_dict()
    assert all(weights[key].equal(middle[key]) for key in weights)
    assert (made.folder / "model.onnx").is_file()
    assert (made.folder / "CARD.md").read_text(encoding="utf-8") == card(made.result, made.seeds)


def test_other_settings_are_another_folder():
    training = toys.synthetic()
    other = Architecture.parse("1x16x16: 4v M 7 G C4")
    plans = [PLAN, PLAN.changed(epochs=3), dataclasses.replace(PLAN, architecture=other)]
    folders = {plan.folder(training) for plan in plans} | {PLAN.folder(dataclasses.replace(training, hash="another"))}
    assert len(folders) == 4
    assert PLAN.changed(seeds=5, target=10.0).folder(training) == PLAN.folder(training)  # seeds are added to a run


def test_a_seed_that_fails_ends_the_run_in_one_line(run):
    def score(architecture, seed, epoch):
        raise NasError("the loss is nan")

    with pytest.raises(NasError, match=r"seed 0 of .* failed: the loss is nan"):
        run(range(2), toys.Pool(score=score))


def test_a_folder_that_cannot_be_written_is_a_storage_error(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        run([0], base=tmp_path / "file")


def test_a_damaged_stored_seed_is_named_before_anything_is_trained(run):
    made, _ = run([0, 1])
    stored = made.folder.with_name(made.folder.name + ".seeds")
    path = stored / "seed0.json"
    own, pool = path.read_text(), toys.Pool(1)
    another = (stored / "seed1.json").read_text()
    for content in ("{}", "", own[:-20], "[]", '{"seed": "0", "epochs": 1}', "[" * 100_000, another):
        path.write_text(content)
        with pytest.raises(StorageError, match=r"seed0\.json is damaged: [^\n]*$"):
            run([0, 2], pool)
    path.write_text(own)
    weights = stored / "seed0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"seed0\.safetensors is damaged: [^\n]*$"):
        run([0, 2], pool)
    assert pool.trained == []


def test_a_teacher_is_trained_once_for_all_seeds_and_students(run, tmp_path):
    distilled = Recipe(epochs=7, teacher="8 M 8 G C")
    other = Architecture.parse("4v M 5 G C", input_shape=(1, 16, 16), num_classes=4)
    trained, computed = [], []
    for student, seeds in ((ARCHITECTURE, (0, 1)), (ARCHITECTURE, (0, 1, 2)), (other, (0,))):
        made, pool = run(seeds, architecture=student, recipe=distilled)
        trained += pool.trained
        computed += pool.computed
        assert made.result.teacher["num_params"] == 712
        fields = json.loads((made.folder / "result.json").read_text())
        assert fields["teacher"] == made.result.teacher
        assert fields["recipe"]["teacher"] == "8 M 8 G C"
        assert "Distilled from `1x16x16: 8 M 8 G C4` (712 parameters)" in (made.folder / "CARD.md").read_text()
    assert trained[0] == ("1x16x16: 8 M 8 G C4", TEACHER_SEED, 7)
    assert computed == [(0, epoch) for epoch in range(7)]  # an epoch each, once, after it was trained
    assert [name for name, _, _ in trained[1:]] == [*[str(ARCHITECTURE)] * 3, str(other)]
    (logits,) = (tmp_path / "teachers").glob("*/logits-fold0-7-epochs.safetensors")
    assert load_file(logits)["logits"][:, 0, 0].tolist() == list(range(7))


def test_a_teacher_may_have_fewer_epochs_than_its_students(run):
    made, pool = run((0,), recipe=Recipe(epochs=7, teacher="8 M 8 G C", teacher_epochs=3))
    assert pool.trained == [("1x16x16: 8 M 8 G C4", TEACHER_SEED, 3), (str(ARCHITECTURE), 0, 7)]
    assert pool.computed == [(0, epoch) for epoch in range(7)]
    assert made.result.teacher["recipe"]["epochs"] == 3
    again, pool = run((0,), recipe=Recipe(epochs=3, teacher="8 M 8 G C"))  # which has the same teacher
    assert pool.trained == [(str(ARCHITECTURE), 0, 3)]
    assert again.folder != made.folder
