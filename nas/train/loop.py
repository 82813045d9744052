"""One training loop, for a brief candidate and for a full run alike; it knows nothing of the search."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.architecture import Architecture
from nas.data import Draws, Split, TrainingData
from nas.errors import NasError
from nas.model import Dropout, build
from nas.train.backends import Backend, BackendNetwork, backend_network, cpu_math_mode, memory_errors, require_dropout
from nas.train.checkpoint import Checkpoint
from nas.train.distill import check_logits, shared_draws, soft_targets
from nas.train.evaluate import batch_bounds, recalibrate_bn, score
from nas.train.graph import Graph
from nas.train.optim import ema_decay, flatten, learning_rate, make_optimizer, peak_lr
from nas.train.recipe import Recipe, draw_order, random_draws
from nas.train.results import Epoch, Run


class Diverged(NasError):
    """The loss became NaN or infinite."""


def diverged(loss: float, epoch: int, recipe: Recipe) -> Diverged:
    """Return the error of a loss that is no longer finite in an epoch, counted from 1."""
    return Diverged(f"the loss is {loss} in epoch {epoch}: lower peak_lr ({recipe.peak_lr}) or drop this network")


@memory_errors()
@cpu_math_mode()
def train(
    architecture: Architecture,
    training: TrainingData,
    evaluation: Split,
    recipe: Recipe,
    *,
    seed: int = 0,
    teacher_logits: Tensor | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> Run:
    """Train `architecture` on `training.train` and score it on `evaluation` after every epoch.

    `teacher_logits` (epochs, N, num_classes), from `compute_teacher_logits` for each epoch, come with a recipe that
    names a teacher; all students then share the random changes of each epoch, whatever their seed. `on_epoch` may
    return True to stop there; `on_step` gets the number of each step and their total. Each epoch's state goes to the
    file `checkpoint`, from which this training goes on where it was killed; `on_epoch` then gets the earlier epochs
    again. Same seed, device and versions, and on plain torch the same thread count: the same bits on a CPU. Raises
    `Diverged` when the loss is no longer finite, `OutOfMemory` when the network does not fit, `UsageError` for a
    teacher without logits, or logits without one, and `StorageError` for a checkpoint that is damaged or cannot be
    written.
    """
    began = time.perf_counter()
    split, peak = training.train, peak_lr(recipe, architecture.num_params)
    model = build(architecture, seed=seed, dropout=recipe.dropout).to(device).train()
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    moving, gradient, num_params = flatten(model)
    average, *_ = flatten(averaged)
    require_dropout(recipe, backend)
    backend_name, network = backend_network(architecture, model, training.normalization, device, backend)
    compiled = backend_name == "kernels"
    optimizer = make_optimizer(model, moving[:num_params], gradient[:num_params], recipe, compiled=compiled)
    _, eval_network = backend_network(architecture, averaged, training.normalization, device, backend)
    step = TrainingStep(network, training, recipe, teacher_logits, device)
    generator = torch.Generator(device).manual_seed(seed)
    batches = batch_bounds(len(split), recipe.batch_size)
    steps = len(batches) * recipe.epochs
    if compiled:
        torch.set_num_threads(1)  # SOAP's matrices are too small for more, which would only wait for each other
    file: Checkpoint | None = None
    if checkpoint is not None:
        counters = {name: each for name, each in averaged.named_buffers() if not each.is_floating_point()}
        state = {"moving": moving, "average": average, **counters, **optimizer.state_tensors()}
        dropouts = [each.generator(moving.device) for each in model.modules() if isinstance(each, Dropout)]
        named = {
            "schedule": str(architecture), "recipe": recipe.identity, "seed": seed, "backend": backend_name,
            "images": [len(split), len(evaluation)], "torch": torch.__version__,
        }  # fmt: skip
        file = Checkpoint(checkpoint, named, state, [generator, *dropouts])
    epochs: list[Epoch] = [] if file is None else list(file.restore())
    number, earlier = len(epochs) * len(batches), sum(epoch.seconds for epoch in epochs)
    optimizer.resume(number)
    stopped = on_epoch is not None and any(on_epoch(epoch) for epoch in epochs) and len(epochs) < recipe.epochs
    while len(epochs) < recipe.epochs and not stopped:
        epoch_began = time.perf_counter()
        order = draw_order(split, recipe, generator)
        step.start_epoch(len(epochs), generator)
        total, correct, seen = 0.0, 0.0, 0
        for start, end in batches:
            number += 1
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, number / steps, peak=peak)
            loss, hits = step(order[start:end])
            optimizer.step()
            average.lerp_(moving, 1 - ema_decay(recipe, number, steps))
            total, correct, seen = total + loss * (end - start), correct + hits, seen + end - start
            if number % 100 == 0 and not math.isfinite(total):  # not at every step: a GPU would be waited for
                break
            if on_step is not None:
                on_step(number, steps)
        if not math.isfinite(total):
            raise diverged(float(total), len(epochs) + 1, recipe)
        recalibrate_bn(eval_network, split, recipe.bn_recalibration_images)
        scores = score(eval_network, evaluation, architecture.num_classes)
        epochs.append(
            Epoch(
                number=len(epochs) + 1, train_loss=float(total) / seen, train_accuracy=100 * float(correct) / seen,
                count=len(evaluation), seconds=time.perf_counter() - epoch_began, **vars(scores),
            )
        )  # fmt: skip
        if file is not None:
            file.write(epochs)
        stopped = bool(on_epoch is not None and on_epoch(epochs[-1])) and len(epochs) < recipe.epochs
    return Run(
        epochs=tuple(epochs),
        state_dict={name: value.detach().cpu().clone() for name, value in averaged.state_dict().items()},
        backend=backend_name,
        seconds=earlier + time.perf_counter() - began,
        stopped=stopped,
    )


class TrainingStep:
    """A batch's loss and correct predictions, with the gradient left where the optimizer looks.

    Batches of each size are one graph on a CUDA device. What such a graph reads must stay where it was captured: the
    batch's indices, and the epoch's random changes and soft targets, lie in tensors made once.
    """

    def __init__(
        self,
        network: BackendNetwork,
        training: TrainingData,
        recipe: Recipe,
        teacher_logits: Tensor | None,
        device: str,
    ) -> None:
        check_logits(recipe, training, teacher_logits)
        self.network, self.training, self.recipe, self.teacher_logits = network, training, recipe, teacher_logits
        self._device = device
        self._index = torch.empty(recipe.batch_size, dtype=torch.long, device=device)
        self._draws: Draws | None = None
        self._targets: Tensor | None = None
        if teacher_logits is not None:
            self._targets = torch.empty_like(teacher_logits[0], device=device, dtype=torch.float32)
        self._graphs: dict[int, Graph] = {}

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Draw the changes of an epoch, counted from 0, and make soft targets of its teacher logits, all at once."""
        if self.recipe.augments:
            size, shared = self.training.dataset.input_shape[1:], self.teacher_logits is not None
            draws = (
                shared_draws(self.recipe, self.training, epoch) if shared
                else random_draws(self.recipe, len(self.training.train), size, generator)
            )  # fmt: skip
            if self._draws is None:
                self._draws = draws
            else:
                self._draws.copy_(draws)
        if self._targets is not None and self.teacher_logits is not None:
            self._targets.copy_(soft_targets(self.teacher_logits[epoch].to(self._device), self.recipe))

    def __call__(self, batch: Tensor) -> tuple[Any, Any]:
        """Return the mean loss and the number of correct predictions of the images at `batch` (N,)."""
        count = len(batch)
        self._index[:count].copy_(batch)
        if count not in self._graphs:
            # A graph would replay one draw of a generator that it does not know.
            self._graphs[count] = Graph("cpu" if self.recipe.dropout else self._device)
        return self._graphs[count](partial(self._run, count))  # type: ignore[no-any-return]

    def _run(self, count: int) -> tuple[Any, Any]:
        index, split = self._index[:count], self.training.train
        images = self.network.batch(split, index, None if self._draws is None else self._draws[index])
        targets = None if self._targets is None else self._targets[index]
        return self.network.step(images, split.labels[index], self.recipe, targets)
