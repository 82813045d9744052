"""The folder of the machine code, and how it is filled.

numba stores the machine code of an entry point, with all that it calls, and makes it anew when the file of the entry
point changes. A change in another file it does not see: it would run the old code, a wrong result without an error. So
the folder is named by a digest of every file of this package.

It is filled by processes of their own, and then loaded: linked where it was compiled, the code rounds otherwise, and 64
steps later the weights were others.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from nas.errors import NasError, UsageError
from nas.kernels.jit import ENTRIES, FEATURES, unsuited

with suppress(ImportError):  # Windows has none: there a folder's age alone protects it
    import fcntl

with suppress(ImportError, OSError):  # `unsuited` gives the reason
    import llvmlite.binding as llvm
    import numba

    _config: Any = numba.config

PACKAGE = Path(__file__).parent
INHERITED = "NAS_KERNELS_DIR"
"""The environment variable by which a process names the folder to those that it starts; empty where there is none."""
PARTS = ("networks", "others")
"""Parts compiled at once: two thirds of the work, which cannot be split without compiling twice, and the rest."""
ROOM = 4 << 20
"""Bytes that must be free: twice what the machine code takes, which may come twice."""
CANNOT_WRITE = 74
"""Exit status of a process that compiled, and could not write (sysexits.h: EX_IOERR)."""

MAX_OLD_FOLDERS, MIN_UNUSED_SECONDS = 3, 86_400
"""Folders of other versions that stay, the latest used; and how long after its last use none is deleted."""

_lock = threading.Lock()
_held: int | None = None  # a descriptor of the folder in use, with a lock that ends with the process
_ready = False
_temporary: tempfile.TemporaryDirectory[str] | None = None  # removed when it goes, at the latest when Python ends


def compile_all() -> float:
    """Have every kernel compiled, once for each version of the package; return the seconds that took. Then it is free.

    The machine code lies in the user's cache folder, or where NUMBA_CACHE_DIR says. Where that cannot be written, a
    line on stderr says so, and it lies in a temporary folder until this process ends; a folder that is filled already
    is copied there. Where there is none either, each process compiles for itself, and rounds otherwise. Folders of
    older versions are deleted, but for a few. Raises `UsageError` where the kernels cannot run.
    """
    global _ready
    if _ready:
        return 0.0
    start = time.perf_counter()
    if (reason := unsuited()) is not None:
        raise UsageError(f"the kernels do not run here: {reason}")
    with _lock:
        if not _ready:
            _find_folder()
            _ready = True
    return time.perf_counter() - start


def folder_name(package: Path = PACKAGE) -> str:
    """Return the name of the folder for the sources of `package`."""
    digest = hashlib.sha256()
    for path in sorted(package.glob("*.py")):
        digest.update(b"%s %d " % (path.name.encode(), path.stat().st_size) + path.read_bytes())
    return f"kernels-{digest.hexdigest()[:16]}"


def _find_folder() -> None:
    """Fill a folder that can be written, and have the entry points load from it."""
    global _temporary
    inherited = os.environ.get(INHERITED)
    if inherited is not None:  # filled, and reported, by the process that started this one
        with suppress(OSError):
            if inherited:
                _use(Path(inherited))
        return
    chosen = _config.CACHE_DIR  # NUMBA_CACHE_DIR, or what a program has set
    parent = Path(chosen).absolute() if chosen else user_cache_path("nas")
    folder = parent / folder_name()
    try:
        _use(_filled(folder))
        return
    except OSError as error:
        trouble = f"{parent} cannot be written ({error.strerror or error})"
    try:
        _temporary = tempfile.TemporaryDirectory(prefix="nas-kernels-", ignore_cleanup_errors=True)
        copied = folder.is_absolute() and _copied(folder, Path(_temporary.name))
        _use(_filled(Path(_temporary.name)))
        if copied:
            os.environ[INHERITED] = _temporary.name
            return
        os.environ[INHERITED] = _temporary.name
        place = f"lie in {_temporary.name} until this process ends"
    except OSError as error:
        os.environ[INHERITED] = ""
        place = f"are compiled by each process for itself ({error.strerror or error})"
    print(f"nas: {trouble}: the kernels {place}; NUMBA_CACHE_DIR names a folder to store them in", file=sys.stderr)


def _filled(folder: Path) -> Path:
    """Have every entry point compiled into the folder, where that is not done. Raises `OSError` if it cannot be."""
    if not folder.is_absolute():  # a user without a home: "~/.cache" would be a folder "~" here
        raise OSError("there is no home folder")
    folder.mkdir(parents=True, exist_ok=True)
    _hold(folder)
    done = folder / _stamp()
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(0 if done.exists() else ROOM))  # a full disk, found out before half a minute of compiling
    if not done.exists():
        _compile(folder)
        _prune(folder)
    with suppress(OSError):
        done.touch()  # used, whether it was filled now or before
    return folder


def _compile(folder: Path) -> None:
    """Compile every entry point into the folder, in a process for each part at once. Raises `OSError` if it is full."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), INHERITED: str(folder)}
    with ExitStack() as stack:
        processes = []
        for part in PARTS:
            call = [sys.executable, "-c", f"from nas.kernels import warm_up; warm_up.main({part!r})"]
            # Into files: a pipe that nobody reads yet would hold up the process that writes to it.
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = stack.enter_context(
                subprocess.Popen(
                    call, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
                )
            )
            stack.callback(process.kill)  # before it is waited for, where this function is left by an exception
            processes.append((process, errors))
        for process, errors in processes:
            code = process.wait()
            errors.seek(0)
            if code == CANNOT_WRITE:
                raise OSError(errors.read().strip())
            if code < 0:
                raise NasError(f"compiling the kernels ended by signal {-code} (out of memory?)")
            if code:
                raise RuntimeError(f"compiling the kernels failed:\n{errors.read()}")


