"""Real spawned workers: what they train, what they answer to, and what becomes of them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time

import pytest
import torch
import toys

from nas.architecture import Architecture
from nas.data import fold
from nas.train import Recipe, cores, train
from nas.workers import Job, Pool, default_count

ARCHITECTURE = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
RECIPE = Recipe(epochs=2, batch_size=64)


@pytest.fixture(scope="module")
def training():
    return toys.part(toys.synthetic(), 256)


@pytest.fixture(scope="module")
def pool(training):
    with Pool(1, training, training.validation, device="cpu", backend="torch") as made:
        yield made
        pids = [worker.process.pid for worker in made._workers]
    for pid in pids:  # ended, and waited for
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def job(key=0, **changes):
    return Job(**({"key": key, "architecture": ARCHITECTURE, "recipe": RECIPE, "seed": 3} | changes))


def hear(pool, *, stop=False, seconds=60.0):
    """All messages until no job is left; every epoch is answered."""
    heard, end = [], time.monotonic() + seconds
    while pool.jobs:
        assert time.monotonic() < end
        for message in pool.messages(0.5):
            heard.append(message)
            if message.epoch is not None:
                pool.answer(message, stop=stop)
    return heard


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_trains_as_this_process_does(pool, training, number):
    """Bit for bit, at the same number of threads; every epoch is told before the run."""
    training = fold(training, number)
    assert pool.idle == 0
    assert pool.submit(job("mine", fold=number)) == 0
    assert pool.idle is None
    assert [each.key for each in pool.jobs] == ["mine"]
    heard = hear(pool)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = train(ARCHITECTURE, training, training.validation, RECIPE, seed=3, backend="torch")
    torch.set_num_threads(before)
    assert [message.epoch.number for message in heard if message.epoch] == [1, 2]
    theirs = heard[-1].run
    assert heard[-1].job.key == "mine"
    assert all(theirs.state_dict[key].equal(ours.state_dict[key]) for key in ours.state_dict)
    assert [dataclasses.replace(e, seconds=0) for e in theirs.epochs] == [
        dataclasses.replace(e, seconds=0) for e in ours.epochs
    ]


def test_workers_that_share_a_process_train_as_each_on_its_own(training, monkeypatch):
    """As on a CUDA device; at once, so that neither may draw its weights while another does."""
    with Pool(3, training, training.validation, device="cpu", backend="torch") as shared:
        monkeypatch.setattr(shared, "_on_cuda", True)
        for seed in range(3):
            shared.submit(job(seed, seed=seed))
        assert len({worker.process.pid for worker in shared._workers}) == 1
        theirs = {message.job.seed: message.run for message in hear(shared) if message.run}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for seed in range(3):
        ours = train(ARCHITECTURE, training, training.validation, RECIPE, seed=seed, backend="torch")
        assert all(theirs[seed].state_dict[key].equal(ours.state_dict[key]) for key in ours.state_dict)
    torch.set_num_threads(before)


class Unreadable:
    """Cannot be read by who receives it."""

    def __reduce__(self):
        return int, ("no number",)


def test_a_worker_that_breaks_takes_those_of_its_process_along(training, monkeypatch):
    """All are replaced, and what they were at is reported: a thread that ends has no exit code to wait for."""
    with Pool(2, training, training.validation, device="cpu", backend="torch") as shared:
        monkeypatch.setattr(shared, "_on_cuda", True)
        shared.submit(job("long", recipe=dataclasses.replace(RECIPE, epochs=10_000)))
        shared.submit(job(Unreadable()))
        heard = hear(shared)
        assert [message.failure for message in heard if message.failure] == [
            "the worker died (exit code 1; out of memory?)"
        ] * 2
        shared.submit(job("next"))
        assert hear(shared)[-1].run


def test_how_many_a_device_has_unless_said():
    assert default_count("cpu") == cores() >= 1
    assert (default_count("cuda"), default_count("cuda:1"), default_count("mps")) == (4, 4, 1)


def test_it_stops_where_it_is_told_and_fails_with_a_reason(pool):
    pool.submit(job(recipe=dataclasses.replace(RECIPE, epochs=50)))
    heard = hear(pool, stop=True)
    assert heard[-1].run.stopped
    assert len(heard[-1].run.epochs) == 1
    # Twenty wide layers without norms at a rate of ten: past the largest float32 within a few steps.
    wild = Architecture.parse("32n " * 20 + "G C", input_shape=(1, 16, 16), num_classes=4)
    recipe = dataclasses.replace(RECIPE, peak_rate=10.0, weight_decay=0, epochs=5)
    pool.submit(job("wild", architecture=wild, recipe=recipe))
    failed = hear(pool)[-1]
    assert failed.job.key == "wild"
    assert "the loss is nan" in failed.failure
    pool.submit(job())  # the worker lives on
    assert hear(pool)[-1].run is not None


def test_a_killed_worker_is_replaced_and_its_job_failed(pool):
    first = pool._workers[0].process.pid
    pool.submit(job("lost", recipe=dataclasses.replace(RECIPE, epochs=10_000)))
    end = time.monotonic() + 30
    while not any(message.epoch for message in pool.messages(0.5)):
        assert time.monotonic() < end
    os.kill(first, signal.SIGKILL)
    (lost,) = hear(pool)
    assert lost.job.key == "lost"
    assert "the worker died (exit code -9" in lost.failure
    assert pool._workers[0].process.pid != first
    pool.submit(job("next"))
    assert hear(pool)[-1].run is not None


def test_restart_drops_the_jobs_and_workers_ignore_ctrl_c(pool):
    """From the first instant: here while the new worker still imports."""
    pool.submit(job("dropped", recipe=dataclasses.replace(RECIPE, epochs=10_000)))
    pool.restart()
    assert pool.jobs == []
    pool.submit(job("next"))
    os.kill(pool._workers[0].process.pid, signal.SIGINT)
    assert hear(pool)[-1].run is not None


def test_nothing_is_started_before_the_first_job(training):
    before = {child.pid for child in multiprocessing.active_children()}
    with Pool(2, training, training.validation, device="cpu", backend="torch") as idle:
        assert len(idle) == 2
        assert idle.idle == 0
        assert list(idle.messages(0.1)) == idle.jobs == []
        assert {child.pid for child in multiprocessing.active_children()} <= before


def test_a_bug_in_a_worker_is_raised_here(pool):
    wrong = Architecture.parse("4v M 6 G C", input_shape=(3, 16, 16), num_classes=4)
    pool.submit(job(architecture=wrong))
    with pytest.raises(RuntimeError, match="a worker failed on 3x16x16"):
        hear(pool)
    pool.restart()
