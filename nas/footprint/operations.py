"""The operations of a deployed network by their shapes; those with weights, float and integer, are made of these.

Where a norm follows its convolution it is part of it. Where a ReLU stands between them (conv-ReLU-norm), the norm waits
for the next convolution. One that is padded cannot take it, because outside the map stands zero and not the norm of
zero; nor can a residual. Then the norm becomes a 1x1 depthwise convolution. The normalisation of the image is treated
alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from nas.architecture import Architecture, Layer, Shape

Kind = Literal["int8", "float32"]

LARGEST_SUM = 2**31 - 1
LARGEST_BIAS = 2**29
LARGEST_WEIGHT, LARGEST_BYTE = 127, 255


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """An operation from one map to another; shapes are (C, H, W)."""

    input_shape: Shape
    output_shape: Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Operation):
    """A convolution, with a bias for each output channel; a depthwise one has as many groups as channels."""

    kernel_size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pads_level: bool = False
    """True where a level of the image stands outside the map, and not zero."""

    @property
    def depthwise(self) -> bool:
        """True where each output channel sees one input channel, the same."""
        return self.groups == self.input_shape[0] > 1

    @property
    def num_weights(self) -> int:
        """Weights, without the biases."""
        return self.output_shape[0] * (self.input_shape[0] // self.groups) * self.kernel_size**2


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Operation):
    """2x2 max-pooling with stride 2; an odd last row or column is dropped."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalAveragePool(Operation):
    """The average over the whole map."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualAdd(Operation):
    """Its input plus the input of operation `skip`."""

    skip: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier(Operation):
    """The last operation: the average or the sums of a map -> logits."""

    @property
    def num_weights(self) -> int:
        """Weights, without the biases."""
        return self.output_shape[0] * self.input_shape[0]


def with_summing_classifier(operations: Sequence[Operation]) -> list[Operation | None]:
    """Return the operations of an integer network: the classifier reads the map, without a global pool before it.

    The pool's place holds None. It stays where the sums over the map could leave 32 bits.
    """
    found: list[Operation | None] = list(operations)
    pool, classifier = operations[-2:] if len(operations) > 1 else (None, None)
    if isinstance(pool, GlobalAveragePool) and isinstance(classifier, Classifier):
        channels, height, width = pool.input_shape
        if LARGEST_BYTE * height * width * channels * LARGEST_WEIGHT + LARGEST_BIAS <= LARGEST_SUM:
            found[-2:] = [None, replace(classifier, input_shape=pool.input_shape)]
    return found


def deployed_operations(architecture: Architecture, kind: Kind) -> tuple[list[Operation], tuple[int, ...]]:
    """Return the operations that the architecture's deployed network has, whatever its weights.

    Besides, the channels of each norm that waits in front of a max-pool. Norms and normalisation are taken to have
    offsets, and factors above zero: with a negative one, a norm before a max-pool is one more operation. The image of
    an int8 network that has several channels is taken to have unlike means.
    """
    return _Deployed(architecture, kind).finished()


class _Deployed:
    """The operations so far, by the rules of the exporter's fold."""

    def __init__(self, architecture: Architecture, kind: Kind) -> None:
        self.operations: list[Operation] = []
        self.shape = architecture.input_shape
        self.unlike_means = kind == "int8" and self.shape[0] > 1
        self.waits = self.of_image = True  # the normalisation
        self.pooled: list[int] = []
        self.after_relu = False
        layers = list(architecture.layers)
        if layers[-1].op == "globalpool":  # it commutes with the classifier before it
            layers[-2:] = layers[:-3:-1]
        firsts = {layer.skip for layer in layers if layer.op == "add"}
        self.skip = 0
        for index, layer in enumerate(layers):
            if index in firsts:
                self.apply_norm()
                self.skip = len(self.operations)
            self.add(layer)

    def add(self, layer: Layer) -> None:
        match layer.op:
            case "conv":
                if layer.padding and self.waits and (not self.of_image or self.unlike_means):
                    self.apply_norm()
                rows, columns = (
                    (side + 2 * layer.padding - layer.kernel_size) // layer.stride + 1 for side in self.shape[1:]
                )
                self.append(
                    Convolution, (layer.output_shape[0], rows, columns), kernel_size=layer.kernel_size,
                    stride=layer.stride, padding=layer.padding, groups=layer.groups,
                    pads_level=layer.padding > 0 and self.waits,
                )  # fmt: skip
                self.waits = self.after_relu = False
            case "norm":
                self.waits, self.of_image = self.after_relu, False
            case "relu":
                self.after_relu = True
            case "maxpool":
                if self.waits and not self.of_image:
                    self.pooled.append(self.shape[0])
                self.append(MaxPool, (self.shape[0], self.shape[1] // 2, self.shape[2] // 2))
            case "globalpool":
                self.append(GlobalAveragePool, (self.shape[0], 1, 1))
            case "add":
                self.apply_norm()
                self.append(ResidualAdd, self.shape, skip=self.skip)

    def apply_norm(self) -> None:
        """Append the norm that waits, if any."""
        if self.waits:
            self.append(Convolution, self.shape, kernel_size=1, groups=self.shape[0])
        self.waits = self.of_image = False

    def append(self, kind: type[Operation], output: Shape, **fields: Any) -> None:
        self.operations.append(kind(input_shape=self.shape, output_shape=output, **fields))
        self.shape = output

    def finished(self) -> tuple[list[Operation], tuple[int, ...]]:
        last = self.operations[-1]
        self.operations[-1] = Classifier(input_shape=last.input_shape, output_shape=last.output_shape)
        return self.operations, tuple(self.pooled)
