"""Files from results, each read back and checked before it takes its place.

Reading a folder runs no code: `model.py` is for people. torch, onnx and onnxruntime, which take seconds to import, are
imported by the functions that need them; the exporters to other machines come with torch, when they are first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.export.folder import WEIGHTS
from nas.export.load import is_export, load_network
from nas.export.onnx import check_onnx, export_onnx
from nas.export.onnx_network import OnnxNetwork, load_onnx
from nas.export.provenance import Provenance
from nas.export.run import (
    ClassScores,
    ExportedRun,
    RunResult,
    find_run,
    load_trained,
    read_result,
    read_run,
    read_seeds,
    write_csv_log,
    write_run,
)
from nas.export.source import source
from nas.export.target_names import TARGETS, parse_targets
from nas.export.weights import check_weights, read_network, read_weights, write_network, write_weights
from nas.export.winner import Winner, check_winner, read_winner, write_winner

if TYPE_CHECKING:
    from nas.export.c import CReport, compiled_size, write_c
    from nas.export.fold import fold
    from nas.export.int8 import compare_int8, write_int8
    from nas.export.targets import (
        ExportedTarget,
        ExportOptions,
        ExportSource,
        export_targets,
        require_targets,
    )

__all__ = [
    "TARGETS",
    "WEIGHTS",
    "CReport",
    "ClassScores",
    "ExportOptions",
    "ExportSource",
    "ExportedRun",
    "ExportedTarget",
    "OnnxNetwork",
    "Provenance",
    "RunResult",
    "Winner",
    "check_onnx",
    "check_weights",
    "check_winner",
    "compare_int8",
    "compiled_size",
    "export_onnx",
    "export_targets",
    "find_run",
    "fold",
    "is_export",
    "load_network",
    "load_onnx",
    "load_trained",
    "parse_targets",
    "read_network",
    "read_result",
    "read_run",
    "read_seeds",
    "read_weights",
    "read_winner",
    "require_targets",
    "source",
    "write_c",
    "write_csv_log",
    "write_int8",
    "write_network",
    "write_run",
    "write_weights",
    "write_winner",
]

_LATE = {
    "CReport": "c", "ExportOptions": "targets",
    "ExportSource": "targets", "ExportedTarget": "targets",
    "compare_int8": "int8", "compiled_size": "c", "export_targets": "targets", "fold": "fold",
    "require_targets": "targets", "write_c": "c", "write_int8": "int8",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"nas.export.{_LATE[name]}"), name)
    raise AttributeError(f"module 'nas.export' has no attribute '{name}'")
