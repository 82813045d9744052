"""Exported C code on Cortex-M processors: compiled by arm-none-eabi-gcc, run by qemu on a bare board."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deployed import need

FILES = Path(__file__).parent / "arm"


@dataclass(frozen=True)
class Processor:
    """A processor's compiler options, and the board and processor of qemu that run its code."""

    name: str
    flags: tuple[str, ...]
    board: str
    runs_on: str


PROCESSORS = (
    # qemu has no board with an M0+ and enough memory; an M3 runs all of its instructions.
    Processor("M0+", ("-mcpu=cortex-m0plus",), "mps2-an385", "cortex-m3"),
    Processor("M4", ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), "mps2-an386", "cortex-m4"),
    Processor("M7", ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"), "mps2-an500", "cortex-m7"),
)


def compiler(processor: Processor, optimize: str = "-Os") -> tuple[str, ...]:
    return (need("arm-none-eabi-gcc", "gcc-arm-none-eabi"), optimize, "-mthumb", *processor.flags)


def run(folder: Path, processor: Processor, optimize: str = "-Os", more: Sequence[str] = ()) -> tuple[int, int]:
    """The self-test's number of images with other logits than expected, and the instructions per image."""
    program = folder / "self_test.elf"
    subprocess.run(
        [*compiler(processor, optimize), "-std=gnu99", "-DNAS_NET_NO_MAIN", "-nostartfiles", "--specs=nosys.specs",
         "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", f"-T{FILES / 'link.ld'}", f"-I{folder}",
         "-o", program, FILES / "run.c", folder / "nas_net.c", folder / "nas_net_test.c", *more], check=True,
    )  # fmt: skip
    emulator = need("qemu-system-arm", "qemu-system-arm")
    done = subprocess.run(
        [emulator, "-M", processor.board, "-cpu", processor.runs_on, "-icount", "shift=0", "-nographic",
         "-semihosting-config", "enable=on,target=native", "-kernel", program],
        capture_output=True, text=True, check=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    printed = dict(re.findall(r"(\w+) (\d+)", done.stdout + done.stderr))
    return int(printed["wrong"]), int(printed["instructions"])
