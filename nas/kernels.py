"""Training and evaluation of the search space's networks on a CPU, with the batch innermost.

Tensors are (C, H, W, N), float32: a vector holds one pixel of 16 images, so that any channel count and kernel size
vectorises without waste. A convolution is a sum of scaled vectors, its weight gradient a set of long dot products,
batch norm a pass over rows that are still in the cache, pooling a maximum of four vectors.

`Network` shares storage with a torch model. It lowers the architecture to a tape of stages, one record each; a step is
one call into compiled code, which walks the tape forward, takes the loss and walks the tape back. Batches are stored in
whole vectors: the lanes beyond the last image compute on zeros, stay out of the batch statistics and carry no gradient.

Kernels are single-threaded, release the GIL and give the same bits from run to run: the machine's cores are for several
workers. Fast-math stops at contraction and reassociation, so that a NaN stays a NaN.
"""

from __future__ import annotations

import inspect
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nas.architecture import Architecture, Layer

try:
    import llvmlite.binding as llvm
    import numba
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np.numpy_support import carray

    _FEATURES = {name for name, present in llvm.get_host_cpu_features().items() if present}
    _MISSING = None
except (ImportError, OSError) as error:  # `unsuited` tells; nothing else here is called then
    _FEATURES = set()
    _MISSING = str(error)

F = TypeVar("F", bound=Callable[..., Any])
FAST_MATH = {"contract", "reassoc", "nsz", "arcp"}

# The register blocks: 24 accumulators of 32 registers with AVX-512, 12 of 16 without. A row of a pair has four.
WIDE = "avx512f" in _FEATURES
LANES = 16 if WIDE else 8
ROWS = 6
COLUMNS = (4, 2, 1) if WIDE else (2, 1)
PAIR_ROWS = 6 if WIDE else 3
FILTERS, TAPS = (3, 9) if WIDE else (4, 3)
VECTOR = 4 * LANES
CHUNK = 64
"""Vectors of a row that a weight gradient works on at a time: nine taps and three gradients stay in the L1 cache."""


def unsuited() -> str | None:
    """Why the kernels cannot run here; None when they can."""
    if _MISSING is not None:
        return f"numba cannot be imported ({_MISSING})"
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64") and not {"avx2", "fma"} <= _FEATURES:
        return "the processor has no AVX2 and FMA"
    if machine not in ("x86_64", "amd64", "arm64", "aarch64"):
        return f"no kernels for a {machine} processor"
    return None


def compiled(function: F) -> F:
    """A compiled helper: kept in the machine code of the entry points that call it."""
    if _MISSING is not None:
        return function
    return cast(F, numba.njit(fastmath=FAST_MATH, nogil=True, error_model="numpy")(function))


def entry(function: F) -> F:
    """A compiled function called from Python: its machine code is cached on disk."""
    if _MISSING is not None:
        return function
    return cast(F, numba.njit(fastmath=FAST_MATH, nogil=True, error_model="numpy", cache=True)(function))


def emitted(body: Callable[..., None]) -> Any:
    """A function of int64s (addresses in bytes) whose body writes LLVM instructions with the builder it is given.

    It stays a function of its own: copied into each caller, the register blocks took 50 s to compile instead of 10.
    """
    if _MISSING is not None:
        return body
    name = f"nas{body.__name__}"

    def call(typing: Any, *arguments: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            function = builder.module.globals.get(name)
            if function is None:
                kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(values))
                function = ir.Function(builder.module, kind, name)
                function.linkage = "linkonce_odr"
                function.attributes.add("noinline")
                inner = ir.IRBuilder(function.append_basic_block())
                body(inner, *function.args)
                inner.ret_void()
            builder.call(function, values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * len(arguments)), emit

    call.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]  # numba asks for named arguments
    return intrinsic(call)


# --- register blocks, as LLVM instructions: numba's vectoriser keeps no block of accumulators in registers -----------


def _vector() -> Any:
    return ir.VectorType(ir.FloatType(), LANES)


def _int(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _load(builder: Any, address: Any, kind: Any = None) -> Any:
    kind = kind or _vector()
    align = VECTOR if isinstance(kind, ir.VectorType) else kind.width // 8 if isinstance(kind, ir.IntType) else 4
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, _vector().as_pointer()), align=VECTOR)


