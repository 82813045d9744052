"""An epoch of networks that are packed as one: their steps, the average of their weights, and their scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nas.architecture import Architecture
from nas.data import Split, TrainingData
from nas.model import build
from nas.train.evaluate import RECALIBRATION_BATCH, batch_bounds, class_sums, recalibration_index, scores_of
from nas.train.graph import Graph
from nas.train.loop import Diverged, diverged
from nas.train.optim import ema_decay, flatten, learning_rate, peak_lr
from nas.train.population_data import Feed, Source, Stream, TrainingFeed
from nas.train.population_network import FusedNetwork, plan_of, weight_shapes
from nas.train.population_soap import CORRECTION, EMA, RATE, SHRINK, PopulationSoap, SoapPart, SoapState
from nas.train.recipe import Recipe
from nas.train.results import Epoch
from nas.train.soap import BETA, PRECONDITION_FREQUENCY

EVALUATION_BATCH = 128
"""Images at a time of an evaluation, for each of many networks."""

BRANCHES = 4
"""Streams of a CUDA device on which the networks of different plans run side by side, within one graph."""


@dataclass(kw_only=True, eq=False)
class Member:
    """A network of a population: what it trains on and is scored on, as for `train`, and how far it is."""

    architecture: Architecture
    training: TrainingData
    evaluation: Split
    recipe: Recipe
    seed: int = 0
    teacher_logits: Tensor | None = None
    epochs: list[Epoch] = field(default_factory=list, init=False)
    parameters: Tensor = field(init=False)
    average: Tensor = field(init=False)
    statistics: Tensor = field(init=False)
    soap: SoapState = field(init=False)
    stream: Stream = field(init=False)

    def begin(self, stream: Stream, device: str) -> None:
        """Draw the weights, and take the images from this stream."""
        flat, _, num_params = flatten(build(self.architecture, seed=self.seed).to(device))
        self.parameters, self.statistics = flat[:num_params], flat[num_params:]
        self.average, self.stream = self.parameters.clone(), stream
        self.soap = SoapState(torch.zeros_like(self.parameters), torch.zeros_like(self.parameters))

    @property
    def batches(self) -> list[tuple[int, int]]:
        """Bounds of the batches of an epoch."""
        return batch_bounds(len(self.training.train), self.recipe.batch_size)

    @property
    def key(self) -> tuple[Any, ...]:
        """All that members have in common that step together."""
        recipe = self.recipe
        counts = len(self.training.train), recipe.batch_size, recipe.bn_recalibration_images, len(self.evaluation)
        changes = recipe.augments, recipe.jitter > 0, recipe.cutout > 0
        return *counts, *changes, self.teacher_logits is not None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights, with the statistics of the last epoch's recalibration."""
        model = build(self.architecture, seed=0)
        flat, *_ = flatten(model)
        flat.copy_(torch.cat([self.average, self.statistics]))
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        index = recalibration_index(self.training.train, self.recipe.bn_recalibration_images)
        batches = len(batch_bounds(len(index), RECALIBRATION_BATCH)) * len(self.epochs)
        counts = {name: value + batches for name, value in state.items() if name.endswith("num_batches_tracked")}
        return state | counts


@dataclass(eq=False)
class _Part:
    """The networks of one plan: where they are among the members, and their tensors."""

    network: FusedNetwork
    moving: Any
    averaged: Any
    statistics: Any
    scratch: Any
    numbers: range


