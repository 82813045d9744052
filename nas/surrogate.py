"""What a study's trials foretell of a schedule: a Gaussian process over a few features of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from nas.architecture import Architecture, Conv

Array = NDArray[np.float64]

LENGTHS, NOISES = (1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0), (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
"""Of a process over standardised features: lengths of its kernel, and variances of the noise to that of the kernel."""


@lru_cache(maxsize=100_000)
def features(architecture: Architecture) -> tuple[float, ...]:
    """Its counts, depth, receptive field, last map, widths, share of separable blocks and share of early MACs.

    Counts and sizes are on a log scale; early is what works on more than half of the image's side.
    """
    convs = [block for block in architecture.blocks if isinstance(block, Conv)]
    spatial = [layer for layer in architecture.layers if layer.output_shape[1] > 1]
    field, jump = 1, 1
    for layer in spatial:
        if layer.kernel_size:
            field, jump = field + (layer.kernel_size - 1) * jump, jump * layer.stride
    early = sum(layer.macs for layer in spatial if layer.output_shape[1] > architecture.input_shape[1] // 2)
    return (
        math.log(architecture.num_params), math.log(architecture.macs), architecture.depth, math.log(field),
        math.log(jump), math.log(spatial[-1].output_shape[1]), math.log(convs[0].width),
        math.log(min(block.width for block in convs)), math.log(max(block.width for block in convs)),
        sum(block.separable for block in convs) / len(convs), early / architecture.macs,
    )  # fmt: skip


class Surface:
    """A Gaussian process over standardised features; length and noise are those of the greatest likelihood.

    `points` is (n, features), `values` is (n,).
    """

    def __init__(self, points: Array, values: Array) -> None:
        self.low, self.scale = points.mean(0), points.std(0) + 1e-9
        self.points, self.mean, self.sd = (points - self.low) / self.scale, values.mean(), values.std() + 1e-12
        aims = (values - self.mean) / self.sd
        best = -math.inf
        for length in LENGTHS:
            kernel = self._kernel(self.points, length)
            for noise in NOISES:
                factor = cho_factor(kernel + noise * np.eye(len(aims)))
                weights = cho_solve(factor, aims)
                scale = max(1e-9, float(aims @ weights) / len(aims))  # of the kernel, in closed form
                likelihood = -np.log(np.diag(factor[0])).sum() - len(aims) / 2 * math.log(scale)
                if likelihood > best:
                    best, self.length, self.noise, self.weights = likelihood, length, noise, weights

    @property
    def left(self) -> Array:
        """Of each value, what the process fitted to the others does not explain."""
        kernel = self._kernel(self.points, self.length)
        inverse = np.linalg.inv(kernel + self.noise * np.eye(len(self.points)))
        left: Array = self.sd * self.weights / np.diag(inverse)
        return left

    def _kernel(self, others: Array, length: float) -> Array:
        squares = ((others[:, None] - self.points[None]) ** 2).sum(2)
        kernel: Array = np.exp(-squares / (2 * length**2))
        return kernel

    def place(self, point: Sequence[float]) -> Array:
        """The point, standardised."""
        placed: Array = (np.array(point) - self.low) / self.scale
        return placed

    def __call__(self, point: Sequence[float]) -> float:
        return float(self.mean + self.sd * (self._kernel(self.place(point)[None], self.length) @ self.weights)[0])
