"""`nas predict`."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nas.cli.options import AsJson, StudyName, one_study, path_option, plural, require_one

if TYPE_CHECKING:
    from nas.final import Prediction, PredictionBatch

UNREAD = 1


def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE|FOLDER|-...", help="Image files, folders, or - for standard input.")
    ],
    network: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY|RUN|RECORD|FILE.onnx",
            show_default=False,
            help="The network (default: the latest full run, else the latest winner).",
        ),
    ] = None,
    named: StudyName = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="Write the images as the network saw them, in a grid.", **path_option("FILE.png")),
    ] = None,
    polarity: Annotated[
        Literal["auto", "as-is", "invert"],
        typer.Option(help="auto: a light ground is inverted for a network of MNIST or its relatives, light on dark."),
    ] = "auto",
) -> None:
    """Say what image files show: class, probability and runner-up of each.

    Files are made ready as the network's training images were: any size, shape and format that Pillow reads, colour,
    16 bits, transparency and EXIF turns included. Guesses are noted: inverted, and centred where digits are cut out as
    in MNIST; and so is a blank image. A file that cannot be read gets a line on standard error, the others go on, and
    the exit code is 1.

    A network always answers with one of its classes. Its probability is no measure for images of another kind, such as
    noise or things that it has no class for.
    """
    from nas.errors import UsageError
    from nas.files import require_place

    require_one(csv=as_csv, json=as_json)
    network = one_study(network, named)
    if picture is not None:  # all of this before torch is imported: seconds
        require_place(picture)
        if picture.suffix.lower() != ".png":
            raise UsageError(f"--picture {picture}: the grid is a PNG, so give a name that ends in .png")
        _require_no_input(picture, images)
    unread = [{"file": path, "reason": reason} for path in images if (reason := _missing(path))]
    missing = {each["file"] for each in unread}
    there = [path for path in images if path not in missing]
    if not there:
        reason = "" if unread[0]["reason"] == os.strerror(errno.ENOENT) else f" ({unread[0]['reason']})"
        raise UsageError(f"there is no {images[0]}{reason}: name image files or folders that are there, or -")
    _print_unread(unread)
    from nas.final import GRID_IMAGES, find_predictor, predict_files, write_grid

    found, dataset = find_predictor(network)
    shown: list[Prediction] = []
    pixels: list[Any] = []
    printer = _Printer("csv" if as_csv else "json" if as_json else "text")
    for batch in predict_files(found, there, dataset=dataset, polarity=polarity):
        printer.print(batch)
        failed = [dataclasses.asdict(file) for file in batch.unread]
        _print_unread(failed)
        unread += failed
        if batch.left_out:
            print(f"{plural(batch.left_out, 'other file')} or links to folders left out", file=sys.stderr)
        if picture is not None and len(shown) < GRID_IMAGES:
            shown += batch.predictions
            pixels += batch.pixels
    if as_json:
        fields = {"predictions": printer.rows, "unread": unread}
        print(json.dumps({"schedule": str(found.architecture), **fields}, indent=1))
    if picture is not None:
        count = write_grid(picture, shown, pixels)
        print(f"{count} images in {picture}", file=sys.stderr)
    if unread:
        raise typer.Exit(UNREAD)


def _require_no_input(picture: Path, images: list[str]) -> None:
    """Raise `UsageError` where a picture would take the place of a file that is read, by whatever name or link."""
    from nas.errors import UsageError

    if not picture.exists():
        return
    there = picture.stat()
    below = (os.path.join(folder, name) for path in images for folder, _, names in os.walk(path) for name in names)  # noqa: PTH118
    for path in (*images, *below):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), there):  # noqa: PTH116  as below
                raise UsageError(f"--picture {picture} is one of the images that are read: name another file")


def _missing(path: str) -> str:
    """Why there is nothing at a path; an empty text where something is."""
    if path == "-":
        return "standard input is closed" if sys.stdin is None else ""
    try:
        os.stat(path)  # noqa: PTH116  pathlib takes an empty name for the current folder
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _print_unread(files: list[dict[str, str]]) -> None:
    for each in files:
        print(f"error: {_escaped(each['file'])}: {each['reason']}", file=sys.stderr, flush=True)


def _escaped(text: str) -> str:
    """Return a text without what a terminal would obey: control characters, line ends, unpaired bytes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class _Printer:
    """Rows as they come, in text or CSV; held for JSON."""

    def __init__(self, form: Literal["text", "csv", "json"]) -> None:
        self.form = form
        self.rows: list[dict[str, object]] = []
        self.csv = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            self.csv.writerow(("file", "class", "probability", "runner_up", "runner_up_probability", "notes"))

    def print(self, batch: PredictionBatch) -> None:
        from rich.cells import cell_len

        width = min(60, max((cell_len(_escaped(each.file)) for each in batch.predictions), default=0))
        for each in batch.predictions:
            if self.form == "csv":
                second = (each.runner_up, f"{each.runner_up_probability:.6f}")
                self.csv.writerow((each.file, each.label, f"{each.probability:.6f}", *second, "; ".join(each.notes)))
            elif self.form == "json":
                self.rows.append(_fields(each))
            else:
                notes = f"  ({', '.join(each.notes)})" if each.notes else ""
                name, label, other = map(_escaped, (each.file, each.label, each.runner_up))
                print(
                    f"{name}{' ' * (width - cell_len(name))}  {label}  {100 * each.probability:.2f} %  then {other} "
                    f"{100 * each.runner_up_probability:.2f} %{notes}"
                )


def _fields(prediction: Prediction) -> dict[str, object]:
    fields = dataclasses.asdict(prediction)
    return {"file": fields.pop("file"), "class": fields.pop("label"), **fields}
