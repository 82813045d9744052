"""A trained network in the forms that people take away: each written, read back and checked on images.

All of them are written into a fresh folder, which takes its place only when every check has passed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import StorageError, UsageError
from nas.export.c import CReport, compiled_size, write_c
from nas.export.c_check import check_c, find_cmsis, find_compiler
from nas.export.c_cmsis import cmsis_network
from nas.export.earlier import file_digests, require_replaceable
from nas.export.fold import fold
from nas.export.folder import WEIGHTS, architecture_folder
from nas.export.int8 import Int8Comparison, Int8Report, compare_int8, compare_predictions, write_int8
from nas.export.integer import IntegerNetwork
from nas.export.load import MANIFEST
from nas.export.onnx import check_onnx, compute_logits, export_onnx
from nas.export.program import PROGRAM_FILE, check_program, export_program
from nas.export.qat import EPOCHS, train_quantized
from nas.export.quantize import quantize
from nas.export.script import (
    LIST_FILE,
    SCRIPT_FILE,
    check_pictures,
    check_script,
    result_note,
    script,
    script_files,
    write_script,
)
from nas.export.source import check_source, source
from nas.export.target_names import TARGETS
from nas.export.weights import read_network, write_network
from nas.files import write_atomic, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import OwnFiles, Split
    from nas.model import TrainedNetwork

CALIBRATION_IMAGES = 1000
INT8_LOSS = 0.1
"""Points of accuracy that an int8 network may lose before the report warns."""

_GRAPHS: Mapping[str, Mapping[str, Any]] = {
    "model.onnx": {},
    "model-batch1.onnx": {"batch": 1},
    "model-raw.onnx": {"raw": True},
    "model-probabilities.onnx": {"probabilities": True},
}
_CHUNK = 500  # images at a time through the integer network
_CROSS_COMPILER = ("arm-none-eabi-gcc", "-Os", "-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportSource:
    """A network that is exported: what it is, and the images that its exports are made and checked with."""

    network: TrainedNetwork
    dataset: str
    recipe: Mapping[str, Any]
    calibration: Tensor
    """Training images (N, C, H, W), uint8."""
    images: Split
    """The images that every export is checked on."""
    split: str
    """Their split, for the record: validation or test."""
    validation: Split | None = None
    """The images that a choice is made on; those of `images` where None."""
    trained_on: bool = False
    """True if the network was trained on these images: its accuracy on them then says nothing."""
    own: OwnFiles | None = None
    """The files of own images, as `require_targets` found them; looked for where None."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Choices of how targets are made, and what is made besides."""

    qat: bool = False
    """Train the int8 network for a few epochs in its own arithmetic, where static quantisation loses accuracy."""
    cmsis_nn: bool = False
    """Write C code that calls CMSIS-NN too."""
    soap: bool = False
    """Write the training script with SOAP, the tool's own optimizer, instead of AdamW."""


@dataclass(frozen=True, kw_only=True)
class ExportedTarget:
    """One target: its files, how far from the network it is, and facts for the reader."""

    name: str
    files: tuple[str, ...]
    difference: float | None
    """Largest difference of a logit (or of a probability) to the network on the images; None where there is none."""
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = ExportOptions()


def require_targets(
    targets: Sequence[str], dataset: str, recipe: Mapping[str, Any], folder: Path,
    options: ExportOptions = _PLAIN, own: OwnFiles | None = None,
) -> OwnFiles | None:  # fmt: skip
    """Return the files of own images that a script reads, if there is to be one; of `own`, where it is known.

    Raise `UsageError` for a target that cannot be made of the network, `StorageError` for a folder of other files. For
    use before any image is loaded; sizes that an exporter refuses are found when it runs, and leave no trace.
    """
    if unknown := [name for name in targets if name not in TARGETS]:
        raise UsageError(f"no export target '{unknown[0]}': choose among {', '.join(TARGETS)}")
    if "script" in targets and own is None:
        own = script_files(dataset, recipe)
    if options.cmsis_nn and "c" not in targets:
        raise UsageError("--cmsis-nn is C code: export to c as well")
    if options.soap and "script" not in targets:
        raise UsageError("--soap is the training script's optimizer: export to script as well")
    if options.qat and not {"int8", "c"} & set(targets):
        raise UsageError("--qat trains the int8 network: export to int8 or c as well")
    if options.cmsis_nn:
        find_cmsis()
    require_replaceable(Path(folder), targets)
    return own


