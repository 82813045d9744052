"""Every test has a studies folder of its own; those that want one, a PostgreSQL server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import postgres_server
import pytest


@pytest.fixture(autouse=True)
def folder(studies_folder: Path) -> Path:
    return studies_folder


@pytest.fixture(scope="package")
def postgres() -> Iterator[postgres_server.Postgres]:
    pytest.importorskip("psycopg", reason=postgres_server.HOW_TO_GET_IT)
    if postgres_server.programs() is None:
        pytest.skip(postgres_server.HOW_TO_GET_IT)
    folder = Path(tempfile.mkdtemp(prefix="nas-postgres-", dir="/tmp"))
    folder.chmod(0o755)
    with postgres_server.server(folder / "server") as server:
        yield server
    shutil.rmtree(folder)
