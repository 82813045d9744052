"""The text of C tables, and of the templates filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.export.plan import AnyConvolution, Plan, Stage

_LINE = 116  # characters
_LARGEST_FIELD = 65_535


def fill(template: str, values: Mapping[str, object]) -> str:
    """Return the text of a file in templates/, each @NAME@ replaced."""
    text = files("nas.export").joinpath("templates", template).read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def table(kind: str, name: str, values: Iterable[str]) -> str:
    """Return the definition of a constant array, wrapped."""
    words = list(values)
    return f"static const {kind} {name}[{len(words)}] = {{\n{wrapped(words)}\n}};"


def wrapped(words: Iterable[str]) -> str:
    """Return words with commas, in lines of at most 120 characters."""
    lines, line = [], ""
    for word in words:
        if line and len(line) + len(word) + 2 > _LINE:
            lines.append(f"  {line},")
            line = ""
        line = f"{line}, {word}" if line else word
    return "\n".join([*lines, f"  {line}"])


def float_word(value: float | np.floating[Any]) -> str:
    """Return the shortest decimal constant that is this very float32."""
    text = np.format_float_scientific(np.float32(value), unique=True, trim="-").replace("e+00", "")
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def c_string(text: str) -> str:
    """Return the string constant of a text in UTF-8; all but plain ASCII as octal, the ? of trigraphs too."""
    plain = set(range(0x20, 0x7F)) - set(b'"?\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def in_c_order(convolution: AnyConvolution) -> NDArray[Any]:
    """Return the weights, flat, as the C code reads them: (O, k, k, I), or (k, k, C) of a depthwise convolution."""
    weight: NDArray[Any] = convolution.weight
    ordered = weight[:, 0].transpose(1, 2, 0) if convolution.depthwise else weight.transpose(0, 2, 3, 1)
    return ordered.ravel()


def layer_fields(convolution: AnyConvolution, weight: int, channel: int) -> list[int]:
    """Return the fields that a layer has in both kinds of C; weight and channel: where they begin in the tables."""
    inputs, height, width = convolution.input_shape
    sizes = [height, width, inputs, convolution.output_shape[0]]
    return [weight, channel, *sizes, convolution.kernel_size, convolution.stride, convolution.padding,
            int(convolution.depthwise)]  # fmt: skip


def stage_rows(plan: Plan) -> list[str]:
    """Return the rows of the table of stages."""
    rows, layer = [], 0
    for stage in plan.stages:
        rows.append(row(_stage_fields(stage, layer)))
        layer += len(stage.convolutions)
    return rows


def row(fields: Sequence[int | str]) -> str:
    return "{" + ", ".join(map(str, fields)) + "}"


def _stage_fields(stage: Stage, layer: int) -> list[int]:
    channels, height, width = stage.map_shape
    return [stage.input_at, stage.output_at, layer, height, width, channels, stage.input_shape[2],
            stage.input_shape[0], len(stage.convolutions), 2 if stage.pooled else 1, int(stage.summed),
            stage.add_after, int(stage.average is not None)]  # fmt: skip


def too_large(plan: Plan) -> str:
    """Return what of the network does not fit the tables' 16-bit fields, or an empty text."""
    sides = [side for stage in plan.stages for side in (*stage.input_shape, *stage.map_shape)]
    sides += [channels for convolution in plan.convolutions for channels in convolution.output_shape[:1]]
    largest = max(sides)
    if largest > _LARGEST_FIELD:
        return f"C code holds maps of up to {_LARGEST_FIELD:,} channels, not {largest:,}"
    if max(len(stage.convolutions) for stage in plan.stages) > 255:
        return "C code holds up to 255 convolutions of 1x1 in a row"
    return ""
