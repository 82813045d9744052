"""Generates the parts of README.md that are facts: `python tests/readme.py` rewrites them, a test compares them."""

from __future__ import annotations

import contextlib
import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import toys

from nas.architecture import KNOWN
from nas.train import Recipe

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
START = KNOWN[0].text
FORMER = {"64-trials": "64 trials and eight finalists", "two-epochs": "brief trials of two epochs"}
"""What the defaults were when a reference was searched, by what its folder's name ends in."""
SIGNALS = {
    "e1": "1 epoch", "e2": "2 epochs", "e3": "3 epochs", "e5": "5 epochs", "e1 loss": "1 epoch, by its loss",
    "e2 loss": "2 epochs, by their loss", "e3 loss": "3 epochs, by their loss, the default",
    "e5 loss": "5 epochs, by their loss",
    "half3": "3 epochs of half the images", "small3": "3 epochs at 22x22", "num_params": "parameters", "macs": "MACs",
    "first training loss": "training loss of the full run's first epoch",
}  # fmt: skip


BARS = (99.4, 99.5)
"""What the smallest networks on record are asked to reach, percent of the test split: last-5 mean over ten seeds."""

HEADER = "| parameters | last-5 | lowest | seeds | network | from |\n|-|-|-|-|-|-|\n"


def results() -> str:
    """A row for each cap's run with today's recipe, the largest network first, and the public figures below."""
    public = [
        (-known.num_params, f"| {known.num_params:,} | {known.result} | | 1 | `{known.text}` | public figure |")
        for known in KNOWN
        if "this project" not in known.result
    ]
    table = HEADER + "\n".join(row for _, row in [*rows(former=False), *sorted(public)])
    over = "; ".join(map(smallest, BARS))
    return f"{table}\n\nThe smallest here and [below](#earlier-results) whose mean over ten seeds is at least {over}."


def smallest(bar: float) -> str:
    """The smallest network of the reference runs of ten seeds with a last-5 mean of at least `bar` percent."""
    over = (run for _, run in references() if len(run["seeds"]) >= 10 and run["last5_mean"] >= bar)
    run = min(over, key=lambda run: run["num_params"])
    return f"{bar:g} %: {run['num_params']:,} parameters (`{run['schedule']}`, {run['last5_mean']:.3f})"


@cache
def references() -> list[tuple[Path, dict[str, Any]]]:
    """The full runs of the reference folders of studies/, and what their result.json says."""
    paths = (ROOT / "studies").glob("reference-*/full-run-*/result.json")
    return [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def former() -> str:
    """A row for each run with an earlier recipe, and for those that a later search of the same cap replaced."""
    return HEADER + "\n".join(row for _, row in rows(former=True))


def rows(*, former: bool) -> list[tuple[int, str]]:
    """The reference runs of studies/ as rows of a table, the largest network first, with what orders them."""
    lines = []
    for run, result in references():
        recipe = result["recipe"]
        folder = run.parent
        replaced = not re.fullmatch(r"reference-\d+", folder.name)
        if (replaced or recipe["optimizer"] == "adamw" or not recipe["settle"]) != former:
            continue
        sd = "" if result["last5_sd"] is None else f" ± {result['last5_sd']:.3f}"
        search = folder / "best" / "reason.json"
        reason = json.loads(search.read_text(encoding="utf-8")) if search.is_file() else None
        found = f"`{reason['command']}`{cost(reason)}" if reason else "hand-made"
        if result.get("teacher"):
            found += ", distilled" if reason is None or "teacher" in reason else ", distilled, searched without"
        found += "".join(f", then {defaults}" for end, defaults in FORMER.items() if folder.name.endswith(end))
        found += "" if (size := recipe["batch_size"]) == Recipe().batch_size else f", batch {size}"
        found += ", SOAP" if former and recipe["optimizer"] == "soap" else ""
        if recipe["settle"]:
            found += ", settled" if former else ""
            found += "" if reason is None or reason["counts"].get("outranked") else ", plain evolution"
        card = (run / "CARD.md").relative_to(ROOT).as_posix()
        row = (
            f"| {result['num_params']:,} | {result['last5_mean']:.3f}{sd} | {result['lowest_of_last5']:.2f} | "
            f"{len(result['seeds'])} | [`{result['schedule']}`]({card}) | {found} |"
        )
        lines.append((-result["num_params"], row))
    return sorted(lines)


def cost(reason: dict[str, Any]) -> str:
    """The trials of a search, and the minutes of a core that all its trainings took, where known."""
    trials = reason["counts"]["complete"] + reason["counts"]["pruned"]
    if "training_seconds" not in reason:
        return f", {trials} trials"
    seconds = reason["training_seconds"] + reason.get("teacher", {"seconds": 0})["seconds"]
    return f", {trials} trials, {seconds / 60:.0f} min of a core"


def count() -> str:
    """What `nas count` prints of the starting network."""
    from nas.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["count", START, "--max-params", "8000"])
    lines = "\n".join("    " + line.rstrip() for line in out.getvalue().splitlines())
    return f"    $ nas count '{START}' --max-params 8000\n{lines}"


