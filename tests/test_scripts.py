"""Scripts that call the library: a process that it starts does not run the script again."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

SEARCH = """
import nas

print("begun", flush=True)
machine = nas.Machine(workers=2, backend="torch", quiet=True)
result = nas.search(
    500, dataset="synthetic", study="s", trials=2, brief_epochs=1, finalists=1, finalist_seeds=1, finalist_epochs=1,
    machine=machine,
)
print(len(nas.load_study("s")), __file__, __spec__)
"""
READ = """
from pathlib import Path

from nas.data.pictures import Readers

print("begun", flush=True)
with Readers(2, None) as readers:
    found = readers.headers([Path("a.png")] * 200)
print(len(found), {header.width for header in found})
"""


@pytest.mark.parametrize("how", ["script.py", "-m script"])
def test_a_search_of_a_script_without_a_guard(tmp_path, monkeypatch, how):
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "studies"))
    (tmp_path / "script.py").write_text(SEARCH)
    done = subprocess.run(
        [sys.executable, *how.split()], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    first, *_, last = done.stdout.splitlines()
    assert (done.returncode, first, done.stdout.count("begun")) == (0, "begun", 1), done.stderr
    assert last.startswith("2 ")
    assert "script" in last


def test_images_that_a_script_without_a_guard_reads(tmp_path):
    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    (tmp_path / "script.py").write_text(READ)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "begun\n200 {7}\n"), done.stderr
