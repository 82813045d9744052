"""The pool whose trainings are one population: what every pool keeps to, to rounding, and what is its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal

import pytest
from conformance import ARCHITECTURE, LONG, RECIPE, TrainingPoolConformance, collect, job, next_epoch, training_data

from nas.architecture import Architecture
from nas.library import Machine
from nas.library.pools import open_pool
from nas.train import train
from nas.workers import EpochMessage, FailureMessage, PopulationPool, RunMessage


@pytest.fixture(scope="module")
def make():
    training = training_data()
    with contextlib.ExitStack() as stack:
        yield lambda count: stack.enter_context(PopulationPool(count, training, training.validation, device="cpu"))


class TestPopulationPool(TrainingPoolConformance):
    exact = False


def test_trainings_that_join_leave_and_differ_are_each_as_on_its_own(make):
    """Three places for five trainings: two plans, a fold, rates and seeds; one stops early."""
    other = Architecture.parse("6v M 5 G C", input_shape=(1, 16, 16), num_classes=4)
    jobs = [
        job("a"), job("stops", seed=4), job("b", architecture=other, recipe=dataclasses.replace(RECIPE, peak_lr=0.01)),
        job("c", fold=1, seed=5), job("d", architecture=other),
    ]  # fmt: skip
    ends = {}
    with make(3) as pool:
        waiting = list(jobs)
        while waiting or pool.jobs:
            while waiting and pool.idle is not None:
                pool.submit(waiting.pop(0))
            for message in pool.messages(0.5):
                if isinstance(message, EpochMessage):
                    pool.answer(message, stop=message.job.key == "stops")
                elif isinstance(message, RunMessage):
                    ends[message.job.key] = message.run
    assert ends.keys() == {"a", "stops", "b", "c", "d"}
    assert [len(ends[key].epochs) for key in ends if key != "stops"] == [2] * 4
    assert ends["stops"].stopped
    assert len(ends["stops"].epochs) == 1
    training = training_data()
    for each in (jobs[2], jobs[4]):
        ours = train(
            each.architecture, training, training.validation, each.recipe, seed=each.seed, backend="torch"
        )  # fmt: skip
        assert ends[each.key].epochs[-1].loss == pytest.approx(ours.epochs[-1].loss, rel=1e-3)
        assert ends[each.key].epochs[0].train_loss == pytest.approx(ours.epochs[0].train_loss, rel=1e-4)


def test_all_are_lost_with_their_process_and_replaced_by_one(make):
    with make(3) as pool:
        for key in range(2):
            pool.submit(job(key, recipe=LONG))
        next_epoch(pool)
        (pid,) = {worker.process.pid for worker in pool._workers}
        os.kill(pid, signal.SIGKILL)
        lost = [message for message in collect(pool) if isinstance(message, FailureMessage)]
        assert sorted(message.job.key for message in lost) == [0, 1]
        assert all(message.killed for message in lost)
        (after,) = {worker.process.pid for worker in pool._workers}
        assert after != pid
        pool.submit(job("next"))
        assert isinstance(collect(pool)[-1], RunMessage)


def test_one_that_diverges_leaves_the_others_as_they_are(make):
    wild = dataclasses.replace(RECIPE, peak_lr=10.0, lr_exponent=0, weight_decay=1.0)
    deep = Architecture.parse("4n " * 40 + "G C", input_shape=(1, 16, 16), num_classes=4)
    with make(2) as pool:
        pool.submit(job("wild", architecture=deep, recipe=dataclasses.replace(wild, epochs=3)))
        pool.submit(job("tame"))
        ends = {each.job.key: each for each in collect(pool) if not isinstance(each, EpochMessage)}
    assert isinstance(ends["wild"], FailureMessage)
    assert "the loss is" in ends["wild"].reason
    ours = train(ARCHITECTURE, training_data(), training_data().validation, RECIPE, seed=3, backend="torch")
    assert ends["tame"].run.epochs[-1].loss == pytest.approx(ours.epochs[-1].loss, rel=1e-3)


def test_a_job_that_cannot_be_read_costs_all_their_process(make):
    class Unreadable:
        def __reduce__(self):
            return int, ("no number",)

    with make(2) as pool:
        pool.submit(job("long", recipe=LONG))
        pool.submit(job(Unreadable()))
        failures = [message for message in collect(pool) if isinstance(message, FailureMessage)]
        assert [each.killed for each in failures] == [True, True]


def test_a_machine_with_this_backend_has_such_a_pool():
    training = training_data()
    machine = Machine(backend="population", device="cpu")
    assert (machine.count, dataclasses.replace(machine, workers=3).count) == (32, 3)
    with open_pool(machine, training, training.validation, 3) as pool:
        assert isinstance(pool, PopulationPool)
        assert len(pool) == 3
    with open_pool(dataclasses.replace(machine, backend="torch"), training, training.validation, 1) as pool:
        assert not isinstance(pool, PopulationPool)
