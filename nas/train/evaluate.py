"""Scores of trained weights on a split, and the running statistics that they are taken with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.architecture import Architecture
from nas.data import Normalization, Split
from nas.model import TrainedNetwork, load_module
from nas.train.backends import Backend, BackendNetwork, backend_network, cpu_math_mode, memory_errors

EVALUATION_BATCH = 512
"""Images at a time of an evaluation."""

RECALIBRATION_BATCH = 128
"""Images at a time of a BN recalibration."""


@memory_errors()
@cpu_math_mode()
def evaluate(
    network: TrainedNetwork, split: Split, *, device: str = "cpu", backend: Backend = "auto"
) -> tuple[float, int]:
    """Return the mean cross-entropy and the number of correct predictions on `split`, which lies on `device`."""
    return score(_open(network, device, backend), split)


@memory_errors()
@cpu_math_mode()
@torch.inference_mode()
def correct_mask(
    network: TrainedNetwork, split: Split, *, device: str = "cpu", backend: Backend = "auto"
) -> Tensor:  # fmt: skip
    """Return which images of `split`, which lies on `device`, are classified correctly: (N,) bool, on the CPU."""
    parts = [logits.argmax(1) == labels for logits, labels in _logits(_open(network, device, backend), split)]
    return torch.cat(parts).cpu()


@torch.inference_mode()
def score(network: BackendNetwork, split: Split) -> tuple[float, int]:
    """Return the mean cross-entropy and the number of correct predictions on the whole split."""
    loss: Any = 0.0  # tensors on a GPU: read once at the end, not batch by batch
    correct: Any = 0
    for logits, labels in _logits(network, split):
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        correct = correct + (logits.argmax(1) == labels).sum()
    return float(loss) / len(split), int(correct)


@torch.no_grad()
def recalibrate_bn(network: BackendNetwork, split: Split, count: int) -> None:
    """Recompute the norms' running statistics on `count` evenly spaced images of the split, without augmentation.

    Precise BN (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021): the mean of the batches' statistics.
    """
    index = torch.arange(0, len(split), max(1, len(split) // count), device=split.labels.device)[:count]
    for number, (start, end) in enumerate(batch_bounds(len(index), RECALIBRATION_BATCH)):
        network.update_bn_stats(network.batch(split, index[start:end], None), 1 / (number + 1))


def batch_bounds(count: int, size: int, *, least: int = 2) -> list[tuple[int, int]]:
    """Return the bounds of the batches; a last one of fewer than `least` images (batch norm needs two) is left out."""
    bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
    return [(start, end) for start, end in bounds if end - start >= least]


def load_network(
    architecture: Architecture,
    state_dict: Mapping[str, Tensor],
    normalization: Normalization,
    device: str,
    backend: Backend,
) -> BackendNetwork:
    """Return the network with these weights on a backend, to be evaluated and not trained."""
    model = load_module(architecture, state_dict).to(device).requires_grad_(False)
    return backend_network(architecture, model, normalization, device, backend)[1]


def _open(network: TrainedNetwork, device: str, backend: Backend) -> BackendNetwork:
    return load_network(network.architecture, network.state_dict, network.normalization, device, backend)


def _logits(network: BackendNetwork, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of the whole split, some images at a time, by the running statistics."""
    for start, end in batch_bounds(len(split), EVALUATION_BATCH, least=1):
        index = torch.arange(start, end, device=split.labels.device)
        yield network.logits(network.batch(split, index, None)), split.labels[start:end]
