"""SOAP: Adam, but each convolution's gradient is turned into the eigenbasis of its second moments first.

Vyas and others, "SOAP: Improving and Stabilizing Shampoo using Adam" (2024), after Gupta, Koren and Singer, "Shampoo"
(2018). Adam scales every weight on its own; in the directions in which a layer's gradients vary together, SOAP scales
each direction on its own. Networks this small learn too slowly in 15 epochs, and their matrices cost next to nothing.

Written for that: one flat tensor, where other implementations go through the parameters one by one; a step that a CUDA
graph can capture; and bases for depthwise convolutions, whose filters have nothing in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.kernels import SoapSides, SoapStep
from nas.train.graph import Graph

BETA = 0.95
"""Decay of all moving averages: the gradient, its square, and the second moments of its rows and columns (the paper's
value)."""

EPS = 1e-8

PRECONDITION_FREQUENCY = 30
"""Steps from one update of the bases to the next. At 10, these updates take more time than all else."""

MAX_PRECONDITION_DIM = 400
"""A side with more rows or columns than this has no basis: what an update costs grows with their cube."""


class Soap(torch.optim.Optimizer):
    """Train `flat` (P,) in place by `gradient` (P,); it starts with convolution weights of the given `shapes`.

    Those are matrices (O, I * kH * kW). The filters of a depthwise convolution have nothing in common, so that only
    their taps have a basis. What follows them in `flat` is trained by plain Adam; weight decay is for the weights
    alone. `compiled` steps are those of the CPU kernels, which round otherwise.
    """

    def __init__(
        self, flat: Tensor, gradient: Tensor, shapes: Sequence[tuple[int, ...]], *, lr: float, weight_decay: float,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__([nn.Parameter(flat, requires_grad=False)], {"lr": lr, "weight_decay": weight_decay})
        self.flat, self.gradient = flat, gradient
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self.projected = torch.zeros_like(flat)  # the gradient, and then the update, in the bases
        self.steps, start = 0, 0
        self.matrices: list[_Matrix] = []
        for shape in shapes:
            end = start + math.prod(shape)
            self.matrices.append(_Matrix(slice(start, end), shape, flat))
            start = end
        self.weights = flat[:start]
        self._update_graph, self._basis_graph = Graph(flat.device), Graph(flat.device)
        self._compiled: SoapStep | None = None
        if compiled:
            vectors = [flat, gradient, self.mean, self.square, self.projected]
            self._compiled = SoapStep(vectors, [matrix.sides for matrix in self.matrices], beta=BETA, eps=EPS)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step, at the learning rate of the first parameter group."""
        assert closure is None
        lr, weight_decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        self.steps += 1
        correction = 1 - BETA**self.steps
        update = self._update if self._compiled is None else self._compiled
        self._update_graph(update, correction, lr / correction, 1 - lr * weight_decay)
        if self.steps % PRECONDITION_FREQUENCY == 0:
            self._basis_graph(self._update_bases)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what its steps change besides `flat`, by name: to be changed in place, before `resume`."""
        found = {"mean": self.mean, "square": self.square}
        for number, matrix in enumerate(self.matrices):
            for side in (0, 1):
                moments, basis = matrix.moments[side], matrix.bases[side]
                if moments is not None and basis is not None:
                    found |= {f"moments {number} {side}": moments, f"basis {number} {side}": basis}
        return found

    def resume(self, steps: int) -> None:
        """Go on after so many steps, with the `state_tensors` of then."""
        self.steps = steps
        if self._compiled is not None:
            self._compiled.copy_bases()

    def _update(self, correction: float | Tensor, rate: float | Tensor, shrink: float | Tensor) -> None:
        """Move `flat` by the gradient; `correction` is the averages' bias, `shrink` the factor of weight decay."""
        self.projected.copy_(self.gradient)
        for matrix in self.matrices:
            matrix.update_moments(self.gradient)
            matrix.project(self.projected)
        self.mean.lerp_(self.projected, 1 - BETA)
        self.square.lerp_(self.projected.square_(), 1 - BETA)
        scale = self.square.div(correction).sqrt_().add_(EPS)
        torch.div(self.mean, scale, out=self.projected).mul_(rate)
        for matrix in self.matrices:
            matrix.project_back(self.projected)
        self.weights.mul_(shrink)
        self.flat.sub_(self.projected)

    def _update_bases(self) -> None:
        for matrix in self.matrices:
            matrix.update_basis(self.mean, self.square)
        if self._compiled is not None:
            self._compiled.copy_bases()


class _Matrix:
    """A convolution's weights as a matrix, the second moments of its rows and columns, and their eigenbases.

    The largest eigenvalue is first; a side without a basis has None for both.
    """

    def __init__(self, part: slice, shape: tuple[int, ...], flat: Tensor) -> None:
        rows, columns = shape[0], math.prod(shape[1:])
        self.part, self.shape = part, (rows, columns)
        sides = [None if size > MAX_PRECONDITION_DIM else size for size in (rows, columns)]
        if shape[1] == 1:  # depthwise
            sides[0] = None
        self.moments = [None if side is None else flat.new_zeros(side, side) for side in sides]
        self.bases = [None if side is None else torch.eye(side, device=flat.device).T for side in sides]

    @property
    def sides(self) -> SoapSides:
        """The matrix as the kernels take it."""
        return SoapSides(self.part.start, self.shape, self.moments, self.bases)

    def view(self, flat: Tensor) -> Tensor:
        """Return the matrix's part of a flat tensor."""
        return flat[self.part].view(self.shape)

    def update_moments(self, gradient: Tensor) -> None:
        """Add a gradient to the moments."""
        g = self.view(gradient)
        for moments, one, other in zip(self.moments, (g, g.T), (g.T, g), strict=True):
            if moments is not None:
                moments.addmm_(one, other, beta=BETA, alpha=1 - BETA)

    def project(self, flat: Tensor) -> None:
        """Turn from the weights' own coordinates into the bases, in place."""
        rows, columns = self.bases
        _multiply(None if rows is None else rows.T, self.view(flat), columns)

    def project_back(self, flat: Tensor) -> None:
        """Turn from the bases into the weights' own coordinates, in place."""
        rows, columns = self.bases
        _multiply(rows, self.view(flat), None if columns is None else columns.T)

    def update_basis(self, mean: Tensor, square: Tensor) -> None:
        """Take one step of the power iteration from the bases so far, which follows the moments as they change.

        The mean gradient turns with the bases; its squares, which cannot, follow the order of the eigenvalues.
        """
        self.project_back(mean)
        for side, (moments, basis) in enumerate(zip(self.moments, self.bases, strict=True)):
            if moments is not None and basis is not None:
                image = moments @ basis
                order = (basis * image).sum(0).argsort(descending=True, stable=True)
                basis.copy_(torch.linalg.qr(image[:, order])[0])  # column by column in memory, as the bases are
                squares = self.view(square)
                squares.copy_(squares.index_select(side, order))
        self.project(mean)


def _multiply(left: Tensor | None, target: Tensor, right: Tensor | None) -> None:
    """Make `target` the product of all three, where None is the identity."""
    if right is not None:
        product = target @ right
        target.copy_(product) if left is None else torch.mm(left, product, out=target)
    elif left is not None:
        target.copy_(left @ target)
