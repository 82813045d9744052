"""Teachers: who gets one, that each is trained and asked once, and that none has seen what students are scored on."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch
import toys

from nas import data, search, teacher, train, workers
from nas.architecture import Architecture
from nas.errors import InfeasibleError, NasError, UsageError
from nas.model import build
from nas.train import Recipe

STUDENT = Architecture.parse("4v M 5 G C", input_shape=(1, 16, 16), num_classes=4)
TAUGHT = Recipe(epochs=2, teacher="8 M 8 G C")
NAME = "1x16x16: 8 M 8 G C4"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path))
    return tmp_path / "teachers"


def lessons(pool, wanted, recipe=TAUGHT):
    return teacher.lessons(STUDENT, recipe, wanted, toys.synthetic(), pool, lambda message: None, epochs=6)


def test_a_teacher_is_trained_once_for_several_validation_splits_and_asked_once_for_each(folder):
    pool = toys.Pool(2)
    found = lessons(pool, {0: 2, 1: 3})
    assert pool.trained == [(NAME, teacher.SEED, 6)] + [(str(STUDENT), 0, 2)] * 5
    assert [fold for _, fold in pool.folds] == [0, 0, 0, 1, 1, 1]
    assert found[0].logits[:, 0, 0].tolist() == [0, 1]
    assert found[1].logits[:, 0, 0].tolist() == [100, 101, 102]
    assert found[1].about["num_params"] == 712
    pool = toys.Pool(2)
    again = lessons(pool, {0: 2, 1: 3})
    assert pool.trained == []
    assert again[1].logits.equal(found[1].logits)
    lessons(pool, {0: 2, 1: 2})  # fewer epochs of a student: the same teacher
    assert pool.trained == [(str(STUDENT), 0, 2)] * 2
    assert lessons(toys.Pool(), {0: 2, 1: 3})[1].about == found[1].about  # it took what it took, whoever asks besides
    lessons(toys.Pool(1), {1: 2}, dataclasses.replace(TAUGHT, degrees=5.0))
    lessons(toys.Pool(1), {1: 2})  # alone it has another, which sees more
    homes = [json.loads(path.read_text()) for path in folder.glob("*/teacher.json")]
    assert sorted(home["unseen_splits"] for home in homes) == [[0, 1], [1], [1]]
    degrees = {home["recipe"]["degrees"] for home in homes}
    assert degrees == {TAUGHT.degrees * TAUGHT.teacher_stretch, 5.0 * TAUGHT.teacher_stretch}


def test_a_teacher_has_seen_half_of_the_images_and_none_that_its_students_are_scored_on(monkeypatch):
    whole = toys.synthetic()
    parts = (len(whole.train) + len(whole.validation)) // len(whole.validation)
    found = teacher.groups(range(parts), whole)
    assert sorted(fold for group in found for fold in group) == list(range(parts))
    assert max(len(group) for group in found) == parts // 2 > 1
    seen = {}

    def train_(pipe, job, training, evaluation, device, backend):
        seen[job.fold, *job.unseen] = {image.numpy().tobytes() for image in training.train.images}

    monkeypatch.setattr(workers, "_train", train_)
    for group in found:
        job = workers.Job(
            key="teacher", architecture=STUDENT, recipe=TAUGHT, seed=0, fold=group[0], unseen=group[1:]
        )  # fmt: skip
        workers._done(None, job, whole, whole.validation, "cpu", "torch")
    for group, images in seen.items():
        assert len(images) >= (len(whole.train) + len(whole.validation)) // 2
        for number in group:
            assert not images & {image.numpy().tobytes() for image in data.fold(whole, number).validation.images}


def test_a_teacher_beside_a_test_split_is_scored_on_images_that_it_trains_on(monkeypatch):
    """A full run's pool scores on the test split, which is there for its students alone."""
    scored, asked = [], []
    monkeypatch.setattr(workers, "_train", lambda pipe, job, training, evaluation, *_: scored.append(evaluation))
    whole = data.training_data(data.named("synthetic"), data_dir=None, validation=None)
    test = toys.synthetic().validation
    for training in (whole, toys.synthetic()):
        teacher.lessons(STUDENT, TAUGHT, {0: 2}, training, toys.Pool(), asked.append, epochs=6)
        job = next(message.job for message in reversed(asked) if message.job.key == "teacher")
        workers._done(None, job, training, test, "cpu", "torch")
    assert scored[0].images.equal(whole.train.images[: workers.BLIND])
    assert scored[1] is test


