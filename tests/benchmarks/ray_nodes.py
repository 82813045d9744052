"""Searches on three raylets of one machine, as three nodes: one is killed in the middle, and one joins.

    python tests/benchmarks/ray_nodes.py nodes [--trials 200]
    python tests/benchmarks/ray_nodes.py mnist

`nodes` counts what was lost or trained twice. `mnist` makes the same small search on MNIST on a pool of one process and
on the cluster, and compares trials and winners.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": "0" * 64, "RAY_prestart_worker_first_driver": "0"}

from optuna.trial import TrialState
from ray.cluster_utils import Cluster

from nas.errors import StorageError
from nas.export import read_weights
from nas.searches import read_reason
from nas.study import StudyStore

NAS = [sys.executable, "-c", "from nas.cli import main; main()", "search", "--no-report"]
QUICK = [
    "--dataset", "synthetic", "--max-params", "500", "--brief-epochs", "1", "--finalists", "2", "--finalist-seeds", "2",
    "--finalist-epochs", "1", "--sampler", "random",
]  # fmt: skip
MNIST = [
    "--dataset", "mnist", "--max-params", "1000", "--trials", "3", "--brief-epochs", "1", "--finalists", "2",
    "--finalist-seeds", "1", "--finalist-epochs", "1", "--teacher", "none",
]  # fmt: skip


def search(study: str, *options: str, home: Path, address: str | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "NAS_STUDIES": str(home), "OMP_NUM_THREADS": "1"}
    if address is not None:
        environment["RAY_ADDRESS"] = address
        options = (*options, "--cluster", "ray")
    log = (home / f"{study}.log").open("wb")
    return subprocess.Popen([*NAS, "--study", study, *options], env=environment, stdout=log, stderr=log)


def nodes(trials: int, home: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    others = [cluster.add_node(num_cpus=2) for _ in range(2)]
    began = time.monotonic()
    process = search("nodes", *QUICK, "--trials", str(trials), home=home, address=cluster.address)
    store, seen, killed, joined = None, set(), False, False
    while process.poll() is None:
        time.sleep(0.5)
        if store is None:
            with contextlib.suppress(StorageError):
                store = StudyStore.open("nodes", str(home / "nodes" / "study.db"))
            continue
        ended = store.refresh().ended
        if not killed and ended >= trials // 3:
            killed, seen = True, {trial.number for trial in store.table.learned}
            cluster.remove_node(others[0], allow_graceful=False)
            print(f"a node was killed after {ended} trials, with {len(store.table.running())} running", flush=True)
        if not joined and ended >= trials // 2:
            joined = True
            cluster.add_node(num_cpus=2)
            print(f"a node joined after {ended} trials", flush=True)
    seconds = time.monotonic() - began
    assert store is not None, (home / "nodes.log").read_text()
    table = store.refresh()
    schedules = Counter(trial.user_attrs["schedule"] for trial in table.learned)
    log = (home / "nodes.log").read_text()
    rows = {
        "exit code": process.returncode,
        "finished trials (of)": f"{table.ended} ({trials})",
        "schedules trained twice": sum(count > 1 for count in schedules.values()),
        "finished before the kill and gone after": len(seen - {trial.number for trial in table.learned}),
        "trials tried again, on another node": log.count("it is tried again"),
        "failed": len(table.trials(TrialState.FAIL)),
        "left running or waiting": len(table.open),
        "generated schedules unaccounted for": store.counts()["unaccounted"],
        "seconds": round(seconds),
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    cluster.shutdown()


def mnist(home: Path) -> None:
    assert search("local", *MNIST, "--workers", "1", home=home).wait() == 0, (home / "local.log").read_text()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    ran = search("ray", *MNIST, "--workers", "1", home=home, address=cluster.address).wait()
    assert ran == 0, (home / "ray.log").read_text()
    cluster.shutdown()
    tables = {name: StudyStore.open(name, str(home / name / "study.db")).refresh() for name in ("local", "ray")}
    for first, second in zip(*(table.trials() for table in tables.values()), strict=True):
        same = all(first.user_attrs.get(key) == second.user_attrs.get(key) for key in ("schedule", "loss"))
        print(f"| {first.number} | {first.user_attrs['schedule']} | {first.user_attrs.get('loss')} | {same} |")
    winners = {name: read_reason(home / name / "best") for name in tables}
    for name, reason in winners.items():
        print(f"| {name} | {reason.finalists[0].schedule} | {reason.finalists[0].scores} | {reason.processor} |")
    first, second = (read_weights(home / name / "best" / "weights.safetensors") for name in tables)
    print(f"weights of the winners equal, bit for bit: {all(first[key].equal(second[key]) for key in first)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["nodes", "mnist"])
    parser.add_argument("--trials", type=int, default=200)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="nas-ray-nodes-"))
    if arguments.what == "nodes":
        nodes(arguments.trials, home)
    else:
        mnist(home)
    print(f"files and logs in {home}")


if __name__ == "__main__":
    main()
