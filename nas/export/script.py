"""A network's training as one readable script in plain torch and torchvision."""

from __future__ import annotations

import ast
import contextlib
import io
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from nas.export.c_text import fill
from nas.export.source import RESIDUAL, as_tuple, module_lines
from nas.files import damaged, read_text, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from nas.model import TrainedNetwork

SCRIPT_FILE = "train.py"

ADAMW_PEAK_LR = 0.01
"""AdamW's peak learning rate for 8,000 parameters; a smaller network takes more, by the root, up to three times as
much: the customary rate of one-cycle AdamW on small images, not tuned."""

MEASURED = (
    "`18r s10r M s43vr s36vr s49vr s30vr C G` (7,630 parameters, MNIST): last-5 test accuracy 99.569 ± 0.051 % "
    "(n = 3), the tool's own 99.593 ± 0.026 % (n = 10)"
)
"""The script of the record of 8,000, seeds 0 to 2, beside the tool: 15 epochs each (studies/LOG.md)."""

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
_FIELDS = (
    "epochs", "batch_size", "warmup_fraction", "weight_decay", "label_smoothing", "ema_horizon",
    "bn_recalibration_images", "degrees", "translate", "scale", "shear",
)  # fmt: skip


def script_problem(dataset: str, recipe: Mapping[str, Any]) -> str:
    """Return why there can be no script for a data set and a recipe, or an empty text."""
    if dataset not in _READERS:
        return f"a script reads its images with torchvision, which has no '{dataset}' ({', '.join(_READERS)})"
    if missing := [name for name in _FIELDS if name not in recipe]:
        return f"a script follows the recipe, which has no '{missing[0]}'"
    return ""


def script(network: TrainedNetwork, dataset: str, recipe: Mapping[str, Any]) -> str:
    """Return the text of train.py, which trains the network's architecture by the recipe, with AdamW and no teacher.

    Raises `UsageError` for a data set that torchvision lacks.
    """
    if problem := script_problem(dataset, recipe):
        raise UsageError(problem)
    architecture = network.architecture
    dropout = float(recipe.get("dropout", 0.0))
    title, reader, arranged = _READERS[dataset]
    factor = min(3.0, max(1.0, math.sqrt(8000 / architecture.num_params)))
    layers = textwrap.indent("\n".join(module_lines(architecture, dropout)), " " * 8)
    return fill(
        "script.txt",
        {
            "SCHEDULE": f"`{architecture}`", "NUM_PARAMS": f"{architecture.num_params:,}", "TITLE": title,
            "DISTILLATION": "and distillation from a larger network" if recipe.get("teacher") else
            "and distillation from a larger network where its recipe names one",
            "MEASURED": textwrap.fill(f"Measured once, for {MEASURED}. State the mean of three seeds of yours.", 120),
            "EPOCHS": recipe["epochs"], "BATCH_SIZE": recipe["batch_size"], "PEAK_LR": round(ADAMW_PEAK_LR * factor, 5),
            "WARMUP": recipe["warmup_fraction"], "WEIGHT_DECAY": recipe["weight_decay"],
            "LABEL_SMOOTHING": recipe["label_smoothing"], "EMA_HORIZON": recipe["ema_horizon"],
            "BN_IMAGES": recipe["bn_recalibration_images"],
            "AFFINE": ", ".join(str(recipe[name]) for name in ("degrees", "translate", "scale", "shear")),
            "MEAN": list(network.normalization.mean), "STD": list(network.normalization.std),
            "CLASSES": as_tuple(network.classes).replace("\n    ", "\n"),
            "ORDERED": "from collections import OrderedDict\n" if dropout else "",
            "RESIDUAL": RESIDUAL if any(layer.op == "add" for layer in architecture.layers) else "",
            "SHAPE": ", ".join(map(str, architecture.input_shape)), "LAYERS": layers, "READER": reader,
            "ARRANGED": arranged,
        },
    )  # fmt: skip


def write_script(path: Path, network: TrainedNetwork, dataset: str, recipe: Mapping[str, Any]) -> None:
    """Write train.py; raises `UsageError` as `script` does, and `StorageError`."""
    write_atomic(path, script(network, dataset, recipe))


def check_script(path: Path, network: TrainedNetwork, images: Tensor, logits: Tensor) -> None:
    """Run a training script's parts: its network gives the logits (N, num_classes) of uint8 images.

    It imports nothing but torch, torchvision and the standard library, and trains an epoch on a handful of the images.
    Raises `StorageError`.
    """
    import torch

    text = read_text(path)
    namespace: dict[str, Any] = {"__name__": "train"}
    if strangers := _imported(text) - {"argparse", "collections", "copy", "math", "torch", "torchvision"}:
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
        if not torch.allclose(found, logits[:8], rtol=0, atol=1e-4):
            raise damaged(path, "its network does not give the logits of the one trained")
        with contextlib.redirect_stdout(io.StringIO()):
            _, accuracies = namespace["train"](few, labels, few, labels, epochs=1)
    if len(accuracies) != 1:
        raise damaged(path, "it does not train")


def _imported(text: str) -> set[str]:
    """The packages that a source imports."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}
