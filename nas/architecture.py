"""`Architecture`: an immutable description of a small convolutional network, and its exact counts.

The text form is one line, in the manner of VGG configuration lists. A 3x3 convolution of eight channels is `8`, a
depthwise-separable one `s8`, 2x2 max-pooling `M`, global average pooling `G`, the classifier `C`:

    8vr 9vr 10vr M 12vr 16vr 20vr C G       3x3 valid convolutions, conv-ReLU-BN, 1x1 to classes, average pool
    8v s16v M s24v s24v M s32 s32 G Cb      separable blocks, average pool, linear classifier with a bias
    3x32x32: 16 16+ M 32/2 G 24k1 C100      an RGB input, a residual, a stride, a hidden layer, 100 classes

A block is `[s]WIDTH` and then, in this order, any of

    kN  square kernel of side N (default 3)      b  bias           (default: none)
    /N  stride N (default 1)                     n  no norm        (default: batch norm)
    v   valid: no padding (default: padded)      r  conv-ReLU-norm (default: conv-norm-ReLU)
    +   residual: adds the block's input to its output

A separable block is a depthwise convolution and a 1x1 one with nothing between; its bias, where it has one, belongs to
the 1x1. A block after `G` is a dense layer, written with `k1`.

Every learnable number counts as a parameter: convolution weights, biases, and the two of each batch-norm channel;
running statistics are buffers and do not count. Multiply-accumulates (MACs) are those of the convolutions, per image.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from nas.errors import UsageError

Shape = tuple[int, int, int]
"""(channels, height, width)."""

KERNEL_SIZES = (1, 3, 5, 7)
STRIDES = (1, 2)
MAX_WIDTH = 99_999
MAX_SIDE = 9_999

# [0-9] and not \d, which also takes the digits of other scripts.
_BLOCK = re.compile(r"(s?)([1-9][0-9]{0,4})(?:k([0-9]{1,4}))?(?:/([0-9]{1,4}))?(v?)(b?)(n?)(r?)(\+?)")
_CLASSIFIER = re.compile(r"C([1-9][0-9]{0,4})?(b?)")
_INPUT = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})x([1-9][0-9]{0,3}):")


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution block: convolution, then norm and ReLU in either order."""

    width: int
    separable: bool = False
    kernel_size: int = 3
    stride: int = 1
    padded: bool = True
    bias: bool = False
    norm: bool = True
    relu_first: bool = False
    residual: bool = False

    def __post_init__(self) -> None:
        _require_whole("a width", self.width, MAX_WIDTH)
        _require_flags(self, "separable", "padded", "bias", "norm", "relu_first", "residual")
        _require_whole("a kernel_size", self.kernel_size, MAX_WIDTH)
        _require_whole("a stride", self.stride, MAX_WIDTH)
        if self.kernel_size not in KERNEL_SIZES:
            raise UsageError(f"kernel_size is one of {KERNEL_SIZES}, not {self.kernel_size} in {self}")
        if self.stride not in STRIDES:
            raise UsageError(f"a stride is one of {STRIDES}, not {self.stride} in {self}")
        if self.separable and self.kernel_size == 1:
            raise UsageError(f"a separable block has a kernel of 3 or more: write {self.width}k1, not {self}")
        if not self.norm and self.relu_first:
            raise UsageError(f"'r' orders a norm that 'n' leaves out in {self}: drop one of them")
        if self.kernel_size == 1 and not self.padded:
            raise UsageError(f"a 1x1 convolution has no padding to leave out: drop the 'v' in {self}")

    @property
    def padding(self) -> int:
        return self.kernel_size // 2 if self.padded else 0

    def __str__(self) -> str:
        size = f"k{self.kernel_size}" * (self.kernel_size != 3) + f"/{self.stride}" * (self.stride != 1)
        marks = "v" * (not self.padded) + "b" * self.bias + "n" * (not self.norm) + "r" * self.relu_first
        return "s" * self.separable + str(self.width) + size + marks + "+" * self.residual


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """2x2 max-pooling with stride 2; an odd last row or column is dropped, as in torch."""

    def __str__(self) -> str:
        return "M"


