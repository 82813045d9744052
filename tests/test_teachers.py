"""Teachers: who gets one, that each is trained once and its logits computed once, and that none has seen what students
are scored on."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file

from nas import data, train
from nas.architecture import Architecture
from nas.errors import InfeasibleError, NasError, StorageError, UsageError
from nas.files import read_record
from nas.searches import TeacherUse
from nas.teachers import (
    MOST_MACS,
    TEACHER_RATIO,
    TEACHER_SEED,
    TeacherCache,
    TeacherRecord,
    choose_teacher,
    describe_teacher,
    suited_teacher,
    teacher_groups,
)
from nas.train import Recipe
from nas.workers import TRAIN_EVALUATION_IMAGES, LocalPool, TrainJob
from nas.workers.worker import Setting

STUDENT = Architecture.parse("4v M 5 G C", input_shape=(1, 16, 16), num_classes=4)
DISTILLED = Recipe(epochs=2, teacher="8 M 8 G C")
NAME = "1x16x16: 8 M 8 G C4"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path))
    return tmp_path / "teachers"


@pytest.fixture
def logits(folder):
    def compute(pool, epochs_by_fold, recipe=DISTILLED, *, training=None, on_message=lambda message: None):
        cache = TeacherCache(folder, training or toys.synthetic(), pool, on_message)
        return cache.logits(recipe, epochs_by_fold, epochs=6)

    return compute


def records(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/teacher.json"))]


def test_a_teacher_is_trained_once_for_several_folds_and_its_logits_are_computed_once_for_each(folder, logits):
    pool = toys.Pool(2)
    found = logits(pool, {0: 2, 1: 3})
    assert pool.trained == [(NAME, TEACHER_SEED, 6)]
    assert pool.computed == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert found[0].logits[:, 0, 0].tolist() == [0, 1]
    assert found[1].logits[:, 0, 0].tolist() == [100, 101, 102]
    assert found[1].record.num_params == 712
    pool = toys.Pool(2)
    again = logits(pool, {0: 2, 1: 3})
    assert pool.trained == pool.computed == []
    assert again == found
    logits(pool, {0: 2, 1: 2})  # fewer epochs of a student: the same teacher
    assert (pool.trained, pool.computed) == ([], [(1, 0), (1, 1)])
    assert logits(toys.Pool(), {0: 2, 1: 3}) == found  # it took what it took, whatever is computed besides
    logits(toys.Pool(1), {1: 2}, dataclasses.replace(DISTILLED, degrees=5.0))
    logits(toys.Pool(1), {1: 2})  # alone it has another, which sees more
    homes = records(folder)
    assert sorted(home["held_out_folds"] for home in homes) == [[0, 1], [1], [1]]
    degrees = {home["recipe"]["degrees"] for home in homes}
    assert degrees == {DISTILLED.degrees * DISTILLED.teacher_augmentation, 5.0 * DISTILLED.teacher_augmentation}


def setting(training, evaluation):
    return Setting(training=training, evaluation=evaluation, device="cpu", backend="torch")


def test_a_teacher_has_seen_half_of_the_images_and_none_that_its_students_are_scored_on():
    whole = toys.synthetic()
    parts = (len(whole.train) + len(whole.validation)) // len(whole.validation)
    found = teacher_groups(range(parts), whole)
    assert sorted(fold for group in found for fold in group) == list(range(parts))
    sizes = [len(group) for group in found]
    assert max(sizes) == parts // 2 > 1
    assert max(sizes) - min(sizes) <= 1
    assert teacher_groups(range(parts // 2 + 1), whole)[0] == tuple(range((parts // 2 + 2) // 2))  # not all but one
    for group in found:
        job = TrainJob(
            key="teacher", architecture=STUDENT, recipe=DISTILLED, seed=0, fold=group[0], held_out_folds=group[1:]
        )
        seen = setting(whole, whole.validation).of(job).training.train.images
        images = {image.numpy().tobytes() for image in seen}
        assert len(images) >= (len(whole.train) + len(whole.validation)) // 2
        for number in group:
            assert not images & {image.numpy().tobytes() for image in data.with_fold(whole, number).validation.images}


def test_a_teacher_beside_a_test_split_is_scored_on_images_that_it_trains_on(folder, logits):
    """A full run's pool scores on the test split, which is there for its students alone."""
    received, scored = [], []
    whole = data.load_training_data(data.find_dataset("synthetic"), data_dir=None, validation=None)
    test = toys.synthetic().validation
    for training in (whole, toys.synthetic()):
        logits(toys.Pool(), {0: 2}, training=training, on_message=received.append)
        job = next(message.job for message in reversed(received) if message.job.key == "teacher")
        scored.append(setting(training, test).of(job).evaluation)
    assert scored[0].images.equal(whole.train.images[:TRAIN_EVALUATION_IMAGES])
    assert scored[1] is test
    found = {home["last5_of"]: home["held_out_folds"] for home in records(folder)}
    assert found == {"training images": [], "validation images": [0]}


