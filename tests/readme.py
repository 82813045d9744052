"""Generate the parts of the Markdown pages that are facts; a test compares them. Run: `python tests/readme.py`."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import toys
from rich.console import Console, RenderableType
from test_house import FLOORS

from nas import report
from nas.designs import PUBLISHED_DESIGNS
from nas.export import RunResult
from nas.files import read_record
from nas.final import SeedResult
from nas.searches import SearchReason
from nas.train import Epoch

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "studies" / "records"
START = PUBLISHED_DESIGNS[0].text
OURS = "this project"
"""What marks the result of a published design as measured here."""

EXAMPLE = RECORDS / "8000"
"""The record whose search and full run are README.md's session."""

OWNED = (
    "the standard library alone: errors, caps, schedules and their counts, files, machine",
    "images and splits, the search space, torch modules, CPU kernels",
    "the training loop and its recipe; folders, weights, ONNX",
    "pools of workers, teachers, the Optuna study and its loop",
    "the search from proposals to the winner; the full run on the test split",
    "terminal views; `nas.search` and its like",
    "a file for each command",
)
"""The rooms of each floor, in words."""

PUBLIC = {"fashion-mnist": "113,000: 92.2, in the data set's own table; none found under 60,000"}
"""A public figure for each other data set."""

SHOWN = (10_000, 8000, 6000, 4000, 2600, 2000, 1000)
"""The caps of README.md's table; studies/README.md has all records."""


def records(file: str = "result.json") -> dict[int, dict[str, Any]]:
    """Return a JSON file of the committed records on MNIST by their cap, the largest first."""
    found = {int(name): content for name, content in every(file).items() if name.isdigit()}
    return dict(sorted(found.items(), reverse=True))


