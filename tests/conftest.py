"""What the tests share: how hard hypothesis tries, and where the real MNIST is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: the first example of a test pays for imports. In CI the examples are the same on every run.
settings.register_profile("nas", deadline=None, max_examples=50, derandomize="CI" in os.environ)
settings.load_profile("nas")

MNIST_FILES = [f"{split}-{part}-ubyte" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")]


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that holds MNIST/raw."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "datasets"
    root = Path(os.environ.get("NAS_DATA_DIR") or shared)
    missing = [name for name in MNIST_FILES if not (root / "MNIST" / "raw" / name).is_file()]
    if missing:
        pytest.skip(f"no MNIST/raw/{missing[0]} in {root}: set NAS_DATA_DIR to a folder that holds MNIST/raw")
    return root


@pytest.fixture
def studies_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A studies folder of the test's own, in memory; it is not there yet."""
    import toys

    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        yield quick / "studies"


@pytest.fixture(scope="session")
def dead_owner() -> str:
    """The owner of a trial whose process has ended."""
    import killing

    return killing.dead_owner()