def test_a_teacher_that_fails_is_an_error(logits):
    def score(architecture, seed, epoch):
        raise NasError("the loss is nan")

    with pytest.raises(NasError, match=r"8 M 8 G C4 failed: the loss is nan"):
        logits(toys.Pool(1, score=score), {0: 2})


def test_logits_are_those_of_the_teachers_weights_on_the_training_images_of_their_fold(folder, logits):
    whole = toys.synthetic()
    with LocalPool(whole, whole.validation, backend="torch") as pool:
        found = logits(pool, {2: 2})[2]
    weights = load_file(found.path.parent / "weights.safetensors")
    there = data.with_fold(whole, 2)
    for epoch in range(2):
        assert found.logits[epoch].equal(
            train.compute_teacher_logits(DISTILLED, weights, there, epoch, backend="torch")
        )
    assert not found.logits[1].equal(train.compute_teacher_logits(DISTILLED, weights, whole, 1, backend="torch"))
    assert found.to_dict() == {
        **json.loads(json.dumps(dataclasses.asdict(found.record))),
        "logits_seconds": found.seconds,
    }
    assert found.record.backend == "torch"


def test_a_record_comes_back_as_it_was(folder, logits):
    found = logits(toys.Pool(), {0: 2, 1: 2})[0]
    record = found.record
    assert read_record(found.path.with_name("teacher.json"), TeacherRecord) == record
    assert record.recipe == dataclasses.replace(train.teacher_recipe(DISTILLED), epochs=6)


def changed(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100], lambda text: "", lambda text: "[" * 100_000, lambda text: "[1]", lambda text: "\ud800",
        changed(more=1), changed(num_params="712"), changed(seconds=True), changed(recipe={"epochs": -1}),
        changed(recipe={"no": 1}), changed(held_out_folds=[0.5]), changed(schedule=None),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "last5"}),
    ],
)  # fmt: skip
def test_a_damaged_record_is_an_error_of_one_line(folder, logits, damage):
    logits(toys.Pool(), {0: 2})
    (path,) = folder.glob("*/teacher.json")
    path.write_bytes(damage(path.read_text()).encode("utf-8", "surrogatepass"))
    with pytest.raises(StorageError, match=r"teacher\.json is damaged") as caught:
        logits(toys.Pool(), {0: 2})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights", "logits-fold0-2-epochs"])
