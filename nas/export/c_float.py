"""The tables of float32 C code: what nas_net.c of a `FoldedNetwork` is filled with."""

from __future__ import annotations

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
from nas.export.fold import FloatClassifier, FloatConvolution
from nas.footprint import GlobalAveragePool, Operation, Plan

_OUTSIDE_FUNCTION = """
/* Sum what lies outside the image, where the mean of the training images stands. */
static NOT_INLINED float outside(const struct layer *layer, const float *weights, const float *level, int first_row,
                                 int end_row, int first, int end)
{
  const int kernel = layer->kernel, inputs = layer->inputs;
  float sum = 0;

  for (int y = 0; y < kernel; y++)
    for (int x = 0; x < kernel; x++, weights += inputs)
      if (y < first_row || y >= end_row || x < first || x >= end)
        for (int i = 0; i < (layer->depthwise ? 1 : inputs); i++) sum += level[i] * weights[i];
  return sum;
}
"""
_OUTSIDE = """
    if (layer->pad && (window.rows < kernel || columns < kernel))
      sum += outside(layer, weights, pad + (depthwise ? layer->outputs - o : 0), first_row, end_row, first, end);"""
_AVERAGE = """
  for (int i = 0; stage->average && i < channels; i++) out[i] = sums[i] / (float)(stage->height * stage->width);"""


def float_source(plan: Plan, header: str) -> str:
    """Return nas_net.c but for the class names."""
    convolutions = [convolution for convolution in plan.convolutions if isinstance(convolution, FloatConvolution)]
    padded = any(convolution.pad_value is not None for convolution in convolutions)
    stages = stages_code(
        plan,
        {
            "INPUT_PARAMETERS": "const uint8_t *image, const value *map",
            "INPUT_AT": _input("at + i"),
            "INPUT": "image, map",
            "PIXEL": "0, from",
            "POOL": "stage->pool" if any(stage.pooled for stage in plan.stages) else "1",
            "AVERAGE": _AVERAGE if any(stage.average for stage in plan.stages) else "",
            "RUN": "run_stage(&stages[i], i ? 0 : image, arena + stages[i].input);",
        },
        total="result[c] + @SKIP@",
        input_at=_input("at + c"),
    )
    return fill(
        "float.c",
        {
            "HEADER": header,
            "STAGE_SKIP": stage_skip(plan),
            "TABLES": _tables(plan, convolutions),
            "ARENA": max(plan.arena, 1),
            "PIXEL_SIZE": plan.pixel,
            "SUMS": plan.sums,
            "OUTSIDE": _OUTSIDE if padded else "",
            "OUTSIDE_FUNCTION": _OUTSIDE_FUNCTION if padded else "",
            "STAGES": stages,
        },
    )


def pixels_of_sum(operations: tuple[Operation, ...]) -> int:
    """Return the number of pixels in the sums that the classifier reads."""
    if len(operations) > 1 and isinstance(operations[-2], GlobalAveragePool):
        _, height, width = operations[-2].input_shape
        return height * width
    return 1


def _input(index: str) -> str:
    """The expression for a value of a stage's input: the image's, or a map's."""
    return f"(image ? (value)image[{index}] : map[{index}])"


def _tables(plan: Plan, convolutions: list[FloatConvolution]) -> str:
    weights: list[str] = []
    biases: list[str] = []
    layers: list[str] = []
    pad: list[str] = []
    for convolution in convolutions:
        flags = [int(convolution.relu), int(convolution.pad_value is not None)]
        layers.append(row([*layer_fields(convolution, len(weights), len(biases)), *flags]))
        weights += map(float_word, in_c_order(convolution))
        biases += map(float_word, convolution.bias)
        if convolution.pad_value is not None:
            pad = [float_word(level) for level in convolution.pad_value]
    classifier = plan.classifier
    assert isinstance(classifier, FloatClassifier)
    parts = [
        f"enum {{ STAGES = {len(plan.stages)}, PIXELS = {plan.pixels}, FEATURES = {classifier.weight.shape[1]} }};",
        table("float", "layer_weights", weights or ["0.0f"]),
        table("float", "layer_bias", biases or ["0.0f"]),
        *([table("float", "pad", pad)] if pad else []),
        table("struct layer", "layers", layers or ["{0}"]),
        table("struct stage", "stages", stage_rows(plan)),
        table("float", "class_weight", map(float_word, classifier.weight.ravel())),
        table("float", "class_bias", map(float_word, classifier.bias)),
    ]
    return "\n\n".join(parts)