def test_a_teacher_that_fails_is_an_error():
    def score(architecture, seed, epoch):
        raise NasError("the loss is nan")

    with pytest.raises(NasError, match=r"8 M 8 G C4 failed: the loss is nan"):
        lessons(toys.Pool(1, score=score), {0: 2})


def test_answers_are_of_the_training_images_of_their_split():
    whole = toys.synthetic()
    weights = build(train.teacher_of(TAUGHT, STUDENT), seed=1).state_dict()
    job = workers.Job(
        key="lesson", architecture=STUDENT, recipe=TAUGHT, seed=0, fold=2, teacher=weights, epoch=1
    )  # fmt: skip
    kind, answers = workers._done(None, job, whole, whole.validation, "cpu", "torch")
    there = data.fold(whole, 2)
    assert kind == "answers"
    assert answers.equal(train.teach(TAUGHT, weights, STUDENT, there, 1, backend="torch"))
    assert not answers.equal(train.teach(TAUGHT, weights, STUDENT, whole, 1, backend="torch"))


def test_numbers_of_splits_come_in_turn():
    whole = toys.synthetic()
    others = (len(whole.train) - 4) // len(whole.validation)
    assert [data.fold_number(whole, n) for n in range(others + 2)] == [0, *range(1, others + 1), 1]
    for number in (others + 1, others + 2):
        assert torch.equal(
            data.fold(whole, number).train.labels, data.fold(whole, data.fold_number(whole, number)).train.labels
        )


def test_a_search_learns_from_a_teacher_that_has_not_seen_its_validation_images(folder):
    pool = toys.Pool(2)
    outcome = toys.run(pool, recipe=dataclasses.replace(TAUGHT, epochs=3), trials=4)
    homes = [json.loads(path.read_text()) for path in folder.glob("*/teacher.json")]
    unseen = [split for home in homes for split in home["unseen_splits"]]
    assert sorted(unseen) == [0, 1, 2]  # of the brief trials, and of each finalist seed
    for (_, fold), lesson in zip(pool.folds, pool.lessons, strict=True):
        assert lesson is None or lesson == [100 * fold + epoch for epoch in range(3 if fold == 0 else 2)]
    taught = [lesson for (name, _, _), lesson in zip(pool.trained, pool.lessons, strict=True) if name != NAME]
    asked = 3 + 2 + 2
    assert all(lesson is not None for lesson in taught[asked:])
    assert outcome.reason["teacher"] == {
        "schedule": NAME, "num_params": 712, "epochs": search.TEACHER_EPOCHS, "trained": len(homes), "splits": 3,
        "seconds": outcome.reason["teacher"]["seconds"],
    }  # fmt: skip
    again = toys.Pool(2)
    toys.run(again, recipe=dataclasses.replace(TAUGHT, epochs=3), trials=4)
    assert again.trained == []


def test_the_time_limit_holds_while_teachers_are_trained():
    class Slow(toys.Pool):
        def messages(self, timeout):
            time.sleep(0.1)
            yield from super().messages(timeout)

    with pytest.raises(InfeasibleError, match="--teacher none"):
        toys.run(Slow(1), recipe=TAUGHT, timeout=0.3)


def test_who_gets_a_teacher():
    mnist, other = data.named("mnist"), data.named("synthetic")
    assert teacher.choose(None, num_params=8000, dataset=mnist) == train.TEACHER
    assert teacher.choose("auto", num_params=8000, dataset=other) == train.TEACHER
    assert teacher.choose(None, num_params=8000, dataset=other) is None
    assert teacher.choose("none", num_params=8000, dataset=mnist) is None
    assert teacher.choose(None, num_params=50_000, dataset=mnist) is None
    assert teacher.choose("12 M 16 G C", num_params=50_000, dataset=mnist) == "12 M 16 G C"
    with pytest.raises(UsageError, match="twelve"):
        teacher.choose("twelve M", num_params=8000, dataset=mnist)