def _copied(folder: Path, target: Path) -> bool:
    """Copy a filled folder, which numba does not read where it cannot write; return whether there was one."""
    if not (folder / _stamp()).exists():
        return False
    shutil.copytree(folder, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        if path.is_dir():  # with the mode of the original
            path.chmod(0o700)
    return True


def _hold(folder: Path) -> None:
    """Mark a folder as in use until this process ends, however it does."""
    global _held
    with suppress(OSError, NameError):
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if _held is not None:
            os.close(_held)
        _held = descriptor


def _prune(current: Path) -> None:
    """Delete folders of other versions beside the current one that nobody uses, but for the latest used."""
    others = [path for path in current.parent.glob("kernels-*") if path.is_dir() and path != current]
    for path in sorted(others, key=_last_use, reverse=True)[MAX_OLD_FOLDERS:]:
        if time.time() - _last_use(path) > MIN_UNUSED_SECONDS and not _is_held(path):
            shutil.rmtree(path, ignore_errors=True)


def _last_use(folder: Path) -> float:
    """Return when a folder was last found or filled, in seconds since 1970."""
    return max((path.stat().st_mtime for path in (folder, *folder.glob("complete-*"))), default=0.0)


def _is_held(folder: Path) -> bool:
    """Tell whether a process has marked the folder as in use."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    except NameError:
        return False
    finally:
        os.close(descriptor)
    return False


def _stamp() -> str:
    """Return the name of the file that says that everything is compiled, for all else that machine code depends on.

    Times of the sources are in it, by which older versions of numba find out that they have changed.
    """
    times = [path.stat().st_mtime_ns for path in sorted(PACKAGE.glob("*.py"))]
    parts = (str(PACKAGE), times, numba.__version__, sys.version, llvm.get_host_cpu_name(), sorted(FEATURES))
    return f"complete-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _use(folder: Path) -> None:
    """Have the entry points load from the folder. Raises `OSError` where it cannot be written.

    numba would then look for one elsewhere, without the digest in its name.
    """
    tempfile.TemporaryFile(dir=folder).close()
    _hold(folder)
    with _cache_dir(folder):
        for dispatcher in ENTRIES:
            dispatcher.enable_caching()


@contextmanager
def _cache_dir(folder: Path) -> Iterator[None]:
    """Set numba's cache folder, which it reads when caching is enabled, and put the caller's back."""
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        _config.CACHE_DIR = before
