"""Quick to talk to: help, version and reading import nothing heavy; every help ends with an example that parses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
import toys
import typer.main

from nas import cli
from nas.cli.help import FEW, PANELS

APP = typer.main.get_command(cli.app)


def commands(group, *words):
    """All commands below a group, each with the words that call it."""
    for name, command in group.commands.items():
        yield from commands(command, *words, name) if hasattr(command, "commands") else [((*words, name), command)]


COMMANDS = dict(commands(APP))
HEAVY = ("torch", "torchvision", "numba", "optuna", "pandas", "numpy", "scipy", "sqlalchemy", "onnx", "safetensors")


def loaded(*arguments: str, code: int = 0) -> set[str]:
    """The heavy modules that a command leaves in a new process."""
    script = (
        f"import sys\nfrom nas.cli import main\ntry: main({list(arguments)})\n"
        f"except SystemExit as left: assert (left.code or 0) == {code}, left.code\n"
        f"print(*set({HEAVY}) & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["search", "--help"], ["count", "8 M G C"]])
def test_help_and_counting_import_nothing_heavy(arguments):
    assert loaded(*arguments) == set()


@pytest.mark.parametrize("arguments", [["show"], ["show", "--csv"], ["show", "--study", "tiny", "--json"]])
def test_reading_a_study_does_not_wait_for_torch(arguments, tiny):
    assert loaded(*arguments) & {"torch", "torchvision", "numba", "onnx", "safetensors"} == set()


def test_help_takes_less_than_half_a_second():
    def seconds(script):
        """Of the processor: what else the machine does is not the command's doing."""
        before = os.times()
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    script = "from nas.__main__ import main\nimport sys; sys.argv = ['nas', '--help']\nmain()"
    assert min(seconds(script) for _ in range(3)) < 0.5 + min(seconds("pass") for _ in range(3))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_ends_with_an_example_that_parses(words):
    code, out, err = toys.nas(*words, "--help")
    assert (code, err) == (0, "")
    last = [line.strip() for line in out.strip().splitlines() if line.strip()][-1]
    example = re.search(rf"Example: nas ({' '.join(words)}.*)", " ".join(out.split()))
    assert last.startswith("Example: nas ") or "Example: nas" in out.strip().rpartition("╯")[2]
    assert example
    arguments = shlex.split(example[1])[len(words) :]
    COMMANDS[words].make_context(words[-1], arguments)  # raises on an option that there is not


def test_no_command_is_lost():
    names = {words[0] for words in COMMANDS}
    assert names >= {
        "search", "tune", "train-best", "evaluate", "show", "count", "space", "dashboard", "export", "predict", "data",
    }  # fmt: skip


def test_version_completion_and_the_module():
    assert re.fullmatch(r"nas \d+\.\d+\.\d+\n", toys.nas("--version")[1])
    ran = subprocess.run([sys.executable, "-m", "nas", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == toys.nas("--version")[1]
    out = subprocess.run(
        [*toys.COMMAND, "--show-completion", "bash"], capture_output=True, text=True, check=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # there may be no shell above a test
    ).stdout  # fmt: skip
    assert "complete" in out


def test_no_command_shows_the_help():
    code, out, err = toys.nas()
    assert code in (0, 2)
    assert "nas search --max-params 8000" in out + err


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_of_a_long_command_has_a_panel(words):
    options = [param for param in COMMANDS[words].params if param.param_type_name == "option"]
    if len(options) > FEW:
        assert [option.name for option in options if option.rich_help_panel not in PANELS] == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_word_of_a_help_is_broken_at_80_columns(words, monkeypatch):
    def shown(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        return set(re.sub("[│╭╮╰╯─]", " ", toys.nas(*words, "--help")[1]).split())

    assert shown(300) - shown(80) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["plot", "nosuch"], ["plot", "layers", "-o", "a.pdf"], ["plot"], ["export", "--to", "nosuch", "-o", "out"],
        ["evaluate", "/nosuch"], ["evaluate", "--study", "/nosuch"], ["export", "/nosuch", "-o", "out"],
        ["predict", "a.png", "--network", "/nosuch"], ["predict", "/nosuch.png"],
        ["predict", "a.png", "--polarity", "no"],
        ["report", "/nosuch"], ["plot", "layers", "--study", "/nosuch"], ["show", "/nosuch"], ["watch", "/nosuch"],
        ["train-best", "/nosuch"], ["dashboard", "/nosuch"],
        ["search", "--study", "tiny", "--max-params", "600", "--dataset", "synthetic"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_wrong_at_sight_is_refused_before_torch_is_imported(arguments, tiny):
    assert loaded(*arguments, code=0 if arguments == ["plot"] else 2) & {"torch", "numba", "onnx"} == set()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_text_of_a_help_is_cut_at_80_columns(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = toys.nas(*words, "--help")[1]
    assert "…" not in out
    assert max(map(len, out.splitlines())) == 80
