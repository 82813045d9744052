"""The pages cannot lie: their tables are those of the files, their commands parse, their links lead somewhere."""

import re
import shlex

import pytest
import torch
import toys
import typer.main
from readme import PAGES, ROOT, generated

import nas
from nas.cli import app

PAGES_BY_HAND = (".github/GUIDE.md", ".github/CLUSTER.md", "tests/benchmarks/README.md")
WRITTEN = [*PAGES, *(ROOT / name for name in PAGES_BY_HAND)]
LINKED = [*WRITTEN, ROOT / "studies/LOG.md"]


def title(page):
    return str(page.relative_to(ROOT))


def written(page):
    """The text of a page but for its generated parts: recorded commands are those of their time."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"<!-- (records|results|elsewhere|public) -->.*?<!-- /\1 -->", "", text, flags=re.S)


COMMANDS = sorted(
    {
        match.strip()
        for page in WRITTEN
        for line in written(page).splitlines()
        for match in re.findall(r"(?:^\s*(?:\$ )?|&& |`)(nas [a-z][^`#]*)", line)
        if not line.startswith("- ")
    }
)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_generated_parts_are_up_to_date(page):
    assert generated(page) == page.read_text(encoding="utf-8"), "run: python tests/readme.py"


def test_the_pages_have_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(command)[1:]
    subcommand = group.commands[name]
    subcommand.make_context(name, arguments, resilient_parsing=False)


@pytest.mark.parametrize("page", LINKED, ids=title)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_snippet_runs(monkeypatch, capsys):
    """README.md's Python, on synthetic data: its calls get what makes them small, and nothing else is changed."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    small = {
        "nas.search(8000)": "nas.search(700, **tiny, machine=machine)",
        "nas.train_best(seeds=3)": "nas.train_best(seeds=2, epochs=2, machine=machine)",
    }
    for call, smaller in small.items():
        assert snippet.count(call) == 1
        snippet = snippet.replace(call, smaller)
    with toys.quick_folder() as folder:
        monkeypatch.setenv("NAS_STUDIES", str(folder))
        names = {
            "tiny": {"dataset": "synthetic", "trials": 2, "finalists": 1, "finalist_seeds": 1, "finalist_epochs": 2},
            "machine": nas.Machine(workers=1, quiet=True, backend="torch"),
            "images": torch.zeros((3, 1, 16, 16), dtype=torch.uint8),
        }
        exec(compile(snippet, "README.md", "exec"), names)
        assert names["network"].architecture.num_params <= 700
        assert names["probabilities"].shape == (3, 4)
        assert len(names["trials"]) == 2
        assert str(folder) in capsys.readouterr().out
