"""SOAP: Adam, but each convolution's gradient is turned into the eigenbasis of its second moments first.

Vyas and others, "SOAP: Improving and Stabilizing Shampoo using Adam" (2024), after Gupta, Koren and Singer, "Shampoo"
(2018). Adam scales every weight on its own; in the directions in which a layer's gradients vary together, SOAP scales
each direction on its own. Networks this small learn too slowly in 15 epochs, and their matrices cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.graph import Graph

BETA = 0.95
"""Of all moving averages: the gradient, its square, and the second moments that the bases are of (the paper's)."""

EPS = 1e-8
TURN = 30
"""Steps from one renewal of the bases to the next; at ten, renewing took more than all else, and gained nothing."""

MAX_SIDE = 400
"""A side with more rows or columns than this keeps its own basis: what its moments cost grows with their cube."""


class Soap(torch.optim.Optimizer):
    """Trains `flat` (P,) in place by `gradient` (P,); it starts with convolution weights of the given `shapes`.

    Those are matrices (O, I * kH * kW). The filters of a depthwise convolution have nothing in common, so that only
    their taps have a basis. What follows them in `flat` is trained by plain Adam; weight decay is the weights' alone.
    """

    def __init__(
        self, flat: Tensor, gradient: Tensor, shapes: Sequence[tuple[int, ...]], *, lr: float, weight_decay: float
    ) -> None:
        super().__init__([nn.Parameter(flat, requires_grad=False)], {"lr": lr, "weight_decay": weight_decay})
        self.flat, self.gradient = flat, gradient
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self.turned = torch.zeros_like(flat)  # the gradient, and then the update, in the bases
        self.steps, start = 0, 0
        self.matrices: list[_Matrix] = []
        for shape in shapes:
            end = start + math.prod(shape)
            self.matrices.append(_Matrix(slice(start, end), shape, flat))
            start = end
        self.weights = flat[:start]
        self._updating, self._renewing = Graph(flat.device), Graph(flat.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; the rate is the first parameter group's."""
        assert closure is None
        lr, weight_decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        self.steps += 1
        correction = 1 - BETA**self.steps
        self._updating(self._update, correction, lr / correction, 1 - lr * weight_decay)
        if self.steps % TURN == 0:
            self._renewing(self._renew)

    def _update(self, correction: float | Tensor, rate: float | Tensor, kept: float | Tensor) -> None:
        """Moves `flat` by the gradient; `correction` is that of the averages, `kept` what decay leaves of a weight."""
        self.turned.copy_(self.gradient)
        for matrix in self.matrices:
            matrix.observe(self.gradient)
            matrix.turn(self.turned)
        self.mean.lerp_(self.turned, 1 - BETA)
        self.square.lerp_(self.turned.square_(), 1 - BETA)
        scale = self.square.div(correction).sqrt_().add_(EPS)
        torch.div(self.mean, scale, out=self.turned).mul_(rate)
        for matrix in self.matrices:
            matrix.turn_back(self.turned)
        self.weights.mul_(kept)
        self.flat.sub_(self.turned)

    def _renew(self) -> None:
        """New bases for all matrices."""
        for matrix in self.matrices:
            matrix.renew(self.mean, self.square)


class _Matrix:
    """A convolution's weights as a matrix, the second moments of its rows and columns, and their eigenbases.

    The largest eigenvalue is first; a side that keeps its own basis has None for both.
    """

    def __init__(self, part: slice, shape: tuple[int, ...], flat: Tensor) -> None:
        rows, columns = shape[0], math.prod(shape[1:])
        depthwise = shape[1] == 1
        self.part, self.shape = part, (rows, columns)
        sides = [None if depthwise or rows > MAX_SIDE else rows, None if columns > MAX_SIDE else columns]
        self.moments = [None if side is None else flat.new_zeros(side, side) for side in sides]
        self.bases = [None if side is None else torch.eye(side, device=flat.device).T for side in sides]

    def of(self, flat: Tensor) -> Tensor:
        return flat[self.part].view(self.shape)

    def observe(self, gradient: Tensor) -> None:
        """Adds a gradient to the moments."""
        g = self.of(gradient)
        for moments, one, other in zip(self.moments, (g, g.T), (g.T, g), strict=True):
            if moments is not None:
                moments.addmm_(one, other, beta=BETA, alpha=1 - BETA)

    def turn(self, flat: Tensor) -> None:
        """From the weights' own coordinates into the bases, in place."""
        rows, columns = self.bases
        _multiply(None if rows is None else rows.T, self.of(flat), columns)

    def turn_back(self, flat: Tensor) -> None:
        rows, columns = self.bases
        _multiply(rows, self.of(flat), None if columns is None else columns.T)

    def renew(self, mean: Tensor, square: Tensor) -> None:
        """New bases: one step of the power iteration from the old ones, which follows the moments as they change.

        The mean gradient turns with them; its squares, which cannot, follow the order.
        """
        self.turn_back(mean)
        for side, (moments, basis) in enumerate(zip(self.moments, self.bases, strict=True)):
            if moments is not None and basis is not None:
                image = moments @ basis
                order = (basis * image).sum(0).argsort(descending=True, stable=True)
                basis.copy_(torch.linalg.qr(image[:, order])[0])  # column by column in memory, as the bases are
                squares = self.of(square)
                squares.copy_(squares.index_select(side, order))
        self.turn(mean)


def _multiply(left: Tensor | None, target: Tensor, right: Tensor | None) -> None:
    """Makes `target` the product of all three, where None is the identity."""
    if right is not None:
        product = target @ right
        target.copy_(product) if left is None else torch.mm(left, product, out=target)
    elif left is not None:
        target.copy_(left @ target)
