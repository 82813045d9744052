"""A network's training as one readable script in plain torch and torchvision."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import math
import random
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.data import OwnFiles, own_files
from nas.errors import DataError, UsageError
from nas.export.c_text import fill
from nas.export.source import RESIDUAL, as_tuple, module_lines
from nas.export.tolerance import tolerance_of
from nas.files import damaged, read_text, write_atomic, write_json
from nas.train import Recipe, peak_lr

if TYPE_CHECKING:
    from torch import Tensor

    from nas.model import TrainedNetwork

SCRIPT_FILE = "train.py"
LIST_FILE = "images.json"
"""The own images that a script reads, beside it."""

ADAMW_PEAK_LR = 0.01
"""AdamW's peak learning rate for 8,000 parameters; a smaller network takes more, by the root, up to three times as
much: the customary rate of one-cycle AdamW on small images, not tuned."""

MEASURED = "18r s10r M s43vr s36vr s49vr s30vr C G"
"""The network whose script was measured: the record of 8,000 with AdamW, seeds 0 to 2, 15 epochs (studies/LOG.md)."""

_GREY = "images.unsqueeze(1)"
_READERS = {
    "mnist": ("MNIST", "MNIST(root, train=train, download=True)", _GREY),
    "fashion-mnist": ("Fashion-MNIST", "FashionMNIST(root, train=train, download=True)", _GREY),
    "kmnist": ("Kuzushiji-MNIST", "KMNIST(root, train=train, download=True)", _GREY),
    "emnist-digits": (
        "EMNIST digits", 'EMNIST(root, split="digits", train=train, download=True)',
        "images.transpose(1, 2).unsqueeze(1)",
    ),
    "cifar10": ("CIFAR-10", "CIFAR10(root, train=train, download=True)", "images.permute(0, 3, 1, 2)"),
}  # fmt: skip
_EXPRESSED = (
    "epochs", "batch_size", "peak_lr", "lr_exponent", "warmup_fraction", "weight_decay", "label_smoothing",
    "ema_horizon", "bn_recalibration_images", "degrees", "translate", "scale", "shear", "mirror", "crop", "jitter",
    "cutout", "class_weights", "dropout",
)  # fmt: skip
_LEFT_OUT = ("teacher", "teacher_augmentation", "teacher_epochs", "distill_weight", "temperature")
"""The recipe's fields that a script does without, and says so in its first lines."""


def script_files(dataset: str, recipe: Mapping[str, Any]) -> OwnFiles | None:
    """Return the files that a script for a data set and a recipe reads; None where torchvision has the images.

    Raises `UsageError` for images that neither torchvision nor a folder has, and for a recipe that a script cannot
    express.
    """
    try:
        _expressed(recipe)
        found = None if dataset in _READERS else own_files(dataset)
    except (UsageError, DataError) as error:
        raise UsageError(f"cannot export to script: {error}") from error
    if found is None and dataset not in _READERS:
        raise UsageError(
            f"cannot export to script: it reads its images with torchvision, which has no '{dataset}' "
            f"({', '.join(_READERS)}), or from a folder"
        )
    return found


def _expressed(recipe: Mapping[str, Any]) -> Recipe:
    """The recipe of a dictionary. Raise `UsageError` for one that a script cannot express."""
    given = Recipe.from_dict(recipe)
    for spec in dataclasses.fields(Recipe):
        if spec.name not in (*_EXPRESSED, *_LEFT_OUT) and getattr(given, spec.name) != spec.default:
            raise UsageError(f"a script cannot express the recipe's {spec.name} = {getattr(given, spec.name)!r}")
    return given


def result_note(network: TrainedNetwork, dataset: str, recipe: Mapping[str, Any], *, soap: bool = False) -> str:
    """Return the script's result beside the tool's where it was measured for this very training, else how to do so."""
    plain, given = Recipe(), Recipe.from_dict(recipe)
    same = all(getattr(given, name) == getattr(plain, name) for name in _EXPRESSED)
    if same and not soap and (str(network.architecture), dataset) == (MEASURED, "mnist"):
        return "last-5 test accuracy 99.569 ± 0.051 % (n = 3), by the tool itself 99.593 ± 0.026 % (n = 10)"
    return "not measured; run it with --seed 0, 1 and 2, and state the mean of the three"


