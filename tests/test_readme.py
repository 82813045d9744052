"""The README cannot lie: its tables are those of the files, its commands are commands."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from readme import README, generated

from nas.cli import app

TEXT = README.read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        match.strip()
        for line in TEXT.splitlines()
        for match in re.findall(r"(?:^\s*(?:\$ )?|&& |`)(nas [a-z][^`#]*)", line)
        if not line.startswith("- ")
    }
)


def test_generated_parts_are_up_to_date():
    assert generated(TEXT) == TEXT, "run: python tests/readme.py"


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(command)[1:]
    subcommand = group.commands[name]
    subcommand.make_context(name, arguments, resilient_parsing=False)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (Path(README).parent / target).exists(), target
