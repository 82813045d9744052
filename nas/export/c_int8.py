"""The tables of int8 C code: what nas_net.c of an `IntegerNetwork` is filled with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.export.c_text import (
    fill,
    float_word,
    in_c_order,
    layer_fields,
    row,
    stage_rows,
    stage_skip,
    stages_code,
    table,
)
from nas.export.integer import IntAdd, IntAverage, IntClassifier, IntConvolution, largest_sum
from nas.footprint import Plan

_LARGE = "  product = as_float(product);\n"
_SHIFT = """
static value shifted(int32_t total, int shift)
{
  total = total < 0 ? 0 : total >> shift;
  return (value)(total > 255 ? 255 : total);
}
"""
_ADD_FUNCTION = """
static value add(const struct add *terms, value skip, value term)
{
  return shifted(terms->skip * skip + terms->factor * term + terms->offset, terms->shift);
}
"""
_OUTSIDE_FUNCTION = """
/* Sum the weights that lie outside the map. */
static NOT_INLINED int32_t outside(const struct layer *layer, const int8_t *weights, int first_row, int end_row,
                                   int first, int end)
{
  const int kernel = layer->kernel, inputs = layer->inputs;
  int32_t sum = 0;

  for (int y = 0; y < kernel; y++)
    for (int x = 0; x < kernel; x++, weights += inputs)
      if (y < first_row || y >= end_row || x < first || x >= end)
        for (int i = 0; i < (layer->depthwise ? 1 : inputs); i++) sum += weights[i];
  return sum;
}
"""
_OUTSIDE = """
    if (layer->zero_in && (window.rows < kernel || columns < kernel))
      sum += layer->zero_in * outside(layer, weights, first_row, end_row, first, end);"""
_ADD = "add(adds + stage->add, @SKIP@, result[c])"


def int8_source(plan: Plan, header: str) -> str:
    """Return nas_net.c but for the class names."""
    convolutions = [convolution for convolution in plan.convolutions if isinstance(convolution, IntConvolution)]
    adds = [stage.add for stage in plan.stages if isinstance(stage.add, IntAdd)]
    averages = [stage.average for stage in plan.stages if isinstance(stage.average, IntAverage)]
    outside = any(convolution.padding and convolution.source.zero for convolution in convolutions)
    structs = "\nstruct add {\n  int32_t skip, factor, offset;\n  uint8_t shift;\n};\n" if adds else ""
    average = "".join(
        f"\n  for (int i = 0; stage->average && i < channels; i++)\n"
        f"    out[i] = shifted({operation.factor} * sums[i] + {operation.offset}, {operation.shift});"
        for operation in averages
    )
    stages = stages_code(
        plan,
        {
            "INPUT_PARAMETERS": "const value *in",
            "INPUT_AT": "in[at + i]",
            "INPUT": "in",
            "PIXEL": "from",
            "POOL": "stage->pool" if any(stage.pooled for stage in plan.stages) else "1",
            "AVERAGE": average,
            "RUN": "run_stage(&stages[i], i ? arena + stages[i].input : image);",
        },
        total=_ADD,
        input_at="in[at + c]",
    )
    return fill(
        "int8.c",
        {
            "HEADER": header,
            "STAGE_SKIP": stage_skip(plan),
            "STRUCTS": structs,
            "STAGE_ADD": ", add" if adds else "",
            "TABLES": _tables(plan, convolutions, adds),
            "ARENA": max(plan.arena, 1),
            "PIXEL_SIZE": plan.pixel,
            "SUMS": plan.sums,
            "SHIFT": _SHIFT * bool(adds or averages) + _ADD_FUNCTION * bool(adds),
            "LARGE": _LARGE if any(largest_sum(convolution) >= 2**24 for convolution in convolutions) else "",
            "OUTSIDE": _OUTSIDE if outside else "",
            "OUTSIDE_FUNCTION": _OUTSIDE_FUNCTION if outside else "",
            "STAGES": stages,
        },
    )


def _tables(plan: Plan, convolutions: list[IntConvolution], adds: list[IntAdd]) -> str:
    weights: list[str] = []
    channels: list[str] = []
    layers: list[str] = []
    for convolution in convolutions:
        fields = layer_fields(convolution, len(weights), len(channels))
        layers.append(row([*fields, convolution.source.zero, convolution.target.zero]))
        weights += map(str, in_c_order(convolution))
        biases = _bias_of_bytes(convolution)
        channels += [
            row([int(bias), float_word(factor)]) for bias, factor in zip(biases, convolution.multiplier, strict=True)
        ]
    classifier = plan.classifier
    assert isinstance(classifier, IntClassifier)
    stages, numbers = stage_rows(plan), iter(range(len(adds)))
    if adds:
        stages = [
            f"{text[:-1]}, {next(numbers) if stage.add else 0}}}"
            for text, stage in zip(stages, plan.stages, strict=True)
        ]
    parts = [
        f"enum {{ STAGES = {len(plan.stages)}, PIXELS = {plan.pixels}, FEATURES = {classifier.weight.shape[1]} }};",
        table("int8_t", "layer_weights", weights or ["0"]),
        table("struct channel", "layer_channels", channels or ["{0, 0.0f}"]),
        table("struct layer", "layers", layers or ["{0}"]),
        table("struct stage", "stages", stages),
        *([table("struct add", "adds", [_add_row(add) for add in adds])] if adds else []),
        table("int8_t", "class_weight", map(str, classifier.weight.ravel())),
        table("int32_t", "class_bias", map(str, classifier.bias)),
    ]
    return "\n\n".join(parts)


def _bias_of_bytes(convolution: IntConvolution) -> NDArray[np.int64]:
    """The bias where bytes are multiplied as they are, without the subtraction of what stands for zero."""
    weights = convolution.weight.astype(np.int64).reshape(len(convolution.weight), -1).sum(1)
    biases: NDArray[np.int64] = convolution.bias - convolution.source.zero * weights
    return biases


def _add_row(add: IntAdd) -> str:
    return row([add.skip_factor, add.factor, add.offset, add.shift])
