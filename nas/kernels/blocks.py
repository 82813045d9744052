"""The register blocks, as LLVM instructions: numba's vectoriser holds no block of accumulators in registers.

Each takes one record of integers; addresses, offsets and steps are in bytes. Sums live in registers from the first
multiply-add to the last and touch memory once, so that what limits them is multiply-adds, not loads and stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from nas.kernels.jit import FEATURES, emitted

with suppress(ImportError, OSError):  # `unsuited` gives the reason; nothing here is called then
    from llvmlite import ir
    from numba.core import cgutils

# 24 accumulators of 32 registers with AVX-512, 12 of 16 without: the others hold what is multiplied. One more, and the
# compiler spills some to the stack in the innermost loop.
WIDE = "avx512f" in FEATURES
LANES = 16 if WIDE else 8
ROWS = 6
COLUMNS = (4, 2, 1) if WIDE else (2, 1)
WINOGRAD_ROWS = 6 if WIDE else 3  # of four accumulators each
FILTERS, TAPS = (3, 9) if WIDE else (4, 3)
VECTOR = 4 * LANES

# --- what the blocks are written in -----------------------------------------------------------------------------------


def _vector() -> Any:
    return ir.VectorType(ir.FloatType(), LANES)


def _int(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _load(builder: Any, address: Any, kind: Any = None) -> Any:
    kind = kind or _vector()
    # A wrong alignment is a crash, not a slow load: rows start at whole vectors (`tape`), weights at whole floats.
    align = VECTOR if isinstance(kind, ir.VectorType) else kind.width // 8 if isinstance(kind, ir.IntType) else 4
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, _vector().as_pointer()), align=VECTOR)


def _splat(builder: Any, address: Any) -> Any:
    """Load the float at the address into every lane."""
    undefined = ir.Constant(_vector(), ir.Undefined)
    first = builder.insert_element(undefined, _load(builder, address, ir.FloatType()), ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _register(builder: Any) -> Any:
    """Make a vector variable, which LLVM puts into a register: in the entry block, as only there it does."""
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
    """Write the instructions of a loop's body, for 0..count-1."""
    with cgutils.for_range(builder, count) as loop:
        yield loop.index


def _cases(builder: Any, first: Any, firsts: Sequence[int], second: Any, seconds: Sequence[int]) -> Iterator[Any]:
    """Yield the two sizes of each register block, with the builder in the branch for them.

    Registers have no index: each size of a block is code of its own, chosen once a call.
    """
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


# --- the blocks -------------------------------------------------------------------------------------------------------


class ConvBlock(NamedTuple):
    """A call of `conv_block`."""

    rows: Any  # output channels, 1 to ROWS
    columns: Any  # vectors, one of COLUMNS
    source: Any  # where tap column 0 falls in the first input channel
    plane: Any  # from an input channel to the next
    channels: Any  # input channels
    taps: Any  # the pairs (offset from `source`, index of the weight), int64
    num_taps: Any
    area: Any  # weights of a channel and row, of which the taps use some
    weights: Any  # packed (input channel, tap, row)
    bias: Any  # where the rows' sums start from
    target: Any
    target_plane: Any  # from an output channel to the next


@emitted
def conv_block(b: Any, block: Any) -> None:
    """Compute `rows` output channels x `columns` vectors, summed over channels and taps in registers, stored once.

    Five rows by four vectors run at 96 to 99 % of the FMA peak: 20 multiply-adds for 9 loads.
    """
    for rows, columns in _cases(b, block.rows, range(1, ROWS + 1), block.columns, COLUMNS):
        sums = [[_register(b) for _ in range(columns)] for _ in range(rows)]
        for row in range(rows):
            start = _splat(b, b.add(block.bias, _int(4 * row)))
            for accumulator in sums[row]:
                b.store(start, accumulator)
        with _loop(b, block.channels) as channel:
            x_plane = b.add(block.source, b.mul(channel, block.plane))
            w_plane = b.add(block.weights, b.mul(b.mul(channel, block.area), _int(4 * rows)))
            with _loop(b, block.num_taps) as tap:
                pair = b.add(block.taps, b.mul(tap, _int(16)))
                x = b.add(x_plane, _load(b, pair, ir.IntType(64)))
                index = _load(b, b.add(pair, _int(8)), ir.IntType(64))
                w = b.add(w_plane, b.mul(index, _int(4 * rows)))
                pixels = [_load(b, b.add(x, _int(VECTOR * n))) for n in range(columns)]
                for row in range(rows):
                    weight = _splat(b, b.add(w, _int(4 * row)))
                    for accumulator, pixel in zip(sums[row], pixels, strict=True):
                        _multiply_add(b, accumulator, weight, pixel)
        for row in range(rows):
            out = b.add(block.target, b.mul(block.target_plane, _int(row)))
            for n, accumulator in enumerate(sums[row]):
                _store(b, b.load(accumulator), b.add(out, _int(VECTOR * n)))


