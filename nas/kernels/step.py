"""A step: the tape forward, the loss, and the tape back to the first convolution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nas.kernels.conv import add_weight_grad, correlate, pack, sums_to_gradient, zero_sums
from nas.kernels.jit import compiled, doubles, entry, floats, longs
from nas.kernels.norm import add_norm_row, norm_gradients, norm_relu_pool, norm_relu_pool_backward, row_moments
from nas.kernels.pool import backward_global_pool, backward_max_pool, forward_global_pool, forward_max_pool
from nas.kernels.tape import GLOBAL_POOL, MAX_POOL


@compiled
def _pull(previous: Any, s: Any, y: int, pulled: int) -> int:
    """Compute the input rows that output row y needs, where the previous stage's output is not stored.

    Returns how many rows have been computed so far. Row y of the ring is overwritten by row y + kernel, which no tap of
    an earlier output row meets: rows must come in order.
    """
    if s.pulls:
        needed = min(s.h_in, y * s.stride - s.padding + s.kernel)
        while pulled < needed:
            norm_relu_pool(previous, pulled)
            pulled += 1
    return pulled


@compiled
def _running_coefficients(s: Any) -> None:
    """Fold the running statistics into the norm's a and b; without a norm they are 1 and 0."""
    scale, shift = floats(s.coefficients, s.c_out), floats(s.coefficients + 4 * s.c_out, s.c_out)
    gamma, beta = floats(s.gamma, s.c_out), floats(s.beta, s.c_out)
    running_mean, running_var = floats(s.running_mean, s.c_out), floats(s.running_var, s.c_out)
    if not s.norm:
        scale[:] = 1
        shift[:] = 0
        return
    for c in range(s.c_out):
        a = gamma[c] / math.sqrt(running_var[c] + s.eps)
        scale[c] = a
        shift[c] = beta[c] - a * running_mean[c]


@compiled
def _batch_coefficients(s: Any, means: Any, squares: Any) -> None:
    """Make the norm's a and b from the batch's statistics, and move the running ones towards those."""
    scale, shift = floats(s.coefficients, s.c_out), floats(s.coefficients + 4 * s.c_out, s.c_out)
    mean, inverse = floats(s.coefficients + 8 * s.c_out, s.c_out), floats(s.coefficients + 12 * s.c_out, s.c_out)
    gamma, beta = floats(s.gamma, s.c_out), floats(s.beta, s.c_out)
    running_mean, running_var = floats(s.running_mean, s.c_out), floats(s.running_var, s.c_out)
    totals = doubles(s.moments, 2 * s.c_out)
    count = s.h * s.w * s.batch
    for c in range(s.c_out):
        inverse[c] = 1 / math.sqrt(squares[c] / count + s.eps)
        mean[c] = means[c]
        scale[c] = gamma[c] * inverse[c]
        shift[c] = beta[c] - means[c] * gamma[c] * inverse[c]
        totals[2 * c : 2 * c + 2] = 0  # what `add_norm_row` adds to on the way back
        running_mean[c] += s.momentum * (means[c] - running_mean[c])
        running_var[c] += s.momentum * (squares[c] / (count - 1) - running_var[c])  # unbiased, as torch's
    longs(s.batches, 1)[0] += 1


