"""The parts of an optimizer step: flat parameters, the learning rate's schedule, the decay of the EMA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nas.train.recipe import Recipe
from nas.train.soap import Soap

LR_REFERENCE_PARAMS = 8_000
"""The number of parameters that a recipe's `peak_lr` is for."""

MAX_LR_FACTOR = 3.0
"""How many times the recipe's `peak_lr` a smaller network may take at most."""


def peak_lr(recipe: Recipe, num_params: int) -> float:
    """Return the peak learning rate of a network: the recipe's, or up to `MAX_LR_FACTOR` times that for a small one."""
    factor = math.pow(LR_REFERENCE_PARAMS / num_params, recipe.lr_exponent)
    return recipe.peak_lr * min(MAX_LR_FACTOR, max(1.0, factor))


def learning_rate(recipe: Recipe, progress: float, *, peak: float) -> float:
    """Return the one-cycle rate at `progress` in (0, 1]: a cosine up from a 25th of `peak`, then down to nearly zero.

    Leslie Smith's schedule with torch's default shape (OneCycleLR: div_factor 25, cosine annealing).
    """
    low, warmup = peak / 25, recipe.warmup_fraction
    if progress < warmup:
        return low + (peak - low) * (1 - math.cos(math.pi * progress / warmup)) / 2
    return peak * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2 + 1e-6 * peak


def ema_decay(recipe: Recipe, step: int, steps: int) -> float:
    """Return the decay of the weights' moving average at a step, counted from 1."""
    horizon = max(1.0, recipe.ema_horizon * steps)
    # The ramp holds it down at first: otherwise the averaged weights of the first epochs would be mostly the initial
    # ones.
    return min(1 - 1 / horizon, step / (step + 9))


def flatten(model: nn.Module) -> tuple[Tensor, Tensor, int]:
    """Move all that is trained or averaged into one tensor (P,), and the gradients into another.

    Return both, and how many of the first are parameters: the convolution weights come first, then the other
    parameters, then the running statistics. The model shares their storage, so that the optimizer and the average take
    one operation each where some 35 tensors cost 1.5 ms per step.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 4]
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    flat = torch.cat([tensor.detach().flatten() for tensor in (*weights, *others, *statistics)])
    gradient = torch.zeros_like(flat)
    start = 0
    for tensor in (*weights, *others, *statistics):
        end = start + tensor.numel()
        tensor.data = flat[start:end].view_as(tensor)
        if tensor.requires_grad:
            tensor.grad = gradient[start:end].view_as(tensor)
        start = end
    return flat, gradient, sum(parameter.numel() for parameter in (*weights, *others))


def make_optimizer(
    model: nn.Module, flat: Tensor, gradient: Tensor, recipe: Recipe, *, compiled: bool = False
) -> Soap:  # fmt: skip
    """Return SOAP on the parameters (P,) of a model that `flatten` laid out, by their gradients (P,)."""
    shapes = [tuple(parameter.shape) for parameter in model.parameters() if parameter.ndim == 4]
    return Soap(flat, gradient, shapes, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, compiled=compiled)
