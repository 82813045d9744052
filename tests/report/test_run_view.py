"""A full run as it goes: a line for each epoch to standard output, whatever standard error shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas.architecture import Architecture
from nas.report import RunView
from nas.train import Epoch, Recipe
from nas.workers import EpochMessage, LogitsJob, LogitsMessage, StepMessage, TrainJob

ARCHITECTURE = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)


def job(key=0, *, evaluate_on_train=False):
    seed = key if isinstance(key, int) else 10_000
    return TrainJob(
        key=key, architecture=ARCHITECTURE, recipe=Recipe(epochs=2), seed=seed, evaluate_on_train=evaluate_on_train
    )


def epoch(number=1):
    return Epoch(
        number=number, train_loss=0.5, train_accuracy=90.0, loss=0.25, correct=285, count=300, seconds=1.25
    )  # fmt: skip


def play(messages, seeds=(0,), *, quiet=False, **options):
    console = Console(file=io.StringIO(), width=100, **options)
    with RunView(console, 2, seeds, quiet=quiet) as view:
        for message in messages:
            view(message)
    return console.file.getvalue()


def test_an_epoch_is_a_line_of_standard_output(capsys):
    err = play([EpochMessage(worker=0, job=job(), epoch=epoch())])
    assert capsys.readouterr().out == (
        "epoch  1  loss 0.5000  train 90.00 %  test loss 0.2500  Accuracy: 285/300 (95.00%)  1.2 s\n"
    )
    assert err == ""  # no terminal: no bars


def test_seeds_and_the_teacher_are_named(capsys):
    messages = [EpochMessage(worker=0, job=job(each), epoch=epoch()) for each in (0, 1)]
    messages.append(EpochMessage(worker=0, job=job("teacher", evaluate_on_train=True), epoch=epoch()))
    play(messages, (0, 1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["seed 0", "seed 1", "teacher"]
    assert "test" not in lines[2]  # it is not scored on that


def test_nothing_is_shown_when_quiet(capsys):
    assert play([EpochMessage(worker=0, job=job(), epoch=epoch())], quiet=True, force_terminal=True) == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_terminal_has_a_bar_for_each_seed_and_the_logits(monkeypatch, width, capsys):
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False)
    logits = LogitsJob(key="teacher logits", recipe=Recipe(epochs=2), weights={}, fold=0, epoch=0)
    with RunView(console, 2, (0, 1), quiet=False) as view:
        assert "starting workers" in str([task.fields["who"] for task in view.bars.tasks])
        view(LogitsMessage(worker=0, job=logits, logits=None))
        view(StepMessage(worker=0, job=job(0), step=5, steps=10))
        view(StepMessage(worker=1, job=job(1), step=9, steps=10))
        view(EpochMessage(worker=1, job=job(1), epoch=epoch(2)))  # the steps between were not told
        assert [(task.fields["who"], task.completed, task.total) for task in view.bars.tasks] == [
            ("teacher logits", 1, 2), ("seed 0", 1.0, 2), ("seed 1", 2, 2)
        ]  # fmt: skip
        plain = Console(file=io.StringIO(), width=width)
        plain.print(view.bars.get_renderable())
    lines = plain.file.getvalue().splitlines()
    assert [line.split("  ")[0].rstrip(" ━╸╺") for line in lines] == ["teacher logits", "seed 0", "seed 1"]
    assert all(f"{count}/2 epochs" in line for count, line in zip((1, 1, 2), lines, strict=True))