def export_targets(
    folder: Path, origin: ExportSource, targets: Sequence[str], *, on_target: Callable[[str], None] | None = None,
    options: ExportOptions = _PLAIN,
) -> list[ExportedTarget]:  # fmt: skip
    """Write a network in each of `targets` into `folder`, whole or not at all, and return what was written.

    architecture.txt and architecture.json and export.json (what was checked, on which images) are always there. Raises
    `UsageError` and `StorageError` as `require_targets` does, and where an exporter cannot take the network or a file
    does not pass its check; `folder` is then as it was. `on_target` is called with the name of each as it begins.
    """
    own = require_targets(targets, origin.dataset, origin.recipe, folder, options, origin.own)
    origin = dataclasses.replace(origin, own=own)
    network, images = origin.network, origin.images.images
    logits = compute_logits(network, images)
    with _refused_in_one_line(), architecture_folder(folder, network.architecture, mark=MANIFEST) as new:
        begin = on_target or (lambda name: None)
        integer = None
        if {"int8", "c"} & set(targets):
            begin("quantisation")
            integer = _int8(new, origin, logits, options)
        makers = {
            "onnx": lambda: _onnx(new, network, images, logits),
            "torch": lambda: _torch(new, origin, logits),
            "int8": lambda: _int8_target(integer, origin),
            "c": lambda: _c(new, origin, logits, integer, options),
            "script": lambda: _script(new, origin, logits, options),
        }
        made = []
        for name in TARGETS:
            if name in targets:
                begin(name)
                made.append(makers[name]())
        if integer is not None and "int8" not in targets:
            for path in integer.report.files:
                path.unlink()
        write_json(new / MANIFEST, {**_manifest(origin, made), "digests": file_digests(new)})
    return made


@dataclass(frozen=True, kw_only=True, eq=False)
class _Int8:
    report: Int8Report
    comparison: Int8Comparison
    logits: Tensor
    """Those of the images (N, num_classes), whole numbers."""
    training: str
    """The result of quantisation-aware training in words; empty where none was wanted."""


@contextlib.contextmanager
def _refused_in_one_line() -> Iterator[None]:
    try:
        yield
    except (UsageError, StorageError) as error:
        raise type(error)(" ".join(str(error).split())) from error


def _onnx(folder: Path, network: TrainedNetwork, images: Tensor, logits: Tensor) -> ExportedTarget:
    differences = []
    for name, options in _GRAPHS.items():
        export_onnx(folder / name, network, **options)
        differences.append(check_onnx(folder / name, network, images, logits=logits))
    notes = (
        "model.onnx and model-batch1.onnx take images on 0..1, model-raw.onnx normalised ones",
        "model-probabilities.onnx takes uint8 images and gives probabilities; class names are in the metadata",
    )
    return ExportedTarget(name="onnx", files=tuple(_GRAPHS), difference=max(differences), notes=notes)


def _torch(folder: Path, origin: ExportSource, logits: Tensor) -> ExportedTarget:
    network, images, dropout = origin.network, origin.images.images, float(origin.recipe.get("dropout", 0.0))
    write_network(folder / WEIGHTS, network)
    read = read_network(folder / WEIGHTS, network.architecture, network.normalization, network.classes)
    text = source(network.architecture, network.normalization, network.classes, network.preparation, dropout)
    write_atomic(folder / "model.py", text)
    check_source(folder / "model.py", read)
    export_program(folder / PROGRAM_FILE, read)
    difference = check_program(folder / PROGRAM_FILE, read, images, logits)
    notes = (
        f"torch.export.load('{PROGRAM_FILE}').module() takes images on 0..1",
        "from model import load: load() takes uint8 images or images on 0..1",
    )
    return ExportedTarget(
        name="torch", files=(PROGRAM_FILE, WEIGHTS, "model.py"), difference=difference, notes=notes
    )  # fmt: skip


