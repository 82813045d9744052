"""Every test of reports that makes a study has a studies folder of its own; those that only read one share it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import reports
import toys

from nas.report.findings import Findings, read_findings


@pytest.fixture
def folder(studies_folder: Path) -> Path:
    return studies_folder


@pytest.fixture(scope="session")
def finished() -> Iterator[Findings]:
    """A toy search of 20 trials to its end, with a full run of three seeds."""
    before = os.environ.get("NAS_STUDIES")
    with toys.quick_folder() as quick:
        os.environ["NAS_STUDIES"] = str(quick / "studies")
        try:
            reports.add_run(reports.searched(trials=20), seeds=(0, 1, 2))
            found = read_findings("toy")
        finally:
            del os.environ["NAS_STUDIES"]
            if before is not None:
                os.environ["NAS_STUDIES"] = before
        yield found
