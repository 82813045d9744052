"""Predicting a schedule's loss from the trials so far: a Gaussian process over a few features of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from nas.architecture import Architecture, ConvBlock

Array = NDArray[np.float64]

LENGTHS, NOISES = (1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0), (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
"""Lengths of the kernel over standardised features, and ratios of the noise's variance to the kernel's."""


FEATURE_NAMES = (
    "parameters", "MACs", "depth", "receptive field", "downsampling", "side of the last map", "first block's width",
    "narrowest block", "widest block", "share of separable blocks", "share of early MACs",
)  # fmt: skip
"""Names of what `features` returns, in its order."""


@lru_cache(maxsize=100_000)
def features(schedule: str) -> tuple[float, ...]:
    """Return counts, depth, receptive field, last map, widths, share of separable blocks and of early MACs.

    Counts and sizes are on a log scale; early layers work on more than half of the image's side.
    """
    architecture = Architecture.parse(schedule)
    convs = [block for block in architecture.blocks if isinstance(block, ConvBlock)]
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


class GaussianProcess:
    """A Gaussian process over standardised features.

    `points` is (n, features), `values` is (n,). `kernel` is its length and noise, by default those of the greatest
    marginal likelihood.
    """

    def __init__(self, points: Array, values: Array, *, kernel: tuple[float, float] | None = None) -> None:
        self.low, self.scale = points.mean(0), points.std(0) + 1e-9
        self.points, self.mean, self.sd = (points - self.low) / self.scale, values.mean(), values.std() + 1e-12
        aims = (values - self.mean) / self.sd
        lengths, noises = (LENGTHS, NOISES) if kernel is None else ((kernel[0],), (kernel[1],))
        best, squares = -math.inf, self._squares(self.points)
        for length in lengths:
            kernel_matrix = np.exp(-squares / (2 * length**2))
            for noise in noises:
                factor = cho_factor(kernel_matrix + noise * np.eye(len(aims)), overwrite_a=True, check_finite=False)
                weights = cho_solve(factor, aims, check_finite=False)
                scale = max(1e-9, float(aims @ weights) / len(aims))  # of the kernel, in closed form
                likelihood = -np.log(np.diag(factor[0])).sum() - len(aims) / 2 * math.log(scale)
                if likelihood > best:
                    best, self.length, self.noise, self.weights = likelihood, length, noise, weights

    @property
    def loo_residuals(self) -> Array:
        """The leave-one-out residual of each value, in closed form (Rasmussen and Williams, 2006, section 5.4.2)."""
        kernel = self._kernel(self.points, self.length)
        inverse = np.linalg.inv(kernel + self.noise * np.eye(len(self.points)))
        residuals: Array = self.sd * self.weights / np.diag(inverse)
        return residuals

    def _kernel(self, others: Array, length: float) -> Array:
        kernel: Array = np.exp(-self._squares(others) / (2 * length**2))
        return kernel

    def _squares(self, others: Array) -> Array:
        """Return the squared distances of these standardised points to the fitted ones."""
        squares: Array = ((others[:, None] - self.points[None]) ** 2).sum(2)
        return squares

    def standardise(self, point: Sequence[float]) -> Array:
        """Return the point in units of the fitted points' standard deviations."""
        standardised: Array = (np.array(point) - self.low) / self.scale
        return standardised

    def __call__(self, point: Sequence[float]) -> float:
        """Return the predicted mean at a point."""
        return float(self.mean + self.sd * (self._kernel(self.standardise(point)[None], self.length) @ self.weights)[0])