def _int8(folder: Path, origin: ExportSource, logits: Tensor, options: ExportOptions) -> _Int8:
    import torch

    integer, training = _trained_int8(origin) if options.qat else (None, "")
    report = write_int8(folder, origin.network, origin.calibration[:CALIBRATION_IMAGES], integer)
    found = torch.cat([report.network.run(chunk) for chunk in torch.split(origin.images.images, _CHUNK)])
    comparison = compare_predictions(logits.argmax(1), found.argmax(1), origin.images.labels)
    return _Int8(report=report, comparison=comparison, logits=found, training=training)


def _trained_int8(origin: ExportSource) -> tuple[IntegerNetwork, str]:
    """The int8 network, trained where static quantisation loses accuracy on validation and training wins some back."""
    folded, calibration = fold(origin.network, one_pad_value=True), origin.calibration[:CALIBRATION_IMAGES]
    static, chosen_on = quantize(folded, calibration), origin.validation or origin.images
    before = compare_int8(origin.network, static, chosen_on.images, chosen_on.labels)
    stated = f"static quantisation loses {before.loss:.2f} points on {before.images:,} validation images"
    if before.loss <= INT8_LOSS:
        return static, f"{stated}: no quantisation-aware training"
    trained = train_quantized(folded, calibration, origin.calibration)
    after = compare_int8(origin.network, trained, chosen_on.images, chosen_on.labels)
    better = after.int8_accuracy > before.int8_accuracy
    text = f"{stated}, after {EPOCHS} epochs of quantisation-aware training {after.loss:.2f}"
    return (trained, text) if better else (static, f"{text}: left out")


def _int8_target(int8: _Int8 | None, origin: ExportSource) -> ExportedTarget:
    assert int8 is not None
    found, files = int8.comparison, tuple(path.name for path in int8.report.files)
    seen = " that it was trained on" if origin.trained_on else f" of the {origin.split} split"
    notes = [
        f"accuracy {found.int8_accuracy:.2f} %, float {found.float_accuracy:.2f} %, "
        f"agreement {found.agreement:.2f} % on {found.images:,} images{seen}",
        f"takes uint8 images; calibrated on {int8.report.images:,} training images; onnxruntime gives every logit",
    ]
    if int8.training:
        notes.append(int8.training)
    if found.loss > INT8_LOSS:
        notes.append(f"warning: it loses {found.loss:.2f} points of accuracy{'' if int8.training else ': try --qat'}")
    figures = {
        "images": found.images, "float_accuracy": found.float_accuracy, "int8_accuracy": found.int8_accuracy,
        "agreement": found.agreement, "calibration_images": int8.report.images,
    }  # fmt: skip
    return ExportedTarget(name="int8", files=files, difference=None, notes=tuple(notes), figures=figures)


def _c(
    folder: Path, origin: ExportSource, logits: Tensor, int8: _Int8 | None, options: ExportOptions
) -> ExportedTarget:
    assert int8 is not None
    compiler, files, notes, figures, differences = find_compiler(), [], [], {}, []
    kinds = (("c-int8", int8.report.network, int8.logits), ("c-float32", None, logits))
    for name, integer, expected in kinds:
        (folder / name).mkdir()
        report = write_c(folder / name, origin.network, origin.images.images, integer)
        files += [f"{name}/{path.name}" for path in report.files]
        measured = {}
        if compiler is not None:
            differences.append(check_c(folder / name, origin.images.images, expected, compiler))
            for command in ((compiler, "-Os"), _CROSS_COMPILER):
                if (size := compiled_size(folder / name, command)) is not None:
                    measured[size.command] = {"text": size.text, "data": size.data, "bss": size.bss}
        notes.append(_size_note(name, report, measured))
        figures[name] = {**dataclasses.asdict(report.size), "compiled": measured}
    if options.cmsis_nn:
        more, note = _cmsis(folder / "c-cmsis-nn", origin, int8, compiler)
        files += more
        notes.append(note)
    if compiler is None:
        notes.append("not compiled: no C compiler here; run 'make test' in each folder where there is one")
    else:
        notes.append(
            f"compiled by {compiler} and run on {len(logits):,} images: every int8 logit equal, float32 within "
            f"{max(differences):.1e}"
        )
    return ExportedTarget(
        name="c", files=tuple(files), difference=max(differences, default=None), notes=tuple(notes), figures=figures
    )  # fmt: skip


