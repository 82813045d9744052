"""`nas predict`."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nas.cli.options import AsJson, StudyName, one_study

if TYPE_CHECKING:
    from nas.final import Prediction, PredictionBatch, UnreadFile

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
        Path | None, typer.Option(metavar="FILE.png", help="Write the images as the network saw them, in a grid.")
    ] = None,
    polarity: Annotated[
        Literal["auto", "as-is", "invert"],
        typer.Option(help="auto: a light ground is inverted for a network of MNIST or its relatives, light on dark."),
    ] = "auto",
) -> None:
    """Say what image files show: class, probability and runner-up of each.

    Files are made ready as the network's training images were: any size, shape and format that Pillow reads, colour,
    16 bits, transparency and EXIF turns included. Guesses are noted: inverted, and centred where digits are cut out as
    in MNIST. A file that cannot be read gets a line on standard error, the others go on, and the exit code is 1.
    """
    from nas.errors import UsageError

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other")
    network = one_study(network, named)
    if all(path != "-" and not os.path.lexists(path) for path in images):  # before torch is imported: seconds
        raise UsageError(f"there is no {images[0]}: name image files or folders that are there, or -")
    from nas.final import GRID_IMAGES, find_predictor, predict_files, write_grid

    found, dataset = find_predictor(network)
    shown: list[Prediction] = []
    pixels: list[Any] = []
    unread: list[UnreadFile] = []
    printer = _Printer("csv" if as_csv else "json" if as_json else "text")
    for batch in predict_files(found, images, dataset=dataset, polarity=polarity):
        printer.print(batch)
        for file in batch.unread:
            print(f"error: {file.file}: {file.reason}", file=sys.stderr)
        unread += batch.unread
        if picture is not None and len(shown) < GRID_IMAGES:
            shown += batch.predictions
            pixels += batch.pixels
    if as_json:
        fields = {"predictions": printer.rows, "unread": [dataclasses.asdict(file) for file in unread]}
        print(json.dumps({"schedule": str(found.architecture), **fields}, indent=1))
    if picture is not None:
        count = write_grid(picture, shown, pixels)
        print(f"{count} images in {picture}", file=sys.stderr)
    if unread:
        raise typer.Exit(UNREAD)


class _Printer:
    """Rows as they come, in text or CSV; held for JSON."""

    def __init__(self, form: Literal["text", "csv", "json"]) -> None:
        self.form = form
        self.rows: list[dict[str, object]] = []
        self.csv = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            self.csv.writerow(("file", "class", "probability", "runner_up", "runner_up_probability", "notes"))

    def print(self, batch: PredictionBatch) -> None:
        width = min(60, max((len(each.file) for each in batch.predictions), default=0))
        for each in batch.predictions:
            if self.form == "csv":
                second = (each.runner_up, f"{each.runner_up_probability:.6f}")
                self.csv.writerow((each.file, each.label, f"{each.probability:.6f}", *second, " ".join(each.notes)))
            elif self.form == "json":
                self.rows.append(_fields(each))
            else:
                notes = f"  ({', '.join(each.notes)})" if each.notes else ""
                print(
                    f"{each.file:<{width}}  {each.label}  {100 * each.probability:.2f} %  then {each.runner_up} "
                    f"{100 * each.runner_up_probability:.2f} %{notes}"
                )


def _fields(prediction: Prediction) -> dict[str, object]:
    fields = dataclasses.asdict(prediction)
    return {"file": fields.pop("file"), "class": fields.pop("label"), **fields}
