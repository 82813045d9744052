"""Scores of trained weights on a split, and the running statistics that they are taken with."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a network on a split."""

    loss: float
    """Mean cross-entropy."""
    correct: int
    """Number of correct predictions."""
    balanced_loss: float
    """Mean over the classes of their mean cross-entropy."""
    recalls: tuple[float | None, ...]
    """Percent of each class's images that are predicted to be of it; None for a class without images."""


@memory_errors()
@cpu_math_mode()
def evaluate(network: TrainedNetwork, split: Split, *, device: str = "cpu", backend: Backend = "auto") -> Scores:
    """Return the scores on `split`, which lies on `device`."""
    return score(_open(network, device, backend), split, network.architecture.num_classes)


def balanced_accuracy(recalls: Sequence[float | None]) -> float:
    """Return the mean recall in percent of the classes that have images."""
    return statistics.fmean(recall for recall in recalls if recall is not None)


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
def score(network: BackendNetwork, split: Split, num_classes: int) -> Scores:
    """Return the scores on the whole split."""
    loss: Any = 0.0  # tensors on a GPU: read once at the end, not batch by batch
    correct: Any = 0
    sums = torch.zeros(num_classes, 3, dtype=torch.float64, device=split.labels.device)  # loss, correct and number
    for logits, labels in _logits(network, split):
        losses, right = F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        correct = correct + right.sum()
        sums += class_sums(losses, right, labels, num_classes)
    return scores_of(float(loss) / len(split), int(correct), sums.cpu().tolist())


def class_sums(losses: Tensor, right: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return loss, correct predictions and number of each class's images: (..., N) each -> (..., num_classes, 3)."""
    members = F.one_hot(labels, num_classes).double()  # a product has the same bits every time, unlike a scatter
    return members.mT @ torch.stack([losses.double(), right.double(), torch.ones_like(losses).double()], dim=-1)


def scores_of(loss: float, correct: int, by_class: Sequence[Sequence[float]]) -> Scores:
    """Return the scores of a mean loss, a number of correct predictions and the sums of `class_sums`."""
    means = [total / count for total, _, count in by_class if count]
    return Scores(
        loss=loss, correct=correct, balanced_loss=sum(means) / max(1, len(means)),
        recalls=tuple(100 * hits / count if count else None for _, hits, count in by_class),
    )  # fmt: skip


@torch.no_grad()
def recalibrate_bn(network: BackendNetwork, split: Split, count: int) -> None:
    """Recompute the norms' running statistics on `count` evenly spaced images of the split, without augmentation.

    Precise BN (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021): the mean of the batches' statistics.
    """
    index = recalibration_index(split, count)
    for number, (start, end) in enumerate(batch_bounds(len(index), RECALIBRATION_BATCH)):
        network.update_bn_stats(network.batch(split, index[start:end], None), 1 / (number + 1))


def recalibration_index(split: Split, count: int) -> Tensor:
    """Return the places of `count` evenly spaced images of the split."""
    return torch.arange(0, len(split), max(1, len(split) // count), device=split.labels.device)[:count]


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
