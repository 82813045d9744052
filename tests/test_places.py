"""Places to write to: those that cannot be are refused before any work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas import files
from nas.errors import StorageError

CHECK = """
import sys
from pathlib import Path
from nas import files
files.require_place(Path(sys.argv[1]), folder=True)
"""


@pytest.mark.parametrize("place", ["/", "link", "file"])
def test_a_place_that_no_folder_can_take_is_refused_in_one_line(tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(tmp_path / "nowhere")
    Path("file").touch()
    with pytest.raises(StorageError, match=f"^cannot write {place}: .*; name another path$"):
        files.require_place(Path(place), folder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    with pytest.raises(StorageError, match="Is a directory"):
        files.write_atomic(Path("/"), "")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="as root it takes setpriv (util-linux)")
def test_a_folder_that_may_not_be_written_is_no_place(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o555)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-c", CHECK, str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"cannot write {tmp_path / 'out'}: Permission denied; name a folder that you may write to" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_old_folder_that_stays_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "best").mkdir()
    monkeypatch.setattr(files.shutil, "rmtree", lambda *args, **options: None)
    with files.replace_folder(tmp_path / "best") as new:
        (new / "file").touch()
    assert (tmp_path / "best" / "file").exists()
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / '.best.old'}, what {tmp_path / 'best'} was before")