class WinogradBlock(NamedTuple):
    """A call of `winograd_block`."""

    rows: Any  # output channels, 1 to WINOGRAD_ROWS
    source: Any
    plane: Any
    channels: Any
    taps: Any  # as in a `ConvBlock`, from the leftmost tap of the first row on, three for each of `tap_rows`
    tap_rows: Any  # rows of the kernel that fall inside the map
    pixel: Any
    weights: Any  # packed (input channel, tap row, m, row)
    bias: Any
    target: Any
    target_plane: Any


@emitted
def winograd_block(b: Any, block: Any) -> None:
    """Compute `rows` output channels x two neighbours of a 3x3 convolution, a vector of each, with 4 products for 6.

    Winograd's F(2, 3) ("Arithmetic Complexity of Computations", 1980): of pixels d0 to d3 and weights w0 to w2, with
    m0 = (d0 - d2) w0, m1 = (d1 + d2) (w0 + w1 + w2) / 2, m2 = (d2 - d1) (w0 - w1 + w2) / 2 and m3 = (d1 - d3) w2, the
    two are m0 + m1 + m2 and m1 - m2 - m3. Beside a `conv_block` for each pixel, a step of the published networks took
    8 to 14 % less. For the weight gradient the same won nothing: that is held up by its loads.
    """
    for rows, _ in _cases(b, block.rows, range(1, WINOGRAD_ROWS + 1), _int(1), (1,)):
        sums = [[_register(b) for _ in range(4)] for _ in range(rows)]
        for row in range(rows):
            for m, accumulator in enumerate(sums[row]):  # the bias into m1 alone, which goes into both pixels
                zero = ir.Constant(_vector(), [0.0] * LANES)
                b.store(_splat(b, b.add(block.bias, _int(4 * row))) if m == 1 else zero, accumulator)
        with _loop(b, block.channels) as channel:
            x_plane = b.add(block.source, b.mul(channel, block.plane))
            w_plane = b.add(block.weights, b.mul(channel, _int(48 * rows)))  # 3 tap rows x 4 products x 4 bytes
            with _loop(b, block.tap_rows) as tap_row:
                leftmost = b.add(block.taps, b.mul(tap_row, _int(48)))  # the row's three pairs of 16 bytes
                x = b.add(x_plane, _load(b, leftmost, ir.IntType(64)))
                ky = b.sdiv(_load(b, b.add(leftmost, _int(8)), ir.IntType(64)), _int(3))
                w = b.add(w_plane, b.mul(ky, _int(16 * rows)))
                d0, d1, d2, d3 = (_load(b, b.add(x, b.mul(block.pixel, _int(n)))) for n in range(4))
                mixed = b.fsub(d0, d2), b.fadd(d1, d2), b.fsub(d2, d1), b.fsub(d1, d3)
                for m, value in enumerate(mixed):
                    for row in range(rows):
                        _multiply_add(b, sums[row][m], _splat(b, b.add(w, _int(4 * (m * rows + row)))), value)
        for row in range(rows):
            m0, m1, m2, m3 = map(b.load, sums[row])
            out = b.add(block.target, b.mul(block.target_plane, _int(row)))
            _store(b, b.fadd(b.fadd(m0, m1), m2), out)
            _store(b, b.fsub(b.fsub(m1, m2), m3), b.add(out, block.pixel))


