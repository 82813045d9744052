"""Pictures by name, each of one study, and their files: SVG, HTML, or PNG through matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.errors import UsageError
from nas.files import write_atomic
from nas.report.chart import Chart
from nas.report.document import chart_page
from nas.report.findings import Findings, read_findings
from nas.report.names import require_name, require_suffix
from nas.report.png import draw_png
from nas.report.search_pictures import (
    FEWEST_FOR_FEATURES,
    curves,
    feature_ranks,
    fidelity,
    parameters,
    progress,
    schedules,
)
from nas.report.svg import svg_file
from nas.report.winner_pictures import (
    MOST_CLASSES,
    augmented,
    calibration,
    confusion,
    filters,
    layers,
    misread,
    seeds,
)
from nas.study import latest_study
from nas.values import checked

PICTURES: Mapping[str, Callable[[Findings], Chart | None]] = {
    "parameters": parameters,
    "progress": progress,
    "curves": curves,
    "schedules": schedules,
    "features": feature_ranks,
    "fidelity": fidelity,
    "seeds": seeds,
    "layers": layers,
    "filters": filters,
    "confusion": confusion,
    "calibration": calibration,
    "misread": misread,
    "augmented": augmented,
}
"""Functions that draw each picture of a study, by name; None where the study has nothing to draw."""

ON_IMAGES = ("confusion", "calibration", "misread", "augmented")
"""Pictures for which validation images are read."""

MISSING = {
    "parameters": "no brief trial is complete yet",
    "progress": "no brief trial is complete yet",
    "curves": "no trial has an epoch yet",
    "schedules": "no schedule has been generated yet",
    "features": f"fewer than {FEWEST_FOR_FEATURES} brief trials are complete",
    "fidelity": "fewer than two finalists were trained",
    "seeds": "there is no full run: nas train-best makes it",
    "layers": "no brief trial is complete yet",
    "filters": "there are no weights, or the first layer is 1×1",
    "confusion": f"the data set has more than {MOST_CLASSES} classes",
    "misread": "no validation image is misread",
}
"""Why there is nothing to draw."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a study; a notebook shows it as it is."""

    chart: Chart

    @property
    def svg(self) -> str:
        """The picture as an SVG file's text."""
        return svg_file(self.chart)

    @property
    def html(self) -> str:
        """The picture as a page of its own."""
        return chart_page(self.chart)

    def save(self, path: Path | str) -> Path:
        """Write the picture, as the suffix says: .svg, .png or .html. Raise `UsageError` for another suffix."""
        path = Path(path)
        require_suffix(path)
        if path.suffix == ".png":
            write_atomic(path, draw_png(self.chart))
        else:
            write_atomic(path, self.svg if path.suffix == ".svg" else self.html)
        return path

    def _repr_svg_(self) -> str:
        return self.svg


@checked
def plot(name: str, study: str | None = None, *, storage: str | None = None, data_dir: Path | None = None) -> Picture:
    """Return a picture of a study (default: the latest) by its name, one of `PICTURES`.

    `confusion`, `calibration`, `misread` and `augmented` read validation images; none opens the test split. Raise
    `UsageError` for an unknown name and for a picture that the study has nothing for, `StorageError` for a study that
    cannot be read.
    """
    require_name(name)
    found = read_findings(study or ("" if storage else latest_study()), storage, data_dir=data_dir)
    chart = PICTURES[name](found)
    if chart is None:
        raise UsageError(f"nothing to draw for {name} in '{found.name}': {why_missing(name, found)}")
    return Picture(chart=chart)


def why_missing(name: str, found: Findings) -> str:
    """Return why a study has nothing for a picture."""
    if name in ON_IMAGES and isinstance(found.validation, str):
        return found.validation
    if name == "filters" and found.network is None and found.damaged:
        return found.damaged[0]
    return MISSING.get(name, "there is nothing to draw")