def script(
    network: TrainedNetwork, dataset: str, recipe: Mapping[str, Any], own: OwnFiles | None = None, *, soap: bool = False
) -> str:  # fmt: skip
    """Return the text of train.py, which trains the network's architecture by the recipe, without a teacher.

    It reads `own`, the result of `script_files`. With AdamW, or with `soap` with that optimizer, written out. Raises
    `UsageError` for a recipe that a script cannot express.
    """
    architecture, given = network.architecture, _expressed(recipe)
    layers = textwrap.indent("\n".join(module_lines(architecture, given.dropout)), " " * 8)
    rate = ADAMW_PEAK_LR * min(3.0, max(1.0, math.sqrt(8000 / architecture.num_params)))
    if soap:
        rate = peak_lr(given, architecture.num_params)
    images, chosen = _images(dataset, own)
    chosen |= {"SOAP"} if soap else {"ADAMW"}
    names = ("mirror", "crop", "jitter", "cutout", "class_weights", "dropout")
    chosen |= {name.upper() for name in names if getattr(given, name)}
    chosen |= {name for name, other in (("UNCROPPED", "CROP"), ("UNWEIGHTED", "CLASS_WEIGHTS")) if other not in chosen}
    note = result_note(network, dataset, recipe, soap=soap)
    return fill(
        "script.txt",
        {
            **images,
            "SCHEDULE": f"`{architecture}`", "NUM_PARAMS": f"{architecture.num_params:,}",
            "WHERE": "" if given.teacher else ", where its recipe names one",
            "MEASURED": textwrap.fill(f"Its result: {note}.", 120),
            "OPTIMIZER": "SOAP" if soap else "AdamW",
            "MAKE_OPTIMIZER": "Soap" if soap else "torch.optim.AdamW",
            "EPOCHS": given.epochs, "BATCH_SIZE": given.batch_size, "PEAK_LR": round(rate, 5),
            "WARMUP": given.warmup_fraction, "WEIGHT_DECAY": given.weight_decay,
            "LABEL_SMOOTHING": given.label_smoothing, "EMA_HORIZON": given.ema_horizon,
            "BN_IMAGES": given.bn_recalibration_images,
            "AFFINE": ", ".join(str(getattr(given, name)) for name in ("degrees", "translate", "scale", "shear")),
            "MIRROR": given.mirror, "CROP": given.crop, "JITTER": given.jitter, "CUTOUT": given.cutout,
            "CLASS_WEIGHTS": given.class_weights, "CHANGES": _changes(given), "CHANGED": _changed(given),
            "MEAN": list(network.normalization.mean), "STD": list(network.normalization.std),
            "CLASSES": as_tuple(network.classes).replace("\n    ", "\n"),
            "RESIDUAL": RESIDUAL if any(layer.op == "add" for layer in architecture.layers) else "",
            "SHAPE": ", ".join(map(str, architecture.input_shape)), "LAYERS": layers,
        },
        chosen,
    )  # fmt: skip


def _images(dataset: str, own: OwnFiles | None) -> tuple[dict[str, object], set[str]]:
    """Return what fills the template's parts about images, and which of these are chosen."""
    if own is None:
        title, reader, arranged = _READERS[dataset]
        return {"TITLE": title, "READER": reader, "ARRANGED": arranged}, {"TORCHVISION"}
    options, source = own.options, repr(str(own.source))
    return {
        "TITLE": own.source.name, "SOURCE_TEXT": source, "SOURCE": source, "SIDE": options.image_size,
        "MODE": "L" if options.grayscale else "RGB", "BEHIND": options.background or "white",
        "BARS": options.background or "black", "PREPARATION": options.words,
    }, {"OWN", "OWN_CROP" if options.crop else "OWN_BARS"}  # fmt: skip


def _changes(recipe: Recipe) -> str:
    """Return the random maps of a recipe in words."""
    words = ["rotation", "change of size", "shear", "shift"] + ["mirroring"] * bool(recipe.mirror)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _changed(recipe: Recipe) -> str:
    """Return the expression of a batch's images after all random changes."""
    text = "normalise(augment(images[chosen] / 255))"
    if recipe.jitter:
        text = f"recolour({text})"
    return f"cut_out({text})" if recipe.cutout else text


def write_script(folder: Path, text: str, own: OwnFiles | None) -> tuple[str, ...]:
    """Write train.py, and for own images their list, into a folder, and return the names of the files.

    Raises `StorageError`.
    """
    write_atomic(folder / SCRIPT_FILE, text)
    if own is None:
        return (SCRIPT_FILE,)
    mixed = random.Random(0).sample(own.train, len(own.train))  # the first ones, which norms are measured on, of all
    write_json(folder / LIST_FILE, {"train": mixed, "test": own.test})
    return (SCRIPT_FILE, LIST_FILE)


def check_script(path: Path, network: TrainedNetwork, images: Tensor, logits: Tensor) -> None:
    """Run a training script's parts: its network gives the logits (N, num_classes) of uint8 images.

    It imports nothing but torch, torchvision, what these need, and the standard library, and trains an epoch on a
    handful of the images. Raises `StorageError`.
    """
    import torch

    text = read_text(path)
    namespace: dict[str, Any] = {"__name__": "train", "__file__": str(path)}
    known = {"argparse", "collections", "copy", "json", "math", "numpy", "pathlib", "PIL", "torch", "torchvision"}
    if strangers := _imported(text) - known:
        raise damaged(path, f"it imports {min(strangers)}")
    exec(compile(text, str(path), "exec"), namespace)
    few, labels = images[:8], logits[:8].argmax(1)
    with torch.random.fork_rng(devices=[]):
        model = namespace["build"]()
        if sum(parameter.numel() for parameter in model.parameters()) != network.architecture.num_params:
            raise damaged(path, f"its network has not {network.architecture.num_params:,} parameters")
        model.load_state_dict(network.state_dict, strict=True)
        with torch.no_grad():
            found = model.eval()(namespace["normalise"](few / 255))
        if not torch.allclose(found, logits[:8], rtol=0, atol=tolerance_of(logits)):
            raise damaged(path, "its network does not give the logits of the one trained")
        with contextlib.redirect_stdout(io.StringIO()):
            _, accuracies = namespace["train"](few, labels, few, labels, epochs=1)
    if len(accuracies) != 1:
        raise damaged(path, "it does not train")


def check_pictures(path: Path, own: OwnFiles, count: int = 32) -> None:
    """Compare the images that a script reads with those of the tool, for a few of the training files.

    Raises `StorageError` where a pixel differs.
    """
    import numpy

    namespace: dict[str, Any] = {"__name__": "train", "__file__": str(path)}
    exec(compile(read_text(path), str(path), "exec"), namespace)
    for name, _ in own.train[:: max(1, len(own.train) // count)]:
        if not numpy.array_equal(namespace["picture"](own.source / name).numpy(), own.read(name)):
            raise damaged(path, f"it reads other pixels than the tool from {name}")


def _imported(text: str) -> set[str]:
    """The packages that a source imports."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}
