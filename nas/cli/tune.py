"""`nas tune`."""

from __future__ import annotations

import json
import shlex
import time
from typing import Annotated

import typer

from nas.cli.options import (
    AsJson,
    Augment,
    Backend,
    Cluster,
    DataDir,
    DatasetName,
    Device,
    Mirror,
    OwnImages,
    Quiet,
    Seed,
    Teacher,
    Timeout,
    Workers,
    make_augmentation,
    make_images,
    make_machine,
    own_images,
)


@own_images
def tune(
    architecture: Annotated[str | None, typer.Option(help="The network (default: a study's winner).")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Study of the winner (default: the latest).")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Recipes in total, resumed ones included.")] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of a recipe that is not behind; the same for all.")] = 4,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of every training (default: the data set's; MNIST 15).")
    ] = None,
    timeout: Timeout = None,
    workers: Workers = None,
    cluster: Cluster = None,
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Name of the recipe study (default: data set and network).")] = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    images: OwnImages = make_images,
    teacher: Teacher = "none",
    mirror: Mirror = None,
    augment: Augment = None,
    device: Device = "auto",
    backend: Backend = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the best training recipe for one network: batch, rate, decay, EMA and augmentation, over several seeds.

    Run the same command again to resume. Only training and validation images are used, and the default recipe stays
    unless another is better beyond chance.
    """
    began = time.monotonic()
    machine = make_machine(data_dir, device, backend, workers, quiet, images=images(), cluster=cluster)
    from nas.library import search_recipe
    from nas.report import duration, make_console, recipe_table

    reason = search_recipe(
        architecture, study=study, name=name, dataset=dataset, machine=machine, epochs=epochs,
        trials=trials, num_seeds=seeds, seed=seed, timeout=timeout, teacher=teacher,
        augmentation=make_augmentation(mirror, augment),
    )  # fmt: skip
    if as_json:
        print(json.dumps(reason, indent=1))
        return
    out = make_console(stdout=True)
    out.print(recipe_table(reason))
    cut = "; the time limit cut it short: run it again to go on" if reason["cut"] else ""
    path = shlex.quote(f"{reason['folder']}/recipe.json")
    print(
        f"{duration(time.monotonic() - began)}{cut}\n\nrecipe  {path}\n"
        f"next    nas train-best --study {shlex.quote(reason['study'])} --seeds 3\n"
        f"        nas train-best --architecture {shlex.quote(reason['schedule'])} --recipe {path}"
    )
