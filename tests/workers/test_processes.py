"""Real spawned workers: what every pool keeps to, and what becomes of their processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toys
from conformance import (
    ARCHITECTURE,
    LONG,
    RECIPE,
    TrainingPoolConformance,
    collect,
    job,
    next_epoch,
    one_thread,
    training_data,
)

from nas.machine import cores
from nas.train import train
from nas.workers import FailureMessage, ProcessPool, RunMessage, default_workers


def processes(count=1):
    training = training_data()
    return ProcessPool(count, training, training.validation, device="cpu", backend="torch")


def pids(pool):
    return [worker.process.pid for worker in pool._workers]


@pytest.fixture(scope="module")
def make():
    pools = []
    with contextlib.ExitStack() as stack:
        yield lambda count: pools.append(stack.enter_context(processes(count))) or pools[-1]
        left = [pid for pool in pools for pid in pids(pool)]
    assert left
    for pid in left:  # ended, and waited for
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class TestProcessPool(TrainingPoolConformance):
    pass


def test_workers_that_share_a_process_train_as_each_on_its_own(monkeypatch):
    """As on a CUDA device; at once, so that neither may draw its weights while another does."""
    training = training_data()
    with processes(3) as shared:
        monkeypatch.setattr(shared, "_one_process", True)
        for seed in range(3):
            shared.submit(job(seed, seed=seed))
        assert len(set(pids(shared))) == 1
        theirs = {message.job.seed: message.run for message in collect(shared) if isinstance(message, RunMessage)}
    with one_thread():
        for seed in range(3):
            ours = train(ARCHITECTURE, training, training.validation, RECIPE, seed=seed, backend="torch")
            assert all(theirs[seed].state_dict[key].equal(ours.state_dict[key]) for key in ours.state_dict)


class Unreadable:
    """Cannot be read by who receives it."""

    def __reduce__(self):
        return int, ("no number",)


def test_a_worker_that_breaks_takes_those_of_its_process_along(monkeypatch):
    """All are replaced, and what they were at is reported: a thread that ends has no exit code to wait for."""
    with processes(2) as shared:
        monkeypatch.setattr(shared, "_one_process", True)
        shared.submit(job("long", recipe=LONG))
        shared.submit(job(Unreadable()))
        failures = [message for message in collect(shared) if isinstance(message, FailureMessage)]
        assert [(each.reason, each.killed) for each in failures] == [
            ("the worker died (exit code 1; out of memory?)", True)
        ] * 2
        shared.submit(job("next"))
        assert isinstance(collect(shared)[-1], RunMessage)


def test_the_default_number_of_workers():
    assert default_workers("cpu") == cores() >= 1
    assert (default_workers("cuda"), default_workers("cuda:1"), default_workers("mps")) == (4, 4, 1)
    assert default_workers("cuda", "population") == default_workers("cpu", "population") == 32


def test_a_killed_worker_is_replaced_and_its_job_failed_as_killed(pool):
    pool.submit(job("lost", recipe=LONG))
    (first,) = pids(pool)
    next_epoch(pool)
    os.kill(first, signal.SIGKILL)
    (lost,) = collect(pool)
    assert isinstance(lost, FailureMessage)
    assert lost.job.key == "lost"
    assert lost.killed
    assert "the worker died (exit code -9" in lost.reason
    assert pids(pool) != [first]
    pool.submit(job("next"))
    assert isinstance(collect(pool)[-1], RunMessage)


def test_a_worker_that_died_without_a_job_fails_its_next(pool):
    pool.submit(job())
    collect(pool)
    os.kill(pids(pool)[0], signal.SIGKILL)
    pool._workers[0].process.join()
    pool.submit(job("lost"))
    (lost,) = collect(pool)
    assert (lost.job.key, lost.killed) == ("lost", True)
    pool.submit(job("next"))
    assert isinstance(collect(pool)[-1], RunMessage)


def test_workers_ignore_what_a_terminal_sends_to_all(pool):
    """From the first instant: here while the new worker still imports."""
    pool.restart()
    pool.submit(job("next"))
    (pid,) = pids(pool)
    for _ in range(20):
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
        time.sleep(0.1)
    assert isinstance(collect(pool)[-1], RunMessage)
    assert pids(pool) == [pid]


def test_an_interrupt_while_a_worker_is_started_is_not_lost(pool, monkeypatch):
    pool.restart()
    start = pool._context.Process.start

    def interrupted(process):
        os.kill(os.getpid(), signal.SIGINT)
        start(process)

    monkeypatch.setattr(pool._context.Process, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.submit(job())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    monkeypatch.undo()
    pool.restart()
    pool.submit(job())
    assert isinstance(collect(pool)[-1], RunMessage)


def alone(code, *command, **environment):
    """Python code in a process of its own, whose interrupts work whatever the shell above does with them."""
    folder = str(Path(__file__).parent)
    paths = [folder, str(Path(folder).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [*command, sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}, start_new_session=True,
    )  # fmt: skip


def test_workers_end_with_a_parent_that_is_killed():
    code = """
