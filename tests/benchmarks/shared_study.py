"""Two searches on "two machines" share a study on PostgreSQL, through restarts of the server and a SIGKILL.

    python tests/benchmarks/shared_study.py [--trials 600]

Each search has a studies folder and a process tree of its own. At a quarter of the trials the server is restarted, at
a half one search is killed with all its processes, at two thirds the server is restarted again. The other search
finishes, and a third machine, which trained nothing, exports the winner. Printed: what was trained twice or lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from optuna.trial import TrialState
from postgres_server import Postgres, server

from nas.errors import StorageError
from nas.study import StudyStore

NAS = [sys.executable, "-c", "from nas.cli import main; main()"]


def nas(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    log = (folder.parent / f"{folder.name}-{arguments[0]}.log").open("wb")
    environment = {**os.environ, "NAS_STUDIES": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*NAS, *arguments], env=environment, stdout=log, stderr=log, start_new_session=True)


def wait_for(store: StudyStore, trials: int, searches: dict[str, subprocess.Popen[bytes]]) -> set[int]:
    """Wait for so many finished trials; return their numbers."""
    while store.refresh().ended < trials:
        assert any(search.poll() is None for search in searches.values()), "both searches have ended"
        time.sleep(0.5)
    return {trial.number for trial in store.table.learned}


def restart(postgres: Postgres) -> None:
    postgres.stop()
    time.sleep(3)
    postgres.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=600, help="in all; each search would do half of them")
    trials = parser.parse_args().trials
    home = Path(tempfile.mkdtemp(prefix="nas-shared-study-", dir="/tmp"))
    home.chmod(0o755)
    began = time.monotonic()
    with server(home / "server") as postgres:
        options = [
            "search", "--dataset", "synthetic", "--max-params", "500", "--trials", str(trials), "--brief-epochs", "1",
            "--finalists", "2", "--finalist-seeds", "2", "--finalist-epochs", "1", "--sampler", "random",
            "--workers", "1", "--no-report", "--study", "shared", "--storage", postgres.url,
            "--artifacts", str(home / "artifacts"),
        ]  # fmt: skip
        searches = {name: nas(home / name, *options) for name in ("one", "two")}
        store = None
        while store is None or not store.refresh().ended:
            time.sleep(1)
            with contextlib.suppress(StorageError):
                store = store or StudyStore.open("shared", postgres.url)
        seen = wait_for(store, trials // 4, searches)
        restart(postgres)
        seen |= wait_for(store, trials // 2, searches)
        os.killpg(searches["one"].pid, signal.SIGKILL)
        seen |= wait_for(store, 2 * trials // 3, searches)
        restart(postgres)
        seen |= wait_for(store, trials, searches)
        code = searches["two"].wait(900)
        exported = [
            nas(home / name, "export", "shared", "--to", "onnx", "-o", str(home / f"exported-{name}"),
                "--storage", postgres.url).wait(600)
            for name in ("two", "three")
        ]  # fmt: skip
        report(store, seen, trials)
        print(f"search two left with {code}, the exports on two and on three with {exported}")
        print(f"{time.monotonic() - began:.0f} s in all; files and logs in {home}")


def report(store: StudyStore, seen: set[int], trials: int) -> None:
    table = store.refresh()
    schedules = Counter(trial.user_attrs["schedule"] for trial in table.learned)
    finalists = store.finalists()
    pairs = Counter(
        (trial.params["candidate"], trial.params["seed"])
        for trial in finalists.refresh().trials(TrialState.COMPLETE)
    )  # fmt: skip
    owners = Counter(trial.user_attrs["owner"].rpartition("/")[0] for trial in table.learned)
    failed = [str(trial.user_attrs.get("reason")) for trial in table.trials(TrialState.FAIL)]
    yielded = sum(reason.startswith("another process claimed") for reason in failed)
    cut = sum(trial.user_attrs.get("interrupted", False) for trial in table.trials(TrialState.FAIL)) - yielded
    rows = {
        "finished trials (of)": f"{table.ended} ({trials})",
        "of each search": ", ".join(map(str, owners.values())),
        "schedules trained twice": sum(count > 1 for count in schedules.values()),
        "finalists' seeds trained twice": f"{sum(count > 1 for count in pairs.values())} of {len(pairs)}",
        "finished before an event and gone after": len(seen - {trial.number for trial in table.learned}),
        "claims given up, untrained, to the other search's of the same schedule": yielded,
        "cut, and tried again": cut,
        "failed for good": len(failed) - yielded - cut,
        "left running or waiting": len(table.open),
        "generated schedules unaccounted for": store.counts()["unaccounted"],
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
