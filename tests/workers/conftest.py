"""What the tests of pools share."""

from __future__ import annotations

from typing import Any

import pytest

from nas.workers import Pool


@pytest.fixture(scope="module")
def pool(make: Any) -> Pool:
    """One of the module's pools, with one worker, that its tests share and leave without a job."""
    return make(1)
