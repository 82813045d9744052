"""Folders that exports wrote, to be copied before they are touched; and one thread for networks this small."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import exports
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def winner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A winner's folder."""
    folder = tmp_path_factory.mktemp("study") / "best"
    exports.write_winner(folder)
    return folder


@pytest.fixture
def best(winner: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(winner, tmp_path / "best"))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full run's folder."""
    folder = tmp_path_factory.mktemp("study") / "full"
    exports.write_run(folder)
    return folder


@pytest.fixture
def study(run: Path, tmp_path: Path) -> Path:
    """A study's folder with a copy of it, `full-run-a`."""
    return Path(shutil.copytree(run, tmp_path / "study" / "full-run-a")).parent