def _splat(builder: Any, address: Any) -> Any:
    """The float at the address, in every lane."""
    undefined = ir.Constant(_vector(), ir.Undefined)
    first = builder.insert_element(undefined, _load(builder, address, ir.FloatType()), ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _register(builder: Any) -> Any:
    """A vector variable, which LLVM keeps in a register."""
    with builder.goto_entry_block():
        return builder.alloca(_vector())


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    kind = _vector()
    name = f"llvm.fma.v{LANES}f32"
    module: Any = builder.module
    fma = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(fma, [x, y, z])


def _multiply_add(builder: Any, accumulator: Any, x: Any, y: Any) -> None:
    builder.store(_fma(builder, x, y, builder.load(accumulator)), accumulator)


@contextmanager
def _loop(builder: Any, count: Any) -> Iterator[Any]:
    """The instructions of a loop's body, for 0..count-1."""
    with cgutils.for_range(builder, count) as loop:
        yield loop.index


def _cases(builder: Any, first: Any, firsts: Sequence[int], second: Any, seconds: Sequence[int]) -> Iterator[Any]:
    """The two sizes of each register block, with the builder in the branch for them."""
    end = builder.append_basic_block()
    switch = builder.switch(builder.add(builder.mul(first, _int(16)), second), end)
    for one in firsts:
        for two in seconds:
            block = builder.append_basic_block()
            switch.add_case(_int(16 * one + two), block)
            builder.position_at_end(block)
            yield one, two
            builder.branch(end)
    builder.position_at_end(end)


@emitted
def _tile(
    b: Any, rows: Any, columns: Any, source: Any, plane: Any, channels: Any, taps: Any, num_taps: Any, area: Any,
    weights: Any, bias: Any, target: Any, target_plane: Any,
) -> None:  # fmt: skip
    """`rows` output channels x `columns` vectors, summed over `channels` x `num_taps` in registers, stored once.

    `taps` holds pairs (byte offset into a plane, index of the weight); weights are packed (channel, tap, row), `area`
    taps a channel. Five rows by four vectors run at 96 to 99 % of the FMA peak: 20 multiply-adds for 9 loads.
    """
    for height, width in _cases(b, rows, range(1, ROWS + 1), columns, COLUMNS):
        sums = [[_register(b) for _ in range(width)] for _ in range(height)]
        for row in range(height):
            start = _splat(b, b.add(bias, _int(4 * row)))
            for accumulator in sums[row]:
                b.store(start, accumulator)
        with _loop(b, channels) as channel:
            x_plane = b.add(source, b.mul(channel, plane))
            w_plane = b.add(weights, b.mul(b.mul(channel, area), _int(4 * height)))
            with _loop(b, num_taps) as tap:
                pair = b.add(taps, b.mul(tap, _int(16)))
                x = b.add(x_plane, _load(b, pair, ir.IntType(64)))
                index = _load(b, b.add(pair, _int(8)), ir.IntType(64))
                w = b.add(w_plane, b.mul(index, _int(4 * height)))
                pixels = [_load(b, b.add(x, _int(VECTOR * n))) for n in range(width)]
                for row in range(height):
                    weight = _splat(b, b.add(w, _int(4 * row)))
                    for accumulator, pixel in zip(sums[row], pixels, strict=True):
                        _multiply_add(b, accumulator, weight, pixel)
        for row in range(height):
            out = b.add(target, b.mul(target_plane, _int(row)))
            for n, accumulator in enumerate(sums[row]):
                _store(b, b.load(accumulator), b.add(out, _int(VECTOR * n)))


@emitted
def _pair(
    b: Any, rows: Any, source: Any, plane: Any, channels: Any, taps: Any, tap_rows: Any, pixel: Any, weights: Any,
    bias: Any, target: Any, target_plane: Any,
) -> None:  # fmt: skip
    """`rows` output channels x two neighbours of a 3x3 convolution, a vector of each: four products a row of taps.

    Winograd's F(2, 3) ("Arithmetic Complexity of Computations", 1980): of pixels d0 to d3 and weights w0 to w2, with
    m0 = (d0 - d2) w0, m1 = (d1 + d2) (w0 + w1 + w2) / 2, m2 = (d2 - d1) (w0 - w1 + w2) / 2 and m3 = (d1 - d3) w2, the
    two are m0 + m1 + m2 and m1 - m2 - m3. `taps` is as for `_tile`, from the leftmost tap of the first row on; weights
    are packed (channel, tap row, m, row). Beside a `_tile` for each pixel, a step of the published networks took 8 to
    14 % less. For the weight gradient the same won nothing: that is held up by its loads.
    """
    for height, _ in _cases(b, rows, range(1, PAIR_ROWS + 1), _int(1), (1,)):
        sums = [[_register(b) for _ in range(4)] for _ in range(height)]
        for row in range(height):
            for k, accumulator in enumerate(sums[row]):  # m1 goes into both
                zero = ir.Constant(_vector(), [0.0] * LANES)
                b.store(_splat(b, b.add(bias, _int(4 * row))) if k == 1 else zero, accumulator)
        with _loop(b, channels) as channel:
            x_plane = b.add(source, b.mul(channel, plane))
            w_plane = b.add(weights, b.mul(channel, _int(48 * height)))
            with _loop(b, tap_rows) as tap_row:
                leftmost = b.add(taps, b.mul(tap_row, _int(48)))
                x = b.add(x_plane, _load(b, leftmost, ir.IntType(64)))
                ky = b.sdiv(_load(b, b.add(leftmost, _int(8)), ir.IntType(64)), _int(3))
                w = b.add(w_plane, b.mul(ky, _int(16 * height)))
                d0, d1, d2, d3 = (_load(b, b.add(x, b.mul(pixel, _int(n)))) for n in range(4))
                mixed = b.fsub(d0, d2), b.fadd(d1, d2), b.fsub(d2, d1), b.fsub(d1, d3)
                for k, value in enumerate(mixed):
                    for row in range(height):
                        _multiply_add(b, sums[row][k], _splat(b, b.add(w, _int(4 * (k * height + row)))), value)
        for row in range(height):
            m0, m1, m2, m3 = map(b.load, sums[row])
            out = b.add(target, b.mul(target_plane, _int(row)))
            _store(b, b.fadd(b.fadd(m0, m1), m2), out)
            _store(b, b.fsub(b.fsub(m1, m2), m3), b.add(out, pixel))


@emitted
def _slide(
    b: Any, rows: Any, pixels: Any, source0: Any, source1: Any, source2: Any, pixel: Any, weights: Any, step: Any,
    target: Any, vectors: Any,
) -> None:  # fmt: skip
    """`pixels` neighbours of one channel's 3x3 convolution from one to three `rows`, the nine weights in registers.

    A depthwise convolution has one output channel to share a load with: 35 GFLOP/s as a `_tile`, twice that when four
    neighbours share their columns.
    """
    for height, width in _cases(b, rows, (1, 2, 3), pixels, (1, 2, 3, 4)):
        sources = [source0, source1, source2][:height]
        starts = [b.add(weights, _int(12 * row)) for row in range(height)]
        taps = [[_splat(b, b.add(start, b.mul(step, _int(n)))) for n in range(3)] for start in starts]
        with _loop(b, vectors) as vector:
            lane = b.mul(vector, _int(VECTOR))
            sums = [ir.Constant(_vector(), [0.0] * LANES)] * width
            for start, weight in zip(sources, taps, strict=True):
                for column in range(width + 2):
                    x = _load(b, b.add(b.add(start, lane), b.mul(pixel, _int(column))))
                    for n in range(max(0, column - 2), min(width, column + 1)):
                        sums[n] = _fma(b, weight[column - n], x, sums[n])
            for n, total in enumerate(sums):
                _store(b, total, b.add(b.add(target, lane), b.mul(pixel, _int(n))))


@emitted
def _dots(
    b: Any, filters: Any, num_taps: Any, gradient: Any, gradient_plane: Any, source: Any, taps: Any, sums: Any,
    sums_row: Any, pixels: Any, gradient_step: Any, source_step: Any, vectors: Any,
) -> None:  # fmt: skip
    """Dot products of `filters` gradient rows with `num_taps` shifted source rows, added lane by lane to `sums`.

    `taps` holds pairs (byte offset into the source, byte offset into a row of `sums`). A row is `pixels` runs of
    `vectors` vectors. Three filters by nine taps: 27 multiply-adds for 12 loads.
    """
    for height, width in _cases(b, filters, range(1, FILTERS + 1), num_taps, range(1, TAPS + 1)):
        pairs = [b.add(taps, _int(16 * tap)) for tap in range(width)]
        starts = [b.add(source, _load(b, pair, ir.IntType(64))) for pair in pairs]
        offsets = [_load(b, b.add(pair, _int(8)), ir.IntType(64)) for pair in pairs]
        places = [[b.add(b.add(sums, b.mul(sums_row, _int(row))), at) for at in offsets] for row in range(height)]
        block = [[_register(b) for _ in offsets] for _ in range(height)]
        for row in range(height):
            for place, accumulator in zip(places[row], block[row], strict=True):
                b.store(_load(b, place), accumulator)
        with _loop(b, pixels) as pixel, _loop(b, vectors) as vector:
            lane = b.mul(vector, _int(VECTOR))
            at = b.add(lane, b.mul(pixel, source_step))
            across = b.add(lane, b.mul(pixel, gradient_step))
            gs = [_load(b, b.add(b.add(gradient, b.mul(gradient_plane, _int(row))), across)) for row in range(height)]
            for tap, start in enumerate(starts):
                x = _load(b, b.add(start, at))
                for row in range(height):
                    _multiply_add(b, block[row][tap], gs[row], x)
        for row in range(height):
            for place, accumulator in zip(places[row], block[row], strict=True):
                _store(b, b.load(accumulator), place)


@emitted
def _multiply_adds(b: Any, count: Any, target: Any) -> None:
    """Twelve independent chains of `count` multiply-adds; the target keeps the compiler from leaving them out."""
    chains = [_register(b) for _ in range(12)]
    for k, chain in enumerate(chains):
        b.store(ir.Constant(_vector(), [float(k)] * LANES), chain)
    factor, term = _load(b, target), _load(b, target)
    with _loop(b, count):
        for chain in chains:
            b.store(_fma(b, b.load(chain), factor, term), chain)
    for k, chain in enumerate(chains):
        _store(b, b.load(chain), b.add(target, _int(VECTOR * k)))


def _pointer_to(kind: str) -> Any:
    """A compiled function from an address to a pointer numba can make an array of."""
    if _MISSING is not None:
        return None

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        pointer_type: Any = types.CPointer
        return pointer_type(getattr(types, kind))(types.int64), emit

    return pointer


_pointer, _double_pointer, _long_pointer = map(_pointer_to, ("float32", "float64", "int64"))


@compiled
def _floats(address: int, size: int) -> Any:
    return carray(_pointer(address), (size,), np.float32)


@compiled
def _doubles(address: int, size: int) -> Any:
    return carray(_double_pointer(address), (size,), np.float64)


@compiled
def _longs(address: int, size: int) -> Any:
    return carray(_long_pointer(address), (size,), np.int64)


# --- the tape --------------------------------------------------------------------------------------------------------

CONV, MAX_POOL, GLOBAL_POOL = 0, 1, 2
_ADDRESSES = (
    "x", "z", "y",  # input; convolution's output; output, after norm, ReLU, pool and residual
    "x_grad", "y_grad",  # the gradient of z overwrites z
    "skip", "skip_grad",  # what a residual adds to the output, and to the gradient of the input
    "weight", "bias", "gamma", "beta", "weight_grad", "bias_grad", "gamma_grad", "beta_grad",
    "running_mean", "running_var", "batches", "coefficients", "moments", "packed", "paired", "sums", "taps", "zeros",
)  # fmt: skip
_NUMBERS = (
    "kind", "c_in", "h_in", "w_in", "c_out", "h", "w", "kernel", "stride", "padding", "depthwise", "separable",
    "relu_first", "norm", "relu_last", "pool", "input_grad", "pulls", "deferred", "x_rows", "y_rows", "batch", "lanes",
)  # fmt: skip
STAGE = np.dtype([(name, np.int64) for name in _ADDRESSES + _NUMBERS] + [("eps", "f8"), ("momentum", "f8")])
"""One stage: a convolution with the norm, ReLU, 2x2 max-pool and residual that follow it; a max-pool or the global pool
on its own.

What costs time beside the multiply-adds is memory: a step of the small networks moves some ten times its 20 MB of
activations, more than the cache holds. So the output of a stage is not kept where the next one is a convolution: it is
"deferred", and the next stage "pulls" its rows from z, forward and again backward, into a ring of as many rows as its
kernel has, which stays in the cache. Their gradients take turns in two buffers.
"""


@compiled
def _span(at: int, size: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """The taps [lo, hi) of output position `at` that fall inside an input of `size`."""
    start = at * stride - padding
    return max(0, -start), min(kernel, size - start)


@compiled
def _fill_taps(
    table: Any, s: Any, y: int, x: int, lo: int, hi: int, transposed: Any, rows: int, height: int, width: int
) -> int:
    """The pairs for `_tile` of the taps of target pixel (y, x) that fall inside the source; how many.

    The source has `height` rows, of which the last `rows` are kept. Offsets are from where tap column 0 falls; with a
    stride the transpose's are from column 0 of the map, since only every other tap meets a pixel.
    """
    strided = transposed and s.stride > 1
    pixel = 4 * s.lanes
    count = 0
    for ky in range(s.kernel):
        at = y + s.padding - ky if transposed else y * s.stride - s.padding + ky
        if strided:
            if at % s.stride:
                continue
            at //= s.stride
        if at < 0 or at >= height:
            continue
        for kx in range(lo, hi):
            column = -kx if transposed else kx
            if strided:
                if (x + s.padding - kx) % s.stride:
                    continue
                column = (x + s.padding - kx) // s.stride
            table[2 * count] = (at % rows * width + column) * pixel
            table[2 * count + 1] = ky * s.kernel + kx
            count += 1
    return count


@compiled
def _correlate(s: Any, y: int, transposed: Any) -> None:
    """Row y of the convolution, or of its transpose (z to x, the input gradient), with only the taps inside the map.

    A pixel at a time, 64 images of it, all output channels: its neighbours in every input channel then stay in the L1
    cache for the next block of output channels and for the next pixel. `transposed` is an np.int64: for a Python number
    or bool numba compiles a copy each.
    """
    kernel, stride, padding, area = s.kernel, s.stride, s.padding, s.kernel * s.kernel
    if transposed:
        source, c_in, h_in, w_in, rows_in = s.z, s.c_out, s.h, s.w, s.h
        target, c_out, h_out, w_out, bias = s.x_grad, s.c_in, s.h_in, s.w_in, s.zeros
    else:
        source, c_in, h_in, w_in, rows_in = s.x, s.c_in, s.h_in, s.w_in, s.x_rows
        target, c_out, h_out, w_out, bias = s.z, s.c_out, s.h, s.w, s.bias
    pixel = 4 * s.lanes
    plane, target_plane = pixel * w_in * rows_in, pixel * w_out * h_out
    blocks, group_step = (c_out + ROWS - 1) // ROWS, 0
    if s.depthwise:
        c_in, blocks, group_step = 1, c_out, plane
    threes = kernel == 3 and stride == 1
    pair_blocks = (c_out + PAIR_ROWS - 1) // PAIR_ROWS
    table = _longs(s.taps, 2 * area)
    count, old_lo, old_hi = 0, -1, -1
    x = 0
    while x < w_out:
        if transposed:
            lo, hi = max(0, x + padding - (w_in - 1) * stride), min(kernel, x + padding + 1)
            base = x + padding if stride == 1 else 0
        else:
            lo, hi = _span(x, w_in, kernel, stride, padding)
            base = x * stride - padding
        if lo != old_lo or hi != old_hi or (transposed and stride > 1):
            count, old_lo, old_hi = _fill_taps(table, s, y, x, lo, hi, transposed, rows_in, h_in, w_in), lo, hi
        at, to = source + base * pixel, target + (y * w_out + x) * pixel
        pixels, lane, full = 1, 0, 0
        if threes and lo == 0 and hi == 3 and count:
            full = (w_in - padding if transposed else w_in - 2 + padding) - x  # as far as all three taps go
        if s.depthwise and full:
            pixels = min(4, full)
            left, step = (4, -4) if transposed else (0, 4)  # the leftmost tap's pair, the way to the next one's weight
            second, third = left + min(6, 2 * count - 6), left + 2 * count - 6
            for c in range(c_out):
                _slide(count // 3, pixels, at + table[left] + c * plane, at + table[second] + c * plane,
                       at + table[third] + c * plane, pixel, s.packed + 4 * (c * area + table[left + 1]), step,
                       to + c * target_plane, s.lanes // LANES)  # fmt: skip
            lane = s.lanes
        elif full > 1:
            pixels, left = 2, 32 if transposed else 0
            while lane < s.lanes:
                for k in range(pair_blocks):
                    o = k * c_out // pair_blocks
                    rows = (k + 1) * c_out // pair_blocks - o
                    _pair(rows, at + 4 * lane, plane, c_in, s.taps + left, count // 3, pixel, s.paired + 48 * o * c_in,
                          bias + 4 * o, to + 4 * lane + o * target_plane, target_plane)  # fmt: skip
                lane += LANES
        while lane < s.lanes:
            columns = COLUMNS[-1]
            for width in COLUMNS:
                if s.lanes - lane >= width * LANES:
                    columns = width
                    break
            for k in range(blocks):
                o = k * c_out // blocks
                rows = (k + 1) * c_out // blocks - o
                _tile(rows, columns, at + 4 * lane + o * group_step, plane, c_in, s.taps, count, area,
                      s.packed + 4 * o * c_in * area, bias + 4 * o, to + 4 * lane + o * target_plane,
                      target_plane)  # fmt: skip
            lane += columns * LANES
        x += pixels


@compiled
def _pack(s: Any, transposed: Any) -> None:
    """The weights in blocks of at most ROWS output channels, in the order (input channel, tap, row) in each."""
    area = s.kernel * s.kernel
    c_out, c_in = (s.c_in, s.c_out) if transposed else (s.c_out, s.c_in)
    blocks = c_out if s.depthwise else (c_out + ROWS - 1) // ROWS
    c_in = 1 if s.depthwise else c_in
    o_step, i_step = (area, s.c_in * area) if transposed and not s.depthwise else (c_in * area, area)
    source, packed = _floats(s.weight, c_out * c_in * area), _floats(s.packed, c_out * c_in * area)
    n = 0
    for k in range(blocks):
        for i in range(c_in):
            for tap in range(area):
                for o in range(k * c_out // blocks, (k + 1) * c_out // blocks):
                    packed[n] = source[o * o_step + i * i_step + tap]
                    n += 1
    if s.kernel == 3 and s.stride == 1 and not s.depthwise:
        _pack_pairs(source, _floats(s.paired, 12 * c_out * c_in), c_out, c_in, o_step, i_step, transposed)


@compiled
def _pack_pairs(source: Any, paired: Any, c_out: int, c_in: int, o_step: int, i_step: int, transposed: Any) -> None:
    """What `_pair` multiplies with, in blocks of at most PAIR_ROWS output channels."""
    half, first, last = np.float32(0.5), 2 * transposed, 2 - 2 * transposed
    blocks, n = (c_out + PAIR_ROWS - 1) // PAIR_ROWS, 0
    for k in range(blocks):
        start, end = k * c_out // blocks, (k + 1) * c_out // blocks
        rows = end - start
        for i in range(c_in):
            for ky in range(3):
                for o in range(start, end):
                    at = o * o_step + i * i_step + 3 * ky
                    w0, w1, w2 = source[at + first], source[at + 1], source[at + last]
                    paired[n], paired[n + 3 * rows] = w0, w2
                    paired[n + rows], paired[n + 2 * rows] = half * (w0 + w1 + w2), half * (w0 - w1 + w2)
                    n += 1
                n += 3 * rows


@compiled
def _weight_sums(s: Any, y: int) -> None:
    """Adds what row y of the output gradient gives to the weight gradient, lane by lane.

    Columns whose taps fall off the same edges form one run; inside a map that is the whole row.
    """
    kernel, stride, padding, area = s.kernel, s.stride, s.padding, s.kernel * s.kernel
    pixel = 4 * s.lanes
    row, plane, gradient_plane = pixel * s.w_in, pixel * s.w_in * s.x_rows, pixel * s.w * s.h
    c_in = 1 if s.depthwise else s.c_in
    filter_blocks = s.c_out if s.depthwise else (s.c_out + FILTERS - 1) // FILTERS
    group_step = plane if s.depthwise else 0
    table = _longs(s.taps, 2 * c_in * area)
    y_lo, y_hi = _span(y, s.h_in, kernel, stride, padding)
    x = 0
    while x < s.w:
        lo, hi = _span(x, s.w_in, kernel, stride, padding)
        end = x + 1
        while end < s.w and _span(end, s.w_in, kernel, stride, padding) == (lo, hi):
            end += 1
        count = 0
        for i in range(c_in):
            for ky in range(y_lo, y_hi):
                for kx in range(lo, hi):
                    at = (y * stride - padding + ky) % s.x_rows
                    table[2 * count] = i * plane + at * row + (kx - padding) * pixel
                    table[2 * count + 1] = (i * area + ky * kernel + kx) * VECTOR
                    count += 1
        tap_blocks = (count + TAPS - 1) // TAPS
        # One run of vectors where neighbours in the output are neighbours in the input, else a run for each pixel.
        run = (end - x) * s.lanes // LANES if stride == 1 else s.lanes // LANES
        pixels = 1 if stride == 1 else end - x
        for start in range(0, run, CHUNK):
            length = min(CHUNK, run - start)
            g = s.z + (y * s.w + x) * pixel + start * VECTOR
            source = s.x + x * stride * pixel + start * VECTOR
            for j in range(tap_blocks):
                tap = j * count // tap_blocks
                num_taps = (j + 1) * count // tap_blocks - tap
                for k in range(filter_blocks):
                    o = k * s.c_out // filter_blocks
                    filters = (k + 1) * s.c_out // filter_blocks - o
                    _dots(filters, num_taps, g + o * gradient_plane, gradient_plane, source + o * group_step,
                          s.taps + 16 * tap, s.sums + o * c_in * area * VECTOR, c_in * area * VECTOR,
                          pixels, pixel, pixel * stride, length)  # fmt: skip
        x = end


@compiled
def _num_weights(s: Any) -> int:
    return s.c_out * (1 if s.depthwise else s.c_in) * s.kernel * s.kernel  # type: ignore[no-any-return]


@compiled
def _zero_sums(s: Any) -> None:
    _floats(s.sums, _num_weights(s) * LANES)[:] = 0


@compiled
def _add_lanes(s: Any) -> None:
    size = _num_weights(s)
    lanes, total = _floats(s.sums, size * LANES), _floats(s.weight_grad, size)
    for k in range(size):
        value = 0.0
        for lane in range(LANES):
            value += lanes[k * LANES + lane]
        total[k] = value


@compiled
def _moments(address: int, w: int, batch: int, lanes: int) -> tuple[float, float]:
    """Mean and summed squared deviation of a row, in two passes over the L1 cache; lanes beyond the batch left out."""
    runs, run = (1, w * lanes) if batch == lanes else (w, batch)
    total = 0.0
    for k in range(runs):
        values = _floats(address + 4 * k * lanes, run)
        part = np.float32(0)
        for n in range(run):
            part += values[n]
        total += float(part)
    mean, squares = total / (w * batch), 0.0
    centre = np.float32(mean)
    for k in range(runs):
        values = _floats(address + 4 * k * lanes, run)
        part = np.float32(0)
        for n in range(run):
            delta = values[n] - centre
            part += delta * delta
        squares += float(part)
    return mean, squares


@compiled
def _larger(a: Any, b: Any) -> Any:
    """max(a, b); NaN if either is, the first of equals."""
    return b if b > a or b != b else a


@compiled
def _floor(relu: bool) -> Any:
    """What values are cut off below: with it one loop does with and without ReLU. A NaN is not below it."""
    return np.float32(0) if relu else np.float32(-np.inf)


@compiled
def _window(s: Any, c: int, y: int, x: int) -> tuple[Any, Any, Any, Any]:
    """The four pixels of z under pixel (y, x) of a 2x2 pool; as four arrays they vectorise, as one with offsets not."""
    pixel = 4 * s.lanes
    at = s.z + ((c * s.h + 2 * y) * s.w + 2 * x) * pixel
    under = at + s.w * pixel
    upper = _floats(at, s.lanes), _floats(at + pixel, s.lanes)
    lower = _floats(under, s.lanes), _floats(under + pixel, s.lanes)
    return upper[0], upper[1], lower[0], lower[1]


@compiled
def _activate(s: Any, y: int) -> None:
    """Row y of the output, from one row of z, or two where a max-pool follows."""
    length, lanes = s.w * s.lanes, s.lanes
    scale, shift = _floats(s.coefficients, s.c_out), _floats(s.coefficients + 4 * s.c_out, s.c_out)
    floor = _floor(s.relu_last)
    w = s.w // 2 if s.pool else s.w
    for c in range(s.c_out):
        a, b = scale[c], shift[c]
        out = _floats(s.y + 4 * (c * s.y_rows + y % s.y_rows) * w * lanes, w * lanes)
        if s.pool:
            for x in range(w):
                z0, z1, z2, z3 = _window(s, c, y, x)
                pixel = out[x * lanes : (x + 1) * lanes]
                for n in range(lanes):
                    upper, lower = _larger(a * z0[n] + b, a * z1[n] + b), _larger(a * z2[n] + b, a * z3[n] + b)
                    value = _larger(upper, lower)
                    pixel[n] = floor if value <= floor else value
        else:
            z = _floats(s.z + 4 * (c * s.h + y) * length, length)
            for n in range(length):
                value = a * z[n] + b
                out[n] = floor if value <= floor else value
        if s.skip:
            skip = _floats(s.skip + 4 * (c * s.h + y) * length, length)
            for n in range(length):
                out[n] += skip[n]


@compiled
def _pull(previous: Any, s: Any, y: int, pulled: int) -> int:
    """Makes the input rows that row y needs, where they are not kept; how many have been made."""
    if s.pulls:
        needed = min(s.h_in, y * s.stride - s.padding + s.kernel)
        while pulled < needed:
            _activate(previous, pulled)
            pulled += 1
    return pulled


@compiled
def _forward_conv(stages: Any, k: int, training: bool) -> None:
    """Convolution, statistics and, where the output is kept, activation.

    Of a separable block stage k is the 1x1 convolution, which follows the depthwise one row by row.
    """
    s = stages[k]
    first, previous = stages[k - s.separable], stages[max(0, k - s.separable - 1)]
    length = s.w * s.lanes
    scale, shift = _floats(s.coefficients, s.c_out), _floats(s.coefficients + 4 * s.c_out, s.c_out)
    mean, inverse = _floats(s.coefficients + 8 * s.c_out, s.c_out), _floats(s.coefficients + 12 * s.c_out, s.c_out)
    gamma, beta = _floats(s.gamma, s.c_out), _floats(s.beta, s.c_out)
    running_mean, running_var = _floats(s.running_mean, s.c_out), _floats(s.running_var, s.c_out)
    totals, zero = _doubles(s.moments, 2 * s.c_out), np.float32(0)
    statistics = training and s.norm
    if not s.norm:
        scale[:] = 1
        shift[:] = 0
    elif not training:
        for c in range(s.c_out):
            a = gamma[c] / math.sqrt(running_var[c] + s.eps)
            scale[c] = a
            shift[c] = beta[c] - a * running_mean[c]
    means, squares = np.zeros(s.c_out), np.zeros(s.c_out)
    _pack(s, np.int64(0))
    if s.separable:
        _pack(first, np.int64(0))
    pulled = 0
    for y in range(s.h):
        pulled = _pull(previous, first, y, pulled)
        if s.separable:
            _correlate(first, y, np.int64(0))
        _correlate(s, y, np.int64(0))
        for c in range(s.c_out):
            row = s.z + 4 * (c * s.h + y) * length
            if s.relu_first:
                z = _floats(row, length)
                for n in range(length):
                    z[n] = zero if z[n] <= zero else z[n]
            if statistics:  # rows joined by Chan's formula, in float64
                m, q = _moments(row, s.w, s.batch, s.lanes)
                delta = m - means[c]
                means[c] += delta / (y + 1)
                squares[c] += q + delta * delta * (s.w * s.batch) * y / (y + 1)
    if statistics:
        count = s.h * s.w * s.batch
        for c in range(s.c_out):
            inverse[c] = 1 / math.sqrt(squares[c] / count + s.eps)
            mean[c] = means[c]
            scale[c] = gamma[c] * inverse[c]
            shift[c] = beta[c] - means[c] * gamma[c] * inverse[c]
            totals[2 * c : 2 * c + 2] = 0
            running_mean[c] += s.momentum * (means[c] - running_mean[c])
            running_var[c] += s.momentum * (squares[c] / (count - 1) - running_var[c])
        _longs(s.batches, 1)[0] += 1
    if s.y != s.z and not s.deferred:
        for y in range(s.h // 2 if s.pool else s.h):
            _activate(s, y)


@compiled
def _norm_row(s: Any, y: int) -> None:
    """Adds row y of the output's gradient to the gradients of beta and gamma (the latter still times the deviation)."""
    length, lanes = s.w * s.lanes, s.lanes
    scale, shift = _floats(s.coefficients, s.c_out), _floats(s.coefficients + 4 * s.c_out, s.c_out)
    mean, totals = _floats(s.coefficients + 8 * s.c_out, s.c_out), _doubles(s.moments, 2 * s.c_out)
    zero, floor = np.float32(0), _floor(s.relu_last)
    h, w = (s.h // 2, s.w // 2) if s.pool else (s.h, s.w)
    for c in range(s.c_out):
        a, b, m = scale[c], shift[c], mean[c]
        g = _floats(s.y_grad + 4 * (c * h + y) * w * lanes, w * lanes)
        total, moment = zero, zero
        if s.pool:
            for x in range(w):
                z0, z1, z2, z3 = _window(s, c, y, x)
                pixel = g[x * lanes : (x + 1) * lanes]
                for n in range(lanes):
                    upper = z1[n] if a * z1[n] + b > a * z0[n] + b else z0[n]
                    lower = z3[n] if a * z3[n] + b > a * z2[n] + b else z2[n]
                    best = lower if a * lower + b > a * upper + b else upper
                    v = zero if a * best + b <= floor else pixel[n]
                    total += v
                    moment += v * (best - m)
        else:
            z = _floats(s.z + 4 * (c * s.h + y) * length, length)
            for n in range(length):
                v = zero if a * z[n] + b <= floor else g[n]
                total += v
                moment += v * (z[n] - m)
        totals[2 * c] += total
        totals[2 * c + 1] += moment


@compiled
def _norm_gradients(s: Any) -> None:
    """The gradients of gamma and beta; and in the place of the mean and the deviation q and p of dz = a g + p z + q."""
    scale = _floats(s.coefficients, s.c_out)
    mean, inverse = _floats(s.coefficients + 8 * s.c_out, s.c_out), _floats(s.coefficients + 12 * s.c_out, s.c_out)
    if not s.norm:
        mean[:] = 0
        inverse[:] = 0
        return
    if not s.deferred:  # else the next stage has added them, each row as it came
        for y in range(s.h // 2 if s.pool else s.h):
            _norm_row(s, y)
    totals = _doubles(s.moments, 2 * s.c_out)
    gamma_grad, beta_grad = _floats(s.gamma_grad, s.c_out), _floats(s.beta_grad, s.c_out)
    for c in range(s.c_out):
        total, moment = totals[2 * c], totals[2 * c + 1]
        beta_grad[c] = total
        gamma_grad[c] = moment * inverse[c]
        slope = -scale[c] * inverse[c] * inverse[c] * moment / (s.h * s.w * s.batch)
        inverse[c] = slope
        mean[c] = -scale[c] * total / (s.h * s.w * s.batch) - slope * mean[c]


@compiled
def _deactivate(s: Any, y: int) -> None:
    """Row y of the gradient of z, in its place (of a pool, rows y and y + 1); lanes beyond the batch are set to zero.

    Of equal maxima the first in the window, row by row, has the gradient, as in torch.
    """
    length, lanes = s.w * s.lanes, s.lanes
    scale, shift = _floats(s.coefficients, s.c_out), _floats(s.coefficients + 4 * s.c_out, s.c_out)
    constant, slope = _floats(s.coefficients + 8 * s.c_out, s.c_out), _floats(s.coefficients + 12 * s.c_out, s.c_out)
    zero, floor, first_floor = np.float32(0), _floor(s.relu_last), _floor(s.relu_first)
    h, w = (s.h // 2, s.w // 2) if s.pool else (s.h, s.w)
    if s.pool and y % 2 and y < 2 * h:
        return
    rows = 2 if s.pool and y < 2 * h else 1
    for c in range(s.c_out):
        z = _floats(s.z + 4 * (c * s.h + y) * length, rows * length)
        a, b, p, q = scale[c], shift[c], slope[c], constant[c]
        if not s.pool:
            g = _floats(s.y_grad + 4 * (c * h + y) * length, length)
            for n in range(length):
                v = a * (zero if a * z[n] + b <= floor else g[n]) + (p * z[n] + q)
                z[n] = zero if z[n] <= first_floor else v
        else:
            if rows == 2:
                g = _floats(s.y_grad + 4 * (c * h + y // 2) * w * lanes, w * lanes)
                for x in range(w):
                    z0, z1, z2, z3 = _window(s, c, y // 2, x)
                    pixel = g[x * lanes : (x + 1) * lanes]
                    for n in range(lanes):
                        v0, v1, v2, v3 = a * z0[n] + b, a * z1[n] + b, a * z2[n] + b, a * z3[n] + b
                        right, low = v1 > v0, v3 > v2
                        upper, lower = (v1 if right else v0), (v3 if low else v2)
                        down = lower > upper
                        v = zero if (lower if down else upper) <= floor else a * pixel[n]
                        above, below = (zero if down else v), (v if down else zero)
                        v0 = (zero if right else above) + (p * z0[n] + q)
                        v1 = (above if right else zero) + (p * z1[n] + q)
                        v2 = (zero if low else below) + (p * z2[n] + q)
                        v3 = (below if low else zero) + (p * z3[n] + q)
                        z0[n] = zero if z0[n] <= first_floor else v0
                        z1[n] = zero if z1[n] <= first_floor else v1
                        z2[n] = zero if z2[n] <= first_floor else v2
                        z3[n] = zero if z3[n] <= first_floor else v3
            for row in range(rows):  # what the pool drops
                start = 2 * w * lanes if rows == 2 else 0
                rest = _floats(s.z + 4 * ((c * s.h + y + row) * length + start), length - start)
                for n in range(length - start):
                    rest[n] = zero if rest[n] <= first_floor else p * rest[n] + q
        if s.batch < lanes:
            for x in range(rows * s.w):
                z[x * lanes + s.batch : (x + 1) * lanes] = zero


@compiled
def _backward_conv(stages: Any, k: int) -> None:
    """From the gradient of the output: the parameters' gradients, and the input's.

    Row by row: the row's gradient is made, gives its share of the weight gradient, and lets the gradient of the input
    rows be made that no later row touches, all while it is in the cache.
    """
    s = stages[k]
    first, previous = stages[k - s.separable], stages[max(0, k - s.separable - 1)]
    if s.y != s.z:
        _norm_gradients(s)
    bias_sums = np.zeros(s.c_out)
    _pack(s, np.int64(1))
    _zero_sums(s)
    if s.separable:
        _pack(first, np.int64(1))
        _zero_sums(first)
    done, pulled = 0, 0
    for y in range(s.h):
        if s.y != s.z:
            _deactivate(s, y)
        if s.bias_grad:
            for c in range(s.c_out):
                part = np.float32(0)
                z = _floats(s.z + 4 * (c * s.h + y) * s.w * s.lanes, s.w * s.lanes)
                for n in range(s.w * s.lanes):
                    part += z[n]
                bias_sums[c] += part
        pulled = _pull(previous, first, y, pulled)
        _weight_sums(s, y)
        if s.separable:
            _correlate(s, y, np.int64(1))
            _weight_sums(first, y)
        if first.input_grad:
            ready = first.h_in if y == s.h - 1 else (y + 1) * first.stride - first.padding
            for row in range(done, ready):
                _correlate(first, row, np.int64(1))
                if first.skip_grad:
                    for c in range(first.c_in):
                        length = first.w_in * first.lanes
                        at = 4 * (c * first.h_in + row) * length
                        x, g = _floats(first.x_grad + at, length), _floats(first.skip_grad + at, length)
                        for n in range(length):
                            x[n] += g[n]
                if first.pulls and previous.norm:
                    _norm_row(previous, row)
            done = max(done, ready)
    _add_lanes(s)
    if s.separable:
        _add_lanes(first)
    if s.bias_grad:
        _floats(s.bias_grad, s.c_out)[:] = bias_sums.astype(np.float32)


@compiled
def _forward_max_pool(s: Any) -> None:
    n_row = s.w_in * s.lanes
    for c in range(s.c_in):
        for y in range(s.h):
            top = _floats(s.x + 4 * (c * s.h_in + 2 * y) * n_row, n_row)
            bottom = _floats(s.x + 4 * (c * s.h_in + 2 * y + 1) * n_row, n_row)
            out = _floats(s.y + 4 * (c * s.h + y) * s.w * s.lanes, s.w * s.lanes)
            for x in range(s.w):
                i, j, k = 2 * x * s.lanes, (2 * x + 1) * s.lanes, x * s.lanes
                for n in range(s.lanes):
                    out[k + n] = _larger(_larger(_larger(top[i + n], top[j + n]), bottom[i + n]), bottom[j + n])


@compiled
def _backward_max_pool(s: Any) -> None:
    """The gradient goes to the first maximum of the window, row by row, as in torch."""
    n_row = s.w_in * s.lanes
    zero = np.float32(0)
    for c in range(s.c_in):
        for y in range(s.h_in):
            if y >= 2 * s.h:
                _floats(s.x + 4 * (c * s.h_in + y) * n_row, n_row)[:] = zero
        for y in range(s.h):
            top = _floats(s.x + 4 * (c * s.h_in + 2 * y) * n_row, n_row)
            bottom = _floats(s.x + 4 * (c * s.h_in + 2 * y + 1) * n_row, n_row)
            g = _floats(s.y + 4 * (c * s.h + y) * s.w * s.lanes, s.w * s.lanes)
            for x in range(s.w):
                i, j, k = 2 * x * s.lanes, (2 * x + 1) * s.lanes, x * s.lanes
                for n in range(s.lanes):
                    v = g[k + n]
                    p, q, r, t = top[i + n], top[j + n], bottom[i + n], bottom[j + n]
                    right, low = q > p or q != q, t > r or t != t
                    upper, lower = (q if right else p), (t if low else r)
                    down = lower > upper or lower != lower
                    above, below = (zero if down else v), (v if down else zero)
                    top[i + n], top[j + n] = (zero if right else above), (above if right else zero)
                    bottom[i + n], bottom[j + n] = (zero if low else below), (below if low else zero)
            if 2 * s.w < s.w_in:
                top[2 * s.w * s.lanes :] = zero
                bottom[2 * s.w * s.lanes :] = zero


@compiled
def _forward_global_pool(s: Any) -> None:
    area = s.h_in * s.w_in
    for c in range(s.c_in):
        x, out = _floats(s.x + 4 * c * area * s.lanes, area * s.lanes), _floats(s.y + 4 * c * s.lanes, s.lanes)
        out[:] = 0
        for k in range(area):
            for n in range(s.lanes):
                out[n] += x[k * s.lanes + n]
        for n in range(s.lanes):
            out[n] /= np.float32(area)


@compiled
def _backward_global_pool(s: Any) -> None:
    area = s.h_in * s.w_in
    for c in range(s.c_in):
        x, g = _floats(s.x + 4 * c * area * s.lanes, area * s.lanes), _floats(s.y + 4 * c * s.lanes, s.lanes)
        for k in range(area):
            for n in range(s.lanes):
                x[k * s.lanes + n] = g[n] / np.float32(area)


@compiled
def _cross_entropy(
    address: int, classes: int, batch: int, lanes: int, labels: Any, smoothing: float, soft: Any, share: float,
    temperature: float,
) -> tuple[float, int]:  # fmt: skip
    """Mean loss and number correct; the logits (classes, lanes) become their gradient, zero beyond the batch.

    With soft targets, the gradient is `1 - share` of that, and `share` of that of the divergence from them.
    """
    logits = _floats(address, classes * lanes)
    loss, correct = 0.0, 0
    for n in range(batch):
        label = labels[n]
        best = 0
        for c in range(1, classes):
            if logits[c * lanes + n] > logits[best * lanes + n]:
                best = c
        correct += best == label
        peak = float(logits[best * lanes + n])
        total, mean, soft_total = 0.0, 0.0, 0.0
        for c in range(classes):
            total += math.exp(logits[c * lanes + n] - peak)
            mean += logits[c * lanes + n] / classes
            if len(soft):
                soft_total += math.exp((logits[c * lanes + n] - peak) / temperature)
        log_total = math.log(total) + peak
        loss += log_total - (1 - smoothing) * logits[label * lanes + n] - smoothing * mean
        for c in range(classes):
            target = smoothing / classes + (1 - smoothing if c == label else 0.0)
            slope = math.exp(logits[c * lanes + n] - log_total) - target
            if len(soft):
                likely = math.exp((logits[c * lanes + n] - peak) / temperature) / soft_total
                slope = (1 - share) * slope + share * temperature * (likely - soft[n, c])
            logits[c * lanes + n] = slope / batch
    for c in range(classes):
        logits[c * lanes + batch : (c + 1) * lanes] = 0
    return loss / batch, correct


@entry
def _run(
    stages: Any, training: bool, labels: Any, smoothing: float, soft: Any, share: float, temperature: float
) -> tuple[float, int]:
    """The tape forward; in training the loss, the number correct and the tape back to the first convolution.

    In training without labels only the running statistics move.
    """
    for k in range(len(stages)):
        s = stages[k]
        if s.kind == MAX_POOL:
            _forward_max_pool(s)
        elif s.kind == GLOBAL_POOL:
            _forward_global_pool(s)
        elif not s.depthwise:
            _forward_conv(stages, k, training)
    if not training or len(labels) == 0:
        return 0.0, 0
    last = stages[len(stages) - 1]
    loss, correct = _cross_entropy(
        last.y, last.c_out, last.batch, last.lanes, labels, smoothing, soft, share, temperature
    )
    for k in range(len(stages) - 1, -1, -1):
        s = stages[k]
        if s.kind == MAX_POOL:
            _backward_max_pool(s)
        elif s.kind == GLOBAL_POOL:
            _backward_global_pool(s)
        elif not s.depthwise:
            _backward_conv(stages, k)
        if not s.input_grad:
            break
    return loss, correct


@entry
def _peak(count: int, target: int) -> None:
    _multiply_adds(count, target)


# --- images ----------------------------------------------------------------------------------------------------------


@entry
def _gather(images: Any, index: Any, scale: Any, shift: Any, out: Any) -> None:
    """Sixteen images at a time, so that a line of the output is filled while it is in the cache."""
    _, channels, h, w = images.shape
    batch = len(index)
    for start in range(0, batch, 16):
        end = min(batch, start + 16)
        for c in range(channels):
            for y in range(h):
                for x in range(w):
                    for n in range(start, end):
                        out[c, y, x, n] = images[index[n], c, y, x] * scale[c] + shift[c]


@entry
def _augment(images: Any, index: Any, theta: Any, scale: Any, shift: Any, out: Any) -> None:
    """Each image is normalised into a frame of background, so that no tap needs a bounds check, and sampled there.

    Sixteen are written at a time, as in `_gather`. Unsigned subscripts, since signed ones are tested for a count from
    the end.
    """
    _, channels, h, w = images.shape
    batch = len(index)
    wide = np.int32(w + 3)
    frame = np.empty((h + 3) * (w + 3), np.float32)
    tile = np.empty((16, h, w), np.float32)
    one, half = np.float32(1), np.float32(0.5)
    height, width = np.float32(h), np.float32(w)
    for start in range(0, batch, 16):
        end = min(batch, start + 16)
        for c in range(channels):
            frame[:] = shift[c]
            for n in range(start, end):
                image = images[index[n], c]
                for y in range(h):
                    row = frame[(y + 1) * (w + 3) + 1 :]
                    for x in range(w):
                        row[x] = image[y, x] * scale[c] + shift[c]
                xx, xy, x0 = theta[n, 0, 0], theta[n, 0, 1], theta[n, 0, 2]
                yx, yy, y0 = theta[n, 1, 0], theta[n, 1, 1], theta[n, 1, 2]
                for y in range(h):
                    v = np.float32(2 * y + 1) / height - one
                    sampled = tile[n - start, y]
                    for x in range(w):
                        u = np.float32(np.int32(2 * x + 1)) / width - one
                        px = ((xx * u + xy * v + x0 + one) * width - one) * half
                        py = ((yx * u + yy * v + y0 + one) * height - one) * half
                        px = ((px if px < width else width) if px > -one else -one) + one  # NaN: outside
                        py = ((py if py < height else height) if py > -one else -one) + one
                        ix, iy = np.int32(px), np.int32(py)
                        fx, fy = px - np.float32(ix), py - np.float32(iy)
                        at = np.uint32(iy * wide + ix)
                        under = np.uint32(at + np.uint32(wide))
                        a, b = frame[at], frame[np.uint32(at + np.uint32(1))]
                        d, e = frame[under], frame[np.uint32(under + np.uint32(1))]
                        upper, lower = a + fx * (b - a), d + fx * (e - d)
                        sampled[x] = upper + fy * (lower - upper)
            for y in range(h):
                for x in range(w):
                    line = out[c, y, x, start:end]
                    for n in range(end - start):
                        line[n] = tile[n, y, x]


Channels = float | Sequence[float] | Tensor


def gather(images: Tensor, index: Tensor, mean: Channels, std: Channels) -> Tensor:
    """The images (M, C, H, W) uint8 at `index` (N,) int64 as (pixel / 255 - mean) / std, (C, H, W, N) float32.

    `mean` and `std` are one number or one a channel. Raises `IndexError` on an index outside the images.
    """
    scale, shift, out = _prepare(images, index, mean, std)
    _gather(images.numpy(), index.numpy(), scale, shift, out.numpy())
    return out


def augment(images: Tensor, index: Tensor, theta: Tensor, mean: Channels, std: Channels) -> Tensor:
    """`gather` through an affine map for each image, `theta` (N, 2, 3) float32.

    Bilinear, with raw pixel 0 outside the image: torch's `affine_grid` and `grid_sample` (align_corners=False, zeros).
    """
    scale, shift, out = _prepare(images, index, mean, std)
    if theta.shape != (len(index), 2, 3) or theta.dtype != torch.float32:
        raise ValueError(f"theta is ({len(index)}, 2, 3) float32, not {tuple(theta.shape)} {theta.dtype}")
    _augment(images.numpy(), index.numpy(), theta.contiguous().numpy(), scale, shift, out.numpy())
    return out


def _prepare(images: Tensor, index: Tensor, mean: Channels, std: Channels) -> tuple[Any, Any, Tensor]:
    """Scale and shift of a raw pixel, a channel each, and room for the batch."""
    count, channels, h, w = images.shape
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= count):
        raise IndexError(f"an index lies in 0..{count - 1}, not {int(index.min())} or {int(index.max())}")
    means = np.broadcast_to(np.asarray(mean, np.float64).ravel(), (channels,))
    stds = np.broadcast_to(np.asarray(std, np.float64).ravel(), (channels,))
    scale, shift = (1 / (255 * stds)).astype(np.float32), (-means / stds).astype(np.float32)
    return scale, shift, torch.empty(channels, h, w, len(index))


# --- the network -----------------------------------------------------------------------------------------------------

EVALUATION_BATCH = 128
"""Images evaluated at a time before any training batch has set another size."""

_NOTHING = np.empty((0, 0), np.float32)
"""No soft targets."""

Fields = dict[str, int | float]


def _aligned(size: int) -> Tensor:
    """Zeros, from the start of a cache line."""
    buffer = torch.zeros(size + 16)
    start = -buffer.data_ptr() % 64 // 4
    return buffer[start : start + size]


class _Plan:
    """The tape of one batch size: a record for each stage, and the buffers they point into."""

    def __init__(self, stages: Sequence[Fields], batch: int) -> None:
        self.lanes = -(-batch // LANES) * LANES
        self.records = np.zeros(len(stages), STAGE)
        self.buffers: list[Tensor] = []
        for name in STAGE.names or ():
            self.records[name] = [fields.get(name, 0) for fields in stages]
        self.records["batch"], self.records["lanes"] = batch, self.lanes
        records = self.records
        first = records[0]
        self.images = self.allocate(first["c_in"] * first["h_in"] * first["w_in"] * self.lanes)
        self.images = self.images.view(first["c_in"], first["h_in"], first["w_in"], self.lanes)
        kept = {0} | {int(fields["residual"]) for fields in stages if "residual" in fields}  # inputs of these stages
        ring = self.allocate(max(records["c_in"] * records["kernel"] * records["w_in"]) * self.lanes).data_ptr()
        largest = int(max(records["c_in"] * records["h_in"] * records["w_in"]))
        turns = [self.allocate(largest * self.lanes).data_ptr() for _ in range(2)]
        x, x_rows, x_grad = self.images.data_ptr(), int(first["h_in"]), 0
        for k, record in enumerate(records):
            record["x"], record["x_rows"], record["x_grad"], record["pulls"] = x, x_rows, x_grad, x == ring
            size = record["c_out"] * record["h"] * record["w"]
            x_rows = record["h"] // 2 if record["pool"] else record["h"]
            if record["kind"] == CONV:
                self.logits = self.allocate(size * self.lanes)  # the last convolution's, in the end
                record["z"] = x = x_grad = self.logits.data_ptr()
                record["coefficients"] = self.allocate(4 * record["c_out"]).data_ptr()
                record["moments"] = self.allocate(4 * record["c_out"]).data_ptr()
            if record["kind"] == CONV and not (record["norm"] or record["relu_last"]):
                pass  # the output is z: a depthwise convolution, or the classifier, which is the last
            elif record["kind"] == CONV and k + 1 not in kept and records[k + 1]["kind"] == CONV:
                record["deferred"] = 1
                x, x_rows, x_grad = ring, records[k + 1]["kernel"], turns[0]
                turns.reverse()
            else:
                x = x_grad = self.allocate(size * self.lanes).data_ptr()
            record["y"], record["y_rows"], record["y_grad"] = x, x_rows, x_grad
        self.skips = [(k, int(fields["residual"])) for k, fields in enumerate(stages) if "residual" in fields]
        for k, start in self.skips:
            records[k]["skip"], records[start]["skip_grad"] = records[start]["x"], records[k]["y_grad"]
        area = int(max(records["kernel"])) ** 2
        widest = int(max(records["c_in"].max(), records["c_out"].max()))
        weights = int(max(records["c_in"] * records["c_out"] * records["kernel"] ** 2))
        records["zeros"] = self.allocate(widest).data_ptr()
        records["bias"] = np.where(records["bias"] == 0, records["zeros"], records["bias"])
        for record in records:
            record["packed"] = self.allocate(weights).data_ptr()
            record["paired"] = self.allocate(weights * 4 / 3).data_ptr()
            record["sums"] = self.allocate(weights * LANES).data_ptr()
        records["taps"] = self.allocate(4 * widest * area).data_ptr()

    def allocate(self, size: float) -> Tensor:
        self.buffers.append(_aligned(int(size)))
        return self.buffers[-1]

    def read(self, images: Tensor) -> None:
        """Makes images (C, H, W, N) the tape's input: where they lie, or copied and filled up to whole vectors."""
        if images.shape[3] != self.lanes or not images.is_contiguous() or images.data_ptr() % 64:
            self.images[..., : images.shape[3]] = images
            self.images[..., images.shape[3] :] = 0
            images = self.images
        self.records[0]["x"] = images.data_ptr()
        for k, start in self.skips:
            self.records[k]["skip"] = self.records[start]["x"]


class Network:
    """The kernels' view of a model built from an architecture: same parameters, buffers and gradients, no copies.

    An optimizer that works in place on the model's parameters, and anything that copies into them, is seen by the next
    call. `step` and `logits` set the calling thread to flush denormals. Not for use by two threads at once.
    """

    def __init__(self, architecture: Architecture, model: nn.Module) -> None:
        self._shape = architecture.input_shape
        self._classes = architecture.num_classes
        self._layers = architecture.layers
        self._model = model
        self._parameters = list(model.parameters())
        self._gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self._parameters
        ]
        self._tensors = [*self._parameters, *model.buffers()]
        self._addresses: list[int] = []
        self._stages: list[Fields] = []
        self._plans: dict[int, _Plan] = {}

    def step(
        self, images: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, soft: Tensor | None = None,
        soft_share: float = 0.0, temperature: float = 1.0,
    ) -> tuple[float, int]:  # fmt: skip
        """One training step without the optimizer's: mean cross-entropy and the number of correct predictions.

        `images` (C, H, W, N) float32, `labels` (N,) int64. Every parameter's `.grad` is overwritten; running statistics
        follow torch's. With `soft` (N, num_classes) float32, another network's probabilities at the temperature T, the
        gradient is that of (1 - soft_share) cross-entropy + soft_share T^2 KL(soft || softmax(logits / T)) (Hinton,
        Vinyals and Dean, 2015); the loss returned stays the cross-entropy. Raises `ValueError` on other shapes or
        labels, and on a batch whose statistics torch refuses: one value a channel.
        """
        self._check(images)
        batch = images.shape[3]
        targets = labels.numpy()
        shaped = targets.dtype == np.int64 and targets.shape == (batch,)
        if not shaped or targets.min() < 0 or targets.max() >= self._classes:
            given = f"{tuple(labels.shape)} {labels.dtype}"
            raise ValueError(f"labels are ({batch},) int64 in 0..{self._classes - 1}, not {given}")
        if soft is not None and (soft.shape != (batch, self._classes) or soft.dtype != torch.float32):
            raise ValueError(f"soft is ({batch}, {self._classes}) float32, not {tuple(soft.shape)} {soft.dtype}")
        plan = self._plan(batch)
        if batch == 1 and any(f.get("norm") and f["h"] * f["w"] == 1 for f in self._stages):
            raise ValueError("batch norm needs more than one value a channel: train this network on two images or more")
        torch.set_flush_denormal(True)
        plan.read(images)
        lesson = _NOTHING if soft is None else soft.contiguous().numpy()
        loss, correct = _run(
            plan.records, True, targets, float(label_smoothing), lesson, float(soft_share), float(temperature)
        )
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return loss, correct

    def observe(self, images: Tensor, momentum: float) -> None:
        """Moves the running statistics towards those of images (C, H, W, N) float32 by `momentum`, and nothing else."""
        self._check(images)
        torch.set_flush_denormal(True)
        plan = self._plan(images.shape[3])
        plan.read(images)
        usual = plan.records["momentum"].copy()
        plan.records["momentum"] = momentum
        _run(plan.records, True, np.empty(0, np.int64), 0.0, _NOTHING, 0.0, 1.0)
        plan.records["momentum"] = usual

    def logits(self, images: Tensor) -> Tensor:
        """The logits (N, num_classes) of images (C, H, W, N) float32, with running statistics, a batch at a time."""
        self._check(images)
        torch.set_flush_denormal(True)
        count, unlabelled = images.shape[3], np.empty(0, np.int64)
        plan = self._plan(min(count, max(self._plans, default=EVALUATION_BATCH)))
        out = torch.empty(self._classes, count)
        for start in range(0, count, plan.lanes):
            chunk = images[..., start : start + plan.lanes]
            plan.read(chunk)
            _run(plan.records, False, unlabelled, 0.0, _NOTHING, 0.0, 1.0)
            out[:, start : start + plan.lanes] = plan.logits.view(self._classes, plan.lanes)[:, : chunk.shape[3]]
        return out.t().contiguous()

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.float32 or images.ndim != 4 or images.shape[:3] != self._shape or not images.shape[3]:
            given = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"images are {self._shape} and one batch dimension more, float32, not {given}")

    def _plan(self, batch: int) -> _Plan:
        """The tape for a batch size; all are made anew when the model's tensors have moved. The last three are kept."""
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        if addresses != self._addresses:
            self._addresses = addresses
            self._stages = _lower(self._layers, self._model, self._gradients)
            self._plans.clear()
        if batch not in self._plans:
            if len(self._plans) == 3:
                del self._plans[next(iter(self._plans))]
            self._plans[batch] = _Plan(self._stages, batch)
        return self._plans[batch]


def _lower(layers: Sequence[Layer], model: nn.Module, gradients: Sequence[Tensor]) -> list[Fields]:
    """The fields of each stage's record that do not depend on the batch; "residual" is the stage that it skips from."""
    convs = iter([module for module in model.modules() if isinstance(module, nn.Conv2d)])
    norms = iter([module for module in model.modules() if isinstance(module, nn.BatchNorm2d)])
    gradient = iter([tensor.data_ptr() for tensor in gradients])
    stages: list[Fields] = []
    first: dict[int, int] = {}
    for k, layer in enumerate(layers):
        follows = stages[-1] if stages else {}
        activated = follows.get("norm") or follows.get("relu_last")
        if layer.op == "maxpool" and activated and not {"pool", "residual"} & follows.keys():
            follows["pool"] = 1
        elif layer.op in ("conv", "maxpool", "globalpool"):
            first[k] = len(stages)
            fields: Fields = {"kind": {"conv": CONV, "maxpool": MAX_POOL, "globalpool": GLOBAL_POOL}[layer.op]}
            fields["c_in"], fields["h_in"], fields["w_in"] = layer.input_shape
            fields["c_out"], fields["h"], fields["w"] = layer.output_shape
            fields["input_grad"] = int(any(stage["kind"] == CONV for stage in stages))
            stages.append(fields)
        if layer.op == "conv":
            conv = next(convs)
            fields["kernel"], fields["stride"], fields["padding"] = layer.kernel_size, layer.stride, layer.padding
            fields["separable"] = int(k > 0 and layers[k - 1].op == "conv")
            fields["depthwise"] = int(layers[k + 1 : k + 2] != () and layers[k + 1].op == "conv")
            fields["weight"], fields["weight_grad"] = conv.weight.data_ptr(), next(gradient)
            if conv.bias is not None:
                fields["bias"], fields["bias_grad"] = conv.bias.data_ptr(), next(gradient)
        elif layer.op == "norm":
            norm = next(norms)
            assert norm.momentum is not None
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            fields["norm"], fields["eps"], fields["momentum"] = 1, norm.eps, norm.momentum
            fields["gamma"], fields["gamma_grad"] = norm.weight.data_ptr(), next(gradient)
            fields["beta"], fields["beta_grad"] = norm.bias.data_ptr(), next(gradient)
            fields["running_mean"], fields["running_var"] = norm.running_mean.data_ptr(), norm.running_var.data_ptr()
            fields["batches"] = norm.num_batches_tracked.data_ptr()
        elif layer.op == "relu":
            fields["relu_first" if layers[k + 1].op == "norm" else "relu_last"] = 1
        elif layer.op == "add":
            fields["residual"] = first[layer.skip]
    if stages[-1]["kind"] == GLOBAL_POOL:
        # The mean of a linear map is the map of the mean: the classifier then multiplies one pixel instead of all.
        pool, head = stages.pop(), stages.pop()
        pool["c_in"] = pool["c_out"] = head["c_in"]
        head["h_in"] = head["w_in"] = head["h"] = head["w"] = 1
        stages += [pool, head]
    for one, other in pairwise(stages):  # the kernels trust these
        halves = 2 if "pool" in one else 1
        assert (one["c_out"], one["h"] // halves, one["w"] // halves) == (other["c_in"], other["h_in"], other["w_in"])
    return stages


def peak_gflops() -> float:
    """What one core of this processor does at most, in 1e9 floating-point operations a second; best of ten."""
    target, seconds, count = _aligned(12 * LANES), math.inf, 1_000_000
    for _ in range(10):
        start = time.perf_counter()
        _peak(count, target.data_ptr())
        target.zero_()
        seconds = min(seconds, time.perf_counter() - start)
    return count * 12 * LANES * 2 / seconds / 1e9


def compile_all() -> float:
    """Compiles every kernel, or loads it from numba's cache on disk; the seconds that took. Once done, it is free.

    The machine code is cached beside this module, or where NUMBA_CACHE_DIR says, or in the user's cache directory where
    neither can be written. It is compiled in a process of its own and then loaded: linked where it was compiled, it
    rounds otherwise, and 64 steps later the weights were others.
    """
    global _loaded
    start = time.perf_counter()
    if not _loaded:
        target = _aligned(12 * LANES)
        _peak(1, target.data_ptr())
        if cast(Any, _peak).stats.cache_misses:  # nor are the others in the cache
            paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            call = "from nas import kernels; kernels._call_all()"
            subprocess.run([sys.executable, "-c", call], env=paths, check=True)
        _call_all()
        _loaded = True
    return time.perf_counter() - start


_loaded = False


def _call_all() -> None:
    """Calls every compiled function on the smallest network there is."""
    from nas.architecture import Architecture

    smallest = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 10, 1, bias=False),
    )  # fmt: skip
    network = Network(Architecture.parse("2 G C", input_shape=(1, 4, 4)), smallest)
    images, index = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    batch = augment(images, index, torch.zeros(1, 2, 3), 0.0, 1.0)
    network.step(batch, index)
    network.logits(gather(images, index, 0.0, 1.0))
