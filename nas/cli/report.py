"""`nas report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import DataDir, Storage, notify, one_study, path_option


def report(
    studies: Annotated[
        list[str] | None, typer.Argument(metavar="STUDY...", help="Studies, side by side (default: the latest).")
    ] = None,
    named: Annotated[list[str] | None, typer.Option("--study", help="The same; may be given again.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The page (default: report.html in the study's folder).", **path_option("FILE")
        ),
    ] = None,
    storage: Storage = None,
    data_dir: DataDir = None,
) -> None:
    """Write a study and its full runs as one HTML page that opens from disk, without a network.

    Validation images are read where they are here; the test split stays closed.
    """
    if output is not None:
        from nas.files import require_place

        require_place(output)
    names = [one_study(name, None) or "" for name in (*(studies or ()), *(named or ()))]
    from nas.report import read_findings, write_page
    from nas.study import latest_study, without_winner

    given = list(dict.fromkeys(names)) or [latest_study() if storage is None else ""]
    found = [read_findings(name, storage, data_dir=data_dir) for name in given]
    print(write_page(found, output))
    for line in (line for each in found for line in each.damaged):
        notify(f"warning: {line}")
    if not names and storage is None and found[0].reason is None and not found[0].damaged:
        notify(f"warning: {without_winner(given[0])}")


def write_quietly(study: str, storage: str | None, data_dir: Path | None) -> Path | None:
    """Write the report of a study that has just been worked on; what goes wrong is a warning, and loses nothing."""
    from nas.errors import NasError, UsageError
    from nas.report import publish, read_findings, write_page

    try:
        found = read_findings(study, storage, data_dir=data_dir)
        page = write_page([found])
        publish(found, storage)
        return page
    except UsageError:  # a study of recipes, or none of ours: there is no report of it
        return None
    except NasError as error:
        notify(f"warning: the report could not be written: {error}")
        return None
