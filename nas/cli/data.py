"""`nas data`: own images."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.help import Command
from nas.cli.options import (
    AsJson,
    Augment,
    DataDir,
    Mirror,
    OwnImages,
    Quiet,
    make_augmentation,
    make_images,
    own_images,
    path_option,
)

REFUSED = 1

data = typer.Typer(no_args_is_help=True, help="Look at own images before a search.")


@data.callback()
def _data() -> None:
    """Look at own images before a search."""


@data.command(cls=Command, epilog="Example: nas data check ./leaves --image-size 32")
@own_images
def check(
    path: Annotated[
        str, typer.Argument(help="A folder with a folder of images for each class, a .npz file, or torchvision:NAME.")
    ],
    images: OwnImages = make_images,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tell what own images hold, what is wrong with them, and what a search would do; exit with 1 if it would refuse.

    Classes, sizes, modes, unreadable files, equal and near-equal images, and those in two splits, which would make
    scores too high. Nothing is trained; the split into training and test images is written down where all is well.
    """
    from nas.data import check_images, data_root, fetch_torchvision, own_source, torchvision_path
    from nas.report import ImageBar, make_console, print_check

    options = images()
    with ImageBar(make_console(), quiet=quiet or as_json) as bar:
        if torchvision_path(path) is not None:
            fetch_torchvision(path, data_root(None), download=True, progress=bar)
        found = check_images(own_source(path) or Path(path), options, bar)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        print_check(make_console(stdout=True), found)
        if not found.problems and not quiet:
            print(f"next       nas search --dataset {shlex.quote(path)} {_flags(options)}--max-params 8000")
    if found.problems:
        raise typer.Exit(REFUSED)


def _flags(options: Any) -> str:
    """Return the options that were given as the command line has them."""
    words = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name == "grayscale" and value is not None:
            words.append("--grayscale" if value else "--color")
        elif value not in (None, False):
            words.append(f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return "".join(f"{word} " for word in words)


@data.command(cls=Command, epilog="Example: nas data augment ./leaves --mirror --augment crop=4,cutout=8 -o batch.png")
@own_images
def augment(
    dataset: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A data set's name, or the path of own images.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The .png file to write.", show_default=False, **path_option("FILE")),
    ] = None,
    mirror: Mirror = None,
    augment: Augment = None,
    data_dir: DataDir = None,
    images: OwnImages = make_images,
    quiet: Quiet = False,
) -> None:
    """Write a picture of training images as a search would change them: each row an image, then drawn six times.

    Look at it: whoever cannot name a changed image any more asks too much of the network.
    """
    from nas.errors import UsageError

    if output is None or output.suffix.lower() != ".png":
        raise UsageError(f"name the picture to write as -o FILE.png{'' if output is None else f', not {output}'}")
    from nas.data import load_training_data, prepare_dataset
    from nas.report import ImageBar, make_console, write_augmented
    from nas.train import Recipe, augmentation_text

    options = images()
    with ImageBar(make_console(), quiet=quiet) as bar:
        found = prepare_dataset(dataset, data_dir=data_dir, options=options, progress=bar)
    recipe = Recipe.for_dataset(found, make_augmentation(mirror, augment))
    write_augmented(load_training_data(found, data_dir=data_dir), recipe, output)
    print(f"{output}: {found.title}, {augmentation_text(recipe)}")
