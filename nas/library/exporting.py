"""`nas.export_network`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from nas.data import (
    load_training_data,
    open_test,
)
from nas.errors import UsageError
from nas.export import (
    ExportedTarget,
    ExportOptions,
    ExportSource,
    export_targets,
    parse_targets,
    require_targets,
)
from nas.final import (
    find_network,
)
from nas.library.machine import Machine, ready_dataset, warn
from nas.searches import bring_winner
from nas.values import checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder of exports: what was exported, to which targets, and the images that each was checked on."""

    folder: Path
    source: Path
    """The folder of the network."""
    schedule: str
    num_params: int
    targets: tuple[ExportedTarget, ...]
    split: str
    images: int
    trained_on: bool
    """True if the network was trained on these images."""


@checked
def export_network(
    source: str | Path | None = None,
    *,
    to: str | tuple[str, ...],
    folder: Path,
    storage: str | None = None,
    check: Literal["validation", "test"] = "validation",
    machine: Machine | None = None,
    options: ExportOptions | None = None,
    on_target: Callable[[str], None] | None = None,
) -> Exported:
    """Write a trained network in the forms of `to` into a folder, each read back and checked, all or none of them.

    `source` is a study's name, a full run's folder or a record's cap (default: the latest full run, else the latest
    winner). `to` is "all" or some of onnx, torch, int8, c, script. With `storage`, a study's winner is brought
    here from where another machine wrote it. All are checked on the validation images, or on the whole test split, an
    opening that is recorded. `options` says what else is made. `on_target` is called with each
    target's name as it begins, and with "images" before, once nothing speaks against the targets. Raise
    `UsageError` for a target that cannot be made, before anything is written, `StorageError` where a file does not pass
    its check, `DataError` for missing images.
    """
    machine = machine or Machine()
    targets = parse_targets(to if isinstance(to, str) else ",".join(to))
    if check not in ("validation", "test"):
        raise UsageError(f"exports are checked on validation or test images, not on '{check}'")
    if storage is not None and source is not None and not Path(source).exists():
        bring_winner(str(source), storage)
    found = find_network(None if source is None else str(source))
    options = options or ExportOptions()
    own = require_targets(targets, found.dataset, found.recipe, folder, options)
    if on_target is not None:
        on_target("images")
    dataset = ready_dataset(found.dataset, machine)
    network = found.network
    if (network.architecture.input_shape, network.architecture.num_classes) != (
        dataset.input_shape, dataset.num_classes
    ):  # fmt: skip
        raise UsageError(f"'{network.architecture}' does not take the images and classes of {dataset.name}")
    training = load_training_data(dataset, data_dir=machine.data_dir)
    warn(training, machine)
    assert training.validation is not None
    images = training.validation
    if check == "test":
        purpose = f"check the exports of {network.architecture} to {', '.join(targets)}"
        images = open_test(dataset, data_dir=machine.data_dir, log=found.openings, purpose=purpose)
    origin = ExportSource(
        network=network, dataset=found.dataset, recipe=found.recipe, calibration=training.train.images, images=images,
        split=check, validation=training.validation, trained_on=found.whole and check == "validation", own=own,
    )  # fmt: skip
    made = export_targets(folder, origin, targets, on_target=on_target, options=options)
    return Exported(
        folder=Path(folder), source=found.folder, schedule=str(network.architecture),
        num_params=network.architecture.num_params, targets=tuple(made), split=check, images=len(images),
        trained_on=origin.trained_on,
    )  # fmt: skip
