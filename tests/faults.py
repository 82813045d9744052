"""Faults, injected and counted: kills, interrupts, lost workers, and the conditions of containers.

    python tests/faults.py [--quick] [--seed N]

It takes some ten to fifteen minutes on two idle cores, a tenth of it with --quick, and prints a table. After each fault
every database is read past all caches: what had finished is there and unchanged, no schedule and no finalist's seed was
trained twice, every generated schedule is accounted for, and the file is intact. It exits with 1 where anything is not.

A quick search trains nothing (the toy pool of the tests) and lives in a forked process, so that most kills hit the
database and the export; a real one has worker processes that train on synthetic images. The conditions need root on
Linux (private mounts, other users, a cgroup); those that the system does not allow are skipped with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import toys
from auditing import Audit

from nas import __main__ as command
from nas import library
from nas.study import StudyStore

QUICK = [
    "search", "--dataset", "synthetic", "--max-params", "500", "--trials", "14", "--brief-epochs", "3",
    "--finalists", "2", "--finalist-seeds", "2", "--finalist-epochs", "3", "--teacher", "none", "--backend", "torch",
    "--workers", "2", "--quiet", "--no-report",
]  # fmt: skip
REAL = [
    "search", "--dataset", "synthetic", "--max-params", "500", "--trials", "6", "--brief-epochs", "3",
    "--finalists", "2", "--finalist-seeds", "2", "--finalist-epochs", "3", "--backend", "torch", "--workers", "2",
    "--quiet", "--no-report",
]  # fmt: skip
IMPORTED = ("onnx", "onnxruntime", "pandas", "scipy.linalg", "scipy.stats", "safetensors.torch", "nas.searches.run")
"""Imported before the first fork: what a search would spend most of its time on."""

MAX_SECONDS = 2.0
"""Longest time from Ctrl-C to the end of the process."""

THIRD_DEATH = ", 3 times"
"""The end of the reason of a trial that has lost a third worker."""


@dataclass
class Row:
    """A line of the table."""

    fault: str
    injected: int = 0
    recovered: str = ""
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        worst = f"{max(self.seconds):.2f}" if self.seconds else ""
        return f"| {self.fault} | {self.injected} | {len(self.problems)} | {self.recovered} | {worst} |"


# --- processes --------------------------------------------------------------------------------------------------------


class Slow(toys.Pool):
    """A toy pool whose epochs take a moment, as many at once as it has workers."""

    def messages(self, timeout):  # type: ignore[no-untyped-def]
        time.sleep(0.003)
        yield from super().messages(timeout)


class Child:
    """`nas` in a forked process of a group of its own: nothing is imported anew."""

    def __init__(self, arguments: Sequence[str], *, quick: bool) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  read when it has ended
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            self._live(arguments, quick=quick)

    def _live(self, arguments: Sequence[str], *, quick: bool) -> None:
        code = 1
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(self.errors.fileno(), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            sys.argv = ["nas", *arguments]
            if quick:
                pools = importlib.import_module("nas.library.pools")
                assert pools.ProcessPool, "what the search takes its pool from"
                pools.ProcessPool = lambda count, *_, **__: Slow(count)  # type: ignore[attr-defined]
            command.main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def ended(self, seconds: float) -> bool:
        """Wait for the process; return whether it has ended within so many seconds."""
        end = time.monotonic() + seconds
        while self.code is None and time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.01)
        return self.code is not None

    def end_all(self) -> None:
        """Kill what is left of the group, and wait until nothing is."""
        self.send(signal.SIGKILL)
        self.ended(30)
        toys.until(lambda: not toys.group(self.pid), 30)

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()


def run(arguments: Sequence[str], study: str, *, quick: bool, seconds: float = 300) -> tuple[int | None, str]:
    """A whole search: exit code and errors."""
    child = Child([*arguments, "--study", study], quick=quick)
    child.ended(seconds)
    child.end_all()
    return child.code, child.said()


def hurt(row: Row, count: int, rng: random.Random, hit: Callable[[Child, Row], None], *, quick: bool) -> None:
    """Start a search, hit it at a random time, and again by the same command, until `count` hits are done."""
    arguments, name = QUICK if quick else REAL, f"{re.sub('[^a-z]+', '-', row.fault.lower())}"
    began = time.monotonic()
    run(arguments, f"{name}-whole", quick=quick)
    whole, ends, number = time.monotonic() - began, 0, 0
    studies = Path(os.environ["NAS_STUDIES"])
    while row.injected < count:
        number += 1
        study = f"{name}-{number}"
        audit = Audit(studies / study)
        while row.injected < count:
            child = Child([*arguments, "--study", study], quick=quick)
            try:
                if child.ended(rng.uniform(0, 0.8 * whole)):
                    break
                hit(child, row)
                row.injected += 1
            finally:
                child.end_all()
            row.problems += [f"{study}, hit {row.injected}: {problem}" for problem in audit.problems()]
        code, errors = run(arguments, study, quick=quick)
        ends += code == 0
        row.problems += [f"{study}, at its end: {problem}" for problem in audit.end()] if code == 0 else [errors[-300:]]
    row.recovered = f"{ends} of {number} searches"


def kill(child: Child, row: Row) -> None:
    child.send(signal.SIGKILL)


def interrupt(child: Child, row: Row) -> None:
    began = time.monotonic()
    child.send(signal.SIGINT)
    if not child.ended(30):
        row.problems.append("Ctrl-C was ignored for 30 s")
        return
    row.seconds.append(time.monotonic() - began)
    errors = child.said()
    if row.seconds[-1] > MAX_SECONDS:
        row.problems.append(f"Ctrl-C took {row.seconds[-1]:.1f} s")
    if child.code == 0 and row.seconds[-1] <= MAX_SECONDS:  # it had just ended
        return
    if child.code == -signal.SIGINT and not errors:  # the command had not begun
        return
    if child.code != 130 or "To resume: nas search" not in errors or "Traceback" in errors:
        row.problems.append(f"Ctrl-C: exit code {child.code}, {errors[-500:]!r}")


def cold_interrupts(row: Row, count: int, rng: random.Random) -> None:
    """Ctrl-C while `nas` itself is being imported."""
    for number in range(count):
        process = toys.spawn(*REAL, "--study", f"cold-{number}", studies_dir=Path(os.environ["NAS_STUDIES"]))
        time.sleep(rng.uniform(0, 2.5))
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        row.injected += 1
        row.seconds.append(time.monotonic() - began)
        if process.returncode not in (130, -signal.SIGINT) or row.seconds[-1] > MAX_SECONDS:
            row.problems.append(f"exit code {process.returncode} after {row.seconds[-1]:.1f} s: {errors[-300:]!r}")
    row.recovered = f"{count} of {count} ended"


def worker_kills(row: Row, count: int, rng: random.Random) -> None:
    """Kill workers of a search that has enough trials for it, and let it come to its end."""
    studies, number, ends, given_up = Path(os.environ["NAS_STUDIES"]), 0, 0, 0
    while row.injected < count:
        number += 1
        name = f"workers-{number}"
        child, audit = Child([*REAL, "--study", name, "--brief-epochs", "40"], quick=False), Audit(studies / name)
        hits = 0
        while not child.ended(rng.uniform(1, 4)) and row.injected < count and hits < 6:
            workers = [pid for pid in toys.group(child.pid) if pid != child.pid and is_worker(pid)]
            if workers:
                os.kill(rng.choice(workers), signal.SIGKILL)
                row.injected, hits = row.injected + 1, hits + 1
        child.ended(300)
        child.end_all()
        ends += child.code == 0
        if child.code != 0:
            row.problems.append(f"{name}: exit code {child.code}, {child.said()[-300:]!r}")
        row.problems += audit.end()
        store = StudyStore.open(name)
        trials = [trial for each in store.with_finalists() for trial in each.refresh().finished.values()]
        failed = [(trial.number, trial.user_attrs["reason"]) for trial in trials if trial.state.name == "FAIL"]
        given_up += sum(reason.endswith(THIRD_DEATH) for _, reason in failed)
        row.problems += [f"{name}: trial {each} failed ({reason})" for each, reason in failed
                         if not reason.endswith(THIRD_DEATH)]  # fmt: skip
    row.recovered = f"{ends} of {number} searches; {given_up} trials failed at their third death, as the rule says"


def is_worker(pid: int) -> bool:
    with suppress(OSError):
        return b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


# --- containers -------------------------------------------------------------------------------------------------------

NAS = " ".join(f"'{word}'" for word in toys.COMMAND)
SMALL = (
    "search --dataset synthetic --max-params 500 --trials 2 --brief-epochs 1 --finalists 1 --finalist-seeds 1 "
    "--finalist-epochs 1 --no-report --study"
)
MNIST = (
    "search --max-params 1000 --trials 1 --no-published --brief-epochs 1 --finalists 1 --finalist-seeds 1 "
    "--finalist-epochs 1 --workers 1 --teacher '2 G C' --no-report --study"
)

CONDITIONS = {
    "/dev/shm of 64 KB": ("mount -t tmpfs -o size=64k tmpfs /dev/shm; {nas} {small} x", 0, ""),
    "/dev/shm of 64 MB, MNIST and its teacher": ("mount -t tmpfs -o size=64m tmpfs /dev/shm; {nas} {mnist} x", 0, ""),
    "random uid, HOME=/, package of root": (
        "chmod 777 $NAS_STUDIES; unset TMPDIR; HOME=/ setpriv --reuid 12345 --regid 12345 --clear-groups "
        "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search {nas} {small} x", 0, "",
    ),
    "read-only package and home": (
        "mount --bind {package} {package}; mount -o remount,bind,ro {package}; mkdir $NAS_STUDIES/home; "
        "mount -t tmpfs -o ro tmpfs $NAS_STUDIES/home; HOME=$NAS_STUDIES/home {nas} {small} x", 0, "the kernels lie in",
    ),
    "no home": ("env -u HOME -u XDG_CACHE_HOME HOME=/nonexistent {nas} {small} x", 0, ""),
    "full disk under the study": (
        "mount -t tmpfs -o size=150k tmpfs $NAS_STUDIES; {nas} {small} x && exit 9; test $? = 4 || exit 8; "
        "mount -o remount,size=20m $NAS_STUDIES; {nas} {small} x", 0, "error: ",
    ),
    "full disk under the kernels' cache": (
        "mkdir $NAS_STUDIES/c; mount -t tmpfs -o size=64k tmpfs $NAS_STUDIES/c; "
        "NUMBA_CACHE_DIR=$NAS_STUDIES/c {nas} {small} x", 0, "cannot be written",
    ),
    "ulimit -n 32": ("ulimit -n 32; {nas} {small} x || test $? = 4", 0, ""),
    "half a core (CPU quota)": (
        "echo 100000 > {cpu}/cpu.cfs_period_us; echo 50000 > {cpu}/cpu.cfs_quota_us; echo $$ > {cpu}/cgroup.procs; "
        "{nas} {small} x", 0, "",
    ),
    "memory limit of 900 MB": (
        "echo 900M > {memory}/memory.limit_in_bytes; echo $$ > {memory}/cgroup.procs; "
        "{nas} {small} x --workers 8", 0, "workers",
    ),
}  # fmt: skip
"""The command of each condition, its exit code, and what standard error has besides."""


@contextmanager
def cgroup(controller: str) -> Iterator[str]:
    """A cgroup of version 1 of our own, removed afterwards; an error where there is none."""
    folder = Path(f"/sys/fs/cgroup/{controller}/nas-faults-{os.getpid()}")
    if not folder.parent.is_dir():
        yield "/nonexistent"
        return
    folder.mkdir()
    try:
        yield str(folder)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():  # what it started and did not wait for
            with suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        toys.until(lambda: not (folder / "cgroup.procs").read_text(), 30)
        folder.rmdir()


def condition(name: str) -> Row:
    command, wanted, text = CONDITIONS[name]
    row, package = Row(name), Path(library.__file__).parent
    if shutil.which("unshare") is None or os.geteuid() != 0:
        row.recovered = "skipped: needs root and unshare (util-linux)"
        return row
    with tempfile.TemporaryDirectory() as studies, cgroup("cpu") as cpu, cgroup("memory") as memory:
        Path(studies).chmod(0o755)
        filled = command.format(nas=NAS, small=SMALL, mnist=MNIST, package=package, cpu=cpu, memory=memory)
        variables = {**os.environ, "NAS_STUDIES": studies, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package.parent)}
        ran = subprocess.run(
            ["unshare", "-m", "bash", "-c", filled], env=variables, cwd="/", capture_output=True, text=True, check=False
        )
        row.injected = 1
        if "Traceback" in ran.stderr or ran.returncode != wanted or text not in ran.stderr:
            row.problems.append(f"exit code {ran.returncode}: {ran.stderr[-1500:]}")
        lines = [line for line in ran.stderr.splitlines() if line.startswith(("nas: ", "error: ", "warning: "))]
        row.recovered = " / ".join(line[:110] for line in lines[:2]) or "nothing to see"
    return row


def main() -> int:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="parts of names of faults, with commas")
    options = parser.parse_args()
    for name in IMPORTED:
        importlib.import_module(name)
    part, rng = 10 if options.quick else 1, random.Random(options.seed)
    faults: dict[str, Callable[[Row], None]] = {
        "SIGKILL, quick search": lambda row: hurt(row, 160 // part, rng, kill, quick=True),
        "SIGKILL, tree with two workers": lambda row: hurt(row, 50 // part, rng, kill, quick=False),
        "Ctrl-C, quick search": lambda row: hurt(row, 70 // part, rng, interrupt, quick=True),
        "Ctrl-C, tree with two workers": lambda row: hurt(row, 20 // part, rng, interrupt, quick=False),
        "Ctrl-C while nas starts": lambda row: cold_interrupts(row, 10 // part, rng),
        "SIGKILL of a worker": lambda row: worker_kills(row, 20 // part, rng),
    }
    rows, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as studies:
        os.environ["NAS_STUDIES"] = studies
        for name in [*faults, *CONDITIONS]:
            if not any(part in name for part in options.only.split(",")):
                continue
            row = Row(name)
            if name in faults:
                faults[name](row)
            else:
                row = condition(name)
            rows.append(row)
            print(row, *(f"    {problem}" for problem in row.problems), sep="\n", flush=True)
    print("\n| fault | injected | problems | recovered | slowest, s |\n|-|-|-|-|-|")
    print(*rows, sep="\n")
    print(json.dumps({"seconds": round(time.monotonic() - began), "seed": options.seed}))
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())
