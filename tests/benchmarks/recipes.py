"""Recipes on one network and data set, scored on validation: what an augmentation, a teacher or more epochs are worth.

    python tests/benchmarks/recipes.py fashion-mnist '18r s10r M s43vr s36vr s49vr s30vr C G' --try '' --try mirror=0.5
    python tests/benchmarks/recipes.py ./photos '3x32x32: 16 s24 M s32 G C' --try mirror=0.5,epochs=30 --seeds 2

Each `--try` is a recipe: fields with commas between, the rest as by default without any of a data set's own choices;
`teacher=12 M 24 G C` distills, from one trained for `teacher_epochs`. With `--splits` each seed has another validation
split, as finalists have, and a teacher that has seen none of its images. One training at a time, on one core; each
result is a line of the table as it comes. Test images are not read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from nas.architecture import Architecture
from nas.data import TrainingData, fold_number, load_training_data, prepare_dataset, with_fold
from nas.study import studies_dir
from nas.teachers import TeacherCache
from nas.train import Recipe, teacher_recipe, train
from nas.workers import LocalPool, read_logits


def recipe_of(text: str, epochs: int) -> Recipe:
    """The recipe of `mirror=0.5,cutout=8`: numbers as they are written, a teacher as text."""
    given: dict[str, Any] = {"epochs": epochs}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        given[name] = value if name == "teacher" else float(value) if "." in value else int(value)
    return Recipe(**given)


def logits_of(recipe: Recipe, training: TrainingData, fold: int) -> tuple[torch.Tensor | None, str]:
    """The logits of the recipe's teacher, trained where it is not stored; and its accuracy in words."""
    if recipe.teacher is None:
        return None, ""
    assert training.validation is not None
    with LocalPool(training, training.validation) as pool:
        cache = TeacherCache(studies_dir() / "teachers", training, pool, lambda message: None)
        found = cache.logits(recipe, {fold: recipe.epochs}, epochs=teacher_recipe(recipe).epochs)[fold]
    record = found.record
    return read_logits(found.path), f"; teacher {record.num_params:,}, {record.last5:.2f}, {record.seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a name of the catalogue, or the path of own images")
    parser.add_argument("schedule")
    parser.add_argument("--try", dest="recipes", action="append", metavar="FIELDS", help="a recipe; '' is the default")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--splits", action="store_true", help="another validation split for each seed")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = prepare_dataset(options.dataset, data_dir=options.data_dir)
    training = load_training_data(dataset, data_dir=options.data_dir)
    assert training.validation is not None
    architecture = Architecture.parse(
        options.schedule, input_shape=dataset.input_shape, num_classes=dataset.num_classes
    )
    print(f"{dataset.title}, {len(training.train):,} images to train, {len(training.validation):,} to validate")
    print(f"{architecture}: {architecture.num_params:,} parameters, {architecture.macs:,} MACs\n")
    print("| recipe | epochs | seed | last-5 | balanced | final | loss | seconds |\n|-|-|-|-|-|-|-|-|", flush=True)
    for text in options.recipes or [""]:
        recipe = recipe_of(text, options.epochs)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            fold = fold_number(training, seed) if options.splits else 0
            logits, teacher = logits_of(recipe, training, fold)
            part, began = with_fold(training, fold), time.monotonic()
            assert part.validation is not None
            run = train(architecture, part, part.validation, recipe, seed=seed, teacher_logits=logits)
            last = run.epochs[-1]
            print(
                f"| {text or 'default'}{teacher} | {recipe.epochs} | {seed} | {run.last(5):.3f} "
                f"| {run.last(5, 'balanced-accuracy'):.3f} | {last.accuracy:.2f} "
                f"| {last.loss:.4f} | {time.monotonic() - began:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
