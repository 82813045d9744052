"""`nas plot`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import DataDir, Storage, StudyName, one_study, path_option
from nas.errors import UsageError


def plot(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="parameters, progress, curves, schedules, features, fidelity, seeds, layers, filters, confusion, "
            "calibration, misread or augmented (default: list them).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .svg, .png or .html (default: NAME.svg).", **path_option("FILE")),
    ] = None,
    study: StudyName = None,
    storage: Storage = None,
    data_dir: DataDir = None,
) -> None:
    """Write one picture of a study: SVG, an HTML page, or PNG through matplotlib."""
    from nas.report import PICTURE_NAMES, require_name, require_suffix

    if name is None and output is not None:
        raise UsageError(f"name the picture to write to {output}: one of {', '.join(PICTURE_NAMES)}")
    if name is None:
        print("\n".join(f"{each:<13}{what}" for each, what in PICTURE_NAMES.items()))
        return
    require_name(name)
    path = output or Path(f"{name}.svg")
    require_suffix(path)
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}: make it, or name another path")
    study = one_study(None, study)
    from nas.report import plot as draw  # imports torch: seconds

    picture = draw(name, study, storage=storage, data_dir=data_dir)
    with warnings.catch_warnings(record=True) as told:
        picture.save(path)
    for each in told:
        print(f"warning: {each.message}", file=sys.stderr)
    print(path)
