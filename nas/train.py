"""One recipe and one training loop, for a brief candidate and for a full run alike; it knows nothing of the search."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas import data, kernels
from nas.architecture import Architecture
from nas.data import Split, TrainingData
from nas.errors import NasError, UsageError
from nas.graph import Graph
from nas.model import build
from nas.soap import Soap

Backend = Literal["auto", "kernels", "torch"]
Optimizer = Literal["soap", "adamw"]


TEACHER = "12v 20v M 40v 40v M 64 64 G C"
"""A teacher of 84,892 parameters for students of a tenth of that: 99.62 % on MNIST's validation split, where those
have 99.4 to 99.5. It was worth 0.08, 0.07 and 0.04 points to the separable network of 4,490, and 0.08 and 0.08 to the
one of 7,568, each beside the same seed without."""

MAPS = ("degrees", "translate", "scale", "shear")
"""What of a recipe moves the images."""

VIEWS_SEED = 20_000
"""Of the random maps of a lesson, plus the epoch: the same for a teacher and all its students."""

SETTLE_BATCH = 128
"""Images at a time that the norms' statistics are taken of."""

RATE_PARAMS, RATE_LIMIT = 8_000, 3.0
"""What a recipe's peak rate is for, and how many times as high a smaller network's may be."""


class Diverged(NasError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: SOAP on a one-cycle schedule, random affine maps, and an average of the weights.

    Against AdamW at 0.03, SOAP was worth 0.07 points to a separable network of 4,626 parameters (three seeds), 0.06 to
    one of 2,456 and 0.12 to one of 1,240 (two seeds each), and 0.09 to the teacher (one seed); see `nas.soap`.
    `batch_size` and `peak_rate` belong together. Networks of fewer than 8,000 parameters take the rate times (8,000 /
    parameters) to `rate_exponent`: narrow layers learn too slowly otherwise. With AdamW, 0.03 was worth 0.24 points
    over 0.014 at 1,240 parameters (three seeds), 0.12 at 2,500 (two seeds each of two networks), nothing at 4,626.
    `average` is the horizon of the exponential moving average as a share of all steps, so that it scales with short
    runs; 0.07 is a decay of 0.998 over 15 epochs of 60,000 images.
    `translate` is in pixels, `scale` and `shear` are fractions.

    `settle` is of how many training images, as they are, the norms' statistics are before each evaluation: in training
    these are of moved images, and what is evaluated is not moved. With the weights of six networks of 997 to 8,775
    parameters, on 21 validation splits, it was worth 0.02 points (0.05 at 997, nothing from 7,387 on) and 3 % of the
    loss; taken again of moved images, they were worth nothing. With 0 they stay as training leaves them.

    `teacher` is the schedule of a larger network, trained beforehand on the same images with the same recipe, but for
    maps `teacher_stretch` times as strong: its probabilities, at `temperature`, weigh `soft_share` in the loss and the
    labels the rest (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015). The stretch was
    worth 0.06 and 0.10 points to a separable network of 7,027, though the teacher itself scored 0.03 less.
    """

    epochs: int = 15
    optimizer: Optimizer = "soap"
    batch_size: int = 64
    peak_rate: float = 0.02
    rate_exponent: float = 0.5
    warm_up: float = 0.2
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    average: float = 0.07
    settle: int = 5120
    degrees: float = 8.0
    translate: float = 1.4
    scale: float = 0.07
    shear: float = 0.07
    teacher: str | None = None
    teacher_stretch: float = 1.5
    soft_share: float = 0.9
    temperature: float = 2.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 1, 10_000), ("batch_size", 2, 65_536), ("peak_rate", 1e-8, 10), ("rate_exponent", 0, 1),
            ("warm_up", 0.0, 0.9), ("weight_decay", 0, 1), ("label_smoothing", 0, 0.9), ("average", 0, 1),
            ("settle", 0, 10**9),
            ("degrees", 0, 180), ("translate", 0, 1000), ("scale", 0, 0.9), ("shear", 0, 0.9), ("soft_share", 0, 1),
            ("teacher_stretch", 0.1, 10), ("temperature", 0.1, 100),
        ):  # fmt: skip
            value = getattr(self, name)
            kind = int if name in ("epochs", "batch_size", "settle") else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                whole = "a whole number" if kind is int else "a number"
                raise UsageError(f"the recipe's {name} is {whole} between {low} and {high}, not {value!r}")

        if self.optimizer not in (known := get_args(Optimizer)):
            raise UsageError(f"the recipe's optimizer is {' or '.join(known)}, not {self.optimizer!r}")
        if self.settle == 1:
            raise UsageError("the recipe's settle is 0 or at least 2 images, since one has no spread, not 1")
        if self.teacher is not None and not isinstance(self.teacher, str):
            raise UsageError(f"the recipe's teacher is a schedule, not {self.teacher!r}")

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe of a saved dictionary; raises `UsageError` on an unknown key."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(fields) - set(known)):
            raise UsageError(f"unknown key '{unknown[0]}' in a recipe: it has {', '.join(known)}")
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to; `correct` of `count` evaluation images, by the averaged weights."""

    number: int
    train_loss: float  # mean over the augmented batches, by the weights as they moved
    train_accuracy: float  # percent, likewise
    loss: float
    correct: int
    count: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Percent of the evaluation images."""
        return 100 * self.correct / self.count


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training: its epochs, the averaged weights, and what it ran on."""

    epochs: tuple[Epoch, ...]
    state_dict: dict[str, Tensor]
    backend: str
    seconds: float
    stopped: bool = False

    def last(self, epochs: int) -> float:
        """Mean accuracy in percent over the last `epochs` epochs."""
        tail = self.epochs[-epochs:]
        return sum(epoch.accuracy for epoch in tail) / len(tail)


class _Network(Protocol):
    """A network on a backend; images are in that backend's layout."""

    def batch(self, split: Split, index: Tensor, theta: Tensor | None) -> Tensor: ...
    def step(self, images: Tensor, labels: Tensor, recipe: Recipe, soft: Tensor | None) -> tuple[Any, Any]: ...
    def logits(self, images: Tensor) -> Tensor: ...
    def observe(self, images: Tensor, momentum: float) -> None: ...


def train(
    architecture: Architecture,
    training: TrainingData,
    evaluation: Split,
    recipe: Recipe,
    *,
    seed: int = 0,
    lesson: Tensor | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Run:
    """Train `architecture` on `training.train` and score it on `evaluation` after every epoch.

    `lesson` is what `teach` gave for every epoch, (epochs, N, num_classes), where the recipe names a teacher: the
    images then move as they did for that, whatever the seed. `on_epoch` may return True to stop there; `on_step` hears
    of every step and their total. Same seed, device and versions, and on plain torch the same thread count: the same
    bits on a CPU. Raises `Diverged` when the loss is no longer finite.
    """
    began = time.perf_counter()
    torch.set_flush_denormal(True)
    recipe = dataclasses.replace(recipe, peak_rate=peak_rate(recipe, architecture.num_params))
    split, labels = training.train, training.train.labels
    model = build(architecture, seed=seed).to(device).train()
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    moving, gradient, bounds = _flatten(model)
    average, *_ = _flatten(averaged)
    optimizer = _optimizer(model, moving, gradient, bounds, recipe)
    backend_name, network = _network(architecture, model, training, device, backend)
    _, judge = _network(architecture, averaged, training, device, backend)
    assert (recipe.teacher is None) == (lesson is None), "a lesson comes with a recipe that names its teacher"
    generator = torch.Generator(device).manual_seed(seed)
    batches = _batches(len(split), recipe.batch_size)
    steps, step = len(batches) * recipe.epochs, 0
    # What a step reads stays where it is, as a graph of it must find it there.
    chosen = torch.empty(recipe.batch_size, dtype=torch.long, device=device)  # a batch's images
    maps = torch.empty(len(split), 2, 3, device=device) if _moves(recipe) else None  # an epoch's, as its answers
    answers = None if lesson is None else torch.empty_like(lesson[0], device=device)

    def learn(count: int) -> tuple[Any, Any]:
        """Loss and hits of the first `count` chosen images; the gradient lies where the optimizer looks."""
        index = chosen[:count]
        images = network.batch(split, index, None if maps is None else maps[index])
        soft = None if answers is None else _soften(answers[index], recipe)
        return network.step(images, labels[index], recipe, soft)

    graphs = {end - start: Graph(device) for start, end in batches}
    epochs: list[Epoch] = []
    stopped = False
    with _threads(backend_name):
        while len(epochs) < recipe.epochs and not stopped:
            epoch_began = time.perf_counter()
            order = torch.randperm(len(split), generator=generator, device=device)
            if maps is not None:
                views = _maps(recipe, training, generator) if lesson is None else _views(recipe, training, len(epochs))
                maps.copy_(views)
            if answers is not None and lesson is not None:
                answers.copy_(lesson[len(epochs)])
            total, correct, seen = 0.0, 0.0, 0
            for start, end in batches:
                for group in optimizer.param_groups:
                    group["lr"] = rate(recipe, (step + 1) / steps)
                chosen[: end - start].copy_(order[start:end])
                loss, hits = graphs[end - start](partial(learn, end - start))
                optimizer.step()
                step += 1
                average.lerp_(moving, 1 - decay(recipe, step, steps))
                total, correct, seen = total + loss * (end - start), correct + hits, seen + end - start
                if step % 100 == 0 and not math.isfinite(total):
                    break
                if on_step is not None:
                    on_step(step, steps)
            if not math.isfinite(total):
                raise Diverged(
                    f"the loss is {float(total)} in epoch {len(epochs) + 1}: "
                    f"lower peak_rate ({recipe.peak_rate}) or drop this network"
                )
            if recipe.settle:
                settle(judge, split, recipe.settle)
            loss, hits = score(judge, evaluation)
            epochs.append(
                Epoch(
                    number=len(epochs) + 1, train_loss=float(total) / seen, train_accuracy=100 * float(correct) / seen,
                    loss=loss, correct=hits, count=len(evaluation), seconds=time.perf_counter() - epoch_began,
                )
            )  # fmt: skip
            stopped = bool(on_epoch is not None and on_epoch(epochs[-1])) and len(epochs) < recipe.epochs
    return Run(
        epochs=tuple(epochs),
        state_dict={name: value.detach().cpu().clone() for name, value in averaged.state_dict().items()},
        backend=backend_name,
        seconds=time.perf_counter() - began,
        stopped=stopped,
    )


@torch.inference_mode()
def teach(
    recipe: Recipe,
    weights: dict[str, Tensor],
    student: Architecture,
    training: TrainingData,
    epoch: int,
    *,
    device: str = "cpu",
    backend: Backend = "auto",
) -> Tensor:
    """The teacher's logits (N, num_classes) for every training image as its students see it in an epoch, from 0.

    float16, on the CPU. Because the maps are those of `_views`, a teacher answers once for all seeds and students:
    asked batch by batch, it took more than half of the time of a student of 7,000 parameters.
    """
    torch.set_flush_denormal(True)
    network = _judge(teacher_of(recipe, student), weights, training, device, backend)
    split, theta = training.train, _views(recipe, training, epoch) if _moves(recipe) else None
    answers = []
    for start, end in _batches(len(split), 128, least=1):
        index = torch.arange(start, end, device=split.labels.device)
        answers.append(network.logits(network.batch(split, index, None if theta is None else theta[start:end])))
    return torch.cat(answers).half().cpu()


def evaluate(
    architecture: Architecture,
    state_dict: dict[str, Tensor],
    training: TrainingData,
    evaluation: Split,
    *,
    device: str = "cpu",
    backend: Backend = "auto",
) -> tuple[float, int]:
    """Mean cross-entropy and number correct of given weights on `evaluation`."""
    return score(_judge(architecture, state_dict, training, device, backend), evaluation)


@torch.inference_mode()
def hits(
    architecture: Architecture,
    state_dict: dict[str, Tensor],
    training: TrainingData,
    evaluation: Split,
    *,
    device: str = "cpu",
    backend: Backend = "auto",
) -> Tensor:
    """Which images of `evaluation` given weights have right: (N,) bool, on the CPU."""
    judge = _judge(architecture, state_dict, training, device, backend)
    return torch.cat([logits.argmax(1) == labels for logits, labels in _answers(judge, evaluation)]).cpu()


def _judge(
    architecture: Architecture, state_dict: dict[str, Tensor], training: TrainingData, device: str, backend: Backend
) -> _Network:
    """A network of given weights, to be asked and not trained."""
    model = build(architecture)
    model.load_state_dict(state_dict)
    model.to(device).eval().requires_grad_(False)
    return _network(architecture, model, training, device, backend)[1]


def _answers(network: _Network, evaluation: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of the whole split, some images at a time, with running statistics."""
    for start, end in _batches(len(evaluation), 512, least=1):
        index = torch.arange(start, end, device=evaluation.labels.device)
        yield network.logits(network.batch(evaluation, index, None)), evaluation.labels[start:end]


@torch.inference_mode()
def score(network: _Network, evaluation: Split) -> tuple[float, int]:
    """Mean cross-entropy and number correct, with running statistics, over the whole split."""
    loss: Any = 0.0  # tensors on a GPU: read once at the end, not batch by batch
    correct: Any = 0
    for logits, labels in _answers(network, evaluation):
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        correct = correct + (logits.argmax(1) == labels).sum()
    return float(loss) / len(evaluation), int(correct)


@torch.no_grad()
def settle(network: _Network, split: Split, count: int) -> None:
    """Gives the norms the statistics of the first `count` of every n-th image of the split, as they are."""
    index = torch.arange(0, len(split), max(1, len(split) // count), device=split.labels.device)[:count]
    for number, (start, end) in enumerate(_batches(len(index), SETTLE_BATCH)):
        network.observe(network.batch(split, index[start:end], None), 1 / (number + 1))


def peak_rate(recipe: Recipe, num_params: int) -> float:
    """The peak rate of a network: the recipe's, or up to `RATE_LIMIT` times that where it has few parameters."""
    return recipe.peak_rate * min(RATE_LIMIT, max(1.0, math.pow(RATE_PARAMS / num_params, recipe.rate_exponent)))


def rate(recipe: Recipe, progress: float) -> float:
    """The one-cycle rate at `progress` in (0, 1]: a cosine up from a 25th of the peak, then down to nearly zero.

    Leslie Smith's schedule with torch's default shape (OneCycleLR: div_factor 25, cosine annealing).
    """
    low, high = recipe.peak_rate / 25, recipe.peak_rate
    if progress < recipe.warm_up:
        return low + (high - low) * (1 - math.cos(math.pi * progress / recipe.warm_up)) / 2
    return high * (1 + math.cos(math.pi * (progress - recipe.warm_up) / (1 - recipe.warm_up))) / 2 + 1e-6 * high


def decay(recipe: Recipe, step: int, steps: int) -> float:
    """The decay of the moving average at a step, counted from 1.

    A ramp holds it down at first: with the full decay, the averaged weights of the first epochs would be mostly the
    initial ones.
    """
    horizon = max(1.0, recipe.average * steps)
    return min(1 - 1 / horizon, step / (step + 9))


def choose_backend(device: str, backend: Backend) -> tuple[str, str | None]:
    """The backend that will run, "kernels" or "torch", and why it is not the kernels (None when it is, or was asked).

    Raises `UsageError` when the kernels are asked for where they cannot run.
    """
    if backend == "torch":
        return "torch", None
    reason = f"the kernels run on a CPU, not on {device}" if torch.device(device).type != "cpu" else kernels.unsuited()
    if reason is None:
        return "kernels", None
    if backend == "kernels":
        raise UsageError(f"--backend kernels: {reason}; leave --backend away")
    return "torch", reason


def choose_device(device: str) -> str:
    """`auto` -> cuda where there is one, else cpu. Raises `UsageError` for one that is not there.

    Another accelerator has to be asked for: where a step is not replayed as a graph, launching its kernels takes longer
    than one core takes for the step (8 s an epoch on an H200, and 3 to 6 s on a core).
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"--device {device} is not to be had here ({first}): use auto, cpu or cuda") from error
    return device


def cores() -> int:
    """Cores this process may use, which a cluster's job has fewer of than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _network(
    architecture: Architecture, model: nn.Module, training: TrainingData, device: str, backend: Backend
) -> tuple[str, _Network]:
    name, reason = choose_backend(device, backend)
    if name == "kernels":
        kernels.compile_all()  # loaded already, but for a caller's first training
        return name, _Kernels(architecture, model, training)
    return name if reason is None else f"{name} ({reason})", _Torch(model, training)


@contextlib.contextmanager
def _threads(backend_name: str) -> Iterator[None]:
    """One torch thread where the kernels train: SOAP's matrices are too small for more, which wait for each other.

    On two cores that other trainings kept busy, an epoch of the starting network took 62 s with two, and 6 with one.
    """
    before = torch.get_num_threads()
    if backend_name == "kernels":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def teacher_recipe(recipe: Recipe) -> Recipe:
    """How the teacher of a recipe is trained itself."""
    stretched = {name: getattr(recipe, name) * recipe.teacher_stretch for name in MAPS}
    return dataclasses.replace(recipe, teacher=None, **stretched)


def teacher_of(recipe: Recipe, student: Architecture) -> Architecture:
    """The network of the recipe's teacher, for the images and classes of the student."""
    assert recipe.teacher is not None
    return Architecture.parse(recipe.teacher, input_shape=student.input_shape, num_classes=student.num_classes)


class _Torch:
    """Plain torch, on any device: images (N, C, H, W)."""

    def __init__(self, model: nn.Module, training: TrainingData) -> None:
        self.model, self.mean, self.std = model, training.mean, training.std

    def batch(self, split: Split, index: Tensor, theta: Tensor | None) -> Tensor:
        images = split.images[index]
        if theta is None:
            return data.normalise(images, self.mean, self.std)
        return data.augment(images, theta, self.mean, self.std)

    def step(self, images: Tensor, labels: Tensor, recipe: Recipe, soft: Tensor | None) -> tuple[Tensor, Tensor]:
        self.model.zero_grad(set_to_none=False)  # the gradients lie where the optimizer looks
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        aim = loss
        if soft is not None:
            likely = (logits / recipe.temperature).log_softmax(1)
            divergence = F.kl_div(likely, soft, reduction="batchmean") * recipe.temperature**2
            aim = (1 - recipe.soft_share) * loss + recipe.soft_share * divergence
        aim.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def observe(self, images: Tensor, momentum: float) -> None:
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = momentum
        self.model.train()
        self.model(images)
        self.model.eval()
        for norm, before in zip(norms, usual, strict=True):
            norm.momentum = before


class _Kernels:
    """The CPU kernels: images (C, H, W, N)."""

    def __init__(self, architecture: Architecture, model: nn.Module, training: TrainingData) -> None:
        self.network, self.mean, self.std = kernels.Network(architecture, model), training.mean, training.std

    def batch(self, split: Split, index: Tensor, theta: Tensor | None) -> Tensor:
        if theta is None:
            return kernels.gather(split.images, index, self.mean, self.std)
        return kernels.augment(split.images, index, theta, self.mean, self.std)

    def step(self, images: Tensor, labels: Tensor, recipe: Recipe, soft: Tensor | None) -> tuple[float, int]:
        return self.network.step(
            images, labels, label_smoothing=recipe.label_smoothing, soft=soft, soft_share=recipe.soft_share,
            temperature=recipe.temperature,
        )  # fmt: skip

    def logits(self, images: Tensor) -> Tensor:
        return self.network.logits(images)

    def observe(self, images: Tensor, momentum: float) -> None:
        self.network.observe(images, momentum)


def _flatten(model: nn.Module) -> tuple[Tensor, Tensor, list[int]]:
    """Move what is trained and averaged into one tensor, and the gradients into another: both, and two bounds.

    Up to the first bound lie the convolution weights, up to the second the other parameters, and then the running
    statistics. Model and tensor share storage: the optimizer and the average take one operation each where some 35
    tensors cost 1.5 ms a step, more than the kernels take for a network of 1,000 parameters.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 4]
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    flat = torch.cat([tensor.detach().flatten() for tensor in (*weights, *others, *statistics)])
    gradient = torch.zeros_like(flat)
    start, bounds = 0, []
    for group in (weights, others, statistics):
        for tensor in group:
            end = start + tensor.numel()
            tensor.data = flat[start:end].view_as(tensor)
            if tensor.requires_grad:
                tensor.grad = gradient[start:end].view_as(tensor)
            start = end
        bounds.append(start)
    return flat, gradient, bounds[:2]


def _optimizer(
    model: nn.Module, flat: Tensor, gradient: Tensor, bounds: list[int], recipe: Recipe
) -> torch.optim.Optimizer:
    """Decay on convolution weights alone, as biases and norm affines have no scale to hold down."""
    rates = {"lr": recipe.peak_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "soap":
        shapes = [tuple(parameter.shape) for parameter in model.parameters() if parameter.ndim == 4]
        return Soap(flat[: bounds[1]], gradient[: bounds[1]], shapes, **rates)
    groups = []
    for start, end, weight_decay in ((0, bounds[0], recipe.weight_decay), (bounds[0], bounds[1], 0.0)):
        if start < end:
            part = nn.Parameter(flat[start:end])
            part.grad = gradient[start:end]
            groups.append({"params": [part], "weight_decay": weight_decay})
    return torch.optim.AdamW(groups, lr=recipe.peak_rate, fused=True)


def _batches(count: int, size: int, *, least: int = 2) -> list[tuple[int, int]]:
    """Bounds of the batches; a last one of fewer than `least` images (batch norm needs two) is left out."""
    bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
    return [(start, end) for start, end in bounds if end - start >= least]


def _moves(recipe: Recipe) -> bool:
    """Whether a recipe moves the images at all."""
    return any(getattr(recipe, name) for name in MAPS)


def _maps(recipe: Recipe, training: TrainingData, generator: torch.Generator) -> Tensor:
    """An epoch's affine maps (N, 2, 3), one for each training image."""
    return data.random_affine(
        len(training.train),
        degrees=recipe.degrees,
        translate_px=recipe.translate,
        scale=recipe.scale,
        shear=recipe.shear,
        image_size=training.dataset.input_shape[1:],
        generator=generator,
    )


def _views(recipe: Recipe, training: TrainingData, epoch: int) -> Tensor:
    """An epoch's maps in a lesson: drawn on the CPU, so that a lesson holds for every device."""
    maps = _maps(recipe, training, torch.Generator().manual_seed(VIEWS_SEED + epoch))
    return maps.to(training.train.labels.device)


def _soften(logits: Tensor, recipe: Recipe) -> Tensor:
    """A teacher's probabilities (N, num_classes) at the recipe's temperature."""
    return (logits.float() / recipe.temperature).softmax(1)
