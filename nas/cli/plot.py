"""`nas plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import DataDir, Storage, StudyName


def plot(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="parameters, progress, curves, schedules, features, fidelity, seeds, layers, filters, confusion, "
            "calibration, misread or augmented.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .svg, .png or .html (default: NAME.svg).")
    ] = None,
    study: StudyName = None,
    storage: Storage = None,
    data_dir: DataDir = None,
) -> None:
    """Write one picture of a study: SVG, an HTML page, or PNG through matplotlib."""
    from nas.report import plot as draw
    from nas.report import require_name, require_suffix

    require_name(name)
    path = output or Path(f"{name}.svg")
    require_suffix(path)  # before anything is read
    print(draw(name, study, storage=storage, data_dir=data_dir).save(path))
