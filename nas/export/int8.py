"""`IntegerNetwork` -> an ONNX graph that is integer from the image to the logits, written and then checked.

Standard operators only, so that any runtime takes it: QLinearConv, MaxPool on bytes, and for residual, average and
classifier 32-bit arithmetic (Mul, Add, Div, MatMul), where onnxruntime's own integer operators round one way on x86 and
another on ARM. Weights are written as unsigned bytes around 128: with signed ones, x86 processors without VNNI add
pairs of products in 16 bits, and saturate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.data import FolderOptions
from nas.errors import StorageError
from nas.export.fold import fold
from nas.export.integer import (
    TOP,
    IntAdd,
    IntAverage,
    IntClassifier,
    IntConvolution,
    IntegerNetwork,
)
from nas.export.onnx import BYTES
from nas.export.quantize import quantize
from nas.export.runtime import import_onnxruntime
from nas.export.weights import PREPARATION
from nas.files import write_atomic
from nas.footprint import MaxPool, Operation
from nas.model import TrainedNetwork

INT8_FILE = "model-int8.onnx"
INT8_BATCH_1_FILE = "model-int8-batch1.onnx"
OPSET = 13
_IR_VERSION = 8
_WEIGHT_ZERO = 128
_CHUNK = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Report:
    """An int8 export: its files, and how it compares on the images that it was calibrated on."""

    files: tuple[Path, ...]
    network: IntegerNetwork
    images: int
    agreement: float
    """Percentage of the calibration images on which it predicts as the float network does."""


@dataclass(frozen=True, kw_only=True)
class Int8Comparison:
    """Float network and int8 network on the same images; percentages."""

    images: int
    float_accuracy: float
    int8_accuracy: float
    agreement: float

    @property
    def loss(self) -> float:
        """Points of accuracy lost."""
        return self.float_accuracy - self.int8_accuracy


def write_int8(
    folder: Path, network: TrainedNetwork, calibration_images: Tensor, integer: IntegerNetwork | None = None
) -> Int8Report:
    """Write `network` as ONNX in 8-bit integers, with a free batch size and for one image, into `folder`.

    The folder exists. `integer` is the network in integers, where it is not to be quantised here. Calibration images
    are uint8 (N, C, H, W), of the training split, not augmented; 500 or more.
    Raise `StorageError` where a file cannot be written, or onnxruntime does not give the very logits; `UsageError`
    where the network cannot be quantised.
    """
    folded = fold(network, one_pad_value=True)
    integer = integer or quantize(folded, calibration_images)
    contents = {}
    for name, batch in ((INT8_FILE, None), (INT8_BATCH_1_FILE, 1)):
        contents[name] = int8_model(integer, batch=batch, preparation=network.preparation).SerializeToString(
            deterministic=True
        )
        check_int8(contents[name], integer, calibration_images[:batch])
    for name, content in contents.items():
        write_atomic(folder / name, content)
    same = _predictions(folded, calibration_images) == _predictions(integer, calibration_images)
    return Int8Report(
        files=tuple(folder / name for name in contents),
        network=integer,
        images=len(calibration_images),
        agreement=100 * float(same.double().mean()),
    )


def compare_int8(network: TrainedNetwork, integer: IntegerNetwork, images: Tensor, labels: Tensor) -> Int8Comparison:
    """Return the accuracies of both on uint8 images (N, C, H, W) with labels (N,), and how often they agree."""
    return compare_predictions(_predictions(fold(network), images), _predictions(integer, images), labels)


def compare_predictions(wanted: Tensor, found: Tensor, labels: Tensor) -> Int8Comparison:
    """Return the accuracies of the float network's and the int8 network's classes (N,), and how often they agree."""

    def percentage(hits: Tensor) -> float:
        return 100 * float(hits.double().mean())

    return Int8Comparison(
        images=len(labels),
        float_accuracy=percentage(wanted == labels),
        int8_accuracy=percentage(found == labels),
        agreement=percentage(wanted == found),
    )


def check_int8(content: bytes, integer: IntegerNetwork, images: Tensor) -> None:
    """Raise `StorageError` unless onnxruntime gives, for uint8 images (N, C, H, W), every logit as `integer` does."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    different = 0
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        logits = session.run(["logits"], {"images": chunk.numpy()})[0]
        wanted = integer.run(chunk).numpy().astype(np.float32) * integer.logit_scale
        different += int((logits != wanted).any(1).sum())
    if different:
        raise StorageError(
            f"onnxruntime {onnxruntime.__version__} gives other logits than the int8 network on {different} of "
            f"{len(images)} images; export with another version of onnxruntime"
        )


