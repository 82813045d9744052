"""What a process may use, in containers too, and what is written down of it, without passwords."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import machine
from nas.machine import available_memory, command_line, cores, cpu_quota, environment, memory_limit, redact_url, utc_now

# Cores


@pytest.fixture
def many_cores(monkeypatch):
    """An affinity of 64 cores: what is less is due to a quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


def system(root: Path, mounts: list[str], own: str, files: dict[str, str]) -> Path:
    """A root with the /proc and the cgroups of a machine."""
    texts = {"proc/self/mountinfo": "".join(f"{line}\n" for line in mounts), "proc/self/cgroup": own} | files
    for name, text in texts.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


OTHERS = ["22 28 0:20 / /proc rw shared:5 - proc proc rw", "28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"]


def v2(top: str = "/", mount: str = "/sys/fs/cgroup") -> list[str]:
    return [*OTHERS, f"30 23 0:26 {top} {mount} rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate"]


def v1(top: str = "/") -> list[str]:
    return [
        *OTHERS,
        f"32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct",
        f"34 31 0:31 {top} /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset",
        f"35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
    ]


V1_OWN = "9:name=systemd:/\n4:memory:{0}\n3:cpuset:{0}\n2:cpu,cpuacct:{0}\n"


def quota_v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {
        f"/sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"/sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("mounts", "own", "files", "quota"),
    [
        ([], "", {}, None),  # no /proc worth the name: macOS, Windows
        (v2(), "0::/\n", {}, None),
        (v2(), "0::/\n", {"/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (v2(), "0::/\n", {"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),  # a container in a namespace of its own
        (v2(), "0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (v2(), "0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "/sys/fs/cgroup/a/cpu.max": "30 10\n"}, 3),
        (
            v2(),
            "0::/a/b\n",
            {"/sys/fs/cgroup/a/b/cpu.max": "50000 20000\n", "/sys/fs/cgroup/a/cpu.max": "900000 100000\n"},
            2.5,
        ),
        (v2(), "0::/a\n", {"/sys/fs/cgroup/b/cpu.max": "10000 100000\n"}, None),  # a neighbour's
        # A container sees its own folder alone, but its name as the host has it.
        (v2("/docker/1f"), "0::/docker/1f\n", {"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (v2("/docker/1f"), "0::/docker/1f/in\n", {"/sys/fs/cgroup/in/cpu.max": "100000 100000\n"}, 1),
        (v2("/docker/1f"), "0::/../other\n", {"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (v2("/docker/1f"), "0::/docker/1fe\n", {"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (v2(mount=r"/my\040groups"), "0::/a\n", {"/my groups/a/cpu.max": "400000 100000\n"}, 4),
        (v1(), V1_OWN.format("/"), quota_v1("", -1), None),
        (v1(), V1_OWN.format("/a/b"), quota_v1("/a/b", -1) | quota_v1("/a", 350_000), 3.5),
        (v1(), V1_OWN.format("/a/b"), quota_v1("/a/b", 25_000) | quota_v1("/a", 350_000), 0.25),
        (v1("/docker/1f"), V1_OWN.format("/docker/1f"), quota_v1("", 300_000), 3),
        (
            [*v1(), *v2(mount="/sys/fs/cgroup/unified")[2:]],
            V1_OWN.format("/a") + "0::/a\n",
            quota_v1("/a", 300_000) | {"/sys/fs/cgroup/unified/a/cpu.max": "200000 100000\n"},
            2,
        ),
    ],
)
def test_the_quota_is_the_least_of_all_around(tmp_path, many_cores, mounts, own, files, quota):
    root = system(tmp_path, mounts, own, files)
    assert cpu_quota(root) == quota
    assert cores(root) == (64 if quota is None else max(1, int(quota)))


@pytest.mark.parametrize(("quota", "count"), [(1000, 1), (99_999, 1), (150_000, 1), (199_999, 1), (200_000, 2)])
def test_a_fractional_quota_is_rounded_down_but_at_least_one(tmp_path, many_cores, quota, count):
    root = system(tmp_path, v2(), "0::/\n", {"/sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert cores(root) == count


def test_affinity_counts_too(tmp_path, monkeypatch):
    """A cluster's job has fewer than its machine."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9}, raising=False)
    root = system(tmp_path, v2(), "0::/\n", {"/sys/fs/cgroup/cpu.max": "800000 100000\n"})
    assert cores(root) == cores(tmp_path / "nothing") == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    assert cores(root) == 8
    assert cores(tmp_path / "nothing") == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path / "nothing") == 1


# Memory


@pytest.mark.parametrize(
    ("mounts", "own", "files", "limit"),
    [
        ([], "", {}, None),
        (v2(), "0::/a\n", {"/sys/fs/cgroup/a/memory.max": "max\n"}, None),
        (v2(), "0::/a\n", {"/sys/fs/cgroup/a/memory.max": "536870912\n"}, 2**29),
        (v2(), "0::/a/b\n", {"/sys/fs/cgroup/a/memory.max": "7\n", "/sys/fs/cgroup/a/b/memory.max": "9\n"}, 7),
        (v1(), V1_OWN.format("/a"), {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        (v1(), V1_OWN.format("/a"), {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1073741824\n"}, 2**30),
        (v1("/docker/1f"), V1_OWN.format("/docker/1f"), {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "5\n"}, 5),
    ],
)
def test_the_memory_limit_is_the_least_of_all_around(tmp_path, mounts, own, files, limit):
    assert memory_limit(system(tmp_path, mounts, own, files)) == limit


# Both, in real cgroups


@contextmanager
def real_cgroup(controller: str) -> Iterator[Path]:
    """A new cgroup for the controller, of whichever version this machine has; skips where that is not permitted."""
    own = Path("/proc/self/cgroup").read_text() if Path("/proc/self/cgroup").is_file() else ""
    v1 = Path("/sys/fs/cgroup") / controller / (re.search(rf":{controller}:/?(.*)", own) or ["", ""])[1]
    places = [v1, Path("/sys/fs/cgroup")] if v1.is_dir() else [Path("/sys/fs/cgroup")]
    for place in places:
        folder = place / f"nas-test-{os.getpid()}"
        try:
            control = place / "cgroup.subtree_control"  # cgroup v2: its children must have the controller already
            if control.exists() and controller not in control.read_text().split():
                continue
            folder.mkdir()
        except OSError:
            continue
        try:
            if not any(folder.glob(f"{controller}.*")):  # a plain folder
                continue
            yield folder
        finally:
            folder.rmdir()
        return
    pytest.skip(f"no {controller} cgroup can be made here")


def inside(folder: Path, call: str) -> str:
    """What a process in the cgroup answers."""
    code = (
        "import os, pathlib; "
        f"pathlib.Path({str(folder / 'cgroup.procs')!r}).write_text(str(os.getpid())); "
        "os.sched_getaffinity = lambda pid: set(range(64)); "
        f"from nas import machine; print(machine.{call})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def limit_cpu(folder: Path, quota: int | None) -> None:
    if (folder / "cpu.max").exists():
        (folder / "cpu.max").write_text(f"{'max' if quota is None else quota} 100000")
    else:
        (folder / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))


def test_a_real_quota_counts():
    with ExitStack() as stack:
        folder = stack.enter_context(real_cgroup("cpu"))
        before = inside(folder, "cores()")
        for quota, count in ((350_000, "3"), (150_000, "1"), (50_000, "1")):
            limit_cpu(folder, quota)
            assert inside(folder, "cores()") == count
        limit_cpu(folder, None)
        assert inside(folder, "cores()") == before
        nested = folder / "nested"
        try:
            nested.mkdir()
        except OSError:
            return
        stack.callback(nested.rmdir)
        limit_cpu(folder, 250_000)
        assert inside(nested, "cpu_quota()") == "2.5"


def test_available_memory_is_what_is_free_within_the_limit(tmp_path, monkeypatch):
    assert available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  16000 kB\nMemAvailable:  8000 kB\n")
    assert available_memory(tmp_path) == 8000 * 1024
    folder = tmp_path / "group"
    folder.mkdir()
    for limit, stat, left in (
        (4000, "", 4000),
        (4000, "anon 1500\nfile 900\nshmem 500\ninactive_file 400\n", 2000),  # files can be read again
        (4000, "cache 9\nrss 1\ntotal_rss 1500\ntotal_shmem 500\n", 2000),  # cgroup v1
        (4000, "anon 5000\nshmem 0\n", 0),
        (10**9, "", 8000 * 1024),
    ):
        (folder / "memory.stat").write_text(stat)
        monkeypatch.setattr("nas.machine._memory_limits", lambda root, limit=limit: iter([(limit, folder)]))
        assert available_memory(tmp_path) == left


def test_a_real_memory_limit_counts():
    with real_cgroup("memory") as folder:
        names = ("memory.max", "memory.limit_in_bytes")
        path = next(folder / name for name in names if (folder / name).exists())
        path.write_text(str(2**29))
        assert inside(folder, "memory_limit()") == str(2**29)


# The record


def test_the_environment_is_what_json_can_hold(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/nas", "train-best", "--architecture", "8 M G C"])
    record = environment("cpu")
    assert json.loads(json.dumps(record)) == record
    assert record["command"] == "nas train-best --architecture '8 M G C'"
    assert {"nas", "torch", "optuna", "python", "processor", "cores", "time", "platform"} <= record.keys()
    assert (record["device"], record["cores"]) == ("cpu", cores())
    assert record["processor"]
    assert environment("cuda", "A Fine GPU")["processor"] == "A Fine GPU"


def test_the_time_is_utc_to_the_second():
    now = datetime.fromisoformat(utc_now())
    assert now.tzinfo == UTC
    assert now.microsecond == 0
    assert abs((datetime.now(UTC) - now).total_seconds()) < 60


def test_a_processor_is_named_without_proc_too(monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert environment("cpu")["processor"]


# Passwords

SECRET = "hun/ter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg://me:pw@host/db?sslmode=require", "postgresql+psycopg://me:***@host/db?sslmode=require"),
        ("postgresql://:pw@host", "postgresql://:***@host"),
        ("postgresql://me@corp:pw@host/db", "postgresql://me@corp:***@host/db"),
        ("postgresql://me:p%40w%2Fx@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@w/x?y:z@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me%3Apw@host/db", "postgresql://me%3A***@host/db"),
        ("postgresql://me:pw%40host/db", "postgresql://me:***%40host/db"),
        ("me:pw@host/db", "me:***@host/db"),
        ("--storage=postgresql://me:pw@host/db", "--storage=postgresql://me:***@host/db"),
        ("--storage=me:pw@host/db", "--storage=me:***@host/db"),
        ("postgresql://host/db?user=me&password=pw&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql://host/db?PASSWORD=pw", "postgresql://host/db?PASSWORD=***"),
        ("postgresql://host/db?sslpassword=pw&x=1", "postgresql://host/db?sslpassword=***&x=1"),
        ("postgresql://host/db?pass%77ord=pw", "postgresql://host/db?pass%77ord=***"),
        ("mysql://host/db?passwd=pw", "mysql://host/db?passwd=***"),
        ("mysql://host/db?access_token=pw", "mysql://host/db?access_token=***"),
        ("mssql://?odbc_connect=DRIVER%3Dx%3BPWD%3Dpw", "mssql://?odbc_connect=***"),
        ("redis://h/0?next=postgresql%3A%2F%2Fme%3Apw%40host", "redis://h/0?next=***"),
        ("postgresql%3A%2F%2Fme%3Apw%40host%2Fdb", "postgresql://me:***@host/db"),
        ("host=h user=me password='p w'", "host=h user=me password=***"),
        ("password=pw", "password=***"),
        # More than the password goes, where a text can be read in two ways.
        ("postgresql://me:pw@host/db?password=a@b", "postgresql://me:***"),
    ],
)
def test_a_password_is_not_shown(url, shown):
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["", "sqlite:///study.db", "sqlite:////tmp/a:b@c.db", "postgresql://host/db", "postgresql://me@host:5432/db",
     "postgresql://me@[::1]:5432/db", "postgresql://me:@host/db", "8vr 9vr 10vr M 12vr 16vr 20vr C G", "--max-params",
     "3x32x32: 16 16+ M 32/2 G 24k1 C100", "C:\\studies", "/data/pass/word", "2026-11-30T12:00:00+00:00", "--seed=3",
     "https://example.org/?page=2&token_count_is_no_key", "100%", "50%3A"],
)  # fmt: skip
def test_text_without_a_password_comes_back_as_it_is(text):
    assert redact_url(text) == text


passwords = st.text(min_size=1, max_size=12)


@given(passwords, st.sampled_from(["postgresql://", "", "--storage=mysql+pymysql://", "--storage="]))
def test_no_password_before_the_host_is_shown(password, before):
    shown = redact_url(f"{before}me:{SECRET}{password}@host/db")
    assert shown.endswith(":***@host/db")
    assert SECRET not in shown


@given(passwords.filter(lambda password: "&" not in password), st.sampled_from(["password", "sslpassword", "PassWord"]))
def test_no_password_of_a_query_is_shown(password, key):
    for url in (
        f"postgresql://host/db?{key}={SECRET}{password}",
        f"postgresql://u:x@h/db?a=b&{key}={SECRET}{password}&c=d",
    ):
        shown = redact_url(url)
        assert SECRET not in shown
        assert password not in shown or password in url.replace(f"{SECRET}{password}", "***")


@given(st.text(max_size=40))
def test_any_text_is_redacted_once_and_for_all(text):
    shown = redact_url(text)
    assert redact_url(shown) == shown


def test_a_command_is_one_for_a_shell_without_passwords(monkeypatch):
    words = ["search", "--storage", "postgresql://me:pw@host/db", "--teacher", "8 M G C"]
    expected = "nas search --storage 'postgresql://me:***@host/db' --teacher '8 M G C'"
    assert command_line(words) == expected
    monkeypatch.setattr(sys, "argv", ["/bin/nas", *words])
    assert command_line() == environment("cpu")["command"] == expected
