"""What the tests of reports share: toy studies, a full run beside them, and a reading of a page."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import toys

from nas.export import RunResult, write_csv_log
from nas.report.findings import Findings, read_findings
from nas.study import study_folder

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00"


def searched(trials: int = 12, **changes) -> Findings:
    """A toy search to its end, as a report reads it."""
    toys.run(toys.Pool(), trials=trials, **changes)
    return read_findings("toy")


def add_run(found: Findings, *, seeds: tuple[int, ...] = (0, 1), epochs: int = 7, **changes) -> Path:
    """A full run in the study's folder, without weights: what a report reads of it."""
    folder = study_folder(found.name) / "full-run-toy"
    folder.mkdir()
    accuracy = {seed: [90.0 + epoch + seed / 10 for epoch in range(epochs)] for seed in seeds}
    last = {seed: sum(values[-5:]) / 5 for seed, values in accuracy.items()}
    architecture = found.architecture
    result = RunResult(**{
        **toys.provenance().fields(), "schedule": str(architecture), "num_params": architecture.num_params,
        "macs": architecture.macs, "split": "test", "epochs": epochs, "seeds": seeds,
        "last5_mean": sum(last.values()) / len(last), "last5_sd": 0.1 if len(seeds) > 1 else None, "last5": last,
        "final": {seed: values[-1] for seed, values in accuracy.items()}, "lowest_of_last5": 92.0, "target": 99.4,
        "target_held": False, "typical_seed": 0, "seconds": dict.fromkeys(seeds, 1.0), "backend": ("torch",),
        "recipe": {}, "opened": "once", **changes,
    })  # fmt: skip
    fields = dataclasses.asdict(result)
    (folder / "result.json").write_text(json.dumps(fields), encoding="utf-8")
    rows = [{"seed": seed, "number": number + 1, "accuracy": value}
            for seed, values in accuracy.items() for number, value in enumerate(values)]  # fmt: skip
    write_csv_log(folder / "log.csv", [*rows, {"seed": "teacher", "number": 1, "accuracy": 50.0}])
    return folder


class Page(HTMLParser):
    """The elements of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]
