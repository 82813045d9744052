"""A training that is killed between two epochs, and goes on to the same bits."""

from __future__ import annotations

import dataclasses

import pytest
from small import ARCHITECTURE, BACKENDS, DISTILLED, same, teacher_logits

from nas.errors import StorageError
from nas.train import Recipe, train


class Killed(BaseException):
    pass


def go(training, recipe=None, **options):
    recipe = recipe or Recipe(epochs=4, batch_size=64, peak_lr=0.02)  # 24 steps: SOAP's bases change in the second half
    return train(ARCHITECTURE, training, training.validation, recipe, **{"backend": "torch", **options})


def go_twice(training, recipe=None, **options):
    """Kill a training after its second epoch, and return the epochs that were told at the second start, and its run."""

    def kill(epoch):
        if epoch.number == 2:
            raise Killed

    with pytest.raises(Killed):
        go(training, recipe, on_epoch=kill, **options)
    told = []
    return told, go(training, recipe, on_epoch=told.append, **options)


def scores(run):
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in run.epochs]


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_goes_on_after_the_last_epoch_to_the_same_bits(training, tmp_path, backend):
    recipe = Recipe(epochs=12, batch_size=64, peak_lr=0.02)  # 72 steps: the bases change twice
    whole = go(training, recipe, backend=backend)
    told, run = go_twice(training, recipe, backend=backend, checkpoint=tmp_path / "a" / "part")
    assert same(run.state_dict, whole.state_dict)
    assert scores(run) == scores(whole)
    assert tuple(told) == run.epochs
    assert run.seconds >= sum(epoch.seconds for epoch in run.epochs)


def test_steps_are_not_trained_again(training, tmp_path):
    steps = []
    go_twice(training, checkpoint=tmp_path / "part", on_step=lambda step, of: steps.append((step, of)))
    assert steps == [(step, 24) for step in [*range(1, 13), *range(13, 25)]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_teachers_student_goes_on(training, tmp_path, backend):
    recipe = dataclasses.replace(DISTILLED, epochs=4)
    logits = teacher_logits(training, recipe)
    whole = go(training, recipe, teacher_logits=logits, backend=backend)
    _, run = go_twice(training, recipe, teacher_logits=logits, backend=backend, checkpoint=tmp_path / "part")
    assert same(run.state_dict, whole.state_dict)


def test_dropout_goes_on_with_its_draws(training, tmp_path):
    recipe = Recipe(epochs=4, batch_size=64, dropout=0.5)
    whole = go(training, recipe)
    assert not same(whole.state_dict, go(training, dataclasses.replace(recipe, dropout=0.0)).state_dict)
    _, run = go_twice(training, recipe, checkpoint=tmp_path / "part")
    assert same(run.state_dict, whole.state_dict)


def test_one_that_was_killed_at_its_end_is_not_trained_again(training, tmp_path):
    whole = go(training, checkpoint=tmp_path / "part")
    again = go(training, checkpoint=tmp_path / "part", on_step=lambda *_: pytest.fail("it trains"))
    assert same(again.state_dict, whole.state_dict)
    assert again.epochs == whole.epochs


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"recipe": Recipe(epochs=4, batch_size=64, peak_lr=0.01)}], ids=["seed", "recipe"]
)
def test_the_file_of_another_training_is_left_aside_and_replaced(training, tmp_path, other):
    go(training, checkpoint=tmp_path / "part")
    run = go(training, checkpoint=tmp_path / "part", **other)
    assert same(run.state_dict, go(training, **other).state_dict)
    assert go(training, checkpoint=tmp_path / "part", **other).epochs == run.epochs


def test_a_damaged_file_is_named(training, tmp_path):
    path = tmp_path / "part"
    go(training, checkpoint=path)
    content = path.read_bytes()
    for damage in (b"", b"no tensors", content[:-100], content.replace(b'\\"number\\": 1', b'\\"number\\": x')):
        assert damage != content
        path.write_bytes(damage)
        with pytest.raises(StorageError, match=rf"{path} is damaged: .*; delete it and run the command"):
            go(training, checkpoint=path)


def test_a_place_that_cannot_be_written_is_named(training, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*part"):
        go(training, checkpoint=tmp_path / "file" / "part")
