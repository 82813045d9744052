"""SOAP for many networks at once: the matrices of all their layers in a few padded 3-D tensors.

What `Soap` does matrix by matrix is here a batched product of all matrices whose sides round up to the same sizes,
whatever network they are of. Padding is zero in a gradient, so it is in the moments and in the update; a basis has
the padded directions last, each its own, so that no update ever turns into them. Everything that a step reads lies on
the device, and nothing is waited for: a CUDA graph can hold a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nas.train.soap import BETA, EPS, MAX_PRECONDITION_DIM

Sides = tuple[Tensor | None, Tensor | None]
"""Something of a matrix's rows and of its columns; None for a side without a basis."""

CORRECTION, RATE, SHRINK, EMA = range(4)
"""Rows of a step's numbers: the averages' bias, the learning rate over it, the factor of weight decay, the share of the
weights in their average."""


@dataclass(eq=False)
class SoapState:
    """The state of SOAP for one network, without padding; moments and bases are empty before its first step."""

    mean: Tensor
    square: Tensor
    moments: list[Sides] = field(default_factory=list)
    bases: list[Sides] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class SoapPart:
    """One network's share: its parameters' places in the flat tensor, of which the first are these weights'."""

    places: Tensor
    shapes: list[tuple[int, ...]]
    state: SoapState
    phase: int
    """Steps since its bases were renewed: those of the same phase are renewed together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entry:
    """A matrix: its network's number, the phase of that, its number there, and where it lies in a flat tensor."""

    network: int
    phase: int
    matrix: int
    places: Tensor  # (rows, columns)
    start: int  # in the network's own parameters


class PopulationSoap:
    """Train `flat` (T + 1,) by `gradient` (T + 1,), whose last element is always zero and stands for all padding.

    `numbers` (4, M + 1) are those of a step for each network, and neutral ones in the last column.
    """

    def __init__(self, flat: Tensor, gradient: Tensor, parts: Sequence[SoapPart]) -> None:
        self.flat, self.gradient = flat, gradient
        self.numbers = flat.new_zeros(4, len(parts) + 1)
        self.phases = sorted({part.phase for part in parts})
        nothing, device = len(flat) - 1, flat.device
        index: list[Tensor] = []  # of each packed element, the flat one
        owner: list[Tensor] = []  # and its network
        homes = [torch.empty(len(part.places), dtype=torch.long) for part in parts]  # the packed ones of each network
        decay = torch.full((len(flat),), len(parts))
        self.buckets: list[_Bucket] = []
        end = 0
        for (rows, columns, *has), entries in sorted(_buckets(parts).items()):
            entries.sort(key=lambda entry: entry.phase)
            packed = torch.full((len(entries), rows, columns), nothing)
            home = torch.arange(end, end + packed.numel()).view(packed.shape)
            for number, entry in enumerate(entries):
                m, n = entry.places.shape
                packed[number, :m, :n] = entry.places
                homes[entry.network][entry.start : entry.start + m * n] = home[number, :m, :n].flatten()
                decay[entry.places] = entry.network
            owners = torch.tensor([entry.network for entry in entries])
            index.append(packed.flatten())
            owner.append(owners.repeat_interleave(rows * columns))
            self.buckets.append(_Bucket(end, packed.shape, entries, has, flat))
            end += packed.numel()
        for number, part in enumerate(parts):
            start = sum(math.prod(shape) for shape in part.shapes)
            others = part.places[start:]
            homes[number][start:] = torch.arange(end, end + len(others))
            index.append(others)
            owner.append(torch.full((len(others),), number))
            end += len(others)
        packed_of = torch.full((len(flat),), end)
        for part, home in zip(parts, homes, strict=True):
            packed_of[part.places] = home
        self._index = torch.cat([*index, torch.tensor([nothing])]).to(device)
        self._owner = torch.cat([*owner, torch.tensor([len(parts)])]).to(device)
        self._packed_of, self._decay = packed_of.to(device), decay.to(device)
        self._homes = [home.to(device) for home in homes]
        self.mean, self.square = flat.new_zeros(end + 1), flat.new_zeros(end + 1)
        self.projected = flat.new_zeros(end + 1)
        self._load([part.state for part in parts])

    def _load(self, states: Sequence[SoapState]) -> None:
        everything = torch.cat(self._homes)
        self.mean[everything] = torch.cat([state.mean for state in states])
        self.square[everything] = torch.cat([state.square for state in states])
        for bucket in self.buckets:
            bucket.load(states)

    def states(self) -> list[SoapState]:
        """Return what is known of each network, without padding; it does not change with further steps."""
        states = [SoapState(self.mean[home], self.square[home]) for home in self._homes]
        parts = [copy for bucket in self.buckets for copy in bucket.copies()]
        for entry, moments, bases in sorted(parts, key=lambda part: part[0].matrix):
            states[entry.network].moments.append(moments)
            states[entry.network].bases.append(bases)
        return states

    def update(self) -> None:
        """Move `flat` by the gradient, at each network's own numbers."""
        projected = torch.index_select(self.gradient, 0, self._index, out=self.projected)
        for bucket in self.buckets:
            bucket.update_moments(projected)
            bucket.project(projected)
        self.mean.lerp_(projected, 1 - BETA)
        self.square.lerp_(projected.square_(), 1 - BETA)
        numbers = self.numbers.index_select(1, self._owner)
        scale = (self.square / numbers[CORRECTION]).sqrt_().add_(EPS)
        torch.div(self.mean, scale, out=projected).mul_(numbers[RATE])
        for bucket in self.buckets:
            bucket.project_back(projected)
        self.flat.mul_(self.numbers[SHRINK].index_select(0, self._decay))
        self.flat.sub_(projected.index_select(0, self._packed_of))

    def update_bases(self, phase: int) -> None:
        """Renew the bases of the networks of a phase."""
        for bucket in self.buckets:
            bucket.update_bases(phase, self.mean, self.square)


