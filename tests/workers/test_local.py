"""The pool in this process: what every pool keeps to, and that its caller is left as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest
import torch
from conformance import LONG, TrainingPoolConformance, collect, job, next_epoch, training_data

from nas import kernels
from nas.workers import LocalPool, RunMessage


def local(backend="torch"):
    training = training_data()
    return LocalPool(training, training.validation, backend=backend)


@pytest.fixture(scope="module")
def make():
    with contextlib.ExitStack() as stack:
        yield lambda count: stack.enter_context(local())


class TestLocalPool(TrainingPoolConformance):
    several = False


def test_ctrl_c_gets_through_and_ends_the_training():
    before = threading.active_count()
    with local() as pool:
        pool.submit(job(recipe=LONG))
        next_epoch(pool)  # which waits for its answer, so that nothing comes before the interrupt
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            list(pool.messages(30))
    timer.join()
    assert pool.jobs == []
    assert threading.active_count() == before


def test_a_dropped_training_ends_within_an_epoch():
    training = training_data()
    many = type(training.train)(training.train.images.repeat(400, 1, 1, 1), training.train.labels.repeat(400))
    with LocalPool(type(training)(**{**vars(training), "train": many}), training.validation, backend="torch") as pool:
        pool.submit(job())
        while not list(pool.messages(10)):  # a step: the epoch is far from its end
            pass
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert pool.jobs == []


@pytest.mark.parametrize("backend", ["torch", "kernels"])
def test_the_caller_is_left_as_it_was(backend):
    kernels.compile_all()
    torch.set_flush_denormal(False)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    with local(backend) as pool:
        pool.submit(job())
        assert isinstance(collect(pool)[-1], RunMessage)
    assert torch.get_num_threads() == threads
    assert torch.get_rng_state().equal(random)
    assert (torch.tensor([1e-39]) / 2).item() > 0  # denormals are not flushed
