"""`Architecture`: an immutable description of a small convolutional network, and its exact counts."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from functools import cached_property

from nas.architecture.blocks import MAX_WIDTH, Block, Classifier, ConvBlock, GlobalPool, MaxPool, require_whole
from nas.architecture.layers import Layer, Shape, make_layers
from nas.architecture.text import read_json, read_text, write_json, write_text
from nas.errors import UsageError

MAX_SIDE = 9_999


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network: blocks from `input_shape` (C, H, W) to `num_classes` logits.

    Raises `UsageError` if the blocks do not make a network: no head, a map that shrinks to nothing, a residual between
    unequal shapes.
    """

    blocks: tuple[Block, ...]
    input_shape: Shape = (1, 28, 28)
    num_classes: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.input_shape, tuple) or len(self.input_shape) != 3:
            raise UsageError(f"input_shape is (C, H, W), not {reprlib.repr(self.input_shape)}")
        for side in self.input_shape:
            require_whole("each of input_shape", side, MAX_SIDE)
        require_whole("num_classes", self.num_classes, MAX_WIDTH)
        heads = [type(block) for block in self.blocks if isinstance(block, GlobalPool | Classifier)]
        if sorted(kind.__name__ for kind in heads) != ["Classifier", "GlobalPool"]:
            raise UsageError(
                f"an architecture has one global pool G and one classifier C: '{self}' "
                "does not; end it with 'C G' or 'G C'"
            )
        if isinstance(self.blocks[-1], ConvBlock | MaxPool):
            raise UsageError(f"an architecture ends with 'C G' or 'G C', not with '{self.blocks[-1]}': '{self}'")
        tail = self.blocks[self.blocks.index(GlobalPool()) + 1 :]
        if heads[0] is Classifier and not isinstance(self.blocks[-2], Classifier):
            raise UsageError(f"only G follows the classifier C: '{self}'")
        for block in tail:
            if isinstance(block, MaxPool) or (isinstance(block, ConvBlock) and block.kernel_size != 1):
                raise UsageError(f"after G the map is 1x1: write '{block}' as a k1 block or before G in '{self}'")
        self.layers  # noqa: B018  computing the shapes checks them

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The primitive layers in order, with shapes and counts."""
        return make_layers(self.blocks, self.input_shape, self.num_classes)

    @property
    def classifier_index(self) -> int:
        """The place of the classifier, the last convolution, among the modules, where a residual is one module."""
        last = max(index for index, layer in enumerate(self.layers) if layer.op == "conv")
        return last - sum(index - layer.skip for index, layer in enumerate(self.layers) if layer.op == "add")

    @property
    def num_params(self) -> int:
        """Learnable parameters: convolution weights, biases and norm affines; buffers do not count."""
        return sum(layer.num_params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolutions for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activations(self) -> int:
        """Numbers in all the layers' outputs for one image: what a training step stores."""
        return sum(_size(layer.output_shape) for layer in self.layers)

    @property
    def live_activations(self) -> tuple[int, ...]:
        """Numbers alive at each layer in inference on one image: its input, its output and a pending residual.

        Norm and ReLU work in place.
        """
        live, skip = [], -1
        for index in reversed(range(len(self.layers))):  # backwards: an "add" comes after what it needs alive
            layer = self.layers[index]
            if layer.op == "add":
                skip = layer.skip
            waiting = _size(self.layers[skip].input_shape) if 0 <= skip < index else 0
            written = 0 if layer.op in ("norm", "relu", "add") else _size(layer.output_shape)
            live.append(waiting + _size(layer.input_shape) + written)
        return tuple(reversed(live))

    @property
    def peak_activations(self) -> int:
        """The most numbers alive at once in inference on one image."""
        return max(self.live_activations, default=0)

    @property
    def depth(self) -> int:
        """Convolution blocks, the classifier left out."""
        return sum(isinstance(block, ConvBlock) for block in self.blocks)

    def __str__(self) -> str:
        return write_text(self.blocks, self.input_shape, self.num_classes)

    def __repr__(self) -> str:
        return f"Architecture('{self}')"

    @classmethod
    def parse(cls, text: str, *, input_shape: Shape | None = None, num_classes: int | None = None) -> Architecture:
        """Return the architecture of a one-line text.

        `input_shape` and `num_classes` stand in where the text names none (1x28x28 and 10 without them). Raises
        `UsageError` on an unknown word, an illegal shape, or a text at odds with the values given.
        """
        blocks, shape, classes = read_text(text, input_shape, num_classes)
        return cls(blocks=blocks, input_shape=shape, num_classes=classes)

    def to_json(self) -> str:
        """Return the description as JSON: `input_shape`, `num_classes` and a list of blocks with every field named."""
        return write_json(self.blocks, self.input_shape, self.num_classes)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Return the architecture of the JSON of `to_json`; raises `UsageError` on anything else."""
        blocks, shape, classes = read_json(text)
        return cls(blocks=blocks, input_shape=shape, num_classes=classes)


def _size(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]
