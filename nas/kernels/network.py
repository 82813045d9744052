"""A model on the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nas.kernels.cache import compile_all
from nas.kernels.denormals import flush_denormals
from nas.kernels.step import run
from nas.kernels.tape import Fields, Tape, lower, needs_two_values

if TYPE_CHECKING:
    from nas.architecture import Architecture

EVALUATION_BATCH = 128
"""Images evaluated at a time before any training batch has set another size."""
TAPES = 3
"""Batch sizes whose buffers stay: an epoch's batches, its last batch, and the evaluation's last."""

_UNLABELLED = np.empty(0, np.int64)
_NO_SOFT_TARGETS = np.empty((0, 0), np.float32)
_NO_OPTIONS = (0.0, 0.0, 1.0)  # label smoothing, distillation weight, temperature


class Network:
    """The kernels' view of a model built from an architecture: same parameters, buffers and gradients, no copies.

    An optimizer that works in place on the model's parameters, and anything that copies into them, is seen by the next
    call. Denormals are flushed within each call. Not for use by two threads at once.
    """

    def __init__(self, architecture: Architecture, model: nn.Module) -> None:
        compile_all()
        self._architecture = architecture
        self._model = model
        self._parameters = list(model.parameters())
        self._gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self._parameters
        ]
        self._tensors = [*self._parameters, *model.buffers()]
        self._addresses: list[int] = []
        self._stages: list[Fields] = []
        self._tapes: dict[int, Tape] = {}

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        label_smoothing: float = 0.0,
        soft_targets: Tensor | None = None,
        distill_weight: float = 0.0,
        temperature: float = 1.0,
    ) -> tuple[float, int]:
        """Do one training step but for the optimizer's; return mean cross-entropy and number of correct predictions.

        `images` (C, H, W, N) float32, `labels` (N,) int64. Every parameter's `.grad` is overwritten; running statistics
        follow torch's. With `soft_targets` (N, num_classes) float32, another network's probabilities at the temperature
        T, the gradient is that of (1 - distill_weight) cross-entropy + distill_weight T^2 KL(soft_targets ||
        softmax(logits / T)) (Hinton, Vinyals and Dean, 2015); the loss returned stays the cross-entropy. Raises
        `ValueError` on other shapes or labels, and on a batch whose statistics torch refuses: one value per channel.
        """
        self._check(images)
        batch, classes = images.shape[3], self._architecture.num_classes
        targets = labels.numpy()
        shaped = targets.dtype == np.int64 and targets.shape == (batch,)
        if not shaped or targets.min() < 0 or targets.max() >= classes:
            given = f"{tuple(labels.shape)} {labels.dtype}"
            raise ValueError(f"labels are ({batch},) int64 in 0..{classes - 1}, not {given}")
        soft = soft_targets
        if soft is not None and (soft.shape != (batch, classes) or soft.dtype != torch.float32):
            raise ValueError(f"soft_targets are ({batch}, {classes}) float32, not {tuple(soft.shape)} {soft.dtype}")
        tape = self._tape(batch)
        if batch == 1 and needs_two_values(self._stages):
            raise ValueError("batch norm needs more than one value a channel: train this network on two images or more")
        options = (float(label_smoothing), float(distill_weight), float(temperature))
        with flush_denormals():
            tape.read(images)
            probabilities = _NO_SOFT_TARGETS if soft is None else soft.contiguous().numpy()
            loss, correct = run(tape.records, True, targets, probabilities, options)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # an optimizer's zero_grad may have taken it away
        return loss, correct

    def update_bn_stats(self, images: Tensor, momentum: float) -> None:
        """Move the running statistics towards those of images (C, H, W, N) float32 by `momentum`, and nothing else."""
        self._check(images)
        tape = self._tape(images.shape[3])
        usual = tape.records["momentum"].copy()
        tape.records["momentum"] = momentum
        with flush_denormals():
            tape.read(images)
            run(tape.records, True, _UNLABELLED, _NO_SOFT_TARGETS, _NO_OPTIONS)
        tape.records["momentum"] = usual

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (C, H, W, N) float32, with running statistics.

        A batch at a time, of a size that has a tape already: new buffers would cost more than the arithmetic.
        """
        self._check(images)
        count, classes = images.shape[3], self._architecture.num_classes
        tape = self._tape(min(count, max(self._tapes, default=EVALUATION_BATCH)))
        out = torch.empty(classes, count)
        with flush_denormals():
            for start in range(0, count, tape.lanes):
                chunk = images[..., start : start + tape.lanes]
                tape.read(chunk)
                run(tape.records, False, _UNLABELLED, _NO_SOFT_TARGETS, _NO_OPTIONS)
                logits = tape.logits.view(classes, tape.lanes)
                out[:, start : start + tape.lanes] = logits[:, : chunk.shape[3]]
        return out.t().contiguous()

    def _check(self, images: Tensor) -> None:
        shape = self._architecture.input_shape
        if images.dtype != torch.float32 or images.ndim != 4 or images.shape[:3] != shape or not images.shape[3]:
            given = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"images are {shape} and one batch dimension more, float32, not {given}")

    def _tape(self, batch: int) -> Tape:
        """Return the tape for a batch size; all are made anew when the model's tensors have moved."""
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        if addresses != self._addresses:  # the records would point into freed memory
            self._addresses = addresses
            self._stages = lower(self._architecture, self._model, self._gradients)
            self._tapes.clear()
        if batch not in self._tapes:
            if len(self._tapes) == TAPES:
                del self._tapes[next(iter(self._tapes))]
            self._tapes[batch] = Tape(self._stages, batch)
        return self._tapes[batch]
