"""What every pool keeps to, whatever its workers are.

A test module has a class that inherits `TrainingPoolConformance`, or `PoolConformance` where the pool trains nothing,
and a fixture `make` of the scope of its module: a factory of pools by the number of their workers, which closes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import toys
from safetensors.torch import save_file

from nas import data, train
from nas.architecture import Architecture
from nas.data import Split, TrainingData
from nas.errors import NasError
from nas.model import build
from nas.train import Recipe
from nas.workers import (
    TRAIN_EVALUATION_IMAGES,
    EpochMessage,
    FailureMessage,
    FinalMessage,
    LogitsJob,
    LogitsMessage,
    Message,
    Pool,
    RunMessage,
    StepMessage,
    TrainJob,
    run_jobs,
)

ARCHITECTURE = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
RECIPE = Recipe(epochs=2, batch_size=64)
LONG = dataclasses.replace(RECIPE, epochs=10_000)
DISTILLED = dataclasses.replace(RECIPE, teacher="8 M 8 G C")
TEACHER = Architecture.parse("8 M 8 G C", input_shape=(1, 16, 16), num_classes=4)

# Twenty wide layers without norms at a rate of ten: past the largest float32 within a few steps.
WILD = Architecture.parse("32n " * 20 + "G C", input_shape=(1, 16, 16), num_classes=4)
FAST = dataclasses.replace(RECIPE, peak_lr=10.0, weight_decay=0, epochs=5)
# No such images: a bug of who submits it.
WRONG = Architecture.parse("4v M 6 G C", input_shape=(3, 16, 16), num_classes=4)

Make = Callable[..., Pool]


def training_data() -> TrainingData:
    return toys.part(toys.synthetic(), 256)


def job(key: Any = 0, **changes: Any) -> TrainJob:
    return TrainJob(**({"key": key, "architecture": ARCHITECTURE, "recipe": RECIPE, "seed": 3} | changes))


def collect(pool: Pool, *, stop: bool = False, seconds: float = 120.0) -> list[Any]:
    """All messages until no job is left, but for steps; every epoch is answered."""
    received: list[Any] = []
    end = time.monotonic() + seconds
    while pool.jobs:
        assert time.monotonic() < end
        for message in pool.messages(0.5):
            if isinstance(message, StepMessage):
                assert 0 < message.step <= message.steps
                continue
            received.append(message)
            if isinstance(message, EpochMessage):
                pool.answer(message, stop=stop)
    return received


def next_epoch(pool: Pool, seconds: float = 120.0) -> EpochMessage:
    """The next epoch of any job, which still waits for its answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for message in pool.messages(0.5):
            if isinstance(message, EpochMessage):
                return message
            assert isinstance(message, StepMessage)
    raise AssertionError("no epoch in time")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PoolConformance:
    several = True
    """Whether such a pool may have more than one worker."""

    def test_a_job_is_under_way_from_submit_to_its_last_message(self, pool: Pool) -> None:
        assert (len(pool), pool.idle, pool.jobs) == (1, 0, [])
        mine = job("mine")
        assert pool.submit(mine) == 0
        assert pool.idle is None
        assert pool.jobs == [mine]
        received = collect(pool)
        assert [type(message) for message in received] == [EpochMessage, EpochMessage, RunMessage]
        assert all(message.job is mine and message.worker == 0 for message in received)
        run = received[-1].run
        assert [message.epoch for message in received[:-1]] == list(run.epochs)
        assert [epoch.number for epoch in run.epochs] == [1, 2]
        assert not run.stopped
        assert run.state_dict.keys() == build(ARCHITECTURE).state_dict().keys()
        assert (pool.idle, pool.jobs) == (0, [])

    def test_the_worker_is_idle_when_the_last_message_comes(self, pool: Pool) -> None:
        pool.submit(job())
        while pool.jobs:
            for message in pool.messages(0.5):
                assert (pool.idle == 0) == isinstance(message, FinalMessage)
                if isinstance(message, EpochMessage):
                    pool.answer(message, stop=False)

    def test_an_epoch_waits_for_its_answer(self, pool: Pool) -> None:
        pool.submit(job())
        first = next_epoch(pool)
        for _ in range(3):
            assert list(pool.messages(0.1)) == []
        pool.answer(first, stop=False)
        second = next_epoch(pool)
        assert (first.epoch.number, second.epoch.number) == (1, 2)
        pool.answer(second, stop=False)
        assert collect(pool)[-1].run.epochs[-1].number == 2

    def test_it_stops_where_it_is_told(self, pool: Pool) -> None:
        pool.submit(job(recipe=LONG))
        *_, last = collect(pool, stop=True)
        assert last.run.stopped
        assert len(last.run.epochs) == 1
        pool.submit(job())  # the answer was for that job alone
        assert not collect(pool)[-1].run.stopped

    def test_a_failure_has_its_reason_and_is_the_networks_own(self, pool: Pool) -> None:
        pool.submit(job("wild", architecture=WILD, recipe=FAST))
        failed = collect(pool)[-1]
        assert isinstance(failed, FailureMessage)
        assert failed.job.key == "wild"
        assert "the loss is nan" in failed.reason
        assert not failed.killed
        pool.submit(job())  # the worker lives on
        assert isinstance(collect(pool)[-1], RunMessage)

    def test_a_bug_is_raised_with_its_traceback(self, pool: Pool) -> None:
        pool.submit(job(architecture=WRONG))
        with pytest.raises(RuntimeError, match=r"(?s)a worker failed on seed 3 of 3x16x16.*Traceback.*Error"):
            collect(pool)
        assert (pool.idle, pool.jobs) == (0, [])
        pool.submit(job())
        assert isinstance(collect(pool)[-1], RunMessage)

    def test_restart_drops_the_jobs(self, pool: Pool) -> None:
        pool.submit(job("dropped", recipe=LONG))
        dropped = next_epoch(pool)
        pool.restart()
        assert (pool.idle, pool.jobs, list(pool.messages(0.1))) == (0, [], [])
        pool.submit(job("next"))
        assert {message.job.key for message in collect(pool)} == {"next"}
        assert dropped.job.key == "dropped"

    def test_a_restart_between_messages_ends_them(self, make: Make) -> None:
        count = 2 if self.several else 1
        with make(count) as pool:
            for key in range(count):
                pool.submit(job(key, recipe=LONG))
            end = time.monotonic() + 120
            while pool.jobs:
                assert time.monotonic() < end
                for _ in pool.messages(0.5):
                    pool.restart()
            assert pool.jobs == []

    def test_close_ends_jobs_and_may_come_twice(self, make: Make) -> None:
        with contextlib.suppress(ZeroDivisionError), make(1) as pool:
            pool.submit(job(recipe=LONG))
            next_epoch(pool)
            raise ZeroDivisionError
        assert pool.jobs == []
        pool.close()

    def test_nothing_starts_before_the_first_job(self, make: Make) -> None:
        before = {child.pid for child in multiprocessing.active_children()}, threading.active_count()
        with make(2 if self.several else 1) as pool:
            assert len(pool) == (2 if self.several else 1)
            assert pool.idle == 0
            assert list(pool.messages(0.1)) == pool.jobs == []
            assert ({child.pid for child in multiprocessing.active_children()}, threading.active_count()) == before

    def test_it_may_be_started_before_the_first_job(self, make: Make) -> None:
        with make(1) as pool:
            pool.start()
            pool.start()
            assert (len(pool), pool.idle, pool.jobs) == (1, 0, [])
            assert pool.submit(job()) == 0

    def test_several_workers_at_once(self, make: Make) -> None:
        if not self.several:
            pytest.skip("it has one worker")
        with make(2) as pool:
            assert [pool.submit(job(key, recipe=LONG)) for key in "ab"] == [0, 1]
            assert pool.idle is None
            reached: dict[Any, EpochMessage] = {}
            end = time.monotonic() + 120
            while len(reached) < 2:  # both wait for their answers
                assert time.monotonic() < end
                reached |= {m.job.key: m for m in pool.messages(0.5) if isinstance(m, EpochMessage)}
            pool.answer(reached["b"], stop=True)
            ended: list[Message] = []
            while not ended:
                assert time.monotonic() < end
                ended = [message for message in pool.messages(0.5) if isinstance(message, RunMessage)]
            assert (ended[0].job.key, ended[0].worker) == ("b", 1)
            assert pool.idle == 1
            assert pool.submit(job("c")) == 1
            assert [each.key for each in pool.jobs] == ["a", "c"]

    def test_run_jobs_does_all_and_raises_a_failure(self, pool: Pool) -> None:
        received: list[Message] = []
        ends = list(run_jobs([job(key) for key in range(3)], pool, received.append))
        assert [message.job.key for message in ends] == [0, 1, 2]
        assert sum(isinstance(message, EpochMessage) for message in received) == 6
        assert [message for message in received if isinstance(message, RunMessage)] == ends
        with pytest.raises(NasError, match=r"seed 3 of 1x16x16: 32n .* failed: the loss is nan"):
            list(run_jobs([job(architecture=WILD, recipe=FAST)], pool, received.append))
        assert pool.jobs == []


