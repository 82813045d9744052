"""The full run: seeds are kept, summaries are right on toy numbers, results carry their denominators."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file

from nas import data, export, run, teacher, train
from nas.architecture import Architecture
from nas.data import Split
from nas.errors import NasError, StorageError, UsageError
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
    with pytest.raises(StorageError, match="cannot write"):
        go(tmp_path / "file", test_split, [0])


def test_the_record_names_data_and_machine():
    training = data.training_data(data.named("synthetic"), data_dir=None, validation=None)
    record = run.record_of(training.dataset, training, {"torch": "2.x", "device": "cpu"})
    assert record["num_train"] == 1200
    assert record["data_hash"] == training.hash
    assert record["torch"] == "2.x"
    assert record["notice"]


# --- what a full run left, scored and trained again -------------------------------------------------------------------

REAL = Recipe(epochs=2, batch_size=64, peak_rate=0.03)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The study folder `reference-700` with a real full run of two seeds on the synthetic set."""
    base = tmp_path_factory.mktemp("studies") / "reference-700"
    training = data.training_data(data.named("synthetic"), data_dir=None, validation=None)
    purpose = f"full run of {ARCHITECTURE}, seeds 0, 1"
    test = data.open_test(training.dataset, data_dir=None, log=base / run.OPENINGS, purpose=purpose)
    record = run.record_of(
        training.dataset, training, {"processor": "a processor", "torch": "2.x", "device": "cpu", "time": "2026"}
    ) | {"opened": "once", "command": "nas train-best"}  # fmt: skip
    pool = toys.TrainingPool(training, test)
    options = {"base": base, "pool": pool, "target": None, "record": record, "heard": lambda message: None}
    return run.full_run(ARCHITECTURE, REAL, (0, 1), training, test, **options)


@pytest.fixture
def copied(trained, tmp_path, monkeypatch):
    """The full run's folder in a copy of the folder of studies."""
    shutil.copytree(trained.folder.parents[1], tmp_path / "studies")
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "studies"))
    return tmp_path / "studies" / "reference-700" / trained.folder.name


def score(folder, backend="torch"):
    return run.evaluate(folder, data_dir=None, device="cpu", backend=backend)


def openings(folder):
    return [json.loads(line) for line in (folder.parent / run.OPENINGS).read_text().splitlines()]


def restate(folder, **changes):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_weights_score_as_their_run_did(trained, copied):
    """Number and loss are those of the last epoch of the typical seed; the other seed has other ones."""
    result, last = score(copied), trained.typical.epochs[-1]
    assert (result.correct, result.count, result.stated) == (last.correct, 300, last.correct)
    assert result.loss == pytest.approx(last.loss, abs=1e-6)
    assert result.accuracy == result.stated_accuracy == trained.typical.final
    assert (result.seed, result.epochs, result.backend) == (trained.typical.seed, 2, "torch")
    assert result.agrees
    assert result.same_images
    other = next(seed for seed in trained.seeds if seed is not trained.typical)
    assert other.epochs[-1].loss != pytest.approx(last.loss, abs=1e-3)
    by_kernels = score(copied, "auto")
    assert by_kernels.agrees
    assert by_kernels.loss == pytest.approx(last.loss, abs=1e-4)


def test_each_evaluation_is_recorded_beside_the_full_run(copied):
    score(copied)
    score(copied)
    first, *more = openings(copied)
    assert first["purpose"].startswith("full run of ")
    assert [line["purpose"] for line in more] == [f"evaluate {copied.name}, {ARCHITECTURE}"] * 2
    assert {line["sha256"] for line in more} == {first["sha256"]}


def test_an_evaluation_uses_the_mean_and_deviation_of_the_run_and_no_training_image(copied, monkeypatch):
    read, splits = data._read, []
    monkeypatch.setattr(data, "_read", lambda dataset, split, root: splits.append(split) or read(dataset, split, root))
    before = score(copied)
    mean, std = before.run.result["mean"], before.run.result["std"]
    restate(copied, mean=[0.0], std=[1.0])
    after = score(copied)
    assert splits == ["test", "test"]
    test = read(data.named("synthetic"), "test", Path())
    model = build(ARCHITECTURE)
    model.load_state_dict(before.run.state_dict)
    for result, moments in ((before, (mean, std)), (after, ([0.0], [1.0]))):
        with torch.no_grad():
            logits = model.eval()(data.normalise(test.images, *moments))
        assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, test.labels)), abs=1e-5)


