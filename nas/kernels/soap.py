"""SOAP's step (`nas.train.soap`) in one call: all matrices of a network, small as they are.

Called from torch, the sixty small products of a step cost more to start than to compute. Here each product is a row of
`conv_block`s: a 1x1 convolution is a product of matrices. What a block reads and writes by vectors is stored in rows
that are filled up to whole vectors with zeros, and a basis both ways, as a block reads the right factor row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from nas.kernels.blocks import COLUMNS, LANES, ROWS, VECTOR, ConvBlock, conv_block
from nas.kernels.cache import compile_all
from nas.kernels.jit import compiled, entry, floats
from nas.kernels.tape import aligned_zeros

_NUMBERS = ("start", "rows", "columns", "row_lanes", "column_lanes")  # `start` in the flat tensor; lanes: filled up
_ADDRESSES = (
    "row_moments", "column_moments", "row_basis", "column_basis",  # 0: the side has none
    "turned_basis",  # that of the columns, transposed
    "matrix", "transposed", "product", "panel", "packed",  # scratch, the same for all
    "taps", "zeros",  # what a block reads: the one tap of a 1x1 convolution, its bias
)  # fmt: skip
MATRIX = np.dtype([(name, np.int64) for name in _NUMBERS + _ADDRESSES])


class _Left(NamedTuple):
    """The left factor of a product; `row` and `column` are floats from one to the next."""

    address: Any
    rows: Any
    inner: Any
    row: Any
    column: Any


@compiled
def _panel(s: Any, left: Any, place: Any, right: Any, target: Any) -> None:
    """Compute some rows of a product; `place` is the first and their number, `right` and `target` (address, lanes)."""
    first, rows = place
    b, lanes = right
    values = floats(left.address, left.rows * left.inner)
    packed = floats(s.packed, rows * left.inner)
    for k in range(left.inner):
        for row in range(rows):
            packed[k * rows + row] = values[(first + row) * left.row + k * left.column]
    vector = np.int64(0)
    for size in COLUMNS:
        while lanes // LANES - vector >= size:
            conv_block(
                ConvBlock(
                    rows=rows, columns=size, source=b + VECTOR * vector, plane=4 * lanes, channels=left.inner,
                    taps=s.taps, num_taps=1, area=1, weights=s.packed, bias=s.zeros,
                    target=target + VECTOR * vector, target_plane=4 * lanes,
                )
            )  # fmt: skip
            vector += size


@compiled
def _multiply(s: Any, left: Any, right: Any, target: Any) -> None:
    """Make `target` the product of `left` and `right` (address, lanes of a row), which is none of the two."""
    blocks = (left.rows + ROWS - 1) // ROWS
    for k in range(blocks):
        first = k * left.rows // blocks
        place = (first, (k + 1) * left.rows // blocks - first)
        _panel(s, left, place, right, target + 4 * first * right[1])


@compiled
def _update_moments(s: Any, left: Any, right: Any, moments: Any, beta: Any) -> None:
    """Move the moments towards the product of a gradient and its transpose, panel by panel."""
    lanes = right[1]
    blocks = (left.rows + ROWS - 1) // ROWS
    for k in range(blocks):
        first = k * left.rows // blocks
        rows = (k + 1) * left.rows // blocks - first
        _panel(s, left, (first, rows), right, s.panel)
        new, old = floats(s.panel, rows * lanes), floats(moments + 4 * first * lanes, rows * lanes)
        for n in range(rows * lanes):
            old[n] = beta * old[n] + (np.float32(1) - beta) * new[n]


@compiled
def _read(s: Any, flat: Any) -> None:
    """Copy the matrix's part of a flat array into `matrix`, whose rows are whole vectors."""
    matrix = floats(s.matrix, s.rows * s.column_lanes)
    matrix[:] = 0
    for i in range(s.rows):
        matrix[i * s.column_lanes : i * s.column_lanes + s.columns] = flat[
            s.start + i * s.columns : s.start + (i + 1) * s.columns
        ]


@compiled
def _turn(s: Any, rows_turned: Any, basis: Any) -> int:
    """Multiply `matrix` by the bases of both sides, into them or back; return the address of the result."""
    at, other = s.matrix, s.product
    if s.row_basis:
        step, across = (1, s.row_lanes) if rows_turned else (s.row_lanes, 1)
        _multiply(s, _Left(s.row_basis, s.rows, s.rows, step, across), (at, s.column_lanes), other)
        at, other = other, at
    if s.column_basis:
        _multiply(s, _Left(at, s.rows, s.columns, s.column_lanes, np.int64(1)), (basis, s.column_lanes), other)
        at, other = other, at
    return at  # type: ignore[no-any-return]


@compiled
def _project(s: Any, gradient: Any, projected: Any, beta: Any) -> None:
    """Add a gradient to the moments, and turn it into the bases."""
    _read(s, gradient)
    one = np.int64(1)
    if s.row_moments:
        matrix, transposed = floats(s.matrix, s.rows * s.column_lanes), floats(s.transposed, s.columns * s.row_lanes)
        transposed[:] = 0
        for i in range(s.rows):
            for j in range(s.columns):
                transposed[j * s.row_lanes + i] = matrix[i * s.column_lanes + j]
        left = _Left(s.matrix, s.rows, s.columns, s.column_lanes, one)
        _update_moments(s, left, (s.transposed, s.row_lanes), s.row_moments, beta)
    if s.column_moments:
        left = _Left(s.matrix, s.columns, s.rows, one, s.column_lanes)
        _update_moments(s, left, (s.matrix, s.column_lanes), s.column_moments, beta)
    turned = floats(_turn(s, np.int64(1), s.column_basis), s.rows * s.column_lanes)
    for i in range(s.rows):
        projected[s.start + i * s.columns : s.start + (i + 1) * s.columns] = turned[
            i * s.column_lanes : i * s.column_lanes + s.columns
        ]


