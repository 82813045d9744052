"""A fresh home is as empty after every command as before, but for the cache of the kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import toys
from PIL import Image

SCRIPT = """
import shlex, sys
from nas.cli import main
for line in sys.stdin.read().splitlines():
    try:
        main(shlex.split(line))
    except SystemExit as left:
        assert not left.code, line
"""


TINY = [
    "search", "--dataset", "synthetic", "--max-params", "500", "--trials", "1", "--finalists", "1", "--finalist-seeds",
    "1", "--brief-epochs", "1", "--finalist-epochs", "1", "--teacher", "none", "--no-report", "--study", "t",
]  # fmt: skip


@pytest.mark.slow
def test_nothing_is_written_outside_studies_and_cache(folder, tmp_path):
    home, work, out = (tmp_path / name for name in ("home", "work", "out"))
    for place in (home, work, out):
        place.mkdir()
    Image.new("L", (16, 16)).save(out / "image.png")
    commands = [
        " ".join([*TINY, *toys.ONE_WORKER]),
        "train-best --study t --epochs 1 --workers 1 --backend torch --teacher none",
        f"export t -o {out}/made --to onnx,int8", "report t", f"plot parameters --study t -o {out}/plot.svg",
        f"predict {out}/image.png --network t", "show --study t",
    ]  # fmt: skip
    own = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "NUMBA_", "ORT_"))}
    ran = subprocess.run(
        [sys.executable, "-c", "if __name__ == '__main__':" + SCRIPT.replace("\n", "\n    ")], cwd=work, check=False,
        input="\n".join(commands), text=True, capture_output=True,
        env={**own, "HOME": str(home), "NAS_STUDIES": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    stray = [path.relative_to(tmp_path) for place in (home, work) for path in place.rglob("*")]
    assert [path for path in stray if path.parts[:3] not in {("home", ".cache"), ("home", ".cache", "nas")}] == []
