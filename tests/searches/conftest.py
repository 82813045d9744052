"""Every test has a studies folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(studies_folder: Path) -> Path:
    return studies_folder
