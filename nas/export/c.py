"""A trained network as C99: one header and one source, no allocation, no library; and what it takes of a device.

Beside them a self-test with ten images, a main.c that reads a PGM or PPM image, and a Makefile.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from nas.data import DATASETS, FolderOptions
from nas.errors import StorageError
from nas.export.c_cmsis import CMSIS_LAYER_BYTES, CmsisNetwork, cmsis_source
from nas.export.c_float import float_source, pixels_of_sum
from nas.export.c_int8 import int8_source
from nas.export.c_text import c_string, fill, float_word, wrapped
from nas.export.fold import FloatClassifier, FoldedNetwork, fold
from nas.export.integer import IntegerNetwork
from nas.files import write_atomic
from nas.footprint import Footprint, Plan, make_plan, plan_footprint
from nas.model import TrainedNetwork

TEST_IMAGES = 10
C_TOLERANCE = 1e-4
"""Largest difference of a float logit allowed between the C code and the network, relative to logits above 1: the sums
are taken in another order."""


_LIBRARY = """
# Where CMSIS-NN is, for a processor; CMSIS_CORE: the Include folder of CMSIS-Core. On a desktop add
# CFLAGS="-O2 -D__GNUC_PYTHON__ -D__RESTRICT=__restrict"
CMSIS_NN ?= ../CMSIS-NN
CMSIS_CORE ?= $(CMSIS_NN)/../cmsis_core/Include
CFLAGS += -I$(CMSIS_NN)/Include -I$(CMSIS_CORE)
KERNELS = $(wildcard $(CMSIS_NN)/Source/*/*.c)
"""


@dataclass(frozen=True, kw_only=True)
class CReport:
    """A C export: its files and what it takes of a device."""

    files: tuple[Path, ...]
    size: Footprint


@dataclass(frozen=True, kw_only=True)
class CompiledSize:
    """Bytes of the compiled nas_net.c, as `size` tells them: text holds code and constant tables."""

    command: str
    text: int
    data: int
    bss: int


def write_c(folder: Path, network: TrainedNetwork, images: Tensor, integer: IntegerNetwork | None = None) -> CReport:
    """Write nas_net.h, nas_net.c, nas_net_test.c, main.c and Makefile into the existing `folder`.

    The code is int8 where `integer` is given (`Int8Report.network`), float32 where not; of a `CmsisNetwork` it calls
    CMSIS-NN, whose own code and tables of stages the report's size leaves out. The first ten of `images`,
    uint8 (N, C, H, W), become the self-test. Raise `UsageError` where the network is too large for the code,
    `StorageError` where a file cannot be written.
    """
    folded = fold(network)
    plan = make_plan(folded.operations if integer is None else integer.operations, floats=integer is None)
    size = plan_footprint(plan, "float32" if integer is None else "int8")
    library = isinstance(integer, CmsisNetwork)
    if integer is None:
        plan = _with_averaging_classifier(plan, folded)
        source = float_source(plan, _title(folded, "float32"))
    elif isinstance(integer, CmsisNetwork):
        source, memory = cmsis_source(integer, _title(integer, "int8"))
        size = replace(
            size, weights=size.weights + 4 * sum(each.output_shape[0] for each in plan.convolutions),
            tables=CMSIS_LAYER_BYTES * len(plan.convolutions), code=0, arena=memory, reserve=0,
        )  # fmt: skip
    else:
        source = int8_source(plan, _title(integer, "int8"))
    texts = {
        "nas_net.h": _header(integer or folded, network.preparation),
        "nas_net.c": f"{source}\n{_class_names(network.classes)}",
        "nas_net_test.c": _self_test(integer or folded, images[:TEST_IMAGES]),
        "main.c": fill("main.c", {}),
        "Makefile": fill(
            "Makefile", {"LIBRARY": _LIBRARY if library else "", "KERNELS": " $(KERNELS)" if library else ""}
        ),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return CReport(files=tuple(folder / name for name in texts), size=size)


def compiled_size(folder: Path, compiler: Sequence[str] = ("cc", "-Os")) -> CompiledSize | None:
    """Return the size of nas_net.c of `folder`, compiled with a command and its options; None without that compiler.

    Raise `StorageError` where it does not compile.
    """
    if shutil.which(compiler[0]) is None:
        return None
    with tempfile.TemporaryDirectory() as build:
        target = str(Path(build) / "nas_net.o")
        run_command([*compiler, "-std=c99", "-c", "-o", target, str(folder / "nas_net.c")])
        size = run_command([compiler[0], "-print-prog-name=size"]).strip()
        text, data, bss = run_command([size, target]).splitlines()[1].split()[:3]
    return CompiledSize(command=" ".join(compiler), text=int(text), data=int(data), bss=int(bss))


def run_command(command: Sequence[str]) -> str:
    """Return what a command of the compiler's writes; raise `StorageError` with its first line where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        first = next(iter(result.stderr.splitlines()), f"exit code {result.returncode}")
        raise StorageError(f"{command[0]} fails on the exported C code: {first}; try another compiler")
    return result.stdout


def _with_averaging_classifier(plan: Plan, folded: FoldedNetwork) -> Plan:
    """The plan with a classifier that takes sums over the map for averages."""
    classifier = plan.classifier
    assert isinstance(classifier, FloatClassifier)
    count = pixels_of_sum(folded.operations)
    return replace(plan, classifier=replace(classifier, weight=(classifier.weight / count).astype(np.float32)))


def _title(network: FoldedNetwork | IntegerNetwork, kind: str) -> str:
    return f"/* {network.schedule} in {kind}, generated by nas. */"


def _header(network: FoldedNetwork | IntegerNetwork, preparation: FolderOptions | None) -> str:
    channels, height, width = network.input_shape
    kind = "float32"
    logit = "typedef float nas_net_logit;"
    if isinstance(network, IntegerNetwork):
        kind = "int8"
        logit = (
            "/* An integer: as a number it is this times NAS_NET_LOGIT_SCALE. */\n"
            f"typedef int32_t nas_net_logit;\n#define NAS_NET_LOGIT_SCALE {float_word(network.logit_scale)}"
        )
    return fill(
        "header.h",
        {"HEADER": _title(network, kind), "HEIGHT": height, "WIDTH": width, "CHANNELS": channels,
         "CLASSES": len(network.classes), "LOGIT": logit,
         "PREPARATION": _look(network) if preparation is None else
                        f"\n   Trained on images made so: {preparation.words}."},
    )  # fmt: skip


def _look(network: FoldedNetwork | IntegerNetwork) -> str:
    """A line on how images of MNIST and its relatives look; empty for all others."""
    grey = [each for each in DATASETS.values() if each.input_shape[0] == 1]
    if (network.input_shape, network.classes) not in [(each.input_shape, each.classes) for each in grey]:
        return ""
    digits = ": digits 20 pixels high or wide, their centre of mass in the middle, as MNIST's"
    return f"\n   Light on a dark ground{digits if network.classes == DATASETS['mnist'].classes else ''}."


def _class_names(classes: Sequence[str]) -> str:
    """The definition of the class names, in UTF-8."""
    names = wrapped(c_string(name) for name in classes)
    return f"const char *const nas_net_class_names[NAS_NET_CLASSES] = {{\n{names}\n}};\n"


def _self_test(network: FoldedNetwork | IntegerNetwork, images: Tensor) -> str:
    kind = "int8" if isinstance(network, IntegerNetwork) else "float32"
    logits = network.run(images)
    if kind == "int8":
        rows = [wrapped(map(str, row)) for row in logits.tolist()]
        same = "same &= logits[k] == expected[i][k];"
    else:
        rows = [wrapped(map(float_word, row)) for row in logits.numpy()]
        same = (
            "{\n      nas_net_logit difference = logits[k] - expected[i][k], size = expected[i][k];\n"
            "      if (difference < 0) difference = -difference;\n      if (size < 0) size = -size;\n"
            f"      same &= difference <= {float_word(C_TOLERANCE)} * (size > 1 ? size : 1);\n    }}"
        )
    levels = images.permute(0, 2, 3, 1).flatten(1).tolist()
    return fill(
        "test.c",
        {"HEADER": _title(network, kind), "IMAGES": len(images), "SIZE": len(levels[0]), "SAME": same,
         "IMAGE_ROWS": _braced([wrapped(map(str, row)) for row in levels]), "LOGIT_ROWS": _braced(rows)},
    )  # fmt: skip


def _braced(rows: Sequence[str]) -> str:
    return ",\n".join(f"  {{\n{row}\n  }}" for row in rows)
