"""The blocks of an architecture: what each is, its word in the text form, and what it refuses."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass

from nas.errors import UsageError

KERNEL_SIZES = (1, 3, 5, 7)
STRIDES = (1, 2)
MAX_WIDTH = 99_999
MAX_EXPANSION = 9


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
        require_whole("a width", self.width, MAX_WIDTH)
        _require_flags(self, "separable", "padded", "bias", "norm", "relu_first", "residual")
        _require_kernel(self)
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
class InvertedBottleneck:
    """A 1x1 convolution to `expansion` times the channels, a depthwise one, a 1x1 one to `width` (MobileNetV2's block).

    Each has a batch norm and the first two a ReLU; there are no biases.
    """

    width: int
    expansion: int
    kernel_size: int = 3
    stride: int = 1
    padded: bool = True
    residual: bool = False

    def __post_init__(self) -> None:
        require_whole("a width", self.width, MAX_WIDTH)
        require_whole("an expansion", self.expansion, MAX_EXPANSION)
        _require_flags(self, "padded", "residual")
        _require_kernel(self)
        if self.kernel_size == 1:
            raise UsageError(f"an inverted bottleneck has a kernel of 3 or more: write {self.width}k1, not {self}")

    @property
    def padding(self) -> int:
        return self.kernel_size // 2 if self.padded else 0

    @property
    def separable(self) -> bool:
        """True: its spatial convolution is a depthwise one."""
        return True

    def __str__(self) -> str:
        size = f"k{self.kernel_size}" * (self.kernel_size != 3) + f"/{self.stride}" * (self.stride != 1)
        return f"i{self.width}x{self.expansion}{size}" + "v" * (not self.padded) + "+" * self.residual


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


ConvBlock = Conv | InvertedBottleneck
Block = ConvBlock | MaxPool | GlobalPool | Classifier


def require_whole(what: str, value: int, most: int) -> None:
    """Raise `UsageError` unless the value is a whole number from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:  # a bool is an int too, but not here
        raise UsageError(f"{what} is a whole number from 1 to {most:,}, not {reprlib.repr(value)}")


def _require_flags(block: Block, *names: str) -> None:
    for name in names:
        if type(getattr(block, name)) is not bool:
            raise UsageError(f"{name} is true or false, not {reprlib.repr(getattr(block, name))}")


def _require_kernel(block: ConvBlock) -> None:
    require_whole("a kernel_size", block.kernel_size, MAX_WIDTH)
    require_whole("a stride", block.stride, MAX_WIDTH)
    if block.kernel_size not in KERNEL_SIZES:
        raise UsageError(f"kernel_size is one of {KERNEL_SIZES}, not {block.kernel_size} in {block}")
    if block.stride not in STRIDES:
        raise UsageError(f"a stride is one of {STRIDES}, not {block.stride} in {block}")
