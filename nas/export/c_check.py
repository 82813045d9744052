"""The check of exported C code: compiled by the machine's own compiler, run on images, beside the network's logits."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nas.errors import StorageError
from nas.export.c import C_TOLERANCE, run_command

COMPILERS = ("cc", "gcc", "clang")


def find_compiler() -> str | None:
    """Return the first C compiler of the PATH, None without one."""
    return next((name for name in COMPILERS if shutil.which(name)), None)


def find_cmsis() -> Path | None:
    """Return the folder of CMSIS-NN, with Include and Source, that NAS_CMSIS_NN names; None without it.

    Raises `StorageError` for a folder of anything else.
    """
    if not (named := os.environ.get("NAS_CMSIS_NN")):
        return None
    folder = Path(named)
    if not (folder / "Include" / "arm_nnfunctions.h").is_file():
        raise StorageError(f"NAS_CMSIS_NN={folder} has no Include/arm_nnfunctions.h: name the folder of CMSIS-NN")
    return folder


def check_c(folder: Path, images: Tensor, logits: Tensor, compiler: str, library: Path | None = None) -> float:
    """Return the largest difference of a logit between the C code in `folder` and the network on uint8 images.

    Int8 code gives the integer network's `logits` (N, num_classes; whole numbers), every one; float code the network's
    within `C_TOLERANCE`, relative to logits above 1. The self-test is run as well. `library`: the folder of CMSIS-NN
    where the code calls it; its warnings are its own. Raises `StorageError`.
    """
    floating = logits.is_floating_point()
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror"]
    kernels: list[str] = []
    if library is not None:
        strict = ["-std=gnu99", "-O2", "-w", "-D__GNUC_PYTHON__", "-D__RESTRICT=__restrict", f"-I{library / 'Include'}"]
        kernels = sorted(map(str, library.glob("Source/*/*.c")))
    with tempfile.TemporaryDirectory() as build:
        shared, program = Path(build) / "nas_net.so", Path(build) / "self_test"
        sources = [str(folder / "nas_net.c"), str(folder / "nas_net_test.c")]
        run_command([compiler, *strict, "-shared", "-fPIC", "-o", str(shared), sources[0], *kernels])
        run_command([compiler, *strict, "-o", str(program), *sources, *kernels])
        run_command([str(program)])
        found = _logits(shared, images, logits.shape[1], np.float32 if floating else np.int32)
    expected = logits.double().numpy()
    difference = np.abs(found.astype(np.float64) - expected)
    allowed = C_TOLERANCE * np.maximum(1, np.abs(expected)) if floating else 0.0
    if not (difference <= allowed).all():  # NaN too
        raise StorageError(
            f"the C code is not the model: a logit differs by {difference.max():.3g} when compiled by {compiler}; "
            "try another compiler"
        )
    return float(difference.max())


def _logits(library: Path, images: Tensor, classes: int, kind: type) -> NDArray[Any]:
    """The logits (N, num_classes) that the compiled code computes, image after image."""
    predict = ctypes.CDLL(str(library)).nas_net_predict
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    logits: NDArray[Any] = np.zeros((len(pixels), classes), kind)
    for image, row in zip(pixels, logits, strict=True):
        predict(image.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p))
    return logits
