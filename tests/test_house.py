"""The house: which module may import which, and what a quick command must not wait for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nas

PACKAGE = Path(nas.__file__).parent
LAYERS = {
    "errors": 0, "budget": 0, "architecture": 0,
    "space": 1, "model": 1, "kernels": 1, "graph": 1, "soap": 1, "surrogate": 1, "data": 1,
    "train": 2,
    "study": 3, "sampler": 3, "search": 3, "export": 3, "workers": 3, "teacher": 3, "run": 3, "compare": 3, "tune": 3,
    "report": 4,
    "cli": 5,
}  # fmt: skip
SAME_LAYER = {
    "soap": {"graph"},
    "teacher": {"study", "export", "workers"},
    "search": {"study", "sampler", "export", "workers", "teacher"},
    "run": {"study", "export", "workers", "teacher"},
    "compare": {"export", "run"},
    "tune": {"study", "export", "workers", "search", "run"},
}
"""Beside the earlier rows, a module of layer 0 may use `errors`, and these may use their neighbours."""


def imports(module: str) -> set[str]:
    """Every module that a module imports, inside functions and for the type checker too, by its dotted name."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {f"nas.{alias.name}" for alias in node.names} if node.module == "nas" else {node.module or ""}
    return found


def siblings(module: str) -> set[str]:
    return {name.split(".")[1] for name in imports(module) if name.startswith("nas.")} - {"__version__"}


def test_the_package_is_flat_and_every_module_has_its_row():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == set(LAYERS)
    assert [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE] == []


@pytest.mark.parametrize("module", LAYERS)
def test_imports_only_point_up(module):
    allowed = {other for other in LAYERS if LAYERS[other] < LAYERS[module]}
    assert siblings(module) - allowed - SAME_LAYER.get(module, set()) - {"errors"} == set()


def test_space_and_model_do_not_know_each_other():
    assert "model" not in siblings("space")
    assert "space" not in siblings("model")


@pytest.mark.parametrize("module", [name for name, layer in LAYERS.items() if layer == 0])
def test_the_first_row_needs_only_the_standard_library(module):
    roots = {name.split(".")[0] for name in imports(module)} - {"nas"}
    assert roots <= sys.stdlib_module_names


@pytest.mark.parametrize("module", [name for name, layer in LAYERS.items() if layer < 3])
def test_what_trains_knows_nothing_of_the_search(module):
    """`space` has optuna's distributions, and no more of it."""
    others = {name for name in imports(module) if name.split(".")[0] in ("optuna", "pandas", "typer", "rich")}
    assert others <= ({"optuna.distributions"} if module == "space" else set())


def test_the_command_line_does_not_wait_for_what_it_may_not_need():
    heavy = ["torch", "torchvision", "optuna", "pandas", "numba", "numpy", "onnx", "sqlalchemy"]
    code = f"import sys, nas.cli; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    assert callable(nas.load_study)
    with pytest.raises(AttributeError, match="no_such_name"):
        nas.no_such_name  # noqa: B018
