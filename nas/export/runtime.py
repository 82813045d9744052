"""onnxruntime, as a quiet guest."""

from __future__ import annotations

import os
from typing import Any

_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> Any:
    """Return onnxruntime, imported so that it writes no telemetry into the home; the environment stays as it was."""
    before = os.environ.get(_TELEMETRY)
    os.environ.setdefault(_TELEMETRY, "1")
    try:
        import onnxruntime
    finally:
        if before is None:
            del os.environ[_TELEMETRY]
    return onnxruntime
