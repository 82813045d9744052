"""The results of a training: its epochs, and the run that they make up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nas.train.evaluate import balanced_accuracy

Metric = Literal["accuracy", "balanced-accuracy"]
"""The score by which networks are compared; the balanced one is the mean of the classes' recalls."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Scores of one epoch: `loss` and `correct`, of `count` evaluation images, are those of the averaged weights."""

    number: int
    train_loss: float  # mean over the augmented batches, by the weights as they moved
    train_accuracy: float  # percent, likewise
    loss: float
    correct: int
    count: int
    seconds: float
    balanced_loss: float | None = None  # mean over the classes of their mean loss
    recalls: tuple[float | None, ...] = ()  # percent of each class's images; None where it has none

    @property
    def accuracy(self) -> float:
        """Percent of the evaluation images."""
        return 100 * self.correct / self.count

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes, percent."""
        return balanced_accuracy(self.recalls)

    def by(self, metric: Metric) -> tuple[float, float]:
        """Return the accuracy in percent and the loss that belong to a metric."""
        if metric == "accuracy":
            return self.accuracy, self.loss
        assert self.balanced_loss is not None
        return self.balanced_accuracy, self.balanced_loss


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training: its epochs, the averaged weights, and the backend it ran on."""

    epochs: tuple[Epoch, ...]
    state_dict: dict[str, Tensor]
    backend: str
    seconds: float
    stopped: bool = False

    def last(self, epochs: int, metric: Metric = "accuracy") -> float:
        """Mean accuracy in percent over the last `epochs` epochs."""
        tail = self.epochs[-epochs:]
        return sum(epoch.by(metric)[0] for epoch in tail) / len(tail)
