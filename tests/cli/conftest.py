"""A folder of studies for each test, and copies of a finished search and of a record."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toys


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("NAS_STORAGE", raising=False)
        yield quick / "studies"


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A copy of the finished tiny search's studies folder."""
    return Path(shutil.copytree(toys.finished(tmp_path_factory)[0], folder))


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of studies with one record, 700: two seeds of two epochs on the synthetic set."""
    studies = tmp_path_factory.mktemp("recorded") / "studies"
    arguments = ["train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--epochs", "2"]
    code, _, err = toys.nas(*arguments, "--seeds", "2", *toys.ONE_WORKER, NAS_STUDIES=str(studies))
    assert code == 0, err
    record = studies / "records" / "700"
    record.parent.mkdir()
    next(path.parent for path in (studies / "by-hand").glob("full-run-*/result.json")).rename(record)
    (studies / "by-hand" / "test-openings.jsonl").rename(record / "test-openings.jsonl")
    (studies / "by-hand").rename(studies.parent / "stored")  # the seeds, which a clone has not
    return studies


@pytest.fixture
def record(recorded: Path, folder: Path) -> Path:
    """The record's folder in a copy."""
    shutil.copytree(recorded, folder, dirs_exist_ok=True)
    return folder / "records" / "700"


@pytest.fixture
def reproduced(recorded: Path, record: Path, folder: Path) -> Path:
    """The record, whose reproduction has its seeds stored: nothing is trained again."""
    shutil.copytree(recorded.parent / "stored", folder / "reproduction-700")
    return record
