"""The images of a population: networks that began together with one seed share order, random changes and targets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from nas.data import Draws, Normalization, Split, TrainingData
from nas.train.backends import normalized_batch
from nas.train.distill import shared_draws
from nas.train.recipe import Recipe, draw_order, random_draws

T = TypeVar("T", Tensor, Draws)

Source = tuple[Split, Normalization]
"""Images, and what they are normalised with."""


class Stream:
    """The order, random changes and teacher logits of each epoch, drawn as a training of its own draws them."""

    def __init__(
        self, training: TrainingData, recipe: Recipe, seed: int, teacher_logits: Tensor | None, device: str
    ) -> None:
        self.training, self.recipe, self.teacher_logits = training, recipe, teacher_logits
        self._generator = torch.Generator(device).manual_seed(seed)
        self._epoch = -1

    def draw(self, epoch: int) -> None:
        """Have `order` (N,), `draws` of N images and `logits` (N, num_classes) of an epoch, counted from 0, in turn."""
        if epoch == self._epoch:  # once more, for fewer networks
            return
        assert epoch == self._epoch + 1
        self._epoch, split, device = epoch, self.training.train, self._generator.device
        self.order = draw_order(split, self.recipe, self._generator)
        self.draws: Draws | None = None
        self.logits: Tensor | None = None
        if self.recipe.augments:
            shared, size = self.teacher_logits is not None, self.training.dataset.input_shape[1:]
            self.draws = (
                shared_draws(self.recipe, self.training, epoch) if shared
                else random_draws(self.recipe, len(split), size, self._generator)
            )  # fmt: skip
        if self.teacher_logits is not None:
            self.logits = self.teacher_logits[epoch].to(device)


class Feed:
    """Batches of images of several sources at once, from places that lie in a tensor made once, as a graph needs it."""

    def __init__(self, sources: Sequence[Source], size: int, device: str) -> None:
        self._index = torch.zeros(len(sources), size, dtype=torch.long, device=device)
        self._runs: list[tuple[Source, slice]] = []
        start = 0
        for _, same in groupby(sources, key=lambda source: id(source[0])):
            run = list(same)
            self._runs.append((run[0], slice(start, start + len(run))))
            start += len(run)

    def bring(self, index: Tensor) -> None:
        """Take the places (S, N), or (N,) for all sources, of the next batch."""
        self._index[:, : index.shape[-1]].copy_(index)

    def index(self, count: int) -> Tensor:
        """Return the places (S, count)."""
        return self._index[:, :count]

    def images(self, count: int, draws: Draws | None = None) -> Tensor:
        """Return the images (S, count, C, H, W) normalised, after the random changes of (S, count) if there are any."""
        parts = []
        for (split, normalization), run in self._runs:
            mine = None if draws is None else draws[run].each(lambda part: part.flatten(0, 1))
            images = normalized_batch(split, self._index[run, :count].flatten(), mine, normalization)
            parts.append(images.view(-1, count, *images.shape[1:]))
        return torch.cat(parts)

    def labels(self, count: int) -> Tensor:
        """Return the labels (S, count)."""
        return torch.cat([split.labels[self._index[run, :count]] for (split, _), run in self._runs])


class TrainingFeed(Feed):
    """The batches of several streams, with their random changes and teacher logits."""

    def __init__(self, streams: Sequence[Stream], batch_size: int, device: str) -> None:
        super().__init__([(each.training.train, each.training.normalization) for each in streams], batch_size, device)
        self.streams = streams
        self._rows = torch.arange(len(streams), device=device)[:, None]
        self._draws: Draws | None = None
        self._logits: Tensor | None = None

    def start_epoch(self, epochs: Sequence[int]) -> None:
        """Draw an epoch of each stream."""
        for stream, epoch in zip(self.streams, epochs, strict=True):
            stream.draw(epoch)
        self.orders = torch.stack([stream.order for stream in self.streams])
        if draws := [stream.draws for stream in self.streams if stream.draws is not None]:
            self._draws = _refill(self._draws, Draws.stack(draws))
        if logits := [stream.logits for stream in self.streams if stream.logits is not None]:
            self._logits = _refill(self._logits, torch.stack(logits))

    def augmented(self, count: int) -> Tensor:
        """Return the images (S, count, C, H, W) as they are trained on."""
        index = self.index(count)
        return self.images(count, None if self._draws is None else self._draws[self._rows, index])

    def teacher_logits(self, count: int) -> Tensor | None:
        """Return the teachers' logits (S, count, num_classes)."""
        return None if self._logits is None else self._logits[self._rows, self.index(count)].float()


def _refill(whole: T | None, new: T) -> T:
    """Put what is new where a graph reads it."""
    if whole is None:
        return new
    whole.copy_(new)
    return whole
