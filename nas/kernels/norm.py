"""Batch norm, ReLU and 2x2 max-pool in one pass over a row that is still in the cache, and their gradient.

The norm is the map a z + b with a = gamma / sqrt(variance + eps) and b = beta - a mean. `s.coefficients` holds four
numbers for each channel: a, b, and then in the forward pass mean and 1 / sqrt(variance + eps), in the backward pass,
in the place of those, q and p of its gradient dz = a g + p z + q.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.kernels.jit import compiled, doubles, floats


@compiled
def row_moments(address: int, w: int, batch: int, lanes: int) -> tuple[float, float]:
    """Return mean and summed squared deviation of a row, in two passes over the L1 cache; lanes beyond N left out.

    Sums are float32 within a run, where they vectorise, and float64 across: a float32 sum over a whole map loses digits
    of a variance that is small beside the mean.
    """
    runs, run = (1, w * lanes) if batch == lanes else (w, batch)
    total = 0.0
    for k in range(runs):
        values = floats(address + 4 * k * lanes, run)
        part = np.float32(0)
        for n in range(run):
            part += values[n]
        total += float(part)
    mean, squares = total / (w * batch), 0.0
    centre = np.float32(mean)
    for k in range(runs):
        values = floats(address + 4 * k * lanes, run)
        part = np.float32(0)
        for n in range(run):
            delta = values[n] - centre
            part += delta * delta
        squares += float(part)
    return mean, squares


@compiled
def larger(a: Any, b: Any) -> Any:
    """Return max(a, b); NaN if either is (Python's max would drop it), the first of equals."""
    return b if b > a or b != b else a


@compiled
def _floor(relu: bool) -> Any:
    """Return the bound that values are cut off below: with it one loop does with and without ReLU.

    Cut off where `value <= floor`, never as max(value, floor): a NaN is not below it, and stays.
    """
    return np.float32(0) if relu else np.float32(-np.inf)


@compiled
def _window(s: Any, c: int, y: int, x: int) -> tuple[Any, Any, Any, Any]:
    """Return the four pixels of z under pixel (y, x) of a 2x2 pool.

    As four arrays they vectorise, as one with offsets they do not.
    """
    pixel = 4 * s.lanes
    at = s.z + ((c * s.h + 2 * y) * s.w + 2 * x) * pixel
    under = at + s.w * pixel
    upper = floats(at, s.lanes), floats(at + pixel, s.lanes)
    lower = floats(under, s.lanes), floats(under + pixel, s.lanes)
    return upper[0], upper[1], lower[0], lower[1]


@compiled
def norm_relu_pool(s: Any, y: int) -> None:
    """Compute row y of the output, from one row of z, or two where a max-pool follows."""
    length, lanes = s.w * s.lanes, s.lanes
    scale, shift = floats(s.coefficients, s.c_out), floats(s.coefficients + 4 * s.c_out, s.c_out)
    floor = _floor(s.relu_last)
    w = s.w // 2 if s.pool else s.w
    for c in range(s.c_out):
        a, b = scale[c], shift[c]
        out = floats(s.y + 4 * (c * s.y_rows + y % s.y_rows) * w * lanes, w * lanes)  # a row of the map, or of a ring
        if s.pool:
            for x in range(w):
                z0, z1, z2, z3 = _window(s, c, y, x)
                pixel = out[x * lanes : (x + 1) * lanes]
                for n in range(lanes):
                    # The norm before the maximum: a may be negative, and the largest z then the smallest y.
                    upper, lower = larger(a * z0[n] + b, a * z1[n] + b), larger(a * z2[n] + b, a * z3[n] + b)
                    value = larger(upper, lower)
                    pixel[n] = floor if value <= floor else value
        else:
            z = floats(s.z + 4 * (c * s.h + y) * length, length)
            for n in range(length):
                value = a * z[n] + b
                out[n] = floor if value <= floor else value
        if s.skip:
            skip = floats(s.skip + 4 * (c * s.h + y) * length, length)
            for n in range(length):
                out[n] += skip[n]


@compiled
def add_norm_row(s: Any, y: int) -> None:
    """Add row y of the output's gradient to those of beta and gamma (the latter still times the deviation)."""
    length, lanes = s.w * s.lanes, s.lanes
    scale, shift = floats(s.coefficients, s.c_out), floats(s.coefficients + 4 * s.c_out, s.c_out)
    mean, totals = floats(s.coefficients + 8 * s.c_out, s.c_out), doubles(s.moments, 2 * s.c_out)
    zero, floor = np.float32(0), _floor(s.relu_last)
    h, w = (s.h // 2, s.w // 2) if s.pool else (s.h, s.w)
    for c in range(s.c_out):
        a, b, m = scale[c], shift[c], mean[c]
        g = floats(s.y_grad + 4 * (c * h + y) * w * lanes, w * lanes)
        total, moment = zero, zero
        if s.pool:
            for x in range(w):
                z0, z1, z2, z3 = _window(s, c, y, x)
                pixel = g[x * lanes : (x + 1) * lanes]
                for n in range(lanes):
                    # y is not stored: which z was the maximum, and whether ReLU let it pass, is computed again.
                    upper = z1[n] if a * z1[n] + b > a * z0[n] + b else z0[n]
                    lower = z3[n] if a * z3[n] + b > a * z2[n] + b else z2[n]
                    best = lower if a * lower + b > a * upper + b else upper
                    v = zero if a * best + b <= floor else pixel[n]
                    total += v
                    moment += v * (best - m)
        else:
            z = floats(s.z + 4 * (c * s.h + y) * length, length)
            for n in range(length):
                v = zero if a * z[n] + b <= floor else g[n]
                total += v
                moment += v * (z[n] - m)
        totals[2 * c] += total
        totals[2 * c + 1] += moment


@compiled
def norm_gradients(s: Any) -> None:
    """Compute the gradients of gamma and beta; and in the place of mean and deviation q and p of dz = a g + p z + q."""
    scale = floats(s.coefficients, s.c_out)
    mean, inverse = floats(s.coefficients + 8 * s.c_out, s.c_out), floats(s.coefficients + 12 * s.c_out, s.c_out)
    if not s.norm:
        mean[:] = 0
        inverse[:] = 0
        return
    if not s.deferred:  # else the next stage has added them, each row as it came
        for y in range(s.h // 2 if s.pool else s.h):
            add_norm_row(s, y)
    totals = doubles(s.moments, 2 * s.c_out)
    gamma_grad, beta_grad = floats(s.gamma_grad, s.c_out), floats(s.beta_grad, s.c_out)
    for c in range(s.c_out):
        total, moment = totals[2 * c], totals[2 * c + 1]
        beta_grad[c] = total
        gamma_grad[c] = moment * inverse[c]
        slope = -scale[c] * inverse[c] * inverse[c] * moment / (s.h * s.w * s.batch)
        inverse[c] = slope
        mean[c] = -scale[c] * total / (s.h * s.w * s.batch) - slope * mean[c]


@compiled
def norm_relu_pool_backward(s: Any, y: int) -> None:
    """Compute row y of the gradient of z, in its place (of a pool, rows y and y + 1); lanes beyond N are set to zero.

    Of equal maxima the first in the window, row by row, has the gradient, as in torch.
    """
    length, lanes = s.w * s.lanes, s.lanes
    scale, shift = floats(s.coefficients, s.c_out), floats(s.coefficients + 4 * s.c_out, s.c_out)
    constant, slope = floats(s.coefficients + 8 * s.c_out, s.c_out), floats(s.coefficients + 12 * s.c_out, s.c_out)
    # A ReLU before the norm: z is stored after it, so that z <= 0 is where it had no slope.
    zero, floor, first_floor = np.float32(0), _floor(s.relu_last), _floor(s.relu_first)
    h, w = (s.h // 2, s.w // 2) if s.pool else (s.h, s.w)
    if s.pool and y % 2 and y < 2 * h:  # done with the row above; z is overwritten, and cannot be read again
        return
    rows = 2 if s.pool and y < 2 * h else 1
    for c in range(s.c_out):
        z = floats(s.z + 4 * (c * s.h + y) * length, rows * length)
        a, b, p, q = scale[c], shift[c], slope[c], constant[c]
        if not s.pool:
            g = floats(s.y_grad + 4 * (c * h + y) * length, length)
            for n in range(length):
                v = a * (zero if a * z[n] + b <= floor else g[n]) + (p * z[n] + q)
                z[n] = zero if z[n] <= first_floor else v
        else:
            if rows == 2:
                g = floats(s.y_grad + 4 * (c * h + y // 2) * w * lanes, w * lanes)
                for x in range(w):
                    z0, z1, z2, z3 = _window(s, c, y // 2, x)
                    pixel = g[x * lanes : (x + 1) * lanes]
                    for n in range(lanes):
                        # Selections and no branches, so that the loop vectorises: v goes down the tree of comparisons
                        # that the maximum came up, zero everywhere else.
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
            for row in range(rows):  # an odd last column or row, which the pool drops but the norm's statistics had
                start = 2 * w * lanes if rows == 2 else 0
                rest = floats(s.z + 4 * ((c * s.h + y + row) * length + start), length - start)
                for n in range(length - start):
                    rest[n] = zero if rest[n] <= first_floor else p * rest[n] + q
        if s.batch < lanes:  # q put something there, which the weight gradient would add up
            for x in range(rows * s.w):
                z[x * lanes + s.batch : (x + 1) * lanes] = zero
