"""A pool on a Ray cluster of one machine: what every pool keeps to, and nodes that die, join or differ."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import sys
import time

import pytest
from conformance import LONG, TrainingPoolConformance, collect, job, training_data

from nas.errors import UsageError
from nas.workers import (
    ClusterError,
    EpochMessage,
    FailureMessage,
    RayPool,
    RunMessage,
    cluster_device,
    connect,
    describe_cluster,
    disconnect,
    ray_pool,
    run_jobs,
)
from nas.workers.cluster import Share

ray = pytest.importorskip("ray", reason="no Ray here: pip install 'nas[ray]'")

PAIR, SINGLE = Share(cpus=2, gpus=0), Share(cpus=1, gpus=0)


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # else it writes one into the home folder
        for name, value in (("period_ms", 1000), ("timeout_ms", 5000)):
            patch.setenv(f"RAY_health_check_{name}", str(value))  # a dead node is known in seconds
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # a process for each CPU
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", made.address)
        connect("ray")
        yield made
        disconnect()
        made.shutdown()


def on_ray(count):
    training = training_data()
    return RayPool(count, training, training.validation, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def make(cluster):
    with contextlib.ExitStack() as stack:
        yield lambda count: stack.enter_context(on_ray(count))


class TestRayPool(TrainingPoolConformance):
    pass


def act(pool, done, seconds=240):
    """Give every worker that takes one a long job, and let all go on, until `done` of the failures so far."""
    failures, end = [], time.monotonic() + seconds
    while not done(failures):
        assert time.monotonic() < end
        if pool.idle is not None:
            pool.submit(job(len(pool.jobs), recipe=LONG))
        for message in pool.messages(0.2):
            if isinstance(message, EpochMessage):
                pool.answer(message, stop=False)
            elif isinstance(message, FailureMessage):
                failures.append(message)
    return failures


@pytest.mark.slow
def test_nodes_that_join_are_used_and_what_was_on_a_dead_one_is_reported_and_done_elsewhere(cluster, monkeypatch):
    """The head has room for one worker here, and a node that joins for another; that node dies, and one joins again."""
    monkeypatch.setattr(ray_pool, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(Share, "of", lambda *_: Share(cpus=5, gpus=0))
    training = training_data()
    with RayPool(None, training, training.validation, device="cpu", backend="torch") as pool:
        assert len(pool) == 1
        assert act(pool, lambda _: len(pool.jobs) == 1) == []
        assert pool.idle is None
        node = cluster.add_node(num_cpus=5)
        assert act(pool, lambda _: len(pool.jobs) == 2) == []
        assert len(pool) == 2
        cluster.remove_node(node, allow_graceful=False)
        (lost,) = act(pool, len)
        assert (lost.reason, lost.killed, lost.lost_node) == ("the worker's node left the cluster", True, True)
        assert pool.idle is None  # its place is taken when there is room again
        node = cluster.add_node(num_cpus=5)
        assert act(pool, lambda _: len(pool.jobs) == 2) == []
    cluster.remove_node(node)


def test_a_killed_worker_is_replaced_and_run_jobs_tries_its_job_again(pool):
    killed = []

    def kill_once(message):
        if not killed:
            killed.append(message)
            pool.end(message.worker)

    (run,) = run_jobs([job("mine", recipe=dataclasses.replace(LONG, epochs=3))], pool, kill_once)
    assert isinstance(run, RunMessage)
    assert len(run.run.epochs) == 3
    assert killed


def test_a_node_with_another_version_is_refused_by_both_names(cluster, monkeypatch):
    monkeypatch.setattr(ray_pool, "package_identity", lambda: {"nas": "9.9", "kernels": "0123"})
    with on_ray(1) as pool:
        pool.submit(job())
        ours, theirs = "this machine nas 9.9 with kernels 0123", r"has nas [\d.]+ with kernels [0-9a-f]{16}"
        with pytest.raises(ClusterError, match=f"{theirs}, {ours}: install the same"):
            collect(pool)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionError("gone\nat last"), r"the Ray cluster is gone \(gone\): run the same command again to go on"),
        (
            ModuleNotFoundError("No module named 'nas'"),
            r"does not start \(No module named 'nas'\), this machine has nas [\d.]+ with kernels \w+: install the same",
        ),
    ],
)
def test_a_cluster_that_is_lost_or_lacks_nas_is_one_line_whatever_was_called(cluster, error, text):
    def call():
        raise error

    with on_ray(1) as pool, pytest.raises(ClusterError, match=text):
        pool._do(call)


def test_the_cluster_in_words_and_its_device(cluster):
    assert cluster_device("auto") == cluster_device("cpu") == "cpu"
    assert describe_cluster() == f"Ray {ray.__version__}: 1 node, 8 CPUs"
    with pytest.raises(UsageError, match="no node of the cluster has a GPU"):
        cluster_device("cuda")
    with pytest.raises(UsageError, match="auto, cpu or cuda on a cluster, not mps"):
        cluster_device("mps")


@pytest.mark.parametrize(
    ("workers", "nodes", "share", "places"),
    [
        (None, [{"CPU": 8}, {"CPU": 3}], PAIR, 5),
        (5, [{"CPU": 8}, {"CPU": 3}], PAIR, 5),
        (6, [{"CPU": 8}, {"CPU": 3}], SINGLE, 11),
        (None, [{"CPU": 1}, {"CPU": 1}], SINGLE, 2),
        (None, [{"CPU": 0}], SINGLE, 0),
        (64, [{"CPU": 4}], SINGLE, 4),  # the others when nodes join
    ],
)
def test_a_worker_has_two_cpus_or_one(workers, nodes, share, places):
    assert Share.of(workers, "cpu", nodes) == share
    assert share.places(nodes) == places


@pytest.mark.parametrize(
    ("workers", "nodes", "gpus", "places"),
    [
        (None, [{"CPU": 8, "GPU": 1}], 0.25, 4),
        (2, [{"GPU": 1}], 0.5, 2),
        (3, [{"GPU": 1}], 0.3333, 3),
        (3, [{"GPU": 2}, {"CPU": 4}], 0.5, 4),
        (1, [{"GPU": 2}], 1.0, 2),
    ],
)
def test_a_worker_has_a_part_of_a_gpu(workers, nodes, gpus, places):
    assert Share.of(workers, "cuda", nodes) == Share(cpus=0, gpus=gpus)
    assert Share(cpus=0, gpus=gpus).places(nodes) == places


@pytest.mark.parametrize(
    "text", ["", "dask", "ray:", "ray://", "ray://host", "ray://host:x", "RAY", "auto", "ray://a b:1"]
)
def test_another_text_is_no_cluster(text):
    with pytest.raises(UsageError, match=r"--cluster is ray \(this machine, or RAY_ADDRESS\) or ray://HOST:PORT, not"):
        connect(text)


def test_an_address_where_nothing_answers_is_one_line_in_seconds():
    """Only where this process is not connected to another cluster."""
    ray.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    for address in (f"ray://127.0.0.1:{port}", "ray://127.0.0.1:99999", "ray://nowhere.invalid:10001"):
        with pytest.raises(ClusterError, match=f"nothing answers at {address}"):
            connect(address)
    assert time.monotonic() - began < 15


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"--cluster needs Ray: pip install 'nas\[ray\]'"):
        connect("ray")