@pytest.mark.parametrize("keep", [0, 50, -1])
def test_a_damaged_file_of_tensors_is_an_error_of_one_line(folder, logits, name, keep):
    logits(toys.Pool(), {0: 2})
    (path,) = folder.glob(f"*/{name}.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StorageError, match=rf"{name}\.safetensors cannot be used .*delete the folder") as caught:
        logits(toys.Pool(), {0: 2 if "logits" in name else 3})
    assert "\n" not in str(caught.value)


def test_a_file_of_other_tensors_is_an_error(folder, logits):
    path = logits(toys.Pool(), {0: 2})[0].path
    save_file({"logits": torch.zeros(3)}, path)
    with pytest.raises(StorageError, match="lacks the logits"):
        logits(toys.Pool(), {0: 2})


def test_what_a_killed_computation_left_is_done_again_and_no_more(folder, logits):
    class Interrupted(toys.Pool):
        def messages(self, timeout):
            if len(self.computed) == 2:
                raise KeyboardInterrupt
            yield from super().messages(timeout)

    with pytest.raises(KeyboardInterrupt):
        logits(Interrupted(1), {0: 3})
    assert not list(folder.glob("*/logits*"))
    pool = toys.Pool(1)
    logits(pool, {0: 3})
    assert (pool.trained, pool.computed) == ([], [(0, 0), (0, 1), (0, 2)])


def test_numbers_of_splits_come_in_turn():
    whole = toys.synthetic()
    others = (len(whole.train) - 4) // len(whole.validation)
    assert [data.fold_number(whole, n) for n in range(others + 2)] == [0, *range(1, others + 1), 1]
    for number in (others + 1, others + 2):
        assert torch.equal(
            data.with_fold(whole, number).train.labels,
            data.with_fold(whole, data.fold_number(whole, number)).train.labels,
        )


def test_a_search_learns_from_a_teacher_that_has_not_seen_its_validation_images(folder):
    pool = toys.Pool(2)
    outcome = toys.run(pool, recipe=dataclasses.replace(DISTILLED, epochs=3), trials=4)
    homes = records(folder)
    held_out = [fold for home in homes for fold in home["held_out_folds"]]
    assert sorted(held_out) == [0, 1, 2]  # of the brief trials, and of each finalist seed
    assert len(pool.computed) == 3 + 2 + 2
    for (name, _, _), (_, fold), given in zip(pool.trained, pool.folds, pool.teacher_logits, strict=True):
        assert given == (None if name == NAME else [100 * fold + epoch for epoch in range(3 if fold == 0 else 2)])
    assert outcome.reason.teacher == TeacherUse(
        schedule=NAME, num_params=712, epochs=6, trained=len(homes), splits=3, seconds=outcome.reason.teacher.seconds,
        accuracy=pytest.approx(sum(home["last5"] for home in homes) / len(homes)),
    )  # fmt: skip
    again = toys.Pool(2)
    toys.run(again, recipe=dataclasses.replace(DISTILLED, epochs=3), trials=4)
    assert again.trained == []


def test_the_time_limit_holds_while_teachers_are_trained():
    class Slow(toys.Pool):
        def messages(self, timeout):
            time.sleep(0.1)
            yield from super().messages(timeout)

    with pytest.raises(InfeasibleError, match="spent on the teachers"):
        toys.run(Slow(1), recipe=DISTILLED, timeout=0.3)


def test_who_gets_a_teacher():
    mnist, other = data.find_dataset("mnist"), data.find_dataset("synthetic")
    assert choose_teacher(None, num_params=8000, dataset=mnist) == train.TEACHER
    assert choose_teacher("auto", num_params=8000, dataset=mnist) == train.TEACHER
    assert choose_teacher("auto", num_params=8000, dataset=other) == suited_teacher(8000, other)
    assert choose_teacher(None, num_params=8000, dataset=other) is None
    assert choose_teacher("none", num_params=8000, dataset=mnist) is None
    assert choose_teacher(None, num_params=50_000, dataset=mnist) is None
    assert choose_teacher("12 M 16 G C", num_params=50_000, dataset=mnist) == "12 M 16 G C"
    with pytest.raises(UsageError, match="twelve"):
        choose_teacher("twelve M", num_params=8000, dataset=mnist)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 16, 28, 32, 48, 96])
@pytest.mark.parametrize("num_params", [500, 11_400, 100_000])
def test_a_teacher_suits_the_input_and_the_student(channels, side, num_params):
    shape = (channels, side, side)
    dataset = data.Dataset(name="x", title="X", input_shape=shape, classes=tuple("abc"), num_train=9, num_test=9)
    if (side, num_params) == (96, 100_000):
        with pytest.raises(UsageError, match="no teacher of 10 times 100,000 parameters"):
            suited_teacher(num_params, dataset)
        return
    schedule = suited_teacher(num_params, dataset)
    teacher = Architecture.parse(schedule, input_shape=shape, num_classes=3)
    assert teacher.num_params >= TEACHER_RATIO * num_params
    assert teacher.macs <= MOST_MACS
    assert f"{teacher.num_params:,} parameters, its worth here is not measured" in describe_teacher(schedule, dataset)


def test_what_the_default_teacher_was_worth_is_stated():
    assert "0.04 to 0.08 points" in describe_teacher(train.TEACHER, data.find_dataset("mnist"))


def test_a_teacher_that_is_asked_for_and_that_nothing_suits_is_refused():
    with pytest.raises(UsageError, match="no teacher of 10 times 9,000,000 parameters"):
        choose_teacher("auto", num_params=9_000_000, dataset=data.find_dataset("cifar10"))
