"""The house: the order of the rooms is the law of imports; and what every file, function and word must be like."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import nas

PACKAGE = Path(nas.__file__).parent
REPOSITORY = Path(__file__).parent.parent

FLOORS = (
    ("errors", "values", "space_options", "budget", "architecture", "footprint", "designs", "files", "machine"),
    ("data", "space", "model", "kernels"),
    ("train", "export"),
    ("workers", "teachers", "study"),
    ("searches", "final"),
    ("report", "library"),
    ("cli",),
)
"""A room is a module or a package. It may import from the rooms before it alone, also on its own floor."""

ROOMS = tuple(room for floor in FLOORS for room in floor)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
STRANGERS = {frozenset(("space", "model"))}
"""Rooms that do not know each other, whatever their order."""


RETIRED = {
    "lesson", "lessons", "taught", "teach", "teaches", "hear", "hears", "heard", "asked", "settle", "settled",
    "settles", "blind", "unseen", "twin", "twins", "outranked", "foretell", "foretells", "foretold", "said", "kept",
    "judge", "judged", "judges",
}  # fmt: skip
PRIVATE_NAMES_OF_OPTUNA = ("._storage", "._trial_id", "._study_id", "system_attrs", "._suggest")
NO_BEGINNING = ("What", "Whether", "Of", "Where", "From", "Who")


# --- reading the sources ----------------------------------------------------------------------------------------------


def files(room: str) -> list[Path]:
    module = PACKAGE / f"{room}.py"
    return [module] if module.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def suite() -> list[Path]:
    return sorted((REPOSITORY / "tests").rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every (module, name) that a file imports, inside functions and for the type checker too; of a module alone ""."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from ((node.module or "", alias.name) for alias in node.names)


def modules(room: str) -> set[str]:
    """The modules that a room imports besides the package, by dotted name."""
    found = {(module, name) for path in files(room) for module, name in imports(path) if module.split(".")[0] != "nas"}
    return {f"{module}.{name}" if module == "optuna" and name else module for module, name in found}


def broken(path: Path, room: str) -> list[str]:
    """The imports of a file of a room that break the law of the rooms."""
    found = []
    for module, name in imports(path):
        if module.split(".")[0] != "nas":
            continue
        parts = module.split(".")[1:]
        inside = bool(parts) and parts[0] == room
        if not parts or not name:
            found.append(f"{path.name}: write 'from nas.ROOM import Name', not {module} {name}")
        elif inside and len(parts) == 1:
            found.append(f"{path.name}: inside a room import from the file, not from the door ({name})")
        elif not inside and parts[0] not in ROOMS[: ROOMS.index(room)]:
            found.append(f"{path.name}: {room} comes before {parts[0]} ({name})")
        elif not inside and len(parts) > 1:
            found.append(f"{path.name}: {module} is private: import {name} from nas.{parts[0]}")
        elif not inside and name not in public(parts[0]):
            found.append(f"{path.name}: {name} is private to nas.{parts[0]}")
    return found


@cache
def public(room: str) -> set[str]:
    """The names at a room's door: its `__all__`, or what a lone module defines without an underscore."""
    lone = (PACKAGE / f"{room}.py").is_file()
    names: set[str] = set()
    for node in tree(PACKAGE / f"{room}.py" if lone else PACKAGE / room / "__init__.py").body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assigned = {target.id for target in targets if isinstance(target, ast.Name)}
            if "__all__" in assigned and node.value:
                names |= set(ast.literal_eval(node.value))
            elif lone:
                names |= assigned
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and lone:
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


# --- the law of the rooms ---------------------------------------------------------------------------------------------


def test_every_room_is_there_and_nothing_else():
    assert len(ROOMS) == len(set(ROOMS))
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__", "__main__", "nas"} == set(ROOMS)
    assert list(PACKAGE.glob("*/*/*.py")) == []  # a room has no rooms within


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_earlier_rooms_through_their_doors(room):
    assert [line for path in files(room) for line in broken(path, room)] == []