class DepthwiseBlock(NamedTuple):
    """A call of `depthwise_block`."""

    rows: Any  # input rows inside the map, 1 to 3
    pixels: Any  # neighbours, 1 to 4
    source0: Any  # the leftmost pixel of each input row; those beyond `rows` are not read
    source1: Any
    source2: Any
    pixel: Any
    weights: Any  # the leftmost tap's of the first row; 12 bytes to the next row's
    step: Any  # to the weight of the tap to the right: 4, or -4 for the transpose
    target: Any
    vectors: Any  # of a pixel


@emitted
def depthwise_block(b: Any, block: Any) -> None:
    """Compute `pixels` neighbours of one channel's 3x3 convolution, the nine weights in registers.

    A depthwise convolution has one output channel to share a load with: 35 GFLOP/s as a `conv_block`, twice that when
    four neighbours share their columns.
    """
    for rows, pixels in _cases(b, block.rows, (1, 2, 3), block.pixels, (1, 2, 3, 4)):
        sources = [block.source0, block.source1, block.source2][:rows]
        starts = [b.add(block.weights, _int(12 * row)) for row in range(rows)]
        taps = [[_splat(b, b.add(start, b.mul(block.step, _int(n)))) for n in range(3)] for start in starts]
        with _loop(b, block.vectors) as vector:
            lane = b.mul(vector, _int(VECTOR))
            sums = [ir.Constant(_vector(), [0.0] * LANES)] * pixels
            for start, weight in zip(sources, taps, strict=True):
                for column in range(pixels + 2):
                    x = _load(b, b.add(b.add(start, lane), b.mul(block.pixel, _int(column))))
                    for n in range(max(0, column - 2), min(pixels, column + 1)):  # the pixels this column is a tap of
                        sums[n] = _fma(b, weight[column - n], x, sums[n])
            for n, total in enumerate(sums):
                _store(b, total, b.add(b.add(block.target, lane), b.mul(block.pixel, _int(n))))


class WeightGradBlock(NamedTuple):
    """A call of `weight_grad_block`."""

    filters: Any  # output channels, 1 to FILTERS
    num_taps: Any  # 1 to TAPS
    gradient: Any
    gradient_plane: Any
    source: Any
    taps: Any  # the pairs (offset from `source`, offset into a row of `sums`), int64
    sums: Any  # a vector for each weight, added to
    sums_row: Any  # from an output channel's sums to the next's
    pixels: Any  # runs of `vectors` vectors
    gradient_step: Any  # from a run to the next
    source_step: Any
    vectors: Any


@emitted
def weight_grad_block(b: Any, block: Any) -> None:
    """Add the dot products of `filters` gradient rows with `num_taps` shifted source rows to `sums`, lane by lane.

    Three filters by nine taps: 27 multiply-adds for 12 loads.
    """
    for filters, num_taps in _cases(b, block.filters, range(1, FILTERS + 1), block.num_taps, range(1, TAPS + 1)):
        pairs = [b.add(block.taps, _int(16 * tap)) for tap in range(num_taps)]
        starts = [b.add(block.source, _load(b, pair, ir.IntType(64))) for pair in pairs]
        offsets = [_load(b, b.add(pair, _int(8)), ir.IntType(64)) for pair in pairs]
        rows = [b.add(block.sums, b.mul(block.sums_row, _int(row))) for row in range(filters)]
        places = [[b.add(row, offset) for offset in offsets] for row in rows]
        sums = [[_register(b) for _ in offsets] for _ in rows]
        for row in range(filters):
            for place, accumulator in zip(places[row], sums[row], strict=True):
                b.store(_load(b, place), accumulator)
        with _loop(b, block.pixels) as pixel, _loop(b, block.vectors) as vector:
            lane = b.mul(vector, _int(VECTOR))
            at = b.add(lane, b.mul(pixel, block.source_step))
            across = b.add(lane, b.mul(pixel, block.gradient_step))
            planes = [b.add(block.gradient, b.mul(block.gradient_plane, _int(row))) for row in range(filters)]
            gradients = [_load(b, b.add(plane, across)) for plane in planes]
            for tap, start in enumerate(starts):
                x = _load(b, b.add(start, at))
                for row in range(filters):
                    _multiply_add(b, sums[row][tap], gradients[row], x)
        for row in range(filters):
            for place, accumulator in zip(places[row], sums[row], strict=True):
                _store(b, b.load(accumulator), place)
