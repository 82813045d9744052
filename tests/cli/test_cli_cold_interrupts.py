"""Ctrl-C before a search has begun: while modules are imported, and while images are read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import toys

ENTRY = """
import signal, sys
sys.path.insert(0, sys.argv.pop())
from nas.cli import take_interrupts
take_interrupts()
sys.argv = ["nas", "search", "--trials", "3"]
"""
MODULE = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    raise ImportError("initialization of a module failed") from None
"""


def test_ctrl_c_inside_an_import_is_no_import_error(tmp_path):
    """A module in C makes one of it, and a library that can do without the module swallows that."""
    (tmp_path / "sends.py").write_text(MODULE)
    script = ENTRY + "try:\n    import sends\nexcept ImportError:\n    print('swallowed')"
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    line = "interrupted; nothing finished is lost. To resume: nas search --trials 3\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", line)


def test_ctrl_c_elsewhere_is_raised_so_that_what_is_under_way_is_cleared_up():
    script = ENTRY + "import os\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nfinally:\n    print('cleared up')"
    ran = subprocess.run([sys.executable, "-c", script, "x"], capture_output=True, text=True, check=False)
    assert "cleared up" in ran.stdout
    assert ran.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_ctrl_c_that_python_swallows_comes_again():
    """SQLAlchemy has callbacks of weakrefs, in which an exception is lost."""
    script = ENTRY + (
        "import os, time, weakref\nclass Thing: pass\nthing = Thing()\n"
        "reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))\n"
        "del thing\nprint('swallowed', flush=True)\ntime.sleep(20)\nprint('never')"
    )
    ran = subprocess.run([sys.executable, "-c", script, "x"], capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout == "swallowed\n"
    assert ran.stderr.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.slow
def test_ctrl_c_at_any_time_of_the_start_ends_a_real_command(folder):
    for tenths in range(2, 40, 3):
        process = toys.spawn(*toys.TINY_SEARCH, "--study", f"cold-{tenths}", studies_dir=folder)
        try:
            process.wait(tenths / 10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode in (130, -signal.SIGINT), errors
        assert "Traceback" not in errors
        assert process.returncode != 130 or "To resume: nas search" in errors
