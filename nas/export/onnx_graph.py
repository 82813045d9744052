"""A network as an ONNX graph, node by node from its layers: plain operators that small code generators read.

Batch norm that follows its convolution is folded into it; after a ReLU it stays a node of its own. Attributes at their
default are left out, the global pool is a GlobalAveragePool, and the shape of every tensor is written down.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from nas.architecture import Layer
from nas.model import TrainedNetwork

OPSET = 13
IR_VERSION = 7  # that of the onnx release which brought the opset: older readers refuse later ones
EPSILON = 1e-5  # of BatchNormalization where it states none, and of torch's

Array = NDArray[Any]


def onnx_model(
    network: TrainedNetwork, *, properties: dict[str, str], raw: bool = False, probabilities: bool = False,
    batch: int | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """Return the network as an ONNX model from "images" (N, C, H, W) to "logits" (N, num_classes).

    The images are on 0..1, or normalised if `raw`; with `probabilities` they are uint8, and the output is
    "probabilities". N is `batch`, or free if None. `properties` are its metadata.
    """
    graph = _Graph(network, batch)
    if probabilities:
        graph.scale_bytes()
    if not raw:
        graph.normalise()
    layers = network.architecture.layers
    modules = iter([each for each in network.module().modules() if not any(each.children())])
    for index, layer in enumerate(layers):
        graph.inputs.append(graph.output)
        module: Any = None if layer.op == "add" else next(modules)
        if layer.op != "norm" or layers[index - 1].op != "conv":
            graph.layer(index, layer, module)
        else:  # inside the convolution before it
            graph.fold(module)
    graph.node("Flatten", "logits", [graph.output], (network.architecture.num_classes,) if probabilities else None)
    if probabilities:
        graph.node("Softmax", "probabilities", ["logits"], None)
    return graph.model(properties, TensorProto.UINT8 if probabilities else TensorProto.FLOAT)


class _Graph:
    """The parts of a graph, in the order of their making."""

    def __init__(self, network: TrainedNetwork, batch: int | None) -> None:
        self.network, self.batch = network, "batch" if batch is None else batch
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.shapes: list[onnx.ValueInfoProto] = []
        self.inputs: list[str] = []  # of each layer so far, for the residuals
        self.output = "images"  # of the node made last

    def scale_bytes(self) -> None:
        """Add what turns uint8 images into images on 0..1."""
        shape = self.network.architecture.input_shape
        self.node("Cast", "floats", [self.output], shape, to=TensorProto.FLOAT)
        self.weights["largest"] = np.array(255)
        self.node("Div", "scaled", [self.output, "largest"], shape)

    def normalise(self) -> None:
        """Add what turns images on 0..1 into normalised ones."""
        shape, normalization = self.network.architecture.input_shape, self.network.normalization
        for op, name, constant in (("Sub", "centred", "mean"), ("Div", "normalised", "std")):
            self.weights[constant] = np.array(getattr(normalization, constant)).reshape(1, -1, 1, 1)
            self.node(op, name, [self.output, constant], shape)

    def layer(self, index: int, layer: Layer, module: Any) -> None:
        """Add a layer."""
        name, inputs, shape = f"{layer.op}{index + 1}", [self.output], layer.output_shape
        match layer.op:
            case "conv":
                parameters = {"weight": module.weight, "bias": module.bias}
                inputs += self.parameters(name, parameters)
                self.node("Conv", name, inputs, shape, **_conv_attributes(layer))
            case "norm":
                assert module.eps == EPSILON
                parameters = {
                    "scale": module.weight, "shift": module.bias, "mean": module.running_mean,
                    "var": module.running_var,
                }  # fmt: skip
                self.node("BatchNormalization", name, inputs + self.parameters(name, parameters), shape)
            case "relu":
                self.node("Relu", name, inputs, shape)
            case "maxpool":
                sides, strides = [layer.kernel_size] * 2, [layer.stride] * 2
                self.node("MaxPool", name, inputs, shape, kernel_shape=sides, strides=strides)
            case "globalpool":
                self.node("GlobalAveragePool", name, inputs, shape)
            case "add":
                self.node("Add", name, [self.inputs[layer.skip], *inputs], shape)

    def fold(self, norm: nn.BatchNorm2d) -> None:
        """Put a norm inside the convolution that was added last, in float64."""
        node = self.nodes[-1]
        weight, bias = f"{node.name}_weight", f"{node.name}_bias"
        scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
        shift = _array(norm.bias) - _array(norm.running_mean) * scale
        self.weights[weight] = self.weights[weight] * scale[:, None, None, None]
        self.weights[bias] = shift + self.weights.get(bias, 0) * scale
        node.input[:] = [node.input[0], weight, bias]

    def parameters(self, name: str, tensors: dict[str, Any]) -> list[str]:
        """Add the tensors that there are as a layer's constants, and return their names."""
        found = {f"{name}_{part}": _array(tensor) for part, tensor in tensors.items() if tensor is not None}
        self.weights |= found
        return list(found)

    def node(self, op: str, name: str, inputs: list[str], shape: tuple[int, ...] | None, **attributes: Any) -> None:
        """Add an operator, whose output has its name; a shape of None is stated elsewhere, as the graph's output."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        if shape is not None:
            self.shapes.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.batch, *shape]))
        self.output = name

    def model(self, properties: dict[str, str], input_type: int) -> onnx.ModelProto:
        architecture = self.network.architecture
        images = helper.make_tensor_value_info("images", input_type, [self.batch, *architecture.input_shape])
        outputs = helper.make_tensor_value_info(self.output, TensorProto.FLOAT, [self.batch, architecture.num_classes])
        constants = [
            numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
            for name, values in self.weights.items()
        ]
        graph = helper.make_graph(self.nodes, "network", [images], [outputs], constants, value_info=self.shapes)
        model = helper.make_model(
            graph, producer_name="nas", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
        )
        helper.set_model_props(model, properties)
        return model


def _conv_attributes(layer: Layer) -> dict[str, Any]:
    """Return the attributes that are not at their default; the kernel's shape, which has none, always."""
    attributes: dict[str, Any] = {"kernel_shape": [layer.kernel_size] * 2}
    if layer.stride != 1:
        attributes["strides"] = [layer.stride] * 2
    if layer.padding:
        attributes["pads"] = [layer.padding] * 4
    if layer.groups != 1:
        attributes["group"] = layer.groups
    return attributes


def _array(tensor: Any) -> Array:
    """Return a tensor's values in float64."""
    return np.asarray(tensor.detach().double().numpy())
