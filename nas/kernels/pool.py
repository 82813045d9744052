"""Pools on their own: a 2x2 max-pool that no convolution took along, and the global pool."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.kernels.jit import compiled, floats
from nas.kernels.norm import larger


@compiled
def forward_max_pool(s: Any) -> None:
    """Compute the maximum of each window; an odd last row or column is dropped."""
    n_row = s.w_in * s.lanes
    for c in range(s.c_in):
        for y in range(s.h):
            top = floats(s.x + 4 * (c * s.h_in + 2 * y) * n_row, n_row)
            bottom = floats(s.x + 4 * (c * s.h_in + 2 * y + 1) * n_row, n_row)
            out = floats(s.y + 4 * (c * s.h + y) * s.w * s.lanes, s.w * s.lanes)
            for x in range(s.w):
                i, j, k = 2 * x * s.lanes, (2 * x + 1) * s.lanes, x * s.lanes
                for n in range(s.lanes):
                    out[k + n] = larger(larger(larger(top[i + n], top[j + n]), bottom[i + n]), bottom[j + n])


@compiled
def backward_max_pool(s: Any) -> None:
    """Pass the gradient to the first maximum of each window, row by row, as in torch: in x's place, as z's is."""
    n_row = s.w_in * s.lanes
    zero = np.float32(0)
    for c in range(s.c_in):
        for y in range(s.h_in):
            if y >= 2 * s.h:
                floats(s.x + 4 * (c * s.h_in + y) * n_row, n_row)[:] = zero
        for y in range(s.h):
            top = floats(s.x + 4 * (c * s.h_in + 2 * y) * n_row, n_row)
            bottom = floats(s.x + 4 * (c * s.h_in + 2 * y + 1) * n_row, n_row)
            g = floats(s.y + 4 * (c * s.h + y) * s.w * s.lanes, s.w * s.lanes)
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
def forward_global_pool(s: Any) -> None:
    """Compute the mean of each channel."""
    area = s.h_in * s.w_in
    for c in range(s.c_in):
        x, out = floats(s.x + 4 * c * area * s.lanes, area * s.lanes), floats(s.y + 4 * c * s.lanes, s.lanes)
        out[:] = 0
        for k in range(area):
            for n in range(s.lanes):
                out[n] += x[k * s.lanes + n]
        for n in range(s.lanes):
            out[n] /= np.float32(area)


@compiled
def backward_global_pool(s: Any) -> None:
    """Spread the gradient evenly over each channel, in x's place."""
    area = s.h_in * s.w_in
    for c in range(s.c_in):
        x, g = floats(s.x + 4 * c * area * s.lanes, area * s.lanes), floats(s.y + 4 * c * s.lanes, s.lanes)
        for k in range(area):
            for n in range(s.lanes):
                x[k * s.lanes + n] = g[n] / np.float32(area)