class TrainingPoolConformance(PoolConformance):
    """`make` gives pools on plain torch with one thread, for `training_data()` and its validation split."""

    exact = True
    """Whether its trainings come to the same bits as `train`, and not only to the same but for rounding."""

    @pytest.mark.parametrize("fold", [0, 1])
    def test_a_worker_trains_as_this_process_does(self, pool: Pool, fold: int) -> None:
        """Bit for bit where the pool is exact, at the same number of threads."""
        with one_thread():
            pool.submit(job(fold=fold))
            theirs = collect(pool)[-1].run
            training = data.with_fold(training_data(), fold)
            self.check_same(theirs, training, training.validation)

    def test_folds_are_held_out_and_scores_may_be_of_training_images(self, pool: Pool) -> None:
        with one_thread():
            pool.submit(job(fold=1, held_out_folds=(0, 2), evaluate_on_train=True))
            theirs = collect(pool)[-1].run
            training = data.with_fold(training_data(), 1, (0, 2))
            count = TRAIN_EVALUATION_IMAGES
            first = Split(training.train.images[:count], training.train.labels[:count])
            self.check_same(theirs, training, first)

    def test_logits_are_those_of_this_process(self, pool: Pool) -> None:
        weights = build(TEACHER, seed=1).state_dict()
        with one_thread():
            pool.submit(LogitsJob(key="logits", recipe=DISTILLED, weights=weights, fold=2, epoch=1))
            (message,) = collect(pool)
            assert isinstance(message, LogitsMessage)
            there = data.with_fold(training_data(), 2)
            assert message.logits.equal(train.compute_teacher_logits(DISTILLED, weights, there, 1, backend="torch"))

    @pytest.mark.parametrize("by_file", [True, False])
    def test_a_student_learns_from_logits_in_a_file_as_from_the_tensor(
        self, pool: Pool, by_file: bool, tmp_path
    ) -> None:
        training = training_data()
        logits = torch.randn(3, len(training.train), 4).half()
        save_file({"logits": logits[1:].contiguous()}, tmp_path / "logits.safetensors")
        given = tmp_path / "logits.safetensors" if by_file else logits[1:]
        with one_thread():
            pool.submit(job(recipe=DISTILLED, teacher_logits=given))
            theirs = collect(pool)[-1].run
            self.check_same(theirs, training, training.validation, recipe=DISTILLED, teacher_logits=logits[1:])

    @pytest.mark.parametrize("content", [None, b"", b"no safetensors file"])
    def test_logits_that_cannot_be_read_are_a_failure(self, pool: Pool, content: bytes | None, tmp_path) -> None:
        path = tmp_path / "logits.safetensors"
        if content is not None:
            path.write_bytes(content)
        pool.submit(job(recipe=DISTILLED, teacher_logits=path))
        (failed,) = collect(pool)
        assert isinstance(failed, FailureMessage)
        assert str(path) in failed.reason

    def check_same(
        self, theirs: Any, training: Any, evaluation: Any, *, recipe: Recipe = RECIPE, teacher_logits: Any = None
    ):
        ours = train.train(
            ARCHITECTURE, training, evaluation, recipe, seed=3, teacher_logits=teacher_logits, backend="torch"
        )
        if not self.exact:
            torch.testing.assert_close(theirs.state_dict, ours.state_dict, rtol=1e-3, atol=1e-3)
            for epoch, other in zip(theirs.epochs, ours.epochs, strict=True):
                for name in ("number", "count"):
                    assert getattr(epoch, name) == getattr(other, name)
                for name in ("train_loss", "loss"):
                    assert getattr(epoch, name) == pytest.approx(getattr(other, name), rel=1e-4)
            return
        assert all(theirs.state_dict[key].equal(ours.state_dict[key]) for key in ours.state_dict)
        assert [dataclasses.replace(epoch, seconds=0) for epoch in theirs.epochs] == [
            dataclasses.replace(epoch, seconds=0) for epoch in ours.epochs
        ]