from conformance import LONG, job, next_epoch
from test_processes import pids, processes
pool = processes(2)
for key in range(2):
    pool.submit(job(key, recipe=LONG))
waits = next_epoch(pool)  # one waits for an answer, and the other most likely trains
print(*pids(pool), flush=True)
waits = input()
"""
    with alone(code) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2, parent.stderr.read()
        parent.kill()
        toys.until(lambda: not set(workers) & set(toys.group(parent.pid)), 5)


SMALL_SHM = """
import torch
from conformance import DISTILLED, TEACHER, collect, job, training_data
from nas.data import Split
from nas.model import build
from nas.workers import LogitsJob, LogitsMessage, ProcessPool, RunMessage
training = training_data()
large = Split(torch.zeros(80_000, 1, 32, 32, dtype=torch.uint8), torch.zeros(80_000, dtype=torch.long))  # 82 MB
with ProcessPool(2, training, large, device="cpu", backend="torch") as pool:
    weights = build(TEACHER, seed=1).state_dict()
    for epoch in range(2):
        pool.submit(LogitsJob(key=epoch, recipe=DISTILLED, weights=weights, fold=0, epoch=epoch))
    ends = sorted(collect(pool), key=lambda message: message.job.key)
    logits = torch.stack([message.logits for message in ends])
    pool.submit(job(recipe=DISTILLED, teacher_logits=logits, evaluate_on_train=True))
    assert isinstance(collect(pool)[-1], RunMessage)
print("done")
"""


@pytest.mark.parametrize("options", ["size=64m", "size=64k,ro"])
def test_a_small_dev_shm_is_enough(options):
    """As in a container, which has 64 MB: here in a name space of its own."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("no name spaces here")
    mount = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"', "sh"]
    if (tried := subprocess.run([*mount, "true"], capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"not permitted: {tried.stderr.strip()}")
    with alone(SMALL_SHM, *mount) as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out.strip()) == (0, "done"), err


def test_a_worker_has_no_copy_of_the_images():
    """None of their 200 MB is the worker's own."""
    if sys.platform != "linux":
        pytest.skip("no /proc here")
    training = training_data()
    images = torch.ones(200_000, 1, 32, 32, dtype=torch.uint8)
    large = type(training.train)(images, torch.zeros(len(images), dtype=torch.long))
    with ProcessPool(1, training, large, device="cpu", backend="torch") as pool:
        pool.submit(job(evaluate_on_train=True))
        collect(pool)
        maps = Path(f"/proc/{pids(pool)[0]}/smaps").read_text().split("nas-training-data")[1]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in maps.splitlines()[1:20] if line.endswith("kB")}
    assert kilobytes["Size"] > 200_000
    assert kilobytes["Anonymous"] == 0