def _cmsis(folder: Path, origin: ExportSource, int8: _Int8, compiler: str | None) -> tuple[list[str], str]:
    """Write C code that calls CMSIS-NN, and return its files and a note."""
    import torch

    network, library, images = cmsis_network(int8.report.network), find_cmsis(), origin.images.images
    folder.mkdir()
    report = write_c(folder, origin.network, images, network)
    logits = torch.cat([network.run(chunk) for chunk in torch.split(images, _CHUNK)])
    equal = 100 * float((logits == int8.logits).all(1).double().mean())
    same = 100 * float((logits.argmax(1) == int8.logits.argmax(1)).double().mean())
    note = (
        f"{folder.name}: {report.size.arena:,} bytes of memory, the image and a scratch buffer among them; CMSIS-NN's "
        f"rounding gives every logit of onnxruntime on {equal:.2f} % of the images and its class on {same:.2f} %"
    )
    if compiler is None or library is None:
        note += "; not compiled: NAS_CMSIS_NN names no folder of CMSIS-NN, or there is no C compiler"
    else:
        check_c(folder, images, logits, compiler, library)
        note += f"; compiled by {compiler} with CMSIS-NN and run on {len(images):,} images: every logit as stated"
    return [f"{folder.name}/{path.name}" for path in report.files], note


def _size_note(name: str, report: CReport, measured: Mapping[str, Mapping[str, int]]) -> str:
    text = (
        f"{name}: counted {report.size.flash:,} bytes of flash ({report.size.code:,} of them for code), "
        f"{report.size.arena:,} of memory (and {report.size.image:,} for the image)"
    )
    for command, size in measured.items():
        machine = f"Cortex-M4 ({command})" if command.startswith("arm") else "this machine"
        text += f"; compiled for {machine} {size['text'] + size['data']:,} of flash, {size['bss']:,} of memory"
    return text


def _script(folder: Path, origin: ExportSource, logits: Tensor, options: ExportOptions) -> ExportedTarget:
    given, own = (origin.network, origin.dataset, origin.recipe), origin.own
    files = write_script(folder, script(*given, own, soap=options.soap), own)
    check_script(folder / SCRIPT_FILE, origin.network, origin.images.images, logits)
    optimizer = "SOAP" if options.soap else "AdamW"
    notes = [
        f"trains from scratch with {optimizer} and no teacher; its result: {result_note(*given, soap=options.soap)}"
    ]
    if own is not None:
        check_pictures(folder / SCRIPT_FILE, own)
        notes.append(f"reads the files of {LIST_FILE} from {own.source}, pixel for pixel as the tool does")
    return ExportedTarget(name="script", files=files, difference=None, notes=tuple(notes))


def _manifest(origin: ExportSource, made: Sequence[ExportedTarget]) -> dict[str, Any]:
    network = origin.network
    return {
        "schedule": str(network.architecture),
        "num_params": network.architecture.num_params,
        "dataset": origin.dataset,
        "mean": list(network.normalization.mean),
        "std": list(network.normalization.std),
        "classes": list(network.classes),
        "preparation": None if network.preparation is None else network.preparation.pixels,
        "checked_on": {"split": origin.split, "images": len(origin.images), "trained_on": origin.trained_on},
        "targets": {
            target.name: {
                "files": list(target.files), "largest_difference": target.difference, "notes": list(target.notes),
                **target.figures,
            }
            for target in made
        },
    }  # fmt: skip