def _buckets(parts: Sequence[SoapPart]) -> dict[tuple[int, int, bool, bool], list[_Entry]]:
    """Return the matrices of all networks by their rounded sides, and whether these have a basis."""
    found: dict[tuple[int, int, bool, bool], list[_Entry]] = {}
    for number, part in enumerate(parts):
        start = 0
        for matrix, shape in enumerate(part.shapes):
            rows, columns = shape[0], math.prod(shape[1:])
            has = [size <= MAX_PRECONDITION_DIM for size in (rows, columns)]
            if shape[1] == 1:  # depthwise: its filters have nothing in common
                has[0] = False
            places = part.places[start : start + rows * columns].view(rows, columns)
            entry = _Entry(network=number, phase=part.phase, matrix=matrix, places=places, start=start)
            found.setdefault((rounded(rows), rounded(columns), has[0], has[1]), []).append(entry)
            start += rows * columns
    return found


def rounded(size: int) -> int:
    """Return the padded size of a side: few sizes in all, and a fifth of the side wasted at most where it is long."""
    step = 8 if size <= 64 else 1 << (size.bit_length() - 3)
    return -(-size // step) * step


class _Bucket:
    """Matrices (B, R, C) of one padded size, by phase: a part of a packed tensor, with their moments and bases."""

    def __init__(
        self, start: int, shape: Sequence[int], entries: Sequence[_Entry], has: Sequence[bool], like: Tensor
    ) -> None:
        self.shape, self._part = tuple(shape), slice(start, start + math.prod(shape))
        self.entries = entries
        self.moments: list[Tensor | None] = []
        self.bases: list[Tensor | None] = []
        self._padding: list[Tensor] = []
        for side, size in enumerate(shape[1:]):
            real = torch.tensor([entry.places.shape[side] for entry in entries])
            self._padding.append((torch.arange(size) >= real[:, None]).to(like.device))
            self.moments.append(like.new_zeros(len(entries), size, size) if has[side] else None)
            eye = torch.eye(size, device=like.device).expand(len(entries), size, size)
            self.bases.append(eye.to(like.dtype).contiguous() if has[side] else None)
        phases = [entry.phase for entry in entries]
        self._bounds = {phase: (phases.index(phase), phases.index(phase) + phases.count(phase)) for phase in phases}

    def load(self, states: Sequence[SoapState]) -> None:
        """Take over the moments and bases of networks that have taken a step before."""
        for number, entry in enumerate(self.entries):
            state = states[entry.network]
            if not state.moments:
                continue
            for mine, theirs in ((self.moments, state.moments), (self.bases, state.bases)):
                for whole, part in zip(mine, theirs[entry.matrix], strict=True):
                    if whole is not None and part is not None:
                        whole[number, : len(part), : len(part)] = part

    def copies(self) -> list[tuple[_Entry, Sides, Sides]]:
        """Return each matrix's moments and bases, as they are now."""
        moments = [None if each is None else each.clone() for each in self.moments]
        bases = [None if each is None else each.clone() for each in self.bases]
        return [
            (entry, _cut(moments, number, entry.places.shape), _cut(bases, number, entry.places.shape))
            for number, entry in enumerate(self.entries)
        ]

    def macs(self, shape: Sequence[int]) -> int:
        """Return the multiply-accumulates of a step for a matrix of this shape: its moments, and two turns a side."""
        return sum(
            3 * math.prod(shape) * size for size, basis in zip(shape, self.bases, strict=True) if basis is not None
        )

    def view(self, packed: Tensor) -> Tensor:
        """Return the bucket's part of a packed tensor."""
        return packed[self._part].view(self.shape)

    def update_moments(self, packed: Tensor) -> None:
        """Add a gradient to the moments."""
        g = self.view(packed)
        for moments, one, other in zip(self.moments, (g, g.mT), (g.mT, g), strict=True):
            if moments is not None:
                moments.baddbmm_(one, other, beta=BETA, alpha=1 - BETA)

    def project(self, packed: Tensor) -> None:
        """Turn from the weights' own coordinates into the bases, in place."""
        _turn(self.view(packed), *self.bases, back=False)

    def project_back(self, packed: Tensor) -> None:
        """Turn from the bases into the weights' own coordinates, in place."""
        _turn(self.view(packed), *self.bases, back=True)

    def update_bases(self, phase: int, mean: Tensor, square: Tensor) -> None:
        """Take one step of the power iteration, as `Soap` does, for the matrices of a phase."""
        if phase not in self._bounds:
            return
        part = slice(*self._bounds[phase])
        means, squares = self.view(mean)[part], self.view(square)[part]
        bases = [None if basis is None else basis[part] for basis in self.bases]
        _turn(means, *bases, back=True)
        for side, (moments, basis) in enumerate(zip(self.moments, bases, strict=True)):
            if moments is not None and basis is not None:
                padding = self._padding[side][part]
                image = moments[part] @ basis
                eigenvalues = (basis * image).sum(1).masked_fill(padding, -math.inf)
                order = eigenvalues.argsort(dim=1, descending=True, stable=True)  # the padding stays last, in its order
                image = image + torch.diag_embed(padding.to(image.dtype))
                basis.copy_(orthogonal(image.take_along_dim(order[:, None, :], 2)))
                places = order[:, :, None] if side == 0 else order[:, None, :]
                squares.copy_(squares.take_along_dim(places, side + 1))
        _turn(means, *bases, back=False)


def _cut(sides: Sequence[Tensor | None], number: int, shape: Sequence[int]) -> Sides:
    rows, columns = (None if each is None else each[number, :n, :n] for each, n in zip(sides, shape, strict=True))
    return rows, columns


def _turn(target: Tensor, rows: Tensor | None, columns: Tensor | None, *, back: bool) -> None:
    """Turn matrices (B, R, C) into the bases of their sides, or back, in place."""
    product = target
    if columns is not None:
        product = product @ (columns.mT if back else columns)
    if rows is not None:
        product = (rows if back else rows.mT) @ product
    if product is not target:
        target.copy_(product)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return the Q of the QR decompositions of square matrices (B, n, n).

    `torch.linalg.qr` makes one Q after the other on a GPU: 26 ms for 1,024 small ones. Here it is a product of all, in
    compact WY form: Q = I - V T V', where T is the inverse of the upper triangle of V'V with 1 / tau in its diagonal
    (Schreiber and Van Loan, "A Storage-Efficient WY Representation for Products of Householder Transformations", 1989).
    """
    reflectors, tau = torch.geqrf(matrices)
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    idle = tau == 0  # such a reflection is none
    v = (reflectors.tril(-1) + eye).masked_fill(idle[:, None, :], 0.0)
    inverse = (v.mT @ v).triu(1) + torch.diag_embed(torch.where(idle, 1.0, 1 / tau))
    product: Tensor = v @ torch.linalg.solve_triangular(inverse, v.mT, upper=True)
    return eye - product