@dataclass(frozen=True, kw_only=True)
class GlobalPool:
    """The average over the whole map: (C, H, W) -> (C, 1, 1)."""

    def __str__(self) -> str:
        return "G"


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A 1x1 convolution to `num_classes` channels, without norm or ReLU; after `GlobalPool` it is the linear layer."""

    bias: bool = False

    def __post_init__(self) -> None:
        _require_flags(self, "bias")

    def __str__(self) -> str:
        return "Cb" if self.bias else "C"


Block = Conv | MaxPool | GlobalPool | Classifier
_KINDS: dict[str, type[Block]] = {
    "conv": Conv, "maxpool": MaxPool, "globalpool": GlobalPool, "classifier": Classifier,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items()}


class Layer(NamedTuple):  # not a dataclass: a candidate makes some 25 of them, and a frozen one costs far more
    """One primitive operation of an architecture, with its exact counts; shapes are (C, H, W) of one image."""

    op: Literal["conv", "norm", "relu", "add", "maxpool", "globalpool"]
    name: str
    input_shape: Shape
    output_shape: Shape
    num_params: int = 0
    macs: int = 0
    kernel_size: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False
    skip: int = -1
    """For an "add": the index of the layer whose input is added to this layer's input."""


_POINTWISE = (1, 1, 0)
"""Kernel, stride and padding of a 1x1 convolution."""

