"""The text of C tables, and of the templates filled in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.footprint import Convolution, Plan, Stage

_LINE = 116  # characters


_SPANS = "stage->skip != stage->input"

_ADD = """
          if (i + 1 == stage->add_after)
            for (int c = 0; c < stage->inputs; c++) result[c] = @SUM@;"""
_SPANNING_ADD = """
          if (i + 1 == stage->add_after) {
            const int spans = @SPANS@, count = spans ? channels : stage->inputs;
            const value *skip = arena + stage->skip + (y * stage->input_width + x) * count;
            value *target = spans ? to : result; /* in the place of the skip */
            for (int c = 0; c < count; c++) target[c] = @SUM@;
          }"""


def stages_code(plan: Plan, values: Mapping[str, object], *, total: str, input_at: str) -> str:
    """Return the code that runs stages; `total`: the C expression of a residual's sum, of @SKIP@ and result[c]."""
    adds, spans = any(stage.add for stage in plan.stages), plan.spans
    add = (_SPANNING_ADD if spans else _ADD) if adds else ""
    add = add.replace("@SUM@", total.replace("@SKIP@", "skip[c]" if spans else input_at)).replace("@SPANS@", _SPANS)
    between = f"i < last || {_SPANS}" if spans else "i < last"
    return fill("stages.c", {"ADD": add, "BETWEEN": between, **values})


def stage_skip(plan: Plan) -> str:
    """Return the field of a stage that says where its residual's map is, where some stage needs it."""
    return ", skip" if plan.spans else ""


def fill(template: str, values: Mapping[str, object], chosen: Collection[str] = ()) -> str:
    """Return the text of a file in templates/, each @NAME@ replaced; lines from `@if NAME@` to `@end@` if chosen."""
    text = files("nas.export").joinpath("templates", template).read_text("utf-8")
    text = re.sub(r"^@if (\w+)@\n(.*?)^@end@\n", lambda part: part[2] * (part[1] in chosen), text, flags=re.M | re.S)
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


def in_c_order(convolution: Convolution) -> NDArray[Any]:
    """Return the weights, flat, as the C code reads them: (O, k, k, I), or (k, k, C) of a depthwise convolution."""
    weight: NDArray[Any] = convolution.weight  # type: ignore[attr-defined]  # of floats, or of integers
    ordered = weight[:, 0].transpose(1, 2, 0) if convolution.depthwise else weight.transpose(0, 2, 3, 1)
    return ordered.ravel()


def layer_fields(convolution: Convolution, weight: int, channel: int) -> list[int]:
    """Return the fields that a layer has in both kinds of C; weight and channel: where they begin in the tables."""
    inputs, height, width = convolution.input_shape
    sizes = [height, width, inputs, convolution.output_shape[0]]
    return [weight, channel, *sizes, convolution.kernel_size, convolution.stride, convolution.padding,
            int(convolution.depthwise)]  # fmt: skip


def stage_rows(plan: Plan) -> list[str]:
    """Return the rows of the table of stages."""
    rows, layer = [], 0
    for stage in plan.stages:
        skip = [stage.skip_at] if plan.spans else []
        rows.append(row([stage.input_at, stage.output_at, *skip, *_stage_fields(stage, layer)]))
        layer += len(stage.convolutions)
    return rows


def row(fields: Sequence[int | str]) -> str:
    return "{" + ", ".join(map(str, fields)) + "}"


def _stage_fields(stage: Stage, layer: int) -> list[int]:
    channels, height, width = stage.map_shape
    return [layer, height, width, channels, stage.input_shape[2],
            stage.input_shape[0], len(stage.convolutions), 2 if stage.pooled else 1, int(stage.summed),
            stage.add_after, int(stage.average is not None)]  # fmt: skip
