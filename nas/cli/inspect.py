"""`nas count` and `nas space`: what needs no training."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import (
    AsJson,
    BudgetFile,
    DatasetName,
    MaxFlash,
    MaxMacs,
    MaxParams,
    MaxRam,
    Seed,
    make_budget,
)

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.footprint import Deployment, DeviceLimit, Kind

DOES_NOT_FIT = 1


def count(
    schedule: Annotated[str, typer.Argument(help="The architecture, in one line; or a record's cap, such as 1000.")],
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    budget: BudgetFile = None,
    board: Annotated[
        str | None, typer.Option(help="Does its C code fit a board? Such as pico or microbit; all for every known one.")
    ] = None,
    max_flash: MaxFlash = None,
    max_ram: MaxRam = None,
    as_float: Annotated[bool, typer.Option("--float", help="Count float32 C code and not int8.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count a network without building it: layers, shapes, parameters, MACs, activation memory, and whether it fits.

    A block is a width such as 8 with marks around it: s before it makes it separable; after it, in this order, kN is
    the kernel, /N the stride, v valid, b bias, n no norm, r conv-ReLU-norm, + residual. An inverted bottleneck is i8x4:
    i, its width, x and its expansion, then kN, /N, v and +. M is a max-pool, G the global pool, C or Cb the classifier.
    A cap is inclusive; exits with 1 where one is given and not met. --board, --max-flash and --max-ram count what the C
    code of `nas export --to c` takes of a device, as that export plans it.
    """
    from nas.architecture import Architecture
    from nas.footprint import counts, folded_params

    architecture = Architecture.parse(
        _schedule_of_record(schedule) if re.fullmatch(r"[a-z\d-]*\d", schedule) else schedule
    )
    limits = None
    if max_params is not None or max_macs is not None or budget is not None:
        limits = make_budget(max_params, max_macs, budget)
    fits = None if limits is None else limits.admits(*counts(architecture, limits))
    deployment = None
    stated: tuple[DeviceLimit, ...] = (
        () if limits is None or not limits.caps_memory else (_limit("the budget", *limits.caps[2:]),)
    )
    if max_flash is not None or max_ram is not None:
        stated += (_limit("the limits given", max_flash, max_ram),)
    if board is not None or stated or as_float:
        deployment = _deployment(architecture, board, stated, "float32" if as_float else "int8")
        fits = fits is not False and deployment.fits
    if as_json:
        fields: dict[str, Any] = {
            "schedule": str(architecture), "num_params": architecture.num_params,
            "folded_params": folded_params(architecture), "macs": architecture.macs,
            "peak_activations": architecture.peak_activations, "activations": architecture.activations,
            "fits": fits, "layers": [layer._asdict() for layer in architecture.layers],
        }  # fmt: skip
        if deployment is not None:
            fields["deployment"] = deployment.to_dict()
        print(json.dumps(fields, indent=1))
    else:
        from nas.report import count_lines, deployment_table, layer_table, make_console

        console = make_console(stdout=True)
        console.print(layer_table(architecture))
        console.print(count_lines(architecture, limits), highlight=False, markup=False)
        if deployment is not None:
            console.print(deployment_table(deployment))
    if fits is False:
        raise typer.Exit(DOES_NOT_FIT)


def _schedule_of_record(cap: str) -> str:
    """The schedule of the record with a cap, or a data set and a cap; the text as it is where there is none."""
    from nas.files import read_text
    from nas.study import RECORDS, studies_dir

    path = studies_dir() / RECORDS / cap / "architecture.txt"
    return read_text(path) if path.is_file() else cap


def _limit(title: str, flash: int | None, ram: int | None) -> DeviceLimit:
    from nas.footprint import DeviceLimit

    return DeviceLimit(title=title, flash=flash, ram=ram, required=True)


def _deployment(
    architecture: Architecture, board: str | None, stated: tuple[DeviceLimit, ...], kind: Kind
) -> Deployment:
    """Return what the C code takes, and the limits that it is held against: those named, or every known board."""
    from nas.budget import find_board, read_boards
    from nas.footprint import Deployment, DeviceLimit, footprint

    limits = list(stated)
    everyone = board is None and not limits
    if board is not None and not (everyone := board.strip().lower() == "all"):
        limits.append(DeviceLimit.of_board(find_board(board), required=True))
    if everyone:
        limits += [DeviceLimit.of_board(each, required=False) for each in read_boards().values()]
    return Deployment(footprint=footprint(architecture, kind), limits=tuple(limits))


def space(
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    budget: BudgetFile = None,
    dataset: DatasetName = None,
    samples: Annotated[int, typer.Option(min=1, help="Schedules to draw.")] = 10_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show what the search space holds under a budget: shares over the cap, counts, depths, examples; no training."""
    limits = make_budget(max_params, max_macs, budget, dataset=dataset)
    from nas.library import dataset_named
    from nas.report import make_console, print_space
    from nas.space import SearchSpace, survey

    found = dataset_named(limits.dataset)
    searched = SearchSpace(budget=limits, input_shape=found.input_shape, num_classes=found.num_classes)
    searched.require_feasible()
    result = survey(searched, samples=samples, seed=seed)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    print_space(make_console(stdout=True), limits, result)
