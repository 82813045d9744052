"""Architectures over the whole language, for the property tests."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from nas.architecture import (
    KERNEL_SIZES,
    STRIDES,
    Architecture,
    Block,
    Classifier,
    Conv,
    ConvBlock,
    GlobalPool,
    InvertedBottleneck,
    MaxPool,
)
from nas.errors import UsageError


@st.composite
def convs(draw: st.DrawFn, kernel_sizes: tuple[int, ...] = KERNEL_SIZES, max_width: int = 12) -> Conv:
    """Any block but a residual one, which only some places allow."""
    kernel_size = draw(st.sampled_from(kernel_sizes))
    norm = draw(st.booleans())
    return Conv(
        width=draw(st.integers(1, max_width)),
        separable=kernel_size > 1 and draw(st.booleans()),
        kernel_size=kernel_size,
        stride=draw(st.sampled_from(STRIDES)),
        padded=kernel_size == 1 or draw(st.booleans()),
        bias=draw(st.booleans()),
        norm=norm,
        relu_first=norm and draw(st.booleans()),
    )


@st.composite
def inverted_bottlenecks(draw: st.DrawFn, max_width: int = 8) -> InvertedBottleneck:
    """Any inverted bottleneck but a residual one."""
    return InvertedBottleneck(
        width=draw(st.integers(1, max_width)),
        expansion=draw(st.integers(1, 4)),
        kernel_size=draw(st.sampled_from(KERNEL_SIZES[1:])),
        stride=draw(st.sampled_from(STRIDES)),
        padded=draw(st.booleans()),
    )


@st.composite
def architectures(draw: st.DrawFn, max_side: int = 20) -> Architecture:
    """A legal architecture: every kind of block, pool place, residual, head, input shape and number of classes."""
    input_shape = (draw(st.integers(1, 4)), draw(st.integers(1, max_side)), draw(st.integers(1, max_side)))
    num_classes = draw(st.sampled_from((10, 1, 2, 100)))
    classifier = Classifier(bias=draw(st.booleans()))
    dense = draw(st.lists(convs(kernel_sizes=(1,)), max_size=2))
    heads: tuple[tuple[Block, ...], ...] = ((classifier, GlobalPool()), (GlobalPool(), *dense, classifier))
    head = draw(st.sampled_from(heads))
    body: tuple[Block, ...] = ()
    channels = input_shape[0]

    def with_body(*blocks: Block) -> Architecture:
        return Architecture(blocks=(*blocks, *head), input_shape=input_shape, num_classes=num_classes)

    for block in draw(st.lists(convs() | inverted_bottlenecks() | st.just(MaxPool()), max_size=6)):
        if isinstance(block, ConvBlock) and draw(st.booleans()):
            block = replace(block, width=channels, stride=1, padded=True, residual=True)
        try:
            with_body(*body, block)
        except UsageError:  # the map would shrink to nothing: leave it out
            continue
        body += (block,)
        channels = block.width if isinstance(block, ConvBlock) else channels
    return with_body(*body)
