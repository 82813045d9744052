"""A full run that is killed in the middle of a training goes on there, to the same bits."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import toys
from safetensors.torch import load_file

from nas import data
from nas.architecture import Architecture
from nas.final import FullRunPlan, full_run
from nas.train import Recipe
from nas.workers import EpochMessage, LocalPool, ProcessPool, StepMessage

NETWORK = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
RECIPE = Recipe(epochs=4, batch_size=64, peak_lr=0.03, teacher="8 M 8 G C")


def go(base, monkeypatch, *, pool=None, on_message=lambda message: None):
    monkeypatch.setenv("NAS_STUDIES", str(base))  # the teachers lie there
    training, test = images(), toys.synthetic().validation
    plan = FullRunPlan(architecture=NETWORK, recipe=RECIPE, dataset="synthetic", seeds=(0,), base=base / "study")
    with (pool or local)(training, test) as workers:
        return full_run(plan, training, test, workers, toys.provenance(), opened="once", on_message=on_message)


def images():
    return data.load_training_data(data.find_dataset("synthetic"), data_dir=None, validation=None)


def local(training, test):
    return LocalPool(training, test, backend="torch")


def children():
    return {child.pid for child in multiprocessing.active_children()}


@pytest.mark.parametrize("at", [("teacher", 2), (0, 3), (0, 4)], ids=["teacher", "seed", "its last epoch"])
def test_it_goes_on_in_the_middle_of_a_training(tmp_path, monkeypatch, at):
    whole = go(tmp_path / "whole", monkeypatch)
    stepped = []

    def kill(message):
        if isinstance(message, EpochMessage) and (message.job.key, message.epoch.number) == at:
            raise KeyboardInterrupt

    def note(message):
        if isinstance(message, StepMessage):
            stepped.append((message.job.key, message.step))

    monkeypatch.setattr("nas.workers.worker.STEP_SECONDS", -1.0)  # every step is told
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", monkeypatch, on_message=kill)
    (part,) = (tmp_path / "killed").rglob("*.part.safetensors")
    assert part.is_file()
    run = go(tmp_path / "killed", monkeypatch, on_message=note)
    epoch = -(-len(images().train) // RECIPE.batch_size)
    first = {name: min((step for key, step in stepped if key == name), default=None) for name in ("teacher", 0)}
    wanted = {("teacher", 2): (2 * epoch + 1, 1), (0, 3): (None, 3 * epoch + 1), (0, 4): (None, None)}[at]
    assert (first["teacher"], first[0]) == wanted
    trained, wanted = (load_file(each.folder / "weights-seed0.safetensors") for each in (run, whole))
    assert all(trained[name].equal(wanted[name]) for name in trained.keys() | wanted.keys())
    assert [epoch.loss for epoch in run.seeds[0].epochs] == [epoch.loss for epoch in whole.seeds[0].epochs]
    assert not list((tmp_path / "killed").rglob("*.part.safetensors"))


def test_a_killed_worker_is_replaced_by_one_that_goes_on(tmp_path, monkeypatch):
    before, killed, numbers = children(), [], []

    def process(training, test):
        return ProcessPool(1, training, test, device="cpu", backend="torch")

    def kill(message):
        if isinstance(message, EpochMessage) and message.job.key == 0:
            numbers.append(message.epoch.number)
            if message.epoch.number == 3 and not killed:
                killed.extend(children() - before)
                os.kill(killed[0], signal.SIGKILL)

    run = go(tmp_path, monkeypatch, pool=process, on_message=kill)
    assert numbers == [1, 2, 3, 1, 2, 3, 4]  # told again, not trained again: see above
    assert [epoch.number for epoch in run.seeds[0].epochs] == [1, 2, 3, 4]
    whole = go(tmp_path / "whole", monkeypatch, pool=process)
    assert [epoch.loss for epoch in run.seeds[0].epochs] == [epoch.loss for epoch in whole.seeds[0].epochs]