@compiled
def _forward_conv(stages: Any, k: int, training: bool) -> None:
    """Compute a convolution, its statistics and, where the output is stored, the rest of the stage.

    Of a separable block stage k is the 1x1 convolution, which follows the depthwise one row by row.
    """
    s = stages[k]
    first, previous = stages[k - s.separable], stages[max(0, k - s.separable - 1)]
    length, zero = s.w * s.lanes, np.float32(0)
    statistics = training and s.norm
    if not statistics:
        _running_coefficients(s)
    means, squares = np.zeros(s.c_out), np.zeros(s.c_out)
    pack(s, np.int64(0))
    if s.separable:
        pack(first, np.int64(0))
    pulled = 0
    for y in range(s.h):
        pulled = _pull(previous, first, y, pulled)
        if s.separable:
            correlate(first, y, np.int64(0))
        correlate(s, y, np.int64(0))
        for c in range(s.c_out):
            row = s.z + 4 * (c * s.h + y) * length
            if s.relu_first:
                z = floats(row, length)
                for n in range(length):
                    z[n] = zero if z[n] <= zero else z[n]
            if statistics:
                # Rows are joined by Chan's formula, in float64: a sum of squares less the square of a sum would lose
                # the variance of a channel whose mean is far from zero.
                m, q = row_moments(row, s.w, s.batch, s.lanes)
                delta = m - means[c]
                means[c] += delta / (y + 1)
                squares[c] += q + delta * delta * (s.w * s.batch) * y / (y + 1)
    if statistics:
        _batch_coefficients(s, means, squares)
    if s.y != s.z and not s.deferred:
        for y in range(s.h // 2 if s.pool else s.h):
            norm_relu_pool(s, y)


@compiled
def _add_bias_row(s: Any, y: int, sums: Any) -> None:
    """Add row y's gradient to the sums of the bias's."""
    for c in range(s.c_out):
        part = np.float32(0)
        z = floats(s.z + 4 * (c * s.h + y) * s.w * s.lanes, s.w * s.lanes)
        for n in range(s.w * s.lanes):
            part += z[n]
        sums[c] += part


@compiled
def _add_skip_row(s: Any, y: int) -> None:
    """Add to row y of the input's gradient what comes back through the residual that skips from it."""
    for c in range(s.c_in):
        length = s.w_in * s.lanes
        at = 4 * (c * s.h_in + y) * length
        x, g = floats(s.x_grad + at, length), floats(s.skip_grad + at, length)
        for n in range(length):
            x[n] += g[n]


@compiled
def _backward_conv(stages: Any, k: int) -> None:
    """Compute the parameters' gradients, and the input's, from that of the output.

    Row by row: the row's gradient is made, gives its share of the weight gradient, and lets the gradient of the input
    rows be made that no later row touches, all while it is in the cache.
    """
    s = stages[k]
    first, previous = stages[k - s.separable], stages[max(0, k - s.separable - 1)]
    if s.y != s.z:
        norm_gradients(s)
    bias_sums = np.zeros(s.c_out)
    pack(s, np.int64(1))
    zero_sums(s)
    if s.separable:
        pack(first, np.int64(1))
        zero_sums(first)
    done, pulled = 0, 0
    for y in range(s.h):
        if s.y != s.z:  # else z is the output, and holds its gradient already
            norm_relu_pool_backward(s, y)
        if s.bias_grad:
            _add_bias_row(s, y, bias_sums)
        # The input rows again, as the forward pass left none: before the gradient of z of the previous stage, which
        # they are made of, is written over it. That happens after this stage.
        pulled = _pull(previous, first, y, pulled)
        add_weight_grad(s, y)
        if s.separable:
            correlate(s, y, np.int64(1))  # the gradient of the depthwise convolution's row, in the place of that
            add_weight_grad(first, y)
        if first.input_grad:
            # Input rows before the first tap of the next output row have all their terms.
            ready = first.h_in if y == s.h - 1 else (y + 1) * first.stride - first.padding
            for row in range(done, ready):
                correlate(first, row, np.int64(1))
                if first.skip_grad:
                    _add_skip_row(first, row)
                if first.pulls and previous.norm:  # with the skip's part in it, and while the row is in the cache
                    add_norm_row(previous, row)
            done = max(done, ready)
    sums_to_gradient(s)
    if s.separable:
        sums_to_gradient(first)
    if s.bias_grad:
        floats(s.bias_grad, s.c_out)[:] = bias_sums.astype(np.float32)


@compiled
def _cross_entropy(s: Any, labels: Any, soft_targets: Any, options: Any) -> tuple[float, int]:
    """Return mean loss and number correct of the last stage's logits (classes, lanes), which become their gradient.

    `options` are label smoothing, distillation weight and temperature. With soft targets, the gradient is `1 - weight`
    of that, and `weight` of that of the divergence from them. It is zero beyond N.
    """
    smoothing, weight, temperature = options
    classes, batch, lanes = s.c_out, s.batch, s.lanes
    logits = floats(s.y, classes * lanes)
    loss, correct = 0.0, 0
    for n in range(batch):
        label = labels[n]
        best = 0
        for c in range(1, classes):
            if logits[c * lanes + n] > logits[best * lanes + n]:
                best = c
        correct += best == label
        peak = float(logits[best * lanes + n])  # taken off before exp, which overflows at 89 in float32
        total, mean, soft_total = 0.0, 0.0, 0.0
        for c in range(classes):
            total += math.exp(logits[c * lanes + n] - peak)
            mean += logits[c * lanes + n] / classes
            if len(soft_targets):
                soft_total += math.exp((logits[c * lanes + n] - peak) / temperature)
        log_total = math.log(total) + peak
        loss += log_total - (1 - smoothing) * logits[label * lanes + n] - smoothing * mean
        for c in range(classes):
            target = smoothing / classes + (1 - smoothing if c == label else 0.0)
            slope = math.exp(logits[c * lanes + n] - log_total) - target
            if len(soft_targets):
                likely = math.exp((logits[c * lanes + n] - peak) / temperature) / soft_total
                slope = (1 - weight) * slope + weight * temperature * (likely - soft_targets[n, c])
            logits[c * lanes + n] = slope / batch
    for c in range(classes):
        logits[c * lanes + batch : (c + 1) * lanes] = 0
    return loss / batch, correct


@entry
def run(stages: Any, training: bool, labels: Any, soft_targets: Any, options: Any) -> tuple[float, int]:
    """Run the tape forward; in training return loss and number correct, and run it back to the first convolution.

    In training without labels only the running statistics move. `options` as in `_cross_entropy`: a plain tuple, whose
    type numba reads quickly.
    """
    for k in range(len(stages)):
        s = stages[k]
        if s.kind == MAX_POOL:
            forward_max_pool(s)
        elif s.kind == GLOBAL_POOL:
            forward_global_pool(s)
        elif not s.leads:  # the depthwise half of a separable block runs with the 1x1 that follows it
            _forward_conv(stages, k, training)
    if not training or len(labels) == 0:
        return 0.0, 0
    loss, correct = _cross_entropy(stages[len(stages) - 1], labels, soft_targets, options)
    for k in range(len(stages) - 1, -1, -1):
        s = stages[k]
        if s.kind == MAX_POOL:
            backward_max_pool(s)
        elif s.kind == GLOBAL_POOL:
            backward_global_pool(s)
        elif not s.leads:
            _backward_conv(stages, k)
        if not s.input_grad:
            break
    return loss, correct
