"""The folder of the machine code: named by the sources, found by every process, and never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernel_reference import needs_kernels

from nas import kernels
from nas.errors import NasError
from nas.kernels import cache, warm_up

TESTS = Path(__file__).parents[1]
SOURCES = sorted(path.name for path in cache.PACKAGE.glob("*.py"))
NOWHERE = "/dev/null/none"  # not even root makes a folder there
GATHER = (
    "import torch; from nas import kernels\n"
    "print(kernels.gather(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), 0.0, 1.0).shape)\n"
)
TRAIN = (
    "import hashlib, torch, toys; from nas.train import Recipe, train; from nas.architecture import Architecture\n"
    "torch.set_num_threads(1); data = toys.part(toys.synthetic(), 640)\n"
    "network = Architecture.parse('6 M s8b 8k1r M C G', input_shape=(1, 16, 16), num_classes=4)\n"
    "run = train(network, data, data.validation, Recipe(epochs=4, batch_size=32), backend='kernels')\n"
    "print(hashlib.sha256(b''.join(v.numpy().tobytes() for v in run.state_dict.values())).hexdigest())\n"
)


def python(code, *, command=(), **environment):
    """Run code in a fresh process; a variable that is None is not set there."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    changed = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", cache.INHERITED: None, **environment}
    changed = {name: value for name, value in changed.items() if value is not None}
    call = [*command, sys.executable, "-c", code]
    ran = subprocess.run(call, env=changed, text=True, capture_output=True, cwd="/", timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran


def as_nobody():
    """A command and variables that run Python as a user without a name, a home or a folder to write; None if none do.

    Where root's own Python is for root alone, that user may read everything, and still write nothing.
    """
    starts = "import subprocess, sys, torch, nas; subprocess.run([sys.executable, '-c', 'import torch'], check=True)"
    drop = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    for command in (drop, [*drop, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]):
        try:
            run = subprocess.run([*command, sys.executable, "-c", starts], cwd=TESTS.parent, check=False,
                                 capture_output=True, env={**os.environ, "PYTHONPATH": str(TESTS.parent)})  # fmt: skip
        except OSError:
            return None
        if run.returncode == 0:
            return command, {"HOME": "/", "NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None, "TMPDIR": None}
    return None


def test_an_edit_of_any_file_of_the_package_is_another_folder(tmp_path):
    copied = Path(shutil.copytree(cache.PACKAGE, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__")))
    before = cache.folder_name(copied)
    assert before == cache.folder_name()
    assert before.startswith("kernels-")
    for name in SOURCES:
        path = copied / name
        content = path.read_bytes()
        path.write_bytes(content.replace(b"0", b"1", 1) if b"0" in content else content + b"\n")
        assert cache.folder_name(copied) != before, name
        path.write_bytes(content)
    assert cache.folder_name(copied) == before
    (copied / "another.py").touch()
    assert cache.folder_name(copied) != before


def test_every_compiled_function_lies_in_a_file_of_the_package():
    """What the digest covers is all that the machine code is made of."""
    assert {Path(each.py_func.__code__.co_filename).parent for each in kernels.jit.ENTRIES} <= {cache.PACKAGE}
    assert {"step.py", "images.py"} <= set(SOURCES)


@needs_kernels
def test_numba_stores_in_that_folder_and_the_callers_numba_is_as_it_was(tmp_path):
    """With the kernels of the session copied there: nothing is compiled."""
    code = (
        "import numba; from nas import kernels; from nas.kernels import cache, jit\n"
        f"cache.subprocess = None\n{GATHER}"
        "assert numba.config.CACHE_DIR == __import__('os').environ['NUMBA_CACHE_DIR']\n"
        "folders = {each.stats.cache_path for each in jit.ENTRIES}\n"
        "assert [sum(each.stats.cache_misses.values()) for each in jit.ENTRIES] == [0] * len(jit.ENTRIES)\n"
        "print(*folders)"
    )
    (used,) = {Path(each.stats.cache_path) for each in kernels.jit.ENTRIES}
    shutil.copytree(used.parent, tmp_path / cache.folder_name())
    ran = python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert ran.stdout.split("\n")[-2] == str(tmp_path / cache.folder_name() / used.name)
    assert ran.stderr == ""


@needs_kernels
def test_a_process_that_can_write_nowhere_trains_the_same_bits_and_says_so_once():
    """It compiles into a temporary folder, which the processes that it starts find and which goes with it."""
    command, variables = as_nobody() or ((), {"NUMBA_CACHE_DIR": NOWHERE})
    code = (
        f"{TRAIN}import os, subprocess, sys\n"
        "print(os.environ['NAS_KERNELS_DIR'], os.path.isdir(os.environ['NAS_KERNELS_DIR']))\n"
        f"child = subprocess.run([sys.executable, '-c', {GATHER!r}], capture_output=True, text=True, check=True)\n"
        "assert child.stderr == '', child.stderr\n"
    )
    nobody, usual = python(code, command=command, **variables), python(TRAIN)
    digest, place = nobody.stdout.splitlines()
    folder, there = place.split()
    assert digest == usual.stdout.strip()
    assert len(digest) == 64
    assert usual.stderr == ""
    assert len(nobody.stderr.splitlines()) == 1, nobody.stderr
    assert nobody.stderr.startswith("nas: ")
    assert "cannot be written" in nobody.stderr
    assert folder in nobody.stderr
    assert there == "True"
    assert not Path(folder).exists()


@needs_kernels
def test_without_a_temporary_folder_each_process_compiles_for_itself():
    code = f"import os, tempfile; tempfile.tempdir = {NOWHERE!r}\n{GATHER}print(repr(os.environ['NAS_KERNELS_DIR']))"
    ran = python(code, NUMBA_CACHE_DIR=NOWHERE)
    assert ran.stdout.split("\n")[:2] == ["torch.Size([1, 2, 2, 1])", "''"]
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert "compiled by each process for itself" in ran.stderr
    inherited = python(GATHER, NUMBA_CACHE_DIR=NOWHERE, NAS_KERNELS_DIR="")
    assert inherited.stderr == ""


def test_importing_looks_for_no_folder():
    """Plain torch, and what needs no kernels at all, work where none can be written."""
    code = "import tempfile; tempfile.tempdir = '/dev/null/none'; import nas.kernels, nas.train; nas.kernels.unsuited()"
    assert python(code, NUMBA_CACHE_DIR=NOWHERE, HOME="/dev/null").stderr == ""


def test_without_numba_the_reason_is_given():
    code = (
        "import sys; sys.modules['numba'] = None; import nas.kernels as k; reason = k.unsuited(); "
        "assert reason and 'numba' in reason, reason"
    )
    python(code)


def test_the_blocks_are_as_wide_as_the_features_that_numba_is_told():
    """Or a processor without AVX-512 could not be tried on one that has it."""
    code = "from nas.kernels.blocks import LANES, WIDE; print(LANES, WIDE)"
    assert python(code, NUMBA_CPU_FEATURES="+avx2,+fma,-avx512f").stdout == "8 False\n"
    assert python(code, NUMBA_CPU_FEATURES="+avx2,+fma,+avx512f").stdout == "16 True\n"


def test_a_full_disk_is_found_out_before_compiling(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left"):
        cache._filled(tmp_path / "kernels")


@pytest.mark.parametrize(("part", "name"), list(zip(cache.PARTS, ("Network", "SoapStep"), strict=True)))
def test_a_folder_that_takes_no_more_is_told_from_a_bug(monkeypatch, capsys, part, name):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(warm_up, name, full)
    with pytest.raises(SystemExit) as left:
        warm_up.main(part)
    assert left.value.code == cache.CANNOT_WRITE
    assert capsys.readouterr().err == "No space left on device\n"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (f"print('full', file=sys.stderr); sys.exit({cache.CANNOT_WRITE})", (OSError, "full")),
        ("os.kill(os.getpid(), 9)", (NasError, "ended by signal 9")),
        ("print('x' * 200_000, file=sys.stderr); raise SystemExit(1)", (RuntimeError, "failed:\nxxx")),
    ],
)
def test_a_part_that_fails_ends_the_others(tmp_path, monkeypatch, code, error):
    """The other part would take a minute; it is killed, and waited for."""
    started, popen = [], subprocess.Popen

    def start(call, **options):
        broken = call[-1].endswith("('others')")
        body = f"import os, sys; {code}" if broken else "import time; time.sleep(60)"
        started.append(popen([sys.executable, "-c", body], **options))
        return started[-1]

    monkeypatch.setattr(cache, "PARTS", ("others", "networks"))
    monkeypatch.setattr(cache.subprocess, "Popen", start)
    began = time.monotonic()
    with pytest.raises(error[0], match=error[1]):
        cache._compile(tmp_path)
    assert time.monotonic() - began < 30
    assert [process.poll() is not None for process in started] == [True, True]


# --- old folders, and those that cannot be written --------------------------------------------------------------------


def aged(parent, name, days):
    folder = parent / name
    folder.mkdir()
    (folder / "complete-x").touch()
    for path in (folder / "complete-x", folder):
        os.utime(path, (time.time() - days * 86_400,) * 2)
    return folder


def test_old_folders_are_deleted_but_the_latest_used_and_those_in_use(tmp_path):
    folders = {days: aged(tmp_path, f"kernels-{days}", days) for days in (0.5, 2, 3, 4, 5, 6, 7)}
    other = aged(tmp_path, "something", 99)
    hold = f"from pathlib import Path; from nas.kernels import cache; cache._hold(Path({str(folders[6])!r}))"
    code = f"{hold}; print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    current = aged(tmp_path, "kernels-now", 0)
    cache._prune(current)
    assert set(tmp_path.iterdir()) == {current, other, *(folders[days] for days in (0.5, 2, 3, 6))}
    child.kill()  # a process that is killed holds nothing
    child.communicate()
    cache._prune(current)
    assert not folders[6].exists()


def test_a_folder_used_today_is_never_deleted(tmp_path):
    folders = [aged(tmp_path, f"kernels-{number}", 0.9) for number in range(6)]
    cache._prune(aged(tmp_path, "kernels-now", 0))
    assert all(folder.exists() for folder in folders)


@needs_kernels
def test_a_filled_folder_that_cannot_be_written_is_used_without_compiling(tmp_path):
    """As in an image that was built with the cache filled, and runs read-only."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("a read-only mount needs root and unshare (util-linux)")
    folder = tmp_path / "cache"
    filled = python(GATHER, NUMBA_CACHE_DIR=str(folder))
    mount = f'mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && exec "$@"'
    watched = GATHER.replace("import torch;", "import subprocess, torch; subprocess.Popen = None;")
    ran = python(watched, command=["unshare", "-m", "bash", "-c", mount, "bash"], NUMBA_CACHE_DIR=str(folder))
    assert (ran.stdout, ran.stderr) == (filled.stdout, "")
