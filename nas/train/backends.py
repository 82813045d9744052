"""Devices and backends: the choice of device and backend, and what a training asks of each backend."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architecture import Architecture
from nas.data import Draws, Normalization, Split, apply_draws
from nas.errors import NasError, UsageError
from nas.kernels import Network, compile_all, erase_, gather, recolour_, unsuited
from nas.kernels import augment as augment_on_cpu
from nas.train.recipe import Recipe

Backend = Literal["auto", "kernels", "torch", "population"]
"""`population` is plain torch, and all trainings of a pool as one (`nas.workers.PopulationPool`)."""

DEVICES = r"cpu|mps|(cuda|xpu)(:\d+)?"
"""Devices that torch trains on; on others (`meta`, say) it can make tensors and no more."""

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "Storage size calculation overflowed",
)
"""Phrases of torch's `RuntimeError` about memory: Linux, Windows, accelerators, cuBLAS, and past 2**63 bytes."""


class OutOfMemory(NasError):
    """A network's tensors do not fit in memory."""


class BackendNetwork(Protocol):
    """A network on a backend. Images are in that backend's layout, which `batch` gives them."""

    def batch(self, split: Split, index: Tensor, draws: Draws | None) -> Tensor:
        """Return the images at `index` (N,) normalised, after their random changes if there are any."""

    def step(
        self, images: Tensor, labels: Tensor, recipe: Recipe, soft_targets: Tensor | None
    ) -> tuple[Any, Any]:  # fmt: skip
        """Fill the gradients; return the mean cross-entropy and the number of correct predictions."""

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, num_classes) by the running statistics."""

    def update_bn_stats(self, images: Tensor, momentum: float) -> None:
        """Move the running statistics towards those of the images by `momentum`."""


def choose_backend(device: str, backend: Backend) -> tuple[str, str | None]:
    """Return the backend that will run, "kernels" or "torch", and why `auto` does not take the kernels (else None).

    Raises `UsageError` when the kernels are named where they cannot run.
    """
    if backend in ("torch", "population"):
        return "torch", None
    reason = f"the kernels run on a CPU, not on {device}" if torch.device(device).type != "cpu" else unsuited()
    if reason is None:
        return "kernels", None
    if backend == "kernels":
        raise UsageError(f"--backend kernels: {reason}; leave --backend away")
    return "torch", reason


def require_dropout(recipe: Recipe, backend: Backend) -> None:
    """Raise `UsageError` for a recipe with dropout on anything but plain torch."""
    if recipe.dropout and backend != "torch":
        raise UsageError(f"--backend {backend} knows no dropout: give --backend torch, or leave --dropout away")


def require_device_name(device: str) -> None:
    """Raise `UsageError` for a device that torch cannot train on, wherever that is."""
    if device != "auto" and not re.fullmatch(DEVICES, device):
        raise UsageError(f"--device {device} is none to train on: use auto, cpu, cuda, cuda:1 and so on, mps or xpu")


def choose_device(device: str) -> str:
    """Return cuda for `auto` where there is one, else cpu; another device as it is.

    Raises `UsageError` for a device that is not there or that torch cannot train on.
    """
    if device == "auto":
        # Other accelerators only on request: where a step is not replayed as a graph, launching its kernels takes
        # longer than one core takes for the step (8 s per epoch on an H200, and 3 to 6 s on a core).
        return "cuda" if torch.cuda.is_available() else "cpu"
    require_device_name(device)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"--device {device} is not to be had here ({first}): use auto, cpu or cuda") from error
    return device


@contextlib.contextmanager
def cpu_math_mode() -> Iterator[None]:
    """Flush denormals in the calling thread, and leave it and the number of torch's threads as they were.

    Denormals are slow on a CPU, and vanishing gradients are full of them. Torch's random state is nothing to restore:
    nothing in this package draws from it, and putting back an old one would disturb other threads that draw meanwhile.
    """
    threads, flushed = torch.get_num_threads(), _flushes_denormals()
    _start_threads()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(threads)


def _flushes_denormals() -> bool:
    """Return True where the calling thread flushes denormals, for which torch has no getter."""
    return torch.tensor(1e-40, dtype=torch.float32, device="cpu").mul(1.0).item() == 0.0


def _start_threads() -> None:
    """Start torch's other threads, if they are not there yet, while the calling thread computes as its caller does.

    OpenMP's threads take over the mode of the thread that starts them, for good: started later, they would flush
    denormals ever after, and a run's bits would depend on what was computed before it.
    """
    if torch.get_num_threads() > 1:
        torch.ones(1 << 16, dtype=torch.float32, device="cpu").add_(1.0)  # too large for one thread alone


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raise `OutOfMemory`, in one line, for what torch raises where memory does not suffice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error)
        if not isinstance(error, MemoryError) and not any(words in text for words in _OUT_OF_MEMORY):
            raise
        if wanted := re.search(r"tried to allocate (\d+) bytes", text):
            text = f"a tensor of {int(wanted[1]) / 1e9:,.1f} GB does not fit"
        raise OutOfMemory(f"out of memory: {text.splitlines()[0] if text else 'a tensor does not fit'}") from error


def backend_network(
    architecture: Architecture, model: nn.Module, normalization: Normalization, device: str, backend: Backend
) -> tuple[str, BackendNetwork]:
    """Return the name of the backend, with the reason for a fallback, and the network on it."""
    name, reason = choose_backend(device, backend)
    if name == "kernels":
        compile_all()  # loaded already, except for a caller's first training
        return name, KernelsNetwork(architecture, model, normalization)
    return name if reason is None else f"{name} ({reason})", TorchNetwork(model, normalization)


def normalized_batch(split: Split, index: Tensor, draws: Draws | None, normalization: Normalization) -> Tensor:
    """Return the images at `index` (N,) normalised, after their random changes if there are any."""
    images = split.images[index]
    return normalization.apply(images) if draws is None else apply_draws(images, draws, normalization)


class TorchNetwork:
    """Plain torch, on any device: images (N, C, H, W)."""

    def __init__(self, model: nn.Module, normalization: Normalization) -> None:
        self.model, self.normalization = model, normalization

    def batch(self, split: Split, index: Tensor, draws: Draws | None) -> Tensor:
        return normalized_batch(split, index, draws, self.normalization)

    def step(
        self, images: Tensor, labels: Tensor, recipe: Recipe, soft_targets: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        self.model.zero_grad(set_to_none=False)  # the gradients lie where the optimizer looks
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        objective = loss
        if soft_targets is not None:
            log_probabilities = (logits / recipe.temperature).log_softmax(1)
            divergence = F.kl_div(log_probabilities, soft_targets, reduction="batchmean") * recipe.temperature**2
            objective = (1 - recipe.distill_weight) * loss + recipe.distill_weight * divergence
        objective.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def update_bn_stats(self, images: Tensor, momentum: float) -> None:
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = momentum
        self.model.train()
        self.model(images)
        self.model.eval()
        for norm, before in zip(norms, usual, strict=True):
            norm.momentum = before


class KernelsNetwork:
    """The CPU kernels: images (C, H, W, N)."""

    def __init__(self, architecture: Architecture, model: nn.Module, normalization: Normalization) -> None:
        self.network, self.normalization = Network(architecture, model), normalization

    def batch(self, split: Split, index: Tensor, draws: Draws | None) -> Tensor:
        mean, std = self.normalization.mean, self.normalization.std
        if draws is None:
            return gather(split.images, index, mean, std)
        images = augment_on_cpu(split.images, index, draws.maps, mean, std)
        if draws.colours is not None:
            recolour_(images, draws.colours)
        if draws.holes is not None:
            erase_(images, draws.holes)
        return images

    def step(
        self, images: Tensor, labels: Tensor, recipe: Recipe, soft_targets: Tensor | None
    ) -> tuple[float, int]:  # fmt: skip
        return self.network.step(
            images, labels, label_smoothing=recipe.label_smoothing, soft_targets=soft_targets,
            distill_weight=recipe.distill_weight, temperature=recipe.temperature,
        )  # fmt: skip

    def logits(self, images: Tensor) -> Tensor:
        return self.network.logits(images)

    def update_bn_stats(self, images: Tensor, momentum: float) -> None:
        self.network.update_bn_stats(images, momentum)
