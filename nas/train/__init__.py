"""Training: the recipe, the loop, its backends, evaluation and distillation."""

from nas.train.backends import (
    Backend,
    OutOfMemory,
    choose_backend,
    choose_device,
    cpu_math_mode,
    memory_errors,
    require_device_name,
    require_dropout,
)
from nas.train.distill import (
    compute_teacher_logits,
    soft_targets,
    teacher_architecture,
    teacher_recipe,
)
from nas.train.evaluate import Scores, balanced_accuracy, correct_mask, evaluate, recalibrate_bn
from nas.train.graph import Graph
from nas.train.loop import Diverged, train
from nas.train.optim import ema_decay, learning_rate, peak_lr
from nas.train.population import Padding, Population, padding_of, train_population
from nas.train.population_step import Member
from nas.train.recipe import AFFINE, AUGMENTATION, TEACHER, Recipe, augmentation_text, random_draws
from nas.train.results import Epoch, Metric, Run

__all__ = [
    "AFFINE",
    "AUGMENTATION",
    "TEACHER",
    "Backend",
    "Diverged",
    "Epoch",
    "Graph",
    "Member",
    "Metric",
    "OutOfMemory",
    "Padding",
    "Population",
    "Recipe",
    "Run",
    "Scores",
    "augmentation_text",
    "balanced_accuracy",
    "choose_backend",
    "choose_device",
    "compute_teacher_logits",
    "correct_mask",
    "cpu_math_mode",
    "ema_decay",
    "evaluate",
    "learning_rate",
    "memory_errors",
    "padding_of",
    "peak_lr",
    "random_draws",
    "recalibrate_bn",
    "require_device_name",
    "require_dropout",
    "soft_targets",
    "teacher_architecture",
    "teacher_recipe",
    "train",
    "train_population",
]
