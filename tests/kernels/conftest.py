"""The kernels, compiled outside any test's own time."""

from __future__ import annotations

import pytest

from nas import kernels


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    if kernels.unsuited() is None:
        kernels.compile_all()