@pytest.mark.parametrize("room", [room for room in ROOMS if len(files(room)) > 1])
def test_a_room_has_one_door_and_no_circle(room):
    door = PACKAGE / room / "__init__.py"
    assert public(room), "the door names what others may use in __all__"
    imported = {name for _, name in imports(door)}  # for the type checker alone, where the door opens lazily
    assert sorted(public(room) - imported) == []
    arrows = {
        path.stem: {module.split(".")[2] for module, _ in imports(path) if module.startswith(f"nas.{room}.")}
        for path in files(room)
    }
    while leaves := [name for name, others in arrows.items() if not others]:
        arrows = {name: others - set(leaves) for name, others in arrows.items() if name not in leaves}
    assert arrows == {}, "these import each other in a circle"


@pytest.mark.parametrize("pair", sorted(sorted(pair) for pair in STRANGERS))
def test_some_rooms_do_not_know_each_other(pair):
    for room, other in (pair, reversed(pair)):
        assert f"nas.{other}" not in {module for path in files(room) for module, _ in imports(path)}


@pytest.mark.parametrize("room", [room for room in ROOMS if FLOOR[room] == 0])
def test_the_ground_floor_needs_only_the_standard_library(room):
    assert {name.split(".")[0] for name in modules(room)} <= sys.stdlib_module_names


@pytest.mark.parametrize("room", [room for room in ROOMS if FLOOR[room] < 3])
def test_what_trains_knows_nothing_of_the_search(room):
    """`space` has optuna's distributions, and no more of it."""
    others = {name for name in modules(room) if name.split(".")[0] in ("optuna", "pandas", "typer", "rich")}
    assert others <= ({"optuna.distributions"} if room == "space" else set())


# --- files, functions, words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*sources(), *suite()], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_is_over_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_private_function_has_more_than_five_parameters():
    """A function inside another is private as well; `self` is no parameter."""
    found = []
    for path in sources():
        functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inner = {id(node) for outer in functions for node in ast.walk(outer) if node is not outer}
        for node in functions:
            takes = node.args
            every = (*takes.posonlyargs, *takes.args, takes.vararg, *takes.kwonlyargs, takes.kwarg)
            names = [argument.arg for argument in every if argument is not None]
            private = id(node) in inner or (node.name.startswith("_") and not node.name.endswith("__"))
            if private and len(names) - (names[:1] in (["self"], ["cls"])) > 5:
                found.append(f"{path.relative_to(REPOSITORY)}: {node.name}({', '.join(names)})")
    assert found == []


def text_files() -> list[Path]:
    return [*sources(), REPOSITORY / "README.md"]


@pytest.mark.parametrize("path", text_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_retired_words_are_gone(path):
    text = path.read_text(encoding="utf-8")
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)  # those of snake_case and CamelCase names too
    assert sorted({word.lower() for word in words} & RETIRED) == []
    assert "unless said" not in text


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_optuna_is_used_by_its_public_names(path):
    text = path.read_text(encoding="utf-8")
    assert [name for name in PRIVATE_NAMES_OF_OPTUNA if re.search(re.escape(name) + r"\b", text)] == []


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_docstring_begins_with_a_verb_or_a_noun(path):
    values = [node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)]
    texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    assert [text[:40] for text in texts if text.split()[:1] and text.split()[0] in NO_BEGINNING] == []


# --- the law itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("from nas.budget import Budget", 0),
        ("from nas.space.points import Points", 0),
        ("import nas.budget", 1),
        ("from nas import budget", 1),
        ("from nas.space import SearchSpace", 1),  # its own door
        ("from nas.study import StudyStore", 1),  # upwards
        ("def late():\n    from nas.train import train", 1),
        ("from nas.model import build", 1),  # later on the same floor
        ("from nas.data.splits import with_fold", 1),
        ("from nas.nowhere import Thing", 1),
        ("from nas.budget import _shown", 1),
        ("from nas.machine import Path", 1),  # not its own
    ],
)
def test_the_law_finds_what_breaks_it(tmp_path, line, count):
    path = tmp_path / "points.py"
    path.write_text(line)
    assert len(broken(path, "space")) == count


# --- quick to talk to -------------------------------------------------------------------------------------------------


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
