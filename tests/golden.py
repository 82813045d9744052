"""The golden digest: what a tiny search and a short full run come to, in bits, on this kind of machine.

`python tests/golden.py` prints it; `--record` adds it to golden.json. A change of the code that is to leave results
alone leaves every line of it alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("golden.json")
CAP, TEACHER, START = "700", "4 M 8 G C", "5k5r 6vr M s8 s8+ 8+ 6k1/2 G Cb"
SEARCH = [
    "search", "--dataset", "synthetic", "--max-params", CAP, "--trials", "20", "--brief-epochs", "1",
    "--finalists", "2", "--finalist-seeds", "2", "--finalist-epochs", "1", "--workers", "1", "--seed", "0",
    "--teacher", TEACHER, "-q",
]  # fmt: skip
FULL = ["train-best", "--epochs", "2", "--seeds", "1", "--workers", "1", "-q"]


def machine() -> str:
    """What the bits depend on besides the code."""
    import llvmlite.binding
    import torch

    parts = (llvmlite.binding.get_host_cpu_name(), torch.backends.cpu.get_cpu_capability())
    return " ".join((*parts, *(f"{name} {version(name)}" for name in ("torch", "numba", "optuna", "numpy"))))


def digest() -> dict[str, Any]:
    """The search's schedules and scores by the kernels, and the weights of both backends' full runs."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("NAS_STUDIES")
        os.environ["NAS_STUDIES"] = folder
        try:
            return _digest(Path(folder))
        finally:
            if before is None:
                del os.environ["NAS_STUDIES"]
            else:
                os.environ["NAS_STUDIES"] = before


def _digest(studies: Path) -> dict[str, Any]:
    _nas(*SEARCH, "--study", "golden", "--backend", "kernels")
    trials = json.loads(_nas("show", "--study", "golden", "--json"))
    rows = [[t["number"], t["state"], t["schedule"], t["value"], t["loss"]] for t in trials]
    best = studies / "golden" / "best"
    found: dict[str, Any] = {
        "schedules": _sha(json.dumps([row[2] for row in rows])),
        "scores": _sha(json.dumps(rows)),
        "winner": (best / "architecture.txt").read_text().strip(),
        "winner_weights": _weights(best / "weights.safetensors"),
    }
    for backend in ("kernels", "torch"):
        _nas(*FULL, "--study", "golden", "--backend", backend)
        (result,) = (studies / "golden").glob("full-run-*/result.json")
        found[f"full_run_{backend}"] = json.loads(result.read_text())["final"]["0"]
        found[f"full_run_{backend}_weights"] = _weights(result.parent / "weights.safetensors")
        for path in sorted((studies / "golden").glob("full-run-*"), reverse=True):
            _remove(path)
        _remove(studies / "teachers")
    _nas("train-best", "--architecture", START, "--dataset", "synthetic", *FULL[1:], "--study", "alone")
    (result,) = (studies / "alone").glob("full-run-*/result.json")
    found["alone_weights"] = _weights(result.parent / "weights.safetensors")
    return found


def _nas(*arguments: str) -> str:
    from nas import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(arguments))
        except SystemExit as left:
            if left.code:
                raise AssertionError(f"nas {' '.join(arguments)} left with {left.code}: {err.getvalue()}") from None
    return out.getvalue()


def _weights(path: Path) -> str:
    """Of names and bits: the file's own metadata may change."""
    from safetensors.torch import load_file

    state = load_file(path)
    return _sha(b"".join(name.encode() + state[name].numpy().tobytes() for name in sorted(state)))


def _sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    found = digest()
    print(machine())
    print(json.dumps(found, indent=1))
    if "--record" in sys.argv:
        known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
        RECORD.write_text(json.dumps(known | {machine(): found}, indent=1) + "\n")
    elif RECORD.is_file() and (kept := json.loads(RECORD.read_text()).get(machine())):
        changed = [key for key in found if found[key] != kept.get(key)]
        print("as recorded" if not changed else f"CHANGED: {', '.join(changed)}")
        sys.exit(bool(changed))
