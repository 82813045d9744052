"""Convolutions: a row of the output, a row of the input's gradient, a row's share of the weight gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nas.kernels.blocks import (
    COLUMNS,
    FILTERS,
    LANES,
    ROWS,
    TAPS,
    VECTOR,
    WINOGRAD_ROWS,
    ConvBlock,
    DepthwiseBlock,
    WeightGradBlock,
    WinogradBlock,
    conv_block,
    depthwise_block,
    weight_grad_block,
    winograd_block,
)
from nas.kernels.jit import compiled, floats, longs

CHUNK = 64
"""Vectors of a row that a weight gradient works on at a time: nine taps and three gradients stay in the L1 cache."""


class Map(NamedTuple):
    """One of the two maps that a convolution runs between."""

    address: Any
    channels: Any
    height: Any
    width: Any
    rows: Any  # stored for each channel: all of them, or as many as a ring has
    plane: Any


class Pixels(NamedTuple):
    """Neighbours in a row that are computed at once."""

    count: Any
    source: Any  # where tap column 0 of the first falls, in the first channel that is read
    target: Any  # the first, in the first channel that is written
    num_taps: Any  # in `s.taps`


class Weights(NamedTuple):
    """The weights of a convolution as seen from the side that is computed."""

    values: Any
    c_out: Any  # channels computed
    c_in: Any  # channels summed over
    o_step: Any  # from one to the next, in `values`
    i_step: Any


@compiled
def _maps(s: Any, transposed: Any) -> tuple[Any, Any]:
    """Return the map that is read and the map that is written."""
    x_plane, z_plane = 4 * s.lanes * s.w_in, 4 * s.lanes * s.w * s.h
    if transposed:
        return Map(s.z, s.c_out, s.h, s.w, s.h, z_plane), Map(
            s.x_grad, s.c_in, s.h_in, s.w_in, s.h_in, x_plane * s.h_in
        )
    return Map(s.x, s.c_in, s.h_in, s.w_in, s.x_rows, x_plane * s.x_rows), Map(s.z, s.c_out, s.h, s.w, s.h, z_plane)


@compiled
def _span(at: int, size: int, s: Any) -> tuple[int, int]:
    """Return the taps [lo, hi) of output position `at` that fall inside an input of `size`."""
    start = at * s.stride - s.padding
    return max(0, -start), min(s.kernel, size - start)


@compiled
def _fill_taps(s: Any, source: Any, pixel_at: Any, columns: Any, transposed: Any) -> int:
    """Write the pairs for `conv_block` of target pixel (y, x), tap columns [lo, hi), to `s.taps`; return how many.

    Offsets are from where tap column 0 falls; with a stride the transpose's are from column 0 of the map, since only
    every other tap meets a pixel.
    """
    y, x = pixel_at
    lo, hi = columns
    table = longs(s.taps, 2 * s.kernel * s.kernel)
    strided = transposed and s.stride > 1
    pixel = 4 * s.lanes
    count = 0
    for ky in range(s.kernel):
        # The row that tap row ky meets: forward of the input; backward of the output, which read row y through it.
        at = y + s.padding - ky if transposed else y * s.stride - s.padding + ky
        if strided:
            if at % s.stride:  # no output position falls there
                continue
            at //= s.stride
        if at < 0 or at >= source.height:  # padding: left out, rather than multiplied with zeros
            continue
        for kx in range(lo, hi):
            column = -kx if transposed else kx
            if strided:
                if (x + s.padding - kx) % s.stride:
                    continue
                column = (x + s.padding - kx) // s.stride
            table[2 * count] = (at % source.rows * source.width + column) * pixel  # row `at` of a ring, or of the map
            table[2 * count + 1] = ky * s.kernel + kx
            count += 1
    return count


@compiled
def correlate(s: Any, y: int, transposed: Any) -> None:
    """Compute row y of the convolution, or of its transpose (z to x: the input gradient), from taps inside the map.

    One pixel at a time (or a few), all output channels: its neighbours in every input channel then stay in the L1 cache
    for the next block of output channels and for the next pixel. `transposed` is an np.int64: for a Python number or
    bool numba compiles a copy each.
    """
    maps = _maps(s, transposed)
    source, target = maps
    kernel, stride, padding = s.kernel, s.stride, s.padding
    pixel = 4 * s.lanes
    count, old_lo, old_hi = 0, -1, -1
    x = 0
    while x < target.width:
        # The tap columns [lo, hi) inside the map, and the source column under tap 0 (of a strided transpose, column 0).
        if transposed:
            lo, hi = max(0, x + padding - (source.width - 1) * stride), min(kernel, x + padding + 1)
            base = x + padding if stride == 1 else 0
        else:
            lo, hi = _span(x, source.width, s)
            base = x * stride - padding
        # Taps are relative to the pixel and the same for all but the edges; a strided transpose alternates.
        if lo != old_lo or hi != old_hi or (transposed and stride > 1):
            count, old_lo, old_hi = _fill_taps(s, source, (y, x), (lo, hi), transposed), lo, hi
        at, to = source.address + base * pixel, target.address + (y * target.width + x) * pixel
        full = 0
        if kernel == 3 and stride == 1 and lo == 0 and hi == 3 and count:
            # Pixels from here on that have all three tap columns: beyond them a neighbour would read off the row's end.
            full = (source.width - padding if transposed else source.width - 2 + padding) - x
        pixels = 1
        if s.depthwise and full:
            pixels = min(4, full)
            _depthwise_pixels(s, maps, Pixels(pixels, at, to, count), transposed)
        elif full > 1:
            pixels = 2
            _winograd_pixels(s, maps, Pixels(pixels, at, to, count), transposed)
        else:
            _conv_pixel(s, maps, Pixels(pixels, at, to, count), transposed)
        x += pixels


@compiled
def _depthwise_pixels(s: Any, maps: Any, pixels: Any, transposed: Any) -> None:
    """Compute up to four neighbours of a depthwise 3x3 convolution that have all three tap columns."""
    source, target = maps
    table = longs(s.taps, 2 * s.kernel * s.kernel)
    # The leftmost tap's entry in a row of the table (the transpose runs from right to left), and the way from its
    # weight to the next one's.
    left, step = (4, -4) if transposed else (0, 4)
    # The leftmost taps of the second and third row; where there are fewer, those of the last: not read.
    second, third = left + min(6, 2 * pixels.num_taps - 6), left + 2 * pixels.num_taps - 6
    for c in range(target.channels):
        plane = pixels.source + c * source.plane
        depthwise_block(
            DepthwiseBlock(
                rows=pixels.num_taps // 3, pixels=pixels.count, source0=plane + table[left],
                source1=plane + table[second], source2=plane + table[third], pixel=4 * s.lanes,
                weights=s.packed + 4 * (9 * c + table[left + 1]), step=step,
                target=pixels.target + c * target.plane, vectors=s.lanes // LANES,
            )
        )  # fmt: skip


@compiled
def _winograd_pixels(s: Any, maps: Any, pixels: Any, transposed: Any) -> None:
    """Compute two neighbours of a 3x3 convolution that have all three tap columns."""
    source, target = maps
    c_out, c_in = target.channels, source.channels
    bias = s.zeros if transposed else s.bias
    blocks = (c_out + WINOGRAD_ROWS - 1) // WINOGRAD_ROWS  # of even size, as in `_conv_pixel`
    left = 32 if transposed else 0  # bytes: the third pair is the leftmost of a transpose
    for lane in range(0, s.lanes, LANES):
        for k in range(blocks):
            o = k * c_out // blocks
            winograd_block(
                WinogradBlock(
                    rows=(k + 1) * c_out // blocks - o, source=pixels.source + 4 * lane, plane=source.plane,
                    channels=c_in, taps=s.taps + left, tap_rows=pixels.num_taps // 3, pixel=4 * s.lanes,
                    weights=s.paired + 48 * o * c_in, bias=bias + 4 * o,
                    target=pixels.target + 4 * lane + o * target.plane, target_plane=target.plane,
                )
            )  # fmt: skip


@compiled
def _conv_pixel(s: Any, maps: Any, pixels: Any, transposed: Any) -> None:
    """Compute one pixel of any convolution, from the taps in the table: 64 images of it at a time."""
    source, target = maps
    c_out, c_in, area = target.channels, source.channels, s.kernel * s.kernel
    bias = s.zeros if transposed else s.bias  # a gradient has none: zeros spare the blocks a case
    # Output channels are split evenly, 7 of them 4 + 3 and not 6 + 1: a block of one row waits for its loads.
    blocks, group_step = (c_out + ROWS - 1) // ROWS, 0
    if s.depthwise:  # output channel c sums over input channel c alone: a block each, which starts a plane further on
        c_in, blocks, group_step = 1, c_out, source.plane
    lane = 0
    while lane < s.lanes:
        columns = COLUMNS[-1]
        for width in COLUMNS:  # as many vectors at once as are left
            if s.lanes - lane >= width * LANES:
                columns = width
                break
        for k in range(blocks):
            o = k * c_out // blocks
            conv_block(
                ConvBlock(
                    rows=(k + 1) * c_out // blocks - o, columns=columns,
                    source=pixels.source + 4 * lane + o * group_step, plane=source.plane, channels=c_in,
                    taps=s.taps, num_taps=pixels.num_taps, area=area, weights=s.packed + 4 * o * c_in * area,
                    bias=bias + 4 * o, target=pixels.target + 4 * lane + o * target.plane, target_plane=target.plane,
                )
            )  # fmt: skip
        lane += columns * LANES


@compiled
def pack(s: Any, transposed: Any) -> None:
    """Copy the weights in blocks of at most ROWS output channels, in the order (input channel, tap, row) in each.

    That is the order in which `conv_block` reads them: one after the other, and not a cache line for each.
    """
    area = s.kernel * s.kernel
    c_out, c_in = (s.c_in, s.c_out) if transposed else (s.c_out, s.c_in)
    blocks = c_out if s.depthwise else (c_out + ROWS - 1) // ROWS  # the split of `correlate`, to the channel
    c_in = 1 if s.depthwise else c_in
    # torch has them (c_out, c_in, ky, kx): the transpose's outer channel is the inner one there.
    o_step, i_step = (area, s.c_in * area) if transposed and not s.depthwise else (c_in * area, area)
    source, packed = floats(s.weight, c_out * c_in * area), floats(s.packed, c_out * c_in * area)
    n = 0
    for k in range(blocks):
        for i in range(c_in):
            for tap in range(area):
                for o in range(k * c_out // blocks, (k + 1) * c_out // blocks):
                    packed[n] = source[o * o_step + i * i_step + tap]
                    n += 1
    if s.kernel == 3 and s.stride == 1 and not s.depthwise:
        _pack_winograd(s, Weights(source, c_out, c_in, o_step, i_step), transposed)


@compiled
def _pack_winograd(s: Any, weights: Any, transposed: Any) -> None:
    """Write the factors of `winograd_block`, in blocks of at most WINOGRAD_ROWS output channels."""
    source, c_out, c_in = weights.values, weights.c_out, weights.c_in
    paired = floats(s.paired, 12 * c_out * c_in)
    half, first, last = np.float32(0.5), 2 * transposed, 2 - 2 * transposed  # the transpose's taps run backwards
    blocks, n = (c_out + WINOGRAD_ROWS - 1) // WINOGRAD_ROWS, 0
    for k in range(blocks):
        start, end = k * c_out // blocks, (k + 1) * c_out // blocks
        rows = end - start
        for i in range(c_in):
            for ky in range(3):
                for o in range(start, end):
                    at = o * weights.o_step + i * weights.i_step + 3 * ky
                    w0, w1, w2 = source[at + first], source[at + 1], source[at + last]
                    paired[n], paired[n + 3 * rows] = w0, w2
                    paired[n + rows], paired[n + 2 * rows] = half * (w0 + w1 + w2), half * (w0 - w1 + w2)
                    n += 1
                n += 3 * rows  # past the other three products of this tap row


@compiled
def add_weight_grad(s: Any, y: int) -> None:
    """Add row y's share to the weight gradient, lane by lane: `sums_to_gradient` joins the lanes after the last row.

    Columns whose taps fall off the same edges form one run; inside a map that is the whole row.
    """
    stride, padding, area = s.stride, s.padding, s.kernel * s.kernel
    pixel = 4 * s.lanes
    row, plane, gradient_plane = pixel * s.w_in, pixel * s.w_in * s.x_rows, pixel * s.w * s.h
    # A depthwise filter meets its own input channel only: no two share a load.
    c_in = 1 if s.depthwise else s.c_in
    filter_blocks = s.c_out if s.depthwise else (s.c_out + FILTERS - 1) // FILTERS
    group_step = plane if s.depthwise else 0
    table = longs(s.taps, 2 * c_in * area)
    y_lo, y_hi = _span(y, s.h_in, s)
    x = 0
    while x < s.w:
        lo, hi = _span(x, s.w_in, s)
        end = x + 1
        while end < s.w and _span(end, s.w_in, s) == (lo, hi):
            end += 1
        # Input channels count as taps: a 1x1 convolution would have one, and a block of one tap waits for its loads.
        count = 0
        for i in range(c_in):
            for ky in range(y_lo, y_hi):
                for kx in range(lo, hi):
                    at = (y * stride - padding + ky) % s.x_rows
                    table[2 * count] = i * plane + at * row + (kx - padding) * pixel
                    table[2 * count + 1] = (i * area + ky * s.kernel + kx) * VECTOR
                    count += 1
        tap_blocks = (count + TAPS - 1) // TAPS
        # One run of vectors where neighbours in the output are neighbours in the input, else a run for each pixel.
        run = (end - x) * s.lanes // LANES if stride == 1 else s.lanes // LANES
        pixels = 1 if stride == 1 else end - x
        for start in range(0, run, CHUNK):
            g = s.z + (y * s.w + x) * pixel + start * VECTOR
            source = s.x + x * stride * pixel + start * VECTOR
            for j in range(tap_blocks):
                tap = j * count // tap_blocks
                num_taps = (j + 1) * count // tap_blocks - tap
                for k in range(filter_blocks):
                    o = k * s.c_out // filter_blocks
                    weight_grad_block(
                        WeightGradBlock(
                            filters=(k + 1) * s.c_out // filter_blocks - o, num_taps=num_taps,
                            gradient=g + o * gradient_plane, gradient_plane=gradient_plane,
                            source=source + o * group_step, taps=s.taps + 16 * tap,
                            sums=s.sums + o * c_in * area * VECTOR, sums_row=c_in * area * VECTOR,
                            pixels=pixels, gradient_step=pixel, source_step=pixel * stride,
                            vectors=min(CHUNK, run - start),
                        )
                    )  # fmt: skip
        x = end


@compiled
def _num_weights(s: Any) -> int:
    return s.c_out * (1 if s.depthwise else s.c_in) * s.kernel * s.kernel  # type: ignore[no-any-return]


@compiled
def zero_sums(s: Any) -> None:
    """Clear the sums of the weight gradient, a vector for each weight."""
    floats(s.sums, _num_weights(s) * LANES)[:] = 0


@compiled
def sums_to_gradient(s: Any) -> None:
    """Join the lanes of each weight's sums, in float64: 16 numbers of either sign, each a sum of thousands."""
    size = _num_weights(s)
    lanes, total = floats(s.sums, size * LANES), floats(s.weight_grad, size)
    for k in range(size):
        value = 0.0
        for lane in range(LANES):
            value += lanes[k * LANES + lane]
        total[k] = value
