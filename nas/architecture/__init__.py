"""`Architecture`: an immutable description of a small convolutional network, and its exact counts.

The text form is one line, in the manner of VGG configuration lists. A 3x3 convolution of eight channels is `8`, a
depthwise-separable one `s8`, 2x2 max-pooling `M`, global average pooling `G`, the classifier `C`:

    8vr 9vr 10vr M 12vr 16vr 20vr C G       3x3 valid convolutions, conv-ReLU-BN, 1x1 to classes, average pool
    8v s16v M s24v s24v M s32 s32 G Cb      separable blocks, average pool, linear classifier with a bias
    3x32x32: 16 16+ M 32/2 G 24k1 C100      an RGB input, a residual, a stride, a hidden layer, 100 classes
    3x32x32: 16 i16x3k5+ i24x4/2 i24x4+ G C inverted bottlenecks, two of them residual

A block is `[s]WIDTH` and then, in this order, any of

    kN  square kernel of side N (default 3)      b  bias           (default: none)
    /N  stride N (default 1)                     n  no norm        (default: batch norm)
    v   valid: no padding (default: padded)      r  conv-ReLU-norm (default: conv-norm-ReLU)
    +   residual: adds the block's input to its output

A separable block is a depthwise convolution and a 1x1 one with nothing between; its bias, where it has one, belongs to
the 1x1. A block after `G` is a dense layer, written with `k1`.

An inverted bottleneck is `iWIDTHxN` and then, in this order, any of `kN`, `/N`, `v` and `+` (those of its depthwise
convolution, and the residual): a 1x1 convolution to N times the channels that come in, a depthwise one, a 1x1 one to
WIDTH, each with a batch norm, the first two with a ReLU after it.

Every learnable number counts as a parameter: convolution weights, biases, and the two of each batch-norm channel;
running statistics are buffers and do not count. Multiply-accumulates (MACs) are those of the convolutions, per image.
"""

from nas.architecture.architecture import MAX_SIDE, Architecture
from nas.architecture.blocks import (
    KERNEL_SIZES,
    MAX_EXPANSION,
    MAX_WIDTH,
    STRIDES,
    Block,
    Classifier,
    Conv,
    ConvBlock,
    GlobalPool,
    InvertedBottleneck,
    MaxPool,
)
from nas.architecture.layers import Layer, Shape

__all__ = [
    "KERNEL_SIZES",
    "MAX_EXPANSION",
    "MAX_SIDE",
    "MAX_WIDTH",
    "STRIDES",
    "Architecture",
    "Block",
    "Classifier",
    "Conv",
    "ConvBlock",
    "GlobalPool",
    "InvertedBottleneck",
    "Layer",
    "MaxPool",
    "Shape",
]
