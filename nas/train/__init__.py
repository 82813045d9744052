"""Training: the recipe, the loop, its backends, evaluation and distillation."""

from nas.train.backends import (
    Backend,
    OutOfMemory,
    choose_backend,
    choose_device,
    cpu_math_mode,
    memory_errors,
)
from nas.train.distill import (
    compute_teacher_logits,
    soft_targets,
    teacher_architecture,
    teacher_recipe,
)
from nas.train.evaluate import correct_mask, evaluate, recalibrate_bn
from nas.train.graph import Graph
from nas.train.loop import Diverged, Epoch, Run, train
from nas.train.optim import ema_decay, learning_rate, peak_lr
from nas.train.recipe import AFFINE, TEACHER, Recipe

__all__ = [
    "AFFINE",
    "TEACHER",
    "Backend",
    "Diverged",
    "Epoch",
    "Graph",
    "OutOfMemory",
    "Recipe",
    "Run",
    "choose_backend",
    "choose_device",
    "compute_teacher_logits",
    "correct_mask",
    "cpu_math_mode",
    "ema_decay",
    "evaluate",
    "learning_rate",
    "memory_errors",
    "peak_lr",
    "recalibrate_bn",
    "soft_targets",
    "teacher_architecture",
    "teacher_recipe",
    "train",
]
