"""A population: networks that train as one, each as it would alone.

Networks of one plan are one network of grouped convolutions, and the optimizer of all is one; see `population_network`
and `population_soap`. New networks join, and others leave, between epochs; those that stay are packed anew.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nas.errors import NasError
from nas.train.backends import OutOfMemory, cpu_math_mode, memory_errors
from nas.train.distill import check_logits
from nas.train.population_data import Stream
from nas.train.population_step import Member, Pack
from nas.train.recipe import AUGMENTATION
from nas.train.results import Epoch, Run

BACKEND = "population"
"""The backend of such a run, in its record."""

OnStep = Callable[[Sequence[Member], int], None]
"""Called with the members that take a step together, and its number in the epoch."""


class Population:
    """Members that are trained as one, an epoch at a time.

    Where they do not fit in memory together they are trained in two halves, and so on; `on_backoff` is told the number
    that is trained at once from then on.
    """

    def __init__(self, device: str = "cpu", *, on_backoff: Callable[[int], None] | None = None) -> None:
        self.members: list[Member] = []
        self.at_once: int | None = None
        self._device, self._on_backoff = device, on_backoff or _print_backoff
        self._packs: list[Pack] = []
        self._began: dict[Member, float] = {}

    def add(self, member: Member) -> None:
        """Let a network join, at its first epoch.

        Raises `UsageError` for a teacher without logits, or logits without one, and `ValueError` for other images.
        """
        architecture, dataset = member.architecture, member.training.dataset
        if (architecture.input_shape, architecture.num_classes) != (dataset.input_shape, dataset.num_classes):
            raise ValueError(f"'{architecture}' does not take the images and classes of {dataset.name}")
        check_logits(member.recipe, member.training, member.teacher_logits)
        for other in self.members:
            if not other.epochs and _same_stream(member, other):
                stream = other.stream
                break
        else:
            stream = Stream(member.training, member.recipe, member.seed, member.teacher_logits, self._device)
        with memory_errors():
            member.begin(stream, self._device)
        self.members.append(member)
        self._began[member] = time.perf_counter()

    def remove(self, member: Member, *, stopped: bool = False) -> Run:
        """Let a network leave; return its run so far."""
        self.members.remove(member)
        return Run(
            epochs=tuple(member.epochs),
            state_dict={name: value.cpu() for name, value in member.state_dict().items()},
            backend=BACKEND,
            seconds=time.perf_counter() - self._began.pop(member),
            stopped=stopped,
        )

    @cpu_math_mode()
    def train_epoch(self, on_step: OnStep | None = None) -> list[tuple[Member, Epoch | NasError]]:
        """Train every member for an epoch, and score it; those that diverge, or never fit in memory, leave."""
        keys: dict[object, list[Member]] = {}
        for member in self.members:
            keys.setdefault(member.key, []).append(member)
        results: dict[Member, Epoch | NasError] = {}
        for members in keys.values():
            while waiting := [member for member in members if member not in results]:
                results |= self._train(waiting, on_step)
        for member, result in results.items():
            if isinstance(result, Epoch):
                member.epochs.append(result)
            else:
                self.members.remove(member)
                del self._began[member]
        return list(results.items())

    def _train(self, members: list[Member], on_step: OnStep | None) -> dict[Member, Epoch | NasError]:
        """Train an epoch of as many of the members as fit in memory at once."""
        these = members[: self.at_once]
        try:
            return self._train_packed(these, on_step)
        except OutOfMemory as error:
            if len(these) == 1:
                return {these[0]: error}
            self.at_once = (len(these) + 1) // 2
        self._free()  # not while the error is handled, as its frames hold tensors
        self._on_backoff(self.at_once)
        return {}

    @memory_errors()
    def _train_packed(self, members: Sequence[Member], on_step: OnStep | None) -> dict[Member, Epoch | NasError]:
        pack = self._pack(members)
        results = pack.train_epoch(None if on_step is None else lambda number: on_step(pack.members, number))
        return dict(zip(pack.members, results, strict=True))

    def _pack(self, members: Sequence[Member]) -> Pack:
        """Return the members packed; as they were, where they are the same. Others are let go of first."""
        for pack in self._packs:
            if set(pack.members) == set(members):
                return pack
        self._packs = [
            pack for pack in self._packs
            if self.at_once is None and set(pack.members) <= set(self.members) and not set(pack.members) & set(members)
        ]  # fmt: skip
        self._packs.append(Pack(members, self._device))
        return self._packs[-1]

    def _free(self) -> None:
        self._packs = []
        gc.collect()
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()


def _same_stream(one: Member, other: Member) -> bool:
    """Tell whether two networks that begin together see the same images in the same order, moved alike."""
    names = (*AUGMENTATION, "class_weights")
    drawn = [(member.seed, *(getattr(member.recipe, name) for name in names)) for member in (one, other)]
    return (
        drawn[0] == drawn[1]
        and one.training.train is other.training.train
        and one.teacher_logits is other.teacher_logits
    )


def _print_backoff(count: int) -> None:
    print(f"Out of memory: {count} networks are trained at once from here on", file=sys.stderr, flush=True)


def train_population(
    members: Sequence[Member],
    *,
    device: str = "cpu",
    on_epoch: Callable[[Member, Epoch], bool | None] | None = None,
) -> list[Run | NasError]:
    """Train all members as one, each as `train` would; return the run of each, or why it has none.

    `on_epoch` may return True to stop that member there; the others go on.
    """
    population, ends = Population(device), dict[Member, Run | NasError]()
    for member in members:
        population.add(member)
    while population.members:
        for member, result in population.train_epoch():
            if not isinstance(result, Epoch):
                ends[member] = result
                continue
            stop, last = bool(on_epoch is not None and on_epoch(member, result)), result.number == member.recipe.epochs
            if stop or last:
                ends[member] = population.remove(member, stopped=stop and not last)
    return [ends[member] for member in members]


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Work of a population, and the same with its padding: of the networks for an image, of SOAP for a step."""

    plans: int
    macs: int
    padded_macs: int
    activations: int
    padded_activations: int
    soap_macs: int
    padded_soap_macs: int
    """Products of the moments, and the turns into the bases and back."""


def padding_of(members: Sequence[Member], device: str = "cpu") -> Padding:
    """Return the padding of members that have begun."""
    pack = Pack(members, device)
    architectures = [member.architecture for member in members]
    return Padding(
        plans=len(pack.networks),
        macs=sum(architecture.macs for architecture in architectures),
        padded_macs=sum(network.padded_macs for network in pack.networks),
        activations=sum(architecture.activations for architecture in architectures),
        padded_activations=sum(network.padded_activations for network in pack.networks),
        soap_macs=sum(bucket.macs(entry.places.shape) for bucket in pack.soap.buckets for entry in bucket.entries),
        padded_soap_macs=sum(bucket.macs(bucket.shape[1:]) * len(bucket.entries) for bucket in pack.soap.buckets),
    )
