"""`nas data`: own images."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Annotated

import typer

from nas.cli.options import (
    AllowDuplicates,
    AsJson,
    Background,
    Crop,
    Grayscale,
    ImageSize,
    Quiet,
    SkipUnreadable,
    make_images,
)

REFUSED = 1

data = typer.Typer(no_args_is_help=True, help="Look at own images before a search.")


@data.callback()
def _data() -> None:
    """Look at own images before a search."""  # with a callback a group of one command stays a group


@data.command(epilog="Example: nas data check ./leaves --image-size 32")
def check(
    path: Annotated[str, typer.Argument(help="A folder with a folder of images for each class, or a .npz file.")],
    image_size: ImageSize = None,
    crop: Crop = False,
    grayscale: Grayscale = None,
    background: Background = None,
    skip_unreadable: SkipUnreadable = False,
    allow_duplicates: AllowDuplicates = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tell what own images hold, what is wrong with them, and what a search would do; exit with 1 if it would refuse.

    Classes, sizes, modes, unreadable files, equal and near-equal images, and those in two splits, which would make
    scores too high. Nothing is trained; the split into training and test images is written down where all is well.
    """
    from pathlib import Path

    from nas.data import check_images, own_source
    from nas.report import ImageBar, make_console, print_check

    options = make_images(image_size, crop, grayscale, background, skip_unreadable, allow_duplicates)
    with ImageBar(make_console(), quiet=quiet or as_json) as bar:
        found = check_images(own_source(path) or Path(path), options, bar)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        print_check(make_console(stdout=True), found)
        if not found.problems and not quiet:
            print(f"next       nas search --dataset {shlex.quote(path)} --max-params 8000")
    if found.problems:
        raise typer.Exit(REFUSED)
