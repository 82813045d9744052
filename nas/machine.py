"""The machine: cores and memory a process may use, versions and hardware for the record, the clock, the command."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, unquote_plus

PACKAGES = ("torch", "torchvision", "optuna", "numba", "numpy", "pandas")

_UNLIMITED = 2**60
"""Bytes from which a limit is none: cgroup v1 writes 2^63, rounded down to whole pages, for no limit."""


def cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may use: by its affinity, and by the CPU quota of its container.

    A quota is rounded down, as a thread too many waits for the others, and counts as one core at least. `root` is where
    /proc and the cgroups are found.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the least CPU quota, in cores, of this process's cgroup and those around it; None without any."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        match _read(folder / "cpu.max").split():  # cgroup v2: quota and period in microseconds, or max
            case [quota, period] if quota != "max":
                quotas.append(int(quota) / int(period))
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota not in ("", "-1") and period:  # cgroup v1
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the least memory limit, in bytes, of this process's cgroup and those around it; None without any."""
    return min((limit for limit, _ in _memory_limits(root)), default=None)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take; None if unknown.

    That is what is free on the machine, and in each of its cgroups what the limit leaves beside memory that is taken.
    """
    lines = _read(root / "proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    found += [max(0, limit - _taken(folder)) for limit, folder in _memory_limits(root)]
    return min(found, default=None)


def _memory_limits(root: Path) -> Iterator[tuple[int, Path]]:
    """Yield the memory limits of this process's cgroup and those around it, each with its folder."""
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # cgroup v2 and v1
            text = _read(folder / name).strip()
            if text not in ("", "max") and int(text) < _UNLIMITED:
                yield int(text), folder


def _taken(folder: Path) -> int:
    """Return the bytes of a cgroup that are no files of a disk, which can be read again."""
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    names = ("anon", "shmem") if "anon" in stat else ("total_rss", "total_shmem")  # cgroup v2, else v1
    return sum(int(stat.get(name, 0)) for name in names)


def environment(device: str, processor: str | None = None) -> dict[str, Any]:
    """Return versions and hardware, for the record, as JSON can hold them.

    `processor` is the name of what trains, which a caller knows of a GPU; default: that of the CPU.
    """
    return {
        "nas": version("nas"),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor or _cpu_name(),
        "cores": cores(),
        "device": device,
        "command": command_line(),
        "time": utc_now(),
    }


def utc_now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Return the `nas` command of this process (or of these arguments), for a shell, its URLs without passwords."""
    words = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["nas", *(redact_url(word) for word in words)])


# The user's name ends at the first colon and the password at the last @, so that a password may hold any other mark.
# Without a scheme a URL begins with the text, or after the = of an option. Both marks may be percent-encoded.
_USER_INFO = re.compile(r"(?:^|://|=)[^:/=]*?(?::(?!//)|%3a)(?P<secret>.*)(?:@|%40)", re.IGNORECASE | re.DOTALL)
_QUERY_ITEM = re.compile(r"[?&](?P<key>[^=&]*)=(?P<secret>[^&]*)", re.DOTALL)
_SECRET_KEY = re.compile(r"pass|pwd|secret|token|credential|api_?key|access_?key", re.IGNORECASE)
_DSN_ITEM = re.compile(r"(?:^|[\s;=])\w*(?:pass|pwd)\w*\s*=(?P<secret>.*)", re.IGNORECASE | re.DOTALL)
REDACTED = "***"
"""The place of a secret in what is shown."""


def redact_url(text: str) -> str:
    """Return a URL (or an option with one) with `***` for each secret; text without secrets comes back as it is.

    Secrets are the password before the host, with or without a scheme, and what the query has under a key such as
    `password`, `sslpassword` or `token`; percent-encoded as well. Where a text can be read in two ways, both readings'
    secrets go, and parts of the host with them.
    """
    if "://" not in text and re.search("%3a%2f%2f", text, re.IGNORECASE):  # encoded as a whole, as in a query
        return redact_url(unquote(text))
    spans = [match.span("secret") for match in _USER_INFO.finditer(text)]
    spans += [match.span("secret") for match in _QUERY_ITEM.finditer(text) if _is_secret(match["key"], match["secret"])]
    if "?" not in text:  # key=value pairs instead of a URL: to the end, as quotes and separators differ by driver
        spans += [match.span("secret") for match in _DSN_ITEM.finditer(text)]
    redacted, end = "", 0
    for first, last in sorted(spans):
        if first < last and last > end:
            redacted += (text[end:first] + REDACTED) if first >= end else ""
            end = last
    return redacted + text[end:]


def _is_secret(key: str, value: str) -> bool:
    """Return True for a secret of a query: by its key, or as a URL or a list of pairs with a secret of its own."""
    decoded = unquote_plus(value)
    return bool(_SECRET_KEY.search(unquote_plus(key))) or redact_url(decoded) != decoded


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups that may limit the controller, each with all around it.

    /proc/self/cgroup names a cgroup in each hierarchy; /proc/self/mountinfo names where the hierarchy is mounted, and
    from which of its folders on, as a container may see its own only.
    """
    own: dict[str, str] = {}  # "" is cgroup v2
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), place)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        name = {"cgroup2": "", "cgroup": controller}.get(kind)
        if name not in own or (kind == "cgroup" and controller not in options.split(",")):
            continue
        top, mount = (_unescaped(field) for field in before.split(" ")[3:5])
        path = PurePosixPath(own[name])
        # The path of a process that was moved out of its container's view has "..": then the mount is all that is seen.
        inner = path.relative_to(top) if path.is_relative_to(top) and ".." not in path.parts else PurePosixPath()
        folder = root / mount.lstrip("/")
        yield folder
        for part in inner.parts:
            folder /= part
            yield folder


def _unescaped(field: str) -> str:
    r"""Return a field of mountinfo, which writes a space as \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _read(path: Path) -> str:
    """Return the text of a file of the system, or nothing where it has none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    return ""


def _cpu_name() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def caller_left_out() -> Iterator[None]:
    """Keep a Python process that is spawned inside from running the caller's script: it needs nothing of it.

    `multiprocessing` runs it there once more, for the functions it may define; one without a guard begins anew.
    """
    caller = sys.modules["__main__"]
    before: dict[str, Any] = {name: vars(caller)[name] for name in ("__file__", "__spec__") if name in vars(caller)}
    vars(caller).update(__file__=None, __spec__=None)
    try:
        yield
    finally:
        for name in ("__file__", "__spec__"):
            del vars(caller)[name]
        vars(caller).update(before)