def every(file: str) -> dict[str, dict[str, Any]]:
    """Return a JSON file of all committed records by the names of their folders: a cap, or a data set and a cap."""
    paths = sorted(RECORDS.glob(f"*/{file}"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def elsewhere() -> str:
    """Return README.md's table of other data sets: a row for each record, with a public figure beside it."""
    rows = []
    for name, result in every("result.json").items():
        if not name.isdigit():
            accuracy = f"{accuracy_of(result)} (n = {len(result['seeds'])}), {result['epochs']} epochs"
            network = f"[`{result['schedule']}`](studies/records/{name}/CARD.md)"
            rows.append((f"`{name}`", f"{result['num_params']:,}", accuracy, network, PUBLIC[result["dataset"]]))
    return table(("record", "parameters", "test accuracy, %", "network", "public figure"), rows)


def results() -> str:
    """Return README.md's table: a row for each cap of `SHOWN`, with a public figure beside it."""
    rows, known = [], records()
    for cap in SHOWN:
        result = known[cap]
        network = f"[`{result['schedule']}`](studies/records/{cap}/CARD.md)"
        accuracy = f"{accuracy_of(result)} (n = {len(result['seeds'])})"
        rows.append((f"{cap:,}", f"{result['num_params']:,}", accuracy, network, public(cap)))
    return table(("cap", "parameters", "test accuracy, %", "network", "public figure"), rows)


def public(cap: int) -> str:
    """Return the best public figure under a cap, or the one of the smallest published design where all are over it."""
    others = [design for design in PUBLISHED_DESIGNS if OURS not in design.result]
    under = [design for design in others if design.num_params <= cap] or [
        min(others, key=lambda design: design.num_params)
    ]
    best = max(under, key=lambda design: design.result)  # all begin with "last-5 99."
    return f"{best.num_params:,}: {best.result}"


def all_records() -> str:
    """Return the table of studies/README.md: every record, what it came to, and the search that found it."""
    rows, searched = [], records("search.json")
    for cap, result in records().items():
        network = f"[`{result['schedule']}`](records/{cap}/CARD.md)"
        found = found_by(searched[cap]) if cap in searched else "by hand"
        counts = (f"{cap:,}", f"{result['num_params']:,}", f"{result['macs']:,}", accuracy_of(result))
        scores = (f"{result['lowest_of_last5']:.2f}", str(len(result["seeds"])))
        rows.append((*counts, *scores, network, found, result["time"][:10]))
    header = ("cap", "parameters", "MACs", "last-5", "lowest", "seeds", "network", "found by", "full run of")
    return table(header, rows)


def found_by(search: dict[str, Any]) -> str:
    """Return the command of a search, its trials, and the minutes of a core that its trainings took."""
    trials = search["counts"]["complete"] + search["counts"]["pruned"]
    minutes = (search["training_seconds"] + search["teacher"]["seconds"]) / 60
    return f"`{search['command']}`: {trials} trials, {minutes:.0f} min of a core"


def public_figures() -> str:
    """Return a row for each published design with a result of its author."""
    others = sorted(
        (design for design in PUBLISHED_DESIGNS if OURS not in design.result), key=lambda design: -design.num_params
    )
    return table(
        ("parameters", "test accuracy, %", "network"),
        [(f"{design.num_params:,}", design.result, f"`{design.text}`") for design in others],
    )


def accuracy_of(result: Mapping[str, Any]) -> str:
    return f"{result['last5_mean']:.3f} ± {result['last5_sd']:.3f}"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("-",) * len(header), *rows]
    return "\n".join(f"|{'|'.join(line)}|" if line[0] == "-" else f"| {' | '.join(line)} |" for line in lines)


def session() -> str:
    """Return what `nas search` and `nas train-best` print of a committed record, but for their progress."""
    found = read_record(EXAMPLE / "search.json", SearchReason)
    result = read_record(EXAMPLE / "result.json", RunResult)
    search = found.command
    run = SimpleNamespace(seeds=seeds_of(EXAMPLE, result), result=result)
    parts: list[RenderableType] = [
        f"$ {search}", "...", report.finalist_table(found), "", report.account(found.counts), report.cost(found),
        f"\n$ {result.command}", "...", report.run_table(run),
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=110, highlight=False, markup=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
    text = console.file.getvalue()
    return indented(re.sub(r"(?:^ +[1-8]  .*\n)+", " ...\n", text, flags=re.M))  # the seeds between the first and last


def seeds_of(record: Path, result: RunResult) -> tuple[SeedResult, ...]:
    """Return the seeds of a record, by its log."""
    epochs: dict[int, list[Epoch]] = {}
    with (record / "log.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {key: int(row[key]) for key in ("number", "correct", "count")}
            floats = {key: float(row[key]) for key in ("train_loss", "train_accuracy", "loss", "seconds")}
            epochs.setdefault(int(row["seed"]), []).append(Epoch(**numbers, **floats))
    return tuple(
        SeedResult(seed=seed, epochs=tuple(epochs[seed]), seconds=result.seconds[seed], backend=result.backend[0])
        for seed in result.seeds
    )


def floors() -> str:
    """Return the rooms of `nas/`, lowest floor first."""
    rows = [
        (str(number), " ".join(f"`{room}`" for room in rooms), owned)
        for number, (rooms, owned) in enumerate(zip(FLOORS, OWNED, strict=True))
    ]
    return table(("floor", "rooms", "what they hold"), rows)


def indented(text: str) -> str:
    return "\n".join(f"    {line.rstrip()}".rstrip() for line in text.rstrip().splitlines())


def count() -> str:
    """Return what `nas count` prints of the starting network."""
    from nas.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["count", START, "--max-params", "8000"])
    return indented(f"$ nas count '{START}' --max-params 8000\n{out.getvalue()}")


def searches() -> str:
    """Return the table of real searches, and the winners of the end-to-end benchmark beside them."""
    return str(toys.benchmark("searches").markdown(beside=toys.benchmark("end_to_end").winners()))


def rivals() -> str:
    """Return the table of real searches by Optuna's newer samplers."""
    script = toys.benchmark("searches")
    return str(script.markdown(script.RIVALS))


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"results": results, "elsewhere": elsewhere, "session": session},
    ROOT / ".github" / "CONTRIBUTING.md": {"floors": floors},
    ROOT / "studies" / "README.md": {"records": all_records, "public": public_figures, "count": count},
    ROOT / "studies" / "benchmarks" / "README.md": {
        "end to end": lambda: str(toys.benchmark("end_to_end").markdown()),
        "fidelity": lambda: str(toys.benchmark("truth_scores").markdown()),
        "searches": searches,
        "rivals": rivals,
        "fastnas": lambda: str(toys.benchmark("fastnas").markdown()),
    },
}
"""The generated parts of each page; a part stands between `<!-- name -->` and `<!-- /name -->`."""


def generated(page: Path) -> str:
    """Return the text of a page with its generated parts as they should be."""
    text = page.read_text(encoding="utf-8")
    for name, part in PAGES[page].items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        assert re.search(pattern, text, re.S), f"{page} has no part '{name}'"
        text = re.sub(pattern, lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(generated(page), encoding="utf-8")