_TORCH_NAMES = {
    "conv": "Conv2d", "norm": "BatchNorm2d", "relu": "ReLU", "add": "Add", "maxpool": "MaxPool2d",
    "globalpool": "AdaptiveAvgPool2d",
}  # fmt: skip


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
            _require_whole("each of input_shape", side, MAX_SIDE)
        _require_whole("num_classes", self.num_classes, MAX_WIDTH)
        heads = [type(block) for block in self.blocks if isinstance(block, GlobalPool | Classifier)]
        if sorted(kind.__name__ for kind in heads) != ["Classifier", "GlobalPool"]:
            raise UsageError(
                f"an architecture has one global pool G and one classifier C: '{self}' "
                "does not; end it with 'C G' or 'G C'"
            )
        if isinstance(self.blocks[-1], Conv | MaxPool):
            raise UsageError(f"an architecture ends with 'C G' or 'G C', not with '{self.blocks[-1]}': '{self}'")
        tail = self.blocks[self.blocks.index(GlobalPool()) + 1 :]
        if heads[0] is Classifier and not isinstance(self.blocks[-2], Classifier):
            raise UsageError(f"only G follows the classifier C: '{self}'")
        for block in tail:
            if isinstance(block, MaxPool) or (isinstance(block, Conv) and block.kernel_size != 1):
                raise UsageError(f"after G the map is 1x1: write '{block}' as a k1 block or before G in '{self}'")
        self.layers  # noqa: B018  computing the shapes checks them

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The primitive layers in order, with shapes and counts."""
        layers: list[Layer] = []
        shape = self.input_shape

        def append(op: Any, output: Shape, *by_position: Any, **by_name: Any) -> None:  # by name takes twice as long
            nonlocal shape
            layers.append(Layer(op, f"{_TORCH_NAMES[op]}-{len(layers) + 1}", shape, output, *by_position, **by_name))
            shape = output

        def conv(block: Block, width: int, geometry: tuple[int, int, int], groups: int, bias: bool) -> None:
            kernel, stride, padding = geometry
            channels, height, side = shape
            if min(height, side) + 2 * padding < kernel:
                raise UsageError(
                    f"the map shrinks to nothing: '{block}' meets {height}x{side}; pad, pool less or drop a block"
                )
            rows, columns = (height + 2 * padding - kernel) // stride + 1, (side + 2 * padding - kernel) // stride + 1
            weights = width * (channels // groups) * kernel * kernel
            num_params, macs = weights + width * bias, weights * rows * columns
            append("conv", (width, rows, columns), num_params, macs, kernel, stride, padding, groups, bias)

        for block in self.blocks:
            first, (channels, height, side) = len(layers), shape
            match block:
                case MaxPool():
                    if min(height, side) < 2:
                        raise UsageError(f"the map shrinks to nothing: 'M' meets {height}x{side}; pool less")
                    append("maxpool", (channels, height // 2, side // 2), 0, 0, 2, 2)
                case GlobalPool():
                    append("globalpool", (channels, 1, 1))
                case Classifier():
                    conv(block, self.num_classes, _POINTWISE, 1, block.bias)
                case Conv():
                    geometry = block.kernel_size, block.stride, block.padding
                    if block.separable:
                        conv(block, channels, geometry, channels, False)
                        conv(block, block.width, _POINTWISE, 1, block.bias)
                    else:
                        conv(block, block.width, geometry, 1, block.bias)
                    for op in ("relu", "norm") if block.relu_first else ("norm", "relu"):
                        if op == "relu":
                            append("relu", shape)
                        elif block.norm:
                            append("norm", shape, 2 * block.width)
                    if block.residual:
                        if shape != (channels, height, side):
                            raise UsageError(
                                f"a residual needs equal shapes: '{block}' makes {shape} of {(channels, height, side)}"
                            )
                        append("add", shape, skip=first)
        return tuple(layers)

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
        return sum(isinstance(block, Conv) for block in self.blocks)

    def __str__(self) -> str:
        words = [str(block) for block in self.blocks]
        if self.num_classes != 10:
            words = [word.replace("C", f"C{self.num_classes}") for word in words]
        if self.input_shape != (1, 28, 28):
            words.insert(0, "x".join(map(str, self.input_shape)) + ":")
        return " ".join(words)

    def __repr__(self) -> str:
        return f"Architecture('{self}')"

    @classmethod
    def parse(cls, text: str, *, input_shape: Shape | None = None, num_classes: int | None = None) -> Architecture:
        """Return the architecture of a one-line text.

        `input_shape` and `num_classes` stand in where the text names none (1x28x28 and 10 without them). Raises
        `UsageError` on an unknown word, an illegal shape, or a text at odds with the values given.
        """
        words = text.split()
        blocks: list[Block] = []
        if words and (match := _INPUT.fullmatch(words[0])):
            named: Shape = (int(match[1]), int(match[2]), int(match[3]))
            if input_shape is not None and named != input_shape:
                raise UsageError(f"'{words[0]}' is at odds with the input {input_shape} of the data set: drop it")
            input_shape, words = named, words[1:]
        for word in words:
            if word == "M":
                blocks.append(MaxPool())
            elif word == "G":
                blocks.append(GlobalPool())
            elif match := _CLASSIFIER.fullmatch(word):
                if match[1] and num_classes not in (None, int(match[1])):
                    raise UsageError(f"'{word}' is at odds with the {num_classes} classes named before: write C")
                num_classes = int(match[1]) if match[1] else num_classes
                blocks.append(Classifier(bias=bool(match[2])))
            elif match := _BLOCK.fullmatch(word):
                separable, width, kernel, stride, valid, bias, no_norm, relu_first, residual = match.groups()
                blocks.append(
                    Conv(
                        width=int(width),
                        separable=bool(separable),
                        kernel_size=int(kernel or 3),
                        stride=int(stride or 1),
                        padded=not valid,
                        bias=bool(bias),
                        norm=not no_norm,
                        relu_first=bool(relu_first),
                        residual=bool(residual),
                    )
                )
            else:
                raise UsageError(
                    f"unknown word {word!r} in an architecture: "
                    "a block is [s]WIDTH[kN][/N][v][b][n][r][+], a pool M or G, the classifier C or Cb"
                )
        return cls(
            blocks=tuple(blocks),
            input_shape=(1, 28, 28) if input_shape is None else input_shape,
            num_classes=10 if num_classes is None else num_classes,
        )

    def to_json(self) -> str:
        """Return the description as JSON: `input_shape`, `num_classes` and a list of blocks with every field named."""
        blocks = [{"kind": _NAMES[type(block)], **dataclasses.asdict(block)} for block in self.blocks]
        return json.dumps(
            {"input_shape": self.input_shape, "num_classes": self.num_classes, "blocks": blocks}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Return the architecture of the JSON of `to_json`; raises `UsageError` on anything else."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not the JSON of an architecture: {error}") from error
        fields = _fields(value, "an architecture", ("input_shape", "num_classes", "blocks"))
        blocks, shape = fields["blocks"], fields["input_shape"]
        if not isinstance(blocks, list) or not isinstance(shape, list):
            raise UsageError(f"blocks and input_shape are lists in JSON, not as in {reprlib.repr(fields)}")
        return cls(
            blocks=tuple(_block(block) for block in blocks),
            input_shape=tuple(shape),
            num_classes=fields["num_classes"],
        )


def _size(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]


def _block(value: Any) -> Block:
    """Return the block of a JSON object."""
    name = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise UsageError(f"a block in JSON has a kind, one of {', '.join(_KINDS)}, and not {reprlib.repr(value)}")
    names = [field.name for field in dataclasses.fields(_KINDS[name])]
    fields = _fields(value, f"a {name} block", ["kind", *names])
    return _KINDS[name](**{key: fields[key] for key in names})


def _fields(value: Any, what: str, names: Sequence[str]) -> dict[str, Any]:
    """Return `value`, which must be a JSON object of just these keys."""
    if not isinstance(value, dict) or value.keys() != set(names):
        raise UsageError(f"{what} in JSON is an object of {', '.join(names)}, not {reprlib.repr(value)}")
    return value


def _require_whole(what: str, value: int, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:  # a bool is an int too, but not here
        raise UsageError(f"{what} is a whole number from 1 to {most:,}, not {reprlib.repr(value)}")


def _require_flags(block: Block, *names: str) -> None:
    for name in names:
        if type(getattr(block, name)) is not bool:
            raise UsageError(f"{name} is true or false, not {reprlib.repr(getattr(block, name))}")