def fidelity() -> str:
    """How well each brief training ranks the networks of the table of truth."""
    truth = toys.benchmark("truth")
    runs = truth.load(truth.FOLDER / "runs.csv")
    whole, near = (({row["name"]: row for row in truth.standings(part)}, part) for part in truth.groups(runs).values())
    lines = [
        f"| signal | seconds | Spearman, the {len(truth.truth(near[1]))} near the cap (95 %) | Kendall | "
        f"best of the 8 leading, short by | Spearman, all {len(truth.truth(whole[1]))} |",
        "|-|-|-|-|-|-|",
    ]
    for name, row in near[0].items():
        lines.append(
            f"| {SIGNALS.get(name, name)} | {row['seconds']:.0f} | "
            f"{row['spearman']:.2f} ({row['low']:.2f} to {row['high']:.2f}) | {row['kendall']:.2f} | "
            f"{row['tops'][-1]:.3f} | {whole[0][name]['spearman']:.2f} |"
        )
    half, both, count = truth.reliability(near[1])
    lines.append(
        f"\nTwo full runs of a network near the cap agree with {half:.2f} (n = {count}), so that the mean of two is "
        f"worth {both:.2f}; the sd between its seeds is {truth.seed_sd(near[1]):.3f} points."
    )
    return "\n".join(lines)


def searches() -> str:
    """What real searches of one wall-clock came to, by what proposed."""
    benchmark = toys.benchmark("searches")
    record = json.loads((ROOT / "studies" / "searches.json").read_text(encoding="utf-8"))
    schedule, best = benchmark.best_of(record)
    lines = [
        "| proposed by | trained | the winners' last-5 | mean | regret | within 0.05 of the best |",
        "|-|-|-|-|-|-|",
    ]
    for row in benchmark.standings(record):
        scores = ", ".join(f"{score:.3f}" for score in row["scores"])
        lines.append(
            f"| {row['arm']} | {row['trained']:.0f} | {scores} | {row['mean']:.3f} | {row['regret']:.3f} | "
            f"{row['near']} of {len(row['scores'])} |"
        )
    means = benchmark.full_runs(record)
    winners = [halves["ours"]["rounds"][-1]["schedule"] for halves in timed().values()]
    scores = [means[winner] for winner in winners if winner in means]
    shown, near = ", ".join(f"{score:.3f}" for score in scores), benchmark.near(scores, best)
    lines.append(
        f"\nThe best of all is `{schedule}`, {best:.3f}. By the same measure the winners of the searches "
        f"[above](#against-a-plain-script) had {shown}, {near} of {len(scores)} within 0.05 of it."
    )
    return "\n".join(lines)


def end_to_end() -> str:
    """How long a search and its winner's training took to a threshold, and the plain script, where both were run."""
    benchmark = toys.benchmark("end_to_end")
    lines = [
        "| seed | `nas`, min | last-5 | trials | plain, min | last-5 | trials | trained | ratio | network of `nas` |",
        "|-|-|-|-|-|-|-|-|-|-|",
    ]
    for seed, halves in benchmark.whole(timed()).items():
        winner = halves["ours"]["rounds"][-1]
        network = f"`{winner['schedule']}` ({winner['num_params']:,})"
        lines.append(f"| {' | '.join([seed, *benchmark.cells(halves), network])} |")
    return "\n".join([*lines, "", benchmark.totals(timed())])


@cache
def timed() -> dict[str, Any]:
    """The repeats of the end-to-end benchmark, by seed."""
    found: dict[str, Any] = json.loads((ROOT / "studies" / "end-to-end.json").read_text(encoding="utf-8"))["repeats"]
    return found


PARTS = {
    "results": results, "former": former, "count": count, "fidelity": fidelity, "searches": searches,
    "end to end": end_to_end,
}  # fmt: skip


def generated(text: str) -> str:
    """The README with its generated parts as they should be."""
    for name, part in PARTS.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        assert re.search(pattern, text, re.S), f"README.md has no part '{name}'"
        text = re.sub(pattern, lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    README.write_text(generated(README.read_text(encoding="utf-8")), encoding="utf-8")