def int8_model(integer: IntegerNetwork, *, batch: int | None = None, preparation: FolderOptions | None = None) -> Any:
    """Return the `onnx.ModelProto`: "images" uint8 (N, C, H, W), levels 0 to 255 -> "logits" float32 (N, num_classes).

    `batch`: the number of images N; free where None. `preparation` goes into its metadata.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    names = ["images"]  # of the input of each operation
    for index, operation in enumerate(integer.operations):
        graph.prefix = f"{index}"
        names.append(graph.add(operation, names))
    size: int | str = "batch" if batch is None else batch
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "nas",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, [size, *integer.input_shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size, len(integer.classes)])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="nas",
    )
    helper.set_model_props(
        model,
        {
            "schedule": integer.schedule,
            "input_scaling": BYTES,
            "classes": json.dumps(integer.classes),
            "opset": str(OPSET),
            **({} if preparation is None else {PREPARATION: json.dumps(preparation.pixels)}),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants so far."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.prefix = ""

    def add(self, operation: Operation, names: list[str]) -> str:
        """Add the nodes of `operation`, whose input is the last of `names`; return the name of its output."""
        x = names[-1]
        match operation:
            case IntConvolution():
                return self.convolution(operation, x)
            case MaxPool():
                return self.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
            case IntAdd():
                skip = self.times(self.widened(names[operation.skip]), operation.skip_factor)
                total = self.node("Add", [skip, self.times(self.widened(x), operation.factor)])
                return self.narrowed(total, operation.offset, operation.shift)
            case IntAverage():
                total = self.times(self.sum_of_map(x, keepdims=1), operation.factor)
                return self.narrowed(total, operation.offset, operation.shift)
            case IntClassifier():
                weight = self.constant("weight", operation.weight.T.astype(np.int32))
                total = self.node("MatMul", [self.sum_of_map(x, keepdims=0), weight])
                total = self.node("Add", [total, self.constant("bias", operation.bias)])
                scale = self.constant("scale", operation.scale)
                return self.node("Mul", [self.node("Cast", [total], to=1), scale], output="logits")  # 1: float32
            case _:
                raise AssertionError(f"no integer operation: {operation}")

    def convolution(self, operation: IntConvolution, x: str) -> str:
        weight = (operation.weight.astype(np.int16) + _WEIGHT_ZERO).astype(np.uint8)
        inputs = [
            x,
            self.constant("x_scale", operation.source.scale),
            self.constant("x_zero", np.uint8(operation.source.zero)),
            self.constant("weight", weight),
            self.constant("weight_scale", operation.weight_scale),
            self.constant("weight_zero", np.full(len(weight), _WEIGHT_ZERO, np.uint8)),
            self.constant("y_scale", operation.target.scale),
            self.constant("y_zero", np.uint8(operation.target.zero)),
            self.constant("bias", operation.bias),
        ]
        size = operation.kernel_size
        attributes: dict[str, Any] = {"kernel_shape": [size, size]}  # and no attribute that is as it is by default
        if operation.stride > 1:
            attributes["strides"] = [operation.stride] * 2
        if operation.padding:
            attributes["pads"] = [operation.padding] * 4
        if operation.groups > 1:
            attributes["group"] = operation.groups
        return self.node("QLinearConv", inputs, **attributes)

    def widened(self, x: str) -> str:
        return self.node("Cast", [x], to=6)  # int32

    def narrowed(self, total: str, offset: int, shift: int) -> str:
        """The bytes (total + offset) >> shift, between 0 and 255."""
        total = self.node("Add", [total, self.constant("offset", np.int32(offset))])
        total = self.node("Max", [total, self.constant("zero", np.int32(0))])  # Div rounds towards zero
        total = self.node("Div", [total, self.constant("divisor", np.int32(1 << shift))])
        total = self.node("Min", [total, self.constant("top", np.int32(TOP))])
        return self.node("Cast", [total], to=2)  # uint8

    def sum_of_map(self, x: str, *, keepdims: int) -> str:
        axes = self.constant("axes", np.array([2, 3], np.int64))
        return self.node("ReduceSum", [self.widened(x), axes], keepdims=keepdims)

    def times(self, x: str, factor: int) -> str:
        return self.node("Mul", [x, self.constant("factor", np.int32(factor))])

    def node(self, kind: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = f"{self.prefix}.{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output or name], name=name, **attributes))
        return output or name

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}.{name}.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _predictions(network: Any, images: Tensor) -> Tensor:
    """The classes (N,) that a folded or an integer network gives to images."""
    with torch.no_grad():
        return torch.cat([network.run(images[at : at + _CHUNK]).argmax(1) for at in range(0, len(images), _CHUNK)])