@pytest.mark.parametrize("apart", [0, run.TOLERANCE, run.TOLERANCE + 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_agreement_is_a_number_of_images(copied, apart, sign):
    before = score(copied)
    restate(copied, final={str(before.seed): 100 * (before.correct + sign * apart) / before.count})
    after = score(copied)
    assert after.stated - after.correct == sign * apart
    assert after.agrees is (apart <= run.TOLERANCE)


def test_other_test_images_are_noticed(copied):
    log = copied.parent / run.OPENINGS
    line = json.loads(log.read_text())
    log.write_text(json.dumps(line | {"sha256": "another"}) + "\n")
    assert score(copied).same_images is False
    log.write_text(json.dumps(line | {"dataset": "mnist"}) + "\n")
    assert score(copied).same_images is None
    log.write_text("no JSON\n")
    assert score(copied).same_images is None


def test_what_does_not_belong_to_the_run_is_refused_before_the_test_split_is_opened(copied):
    weights = copied / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(StorageError, match=r"weights\.safetensors is damaged"):
        score(copied)
    other = Architecture.parse("1x16x16: 4v M 7 G C4")
    export._write_weights(weights, other, build(other).state_dict())
    with pytest.raises(StorageError, match="its weights are those of '1x16x16: 4v M 7 G C4'"):
        score(copied)
    weights.write_bytes(content)
    restate(copied, dataset="mnist")
    with pytest.raises(StorageError, match="does not take the images and classes of mnist"):
        score(copied)
    restate(copied, dataset="unheard of")
    with pytest.raises(UsageError, match="unknown data set"):
        score(copied)
    assert len(openings(copied)) == 1


def test_a_full_run_is_found_by_its_folder_its_study_and_by_nothing(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (str(copied), f"studies/reference-700/{copied.name}", "studies/reference-700", "reference-700", None):
        assert run.find(name).resolve() == copied
    with pytest.raises(StorageError, match="no full run in"):
        run.find("reference-800")


def test_a_reference_is_planned_as_it_was_run(copied, trained):
    plan = run.reference_plan("700")
    assert (plan.architecture, plan.recipe, plan.dataset) == (ARCHITECTURE, REAL, "synthetic")
    assert (plan.seeds, plan.target) == ((0, 1), None)
    assert plan.base == copied.parents[1] / "reproduction-700"
    assert plan.reference is not None
    assert (plan.reference["name"], plan.reference["last5_mean"]) == ("reference-700", trained.mean)
    assert plan.reference["last5_sd"] == trained.sd
    restate(copied, recipe={"momentum": 0.9})
    with pytest.raises(UsageError, match="unknown key 'momentum'"):
        run.reference_plan("700")


def test_a_reference_goes_by_its_short_name_too(copied):
    for name, short in (("8000", "8k"), ("start", "start")):
        shutil.copytree(copied.parent, copied.parents[1] / f"reference-{name}")
        plans = [run.reference_plan(known) for known in (name, short, f"reference-{name}")]
        assert {plan.base.name for plan in plans} == {f"reproduction-{name}"}
        assert {plan.reference["name"] for plan in plans} == {f"reference-{name}"}


def test_a_reference_that_is_not_there_says_which_are(copied, tmp_path, monkeypatch):
    with pytest.raises(StorageError) as error:
        run.reference_plan("9k")
    for text in ("no reference '9000'", str(copied.parents[1] / "reference-9000"), "700", "clone", "NAS_STUDIES"):
        assert text in str(error.value)
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "empty"))
    with pytest.raises(StorageError, match="none"):
        run.reference_plan("8k")
    with pytest.raises(UsageError, match="plain folder name"):
        run.reference_plan("../8k")


# The teacher


def test_a_teacher_is_trained_once_for_all_seeds_and_students(tmp_path, test_split, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path))
    taught = Recipe(epochs=7, teacher="8 M 8 G C")
    other = Architecture.parse("4v M 5 G C", input_shape=(1, 16, 16), num_classes=4)
    trained = []
    for student, seeds in ((ARCHITECTURE, (0, 1)), (ARCHITECTURE, (0, 1, 2)), (other, (0,))):
        pool = toys.Pool(2)
        full = run.full_run(
            student, taught, seeds, toys.synthetic(), test_split, base=tmp_path / "study", pool=pool, target=None,
            record=RECORD, heard=lambda message: None,
        )  # fmt: skip
        trained += pool.trained
        assert full.teacher["num_params"] == 712
        fields = json.loads((full.folder / "result.json").read_text())
        assert fields["teacher"] == full.teacher
        assert fields["recipe"]["teacher"] == "8 M 8 G C"
        assert "Distilled from `1x16x16: 8 M 8 G C4` (712 parameters)" in (full.folder / "CARD.md").read_text()
    assert trained[0] == ("1x16x16: 8 M 8 G C4", teacher.SEED, 7)
    assert trained[1:8] == [(str(ARCHITECTURE), 0, 7)] * 7  # an epoch each, once, after it was trained
    assert [name for name, _, _ in trained[8:]] == [*[str(ARCHITECTURE)] * 3, str(other)]
    (lesson,) = (tmp_path / "teachers").glob("*/lesson-0-7-epochs.safetensors")
    assert load_file(lesson)["logits"][:, 0, 0].tolist() == list(range(7))


def test_who_gets_a_teacher():
    small = Architecture.parse("8vr 9vr 10vr M 12vr 16vr 20vr C G")
    large = Architecture.parse("40 40 M 64 G C")
    base = run.schedule_plan(str(small), data.named("mnist"), "by-hand")

    def chosen(plan, choice):
        return run.with_teacher(plan, choice).recipe.teacher

    assert chosen(base, None) == chosen(base, "auto") == train.TEACHER
    assert chosen(base, "none") is None
    assert chosen(base, "12 M 16 G C") == "12 M 16 G C"
    assert chosen(dataclasses.replace(base, architecture=large), None) is None
    assert chosen(dataclasses.replace(base, dataset="synthetic"), None) is None
    assert chosen(dataclasses.replace(base, reference={"name": "reference-x"}), None) is None  # as it was
    with pytest.raises(UsageError, match="twelve"):
        chosen(base, "twelve M")
