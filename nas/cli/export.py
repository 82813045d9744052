"""`nas export`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nas.cli.options import AsJson, DataDir, Quiet, Storage, StudyName, make_machine, one_study, path_option

if TYPE_CHECKING:
    from nas.library import Exported

Check = Literal["validation", "test"]


def export(
    network: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY|RUN|RECORD",
            show_default=False,
            help="A study's name, a full run's folder or a record's cap (default: the latest full run, else winner).",
        ),
    ] = None,
    named: StudyName = None,
    to: Annotated[
        str, typer.Option("--to", metavar="TARGETS", help="Some of onnx,torch,int8,c,script with commas, or all.")
    ] = "all",
    folder: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The folder to write.", show_default=False, **path_option("DIR")),
    ] = None,
    check: Annotated[
        Check, typer.Option(help="The images that the exports are checked on; test is an opening, and recorded.")
    ] = "validation",
    storage: Storage = None,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train the int8 network a few epochs more where quantisation loses accuracy.")
    ] = False,
    cmsis_nn: Annotated[bool, typer.Option("--cmsis-nn", help="C code that calls Arm's CMSIS-NN as well.")] = False,
    soap: Annotated[
        bool, typer.Option("--soap", help="The script with SOAP, the search's optimizer, written out; not with AdamW.")
    ] = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained network for other programs: ONNX, torch, int8, C99, a training script; all checked, or none.

    onnx: images on 0..1, normalised images, one image at a time, and uint8 images to probabilities. torch: an
    ExportedProgram, safetensors and model.py. int8: an ONNX graph of integers. c: one source and one header without
    dependencies, int8 and float32, with a self-test. script: trains the network from scratch in plain torch.
    """
    from nas.errors import UsageError
    from nas.export import parse_targets
    from nas.files import require_place

    if folder is None:
        raise UsageError("name the folder to write with -o DIR")
    network = one_study(network, named)
    parse_targets(to)  # before torch is imported: seconds
    require_place(folder, folder=True)
    from nas.export import ExportOptions
    from nas.library import export_network
    from nas.report import StepView, make_console

    machine = make_machine(data_dir, "cpu", "auto", None, quiet)
    options = ExportOptions(qat=qat, cmsis_nn=cmsis_nn, soap=soap)
    with StepView(make_console(), quiet=quiet) as view:

        def show(target: str) -> None:
            view(f"{target}: {'loading' if target == 'images' else 'writing and checking'}")

        result = export_network(
            network, to=to, folder=folder, storage=storage, check=check, machine=machine, options=options,
            on_target=show,
        )  # fmt: skip
    if as_json:
        print(json.dumps(dataclasses.asdict(result), indent=1, default=str))
    else:
        _print(result)


def _print(result: Exported) -> None:
    print(f"{result.schedule}\n{result.num_params:,} parameters, from {result.source}")
    for target in result.targets:
        difference = "" if target.difference is None else f"  (differs by {target.difference:.1e} at most)"
        print(f"{target.name}: {', '.join(target.files)}{difference}")
        for note in target.notes:
            print(f"    {note}")
    checked = ""
    if [target.name for target in result.targets] != ["script"]:  # which is not checked on images
        seen = ", which it was trained on" if result.trained_on else ""
        checked = f"checked on {result.images:,} {result.split} images{seen}; "
    print(f"{checked}written to {result.folder}")