@compiled
def _move(s: Any, flat: Any, projected: Any, shrink: Any) -> None:
    """Turn the matrix's update back from the bases, and take it from the weights."""
    _read(s, projected)
    turned = floats(_turn(s, np.int64(0), s.turned_basis), s.rows * s.column_lanes)
    for i in range(s.rows):
        for j in range(s.columns):
            place = s.start + i * s.columns + j
            flat[place] = flat[place] * shrink - turned[i * s.column_lanes + j]


@entry
def _step(matrices: Any, vectors: Any, numbers: Any) -> None:
    """Take a step; `vectors` and `numbers` are those of a `SoapStep` and its call, `beta` and `eps` first."""
    flat, gradient, mean, square, projected = vectors
    beta, eps, correction = np.float32(numbers[0]), np.float32(numbers[1]), np.float32(numbers[2])
    rate, shrink, share = np.float32(numbers[3]), np.float32(numbers[4]), np.float32(1 - numbers[0])
    end = 0
    for k in range(len(matrices)):
        _project(matrices[k], gradient, projected, beta)
        end = matrices[k].start + matrices[k].rows * matrices[k].columns
    projected[end:] = gradient[end:]
    for n in range(len(flat)):
        g = projected[n]
        mean[n] += share * (g - mean[n])
        square[n] += share * (g * g - square[n])
        projected[n] = mean[n] / (math.sqrt(square[n] / correction) + eps) * rate
    for k in range(len(matrices)):
        _move(matrices[k], flat, projected, shrink)
    for n in range(end, len(flat)):
        flat[n] -= projected[n]


class SoapSides(NamedTuple):
    """A matrix of a flat tensor and its sides: rows, columns."""

    start: int
    shape: tuple[int, int]
    moments: list[Tensor | None]
    bases: list[Tensor | None]


class SoapStep:
    """SOAP's step on tensors (P,) that lie where they are; the matrices come first in them, one after the other.

    The tensors are the parameters, their gradient, its mean, the mean of its square, and room for the update; `beta` is
    the decay of all averages. Each side's moments (n, n) move into rows of whole vectors here: `moments` of each matrix
    are views of those. The bases are copied, by `copy_bases` again whenever they change.
    """

    def __init__(self, vectors: Sequence[Tensor], matrices: Sequence[SoapSides], *, beta: float, eps: float) -> None:
        compile_all()
        self._constants = (beta, eps)
        self._tensors = list(vectors)  # whose memory the arrays below share
        self._vectors = tuple(tensor.numpy() for tensor in vectors)
        self._records = np.zeros(len(matrices), MATRIX)
        self._buffers: list[Tensor] = []
        self._copies: list[tuple[Tensor, Tensor]] = []  # from a basis, into rows of whole vectors
        for record, matrix in zip(self._records, matrices, strict=True):
            self._place(record, matrix)
        self._place_scratch()

    def __call__(self, correction: float, rate: float, shrink: float) -> None:
        """Move the parameters by the gradient; `correction` is the averages' bias, `shrink` the factor of decay."""
        _step(self._records, self._vectors, (*self._constants, correction, rate, shrink))

    def copy_bases(self) -> None:
        """Take over the bases as they are now."""
        for basis, rows in self._copies:
            rows.copy_(basis)

    def _place(self, record: Any, matrix: SoapSides) -> None:
        """Give a matrix its record, and rows of whole vectors for the moments and bases of its sides."""
        record["start"], (record["rows"], record["columns"]) = matrix.start, matrix.shape
        for side, name in enumerate(("row", "column")):
            moments, basis = matrix.moments[side], matrix.bases[side]
            record[f"{name}_lanes"] = -(-matrix.shape[side] // LANES) * LANES
            if moments is None or basis is None:
                continue
            matrix.moments[side] = self._rows(moments, record, f"{name}_moments")
            self._copies.append((basis, self._rows(basis, record, f"{name}_basis")))
            if name == "column":
                self._copies.append((basis.T, self._rows(basis.T, record, "turned_basis")))

    def _place_scratch(self) -> None:
        """Give all matrices the same room for what a step computes on the way."""
        records = self._records
        if not len(records):
            return
        longest = int(max(records["row_lanes"].max(), records["column_lanes"].max()))
        records["matrix"] = self._room(max(records["rows"] * records["column_lanes"]))
        records["product"] = self._room(max(records["rows"] * records["column_lanes"]))
        records["transposed"] = self._room(max(records["columns"] * records["row_lanes"]))
        records["panel"], records["packed"] = self._room(ROWS * longest), self._room(ROWS * longest)
        records["taps"] = records["zeros"] = self._room(LANES)

    def _rows(self, values: Tensor, record: Any, name: str) -> Tensor:
        """Copy values (n, n) into rows of whole vectors, note their address, and return them."""
        size, lanes = len(values), -(-len(values) // LANES) * LANES
        self._buffers.append(aligned_zeros(size * lanes))
        record[name] = self._buffers[-1].data_ptr()
        rows = self._buffers[-1].view(size, lanes)[:, :size]
        rows.copy_(values)
        return rows

    def _room(self, size: int) -> int:
        """Return the address of that many floats."""
        self._buffers.append(aligned_zeros(int(size)))
        return self._buffers[-1].data_ptr()
