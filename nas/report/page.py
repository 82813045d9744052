"""One HTML page of studies: it opens from disk, asks no network for anything, and escapes all that data hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.errors import NasError, StorageError
from nas.files import write_atomic
from nas.report.chart import Chart
from nas.report.comparison import comparison
from nas.report.document import document, figure
from nas.report.findings import Findings, read_findings
from nas.report.markup import Markup, join, tag
from nas.report.pictures import PICTURES, why_missing
from nas.report.sections import answer, finalists, provenance, recalls
from nas.study import latest_study, studies_dir
from nas.values import checked

REPORT = "report.html"
"""The page in a study's folder, or of several studies in the folder of studies."""

MOST_BYTES = 5_000_000
"""The largest page."""

Drawn = dict[str, Chart | None]
"""The pictures of a study by name; None where there is nothing to draw."""

GROUPS = (
    ("The search", ("parameters", "progress", "curves", "schedules", "features", "fidelity")),
    ("The winner", ("seeds", "layers", "filters", "augmented")),
    ("On validation images", ("confusion", "calibration", "misread")),
)


@checked
def write_report(
    studies: Sequence[str] = (),
    path: Path | None = None,
    *,
    storage: str | None = None,
    data_dir: Path | None = None,
) -> Path:
    """Write one self-contained HTML page of studies (default: the latest) with their full runs, and return its path.

    The page goes to report.html in the study's folder, or, of several, in the folder of studies. It reads validation
    images, where they are here, and never opens the test split. Raise `UsageError` for a study that is no search of
    this version of nas, `StorageError` for one that cannot be read or a page that cannot be written.
    """
    names = list(dict.fromkeys(studies)) or [latest_study() if storage is None else ""]
    return write_page([read_findings(name, storage, data_dir=data_dir) for name in names], path)


def write_page(every: Sequence[Findings], path: Path | None = None) -> Path:
    """Write the page of what was read of studies, where `write_report` writes it; return its path, raise as it does."""
    path = path or (every[0].folder if len(every) == 1 else studies_dir()) / REPORT
    page = report_page(every)
    if len(page.encode()) > MOST_BYTES:
        raise StorageError(
            f"the report has {len(page.encode()) / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:g}: name fewer studies"
        )
    write_atomic(path, page)
    return path


def report_page(studies: Sequence[Findings]) -> str:
    """Return the page of these studies."""
    names = [found.name for found in studies]
    table, charts = comparison(studies)
    alone = len(studies) == 1
    parts = [_section(found, _drawn(found), f"s{number}", alone=alone) for number, found in enumerate(studies)]
    contents, head = list[Markup](), None
    if not alone:
        contents = [tag("a", "Side by side", href="#together")]
        head = tag("section", tag("h2", "Side by side", id="together"), table,
                   tag("div", [figure(chart, "c") for chart in charts], class_="charts"))  # fmt: skip
    for number, found in enumerate(studies):
        if alone:
            contents += [tag("a", title, href=f"#s0-{place}") for place, (title, _) in enumerate(GROUPS)]
            contents.append(tag("a", "How it was made", href="#s0-made"))
        else:
            contents.append(tag("a", found.name, href=f"#s{number}"))
    body = join(
        tag("header", tag("h1", " and ".join(names) if len(names) < 4 else f"{len(names)} studies"),
            tag("nav", tag("ul", [tag("li", link) for link in contents]), aria_label="Contents")),
        tag("main", head, parts),
    )  # fmt: skip
    return document(f"nas: {', '.join(names)}", body)


def _section(found: Findings, drawn: Drawn, prefix: str, *, alone: bool) -> Markup:
    parts: list[Any] = [] if alone else [tag("h2", found.name, id=prefix, class_="name")]
    parts += [answer(found), finalists(found), recalls(found)]
    for place, (title, names) in enumerate(GROUPS):
        charts = [figure(chart, prefix) for name in names if (chart := drawn[name]) is not None]
        parts.append(tag("h2", title, id=f"{prefix}-{place}"))
        parts.append(tag("div", charts, class_="charts") if charts else None)
        parts.append(_missing(found, [name for name in names if drawn[name] is None]))
    parts.append(tag("h2", "How it was made", id=f"{prefix}-made"))
    parts.append(provenance(found))
    return tag("section", parts, class_=None if alone else "study")


def _drawn(found: Findings) -> Drawn:
    """Draw every picture; one whose files are damaged leaves the others there."""
    drawn: Drawn = {}
    for name, picture in PICTURES.items():
        try:
            drawn[name] = picture(found)
        except NasError:
            drawn[name] = None
    return drawn


def _missing(found: Findings, names: Sequence[str]) -> Markup | None:
    """Return why pictures are not there."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        reasons.setdefault(why_missing(name, found), []).append(name)
    if not reasons:
        return None
    return tag("p", "Not drawn: ", "; ".join(f"{', '.join(each)} ({why})" for why, each in reasons.items()), ".",
               class_="muted")  # fmt: skip