class Pack:
    """Members of one `key` that step together. An epoch is a graph for each step on a CUDA device, and no wait."""

    def __init__(self, members: Sequence[Member], device: str) -> None:
        plans: dict[Any, list[Member]] = {}
        for member in members:
            plans.setdefault(plan_of(member.architecture), []).append(member)
        self.members = [member for same in plans.values() for member in same]
        self._device, first = device, self.members[0]
        networks: list[FusedNetwork] = []
        end = statistics_end = 0
        for same in plans.values():
            networks.append(FusedNetwork([member.architecture for member in same], end, statistics_end))
            end, statistics_end = networks[-1].end, networks[-1].statistics_end
        numbers = _ranges([network.count for network in networks])
        places = [
            network.places(number - these[0], self.members[number].architecture)
            for network, these in zip(networks, numbers, strict=True) for number in these
        ]  # fmt: skip
        self.networks = networks
        self._places = [parameters.to(device) for parameters, _ in places]
        self._statistic_places = [statistics.to(device) for _, statistics in places]
        like = first.parameters
        self._flat, self._average, self._gradient = (like.new_zeros(end + 1) for _ in range(3))
        self._statistics, self._scratch = like.new_zeros(statistics_end), like.new_zeros(statistics_end)
        everything = torch.cat(self._places)
        self._flat[everything] = torch.cat([member.parameters for member in self.members])
        self._average[everything] = torch.cat([member.average for member in self.members])
        owner = torch.full((end + 1,), len(self.members))
        for number, (mine, _) in enumerate(places):
            owner[mine] = number
        self._owner = owner.to(device)
        self.soap = PopulationSoap(
            self._flat, self._gradient,
            [
                SoapPart(
                    places=mine, shapes=weight_shapes(member.architecture), state=member.soap,
                    phase=len(member.epochs) * len(member.batches) % PRECONDITION_FREQUENCY,
                ) for member, (mine, _) in zip(self.members, places, strict=True)
            ],
        )  # fmt: skip
        self._parts = [
            _Part(
                network, network.bind(self._flat, self._gradient), network.bind(self._average),
                network.bind_statistics(self._statistics), network.bind_statistics(self._scratch), these,
            ) for network, these in zip(networks, numbers, strict=True)
        ]  # fmt: skip
        self._set_up_feeds(first)
        self._set_up_loss()
        self._branches = [torch.cuda.Stream(device) for _ in range(BRANCHES)] if self._parallel else []  # type: ignore[no-untyped-call]
        self._totals, self._scores = like.new_zeros(2, len(self.members)), like.new_zeros(2, len(self.members))
        classes = first.architecture.num_classes
        self._by_class = torch.zeros(len(self.members), classes, 3, dtype=torch.float64, device=device)
        self._graphs: dict[tuple[str, int], Graph] = {}
        self._steps = 0  # since it was packed, when the phases were counted

    @property
    def _parallel(self) -> bool:
        return torch.device(self._device).type == "cuda" and len(self._parts) > 1

    def _set_up_feeds(self, first: Member) -> None:
        recipe, device = first.recipe, self._device
        streams = _unique([member.stream for member in self.members], lambda stream: id(stream.training.train))
        self._train = TrainingFeed(streams, recipe.batch_size, device)
        self._stream_of = torch.tensor([streams.index(member.stream) for member in self.members], device=device)
        clean: list[Source] = [(member.training.train, member.training.normalization) for member in self.members]
        scored: list[Source] = [(member.evaluation, member.training.normalization) for member in self.members]
        self._clean, self._clean_of = _feed(clean, RECALIBRATION_BATCH, device)
        self._scored, self._scored_of = _feed(scored, EVALUATION_BATCH, device)

    def _set_up_loss(self) -> None:
        recipes, like = [member.recipe for member in self.members], self._flat
        self._smoothing = like.new_tensor([recipe.label_smoothing for recipe in recipes])
        self._smooths = any(recipe.label_smoothing for recipe in recipes)
        self._weight = like.new_tensor([recipe.distill_weight for recipe in recipes])
        self._temperature = like.new_tensor([recipe.temperature for recipe in recipes])[:, None, None]

    def train_epoch(self, on_step: Callable[[int], None] | None = None) -> list[Epoch | Diverged]:
        """Train an epoch, score it, store where each member is; return its epochs. `on_step` gets a step's number."""
        began = time.perf_counter()
        batches = self.members[0].batches
        owners: dict[Stream, int] = {member.stream: len(member.epochs) for member in self.members}
        self._train.start_epoch([owners[stream] for stream in self._train.streams])
        table = self._schedule(len(batches)).to(self._device)
        self._totals.zero_()
        for number, (start, end) in enumerate(batches, start=1):
            self._train.bring(self._train.orders[:, start:end])
            self.soap.numbers.copy_(table[number - 1])
            self._run("step", end - start, self._step)
            self._steps += 1
            for phase in self.soap.phases:
                if (phase + self._steps) % PRECONDITION_FREQUENCY == 0:
                    self._run("bases", phase, self.soap.update_bases)
            if on_step is not None:
                on_step(number)
        with torch.no_grad():
            self._recalibrate()
            self._score()
        results = self._results(sum(end - start for start, end in batches), began)
        self._store()
        return results

    def _run(self, name: str, size: int, function: Callable[..., Any], *numbers: float) -> None:
        """Call a function for a batch of this size, as a graph of its own."""
        if (name, size) not in self._graphs:
            self._graphs[name, size] = Graph(self._device)
        self._graphs[name, size](partial(function, size), *numbers)

    def _schedule(self, count: int) -> Tensor:
        """Return each step's numbers (steps, 4, M + 1) for the optimizer and the average."""
        table = self._flat.new_zeros(count, 4, len(self.members) + 1, device="cpu")
        table[:, [CORRECTION, SHRINK], -1] = 1
        curves: dict[tuple[Recipe, int], tuple[Tensor, ...]] = {}
        for number, member in enumerate(self.members):
            recipe, done = member.recipe, len(member.epochs) * count
            if (recipe, done) not in curves:
                curves[recipe, done] = _curves(recipe, range(done + 1, done + count + 1), recipe.epochs * count)
            rate, correction, share = curves[recipe, done]
            rate = rate * peak_lr(recipe, member.architecture.num_params)
            table[:, CORRECTION, number], table[:, RATE, number] = correction, rate / correction
            table[:, SHRINK, number], table[:, EMA, number] = 1 - rate * recipe.weight_decay, share
        return table

    def _step(self, count: int) -> None:
        """Move all weights by one batch, and their averages."""
        self._gradient.zero_()
        images, labels = self._train.augmented(count), self._train.labels(count)[self._stream_of]
        logits = self._logits(images, self._stream_of, lambda part: (part.moving, None), training=True)
        loss, objective = self._loss(logits, labels, self._train.teacher_logits(count))
        objective.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.soap.update()
            self._average.lerp_(self._flat, self.soap.numbers[EMA].index_select(0, self._owner))
            self._totals[0].add_(loss * count)
            self._totals[1].add_((logits.argmax(2) == labels).sum(1))

    def _loss(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return each member's mean cross-entropy (M,), and what is minimised, but for the teacher's own entropy."""
        log_probabilities = logits.log_softmax(2)
        loss = -log_probabilities.gather(2, labels[:, :, None]).mean((1, 2))
        if self._smooths:
            loss = (1 - self._smoothing) * loss - self._smoothing * log_probabilities.mean((1, 2))
        if teacher is None:
            return loss.detach(), loss
        targets = (teacher[self._stream_of] / self._temperature).softmax(2)
        divergence = -(targets * (logits / self._temperature).log_softmax(2)).sum(2).mean(1)
        objective = (1 - self._weight) * loss + self._weight * divergence * self._temperature.flatten() ** 2
        return loss.detach(), objective

    def _recalibrate(self) -> None:
        """Recompute the averages' running statistics, as `recalibrate_bn` does."""
        first = self.members[0]
        index = recalibration_index(first.training.train, first.recipe.bn_recalibration_images)
        for number, (start, end) in enumerate(batch_bounds(len(index), RECALIBRATION_BATCH)):
            self._clean.bring(index[start:end])
            self._run("statistics", end - start, self._move_statistics, 1 / (number + 1))

    def _move_statistics(self, count: int, momentum: float | Tensor) -> None:
        images = self._clean.images(count)
        self._logits(images, self._clean_of, lambda part: (part.averaged, part.scratch), training=True)
        self._statistics.lerp_(self._scratch, momentum)

    def _score(self) -> None:
        """Sum up the averages' losses and correct predictions."""
        self._scores.zero_()
        self._by_class.zero_()
        for start, end in batch_bounds(len(self.members[0].evaluation), EVALUATION_BATCH, least=1):
            self._scored.bring(torch.arange(start, end, device=self._device))
            self._run("score", end - start, self._add_scores)

    def _add_scores(self, count: int) -> None:
        images, labels = self._scored.images(count), self._scored.labels(count)[self._scored_of]
        logits = self._logits(images, self._scored_of, lambda part: (part.averaged, part.statistics), training=False)
        losses, right = -logits.log_softmax(2).gather(2, labels[:, :, None])[:, :, 0], logits.argmax(2) == labels
        self._scores[0].add_(losses.sum(1))
        self._scores[1].add_(right.sum(1))
        self._by_class.add_(class_sums(losses, right, labels, logits.shape[2]))

    def _logits(
        self, images: Tensor, source_of: Tensor, tensors: Callable[[_Part], tuple[Any, Any]], *, training: bool
    ) -> Tensor:
        """Return all members' logits (M, N, num_classes) of images (S, N, C, H, W), each network's from its source."""
        logits = []
        for number, part in enumerate(self._parts):
            with self._branch(number):
                # One source needs no copies of its images.
                mine = images[0] if len(images) == 1 else images[source_of[part.numbers[0] : part.numbers[-1] + 1]]
                logits.append(part.network(mine, *tensors(part), training=training))
        for branch in self._branches[: len(self._parts)]:
            torch.cuda.current_stream(self._device).wait_stream(branch)
        return torch.cat(logits)

    @contextmanager
    def _branch(self, number: int) -> Iterator[None]:
        """Run a plan's networks on a stream that forks from this one, if there are any."""
        if not self._branches:
            yield
            return
        branch = self._branches[number % len(self._branches)]
        branch.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(branch):
            yield

    def _results(self, seen: int, began: float) -> list[Epoch | Diverged]:
        """Return the epoch of each member; the device is waited for here."""
        (total, hits), (losses, correct) = self._totals.tolist(), self._scores.tolist()
        by_class = self._by_class.tolist()
        seconds, results = time.perf_counter() - began, list[Epoch | Diverged]()
        for number, member in enumerate(self.members):
            epoch, count = len(member.epochs) + 1, len(member.evaluation)
            if not math.isfinite(total[number]):
                results.append(diverged(total[number], epoch, member.recipe))
                continue
            results.append(
                Epoch(
                    number=epoch, train_loss=total[number] / seen, train_accuracy=100 * hits[number] / seen,
                    count=count, seconds=seconds,
                    **vars(scores_of(losses[number] / count, int(correct[number]), by_class[number])),
                )
            )  # fmt: skip
        return results

    def _store(self) -> None:
        """Write where each member is, without padding: it may go on in another pack, or leave."""
        states = self.soap.states()
        for number, member in enumerate(self.members):
            member.parameters = self._flat[self._places[number]]
            member.average = self._average[self._places[number]]
            member.statistics = self._statistics[self._statistic_places[number]]
            member.soap = states[number]


def _curves(recipe: Recipe, steps: range, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rate for a peak of 1, the averages' bias, and the share of the weights in their average, by step."""
    rates = [learning_rate(recipe, step / total, peak=1.0) for step in steps]
    corrections = [1 - BETA**step for step in steps]
    shares = [1 - ema_decay(recipe, step, total) for step in steps]
    rate, correction, share = (torch.tensor(each, dtype=torch.float64) for each in (rates, corrections, shares))
    return rate, correction, share


def _feed(sources: Sequence[Source], size: int, device: str) -> tuple[Feed, Tensor]:
    """Return a feed of the different sources, and which of them is each member's."""
    splits = _unique([split for split, _ in sources], id)
    chosen = [next(source for source in sources if source[0] is split) for split in splits]
    return Feed(chosen, size, device), torch.tensor([splits.index(split) for split, _ in sources], device=device)


def _unique(values: Sequence[Any], group: Callable[[Any], int]) -> list[Any]:
    """Return the different ones, those of a group in a row."""
    groups = list(dict.fromkeys(map(group, values)))
    return sorted(dict.fromkeys(values), key=lambda value: groups.index(group(value)))


def _ranges(counts: Sequence[int]) -> list[range]:
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
