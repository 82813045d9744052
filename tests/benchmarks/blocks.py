"""Kinds of blocks at one budget: brief trainings scored on validation.

    python tests/benchmarks/blocks.py --dataset PATH_OR_NAME                       # about 45 minutes of one core
    python tests/benchmarks/blocks.py --dataset PATH_OR_NAME --only sep5+ --epochs 20

Every layout is one text whose widths are scaled together until no more fit the cap, so that the networks differ in kind
and not in size. All see the same images in the same order, with the default recipe and no teacher; nothing of the test
split is read. One row for each run: last epoch's validation accuracy, loss, MACs and seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import time

from nas.architecture import Architecture
from nas.errors import NasError

LAYOUTS = {
    "conv": "12 M 20 20 M 28 28 G C",
    "conv+": "20 M 20+ 20+ M 20+ 20+ G C",
    "sep3": "16 s24 s24 M s36 s36 M s48 s48 G C",
    "sep3+": "20 s20+ s20+ M s32 s32+ M s44 s44+ G C",
    "sep5": "16 s24k5 s24k5 M s36k5 s36k5 M s48k5 s48k5 G C",
    "sep5+": "20 s20k5+ s20k5+ M s32k5 s32k5+ M s44k5 s44k5+ G C",
    "sep7+": "20 s20k7+ s20k7+ M s32k7 s32k7+ M s44k7 s44k7+ G C",
    "inv3+": "12 i12x3+ M i16x3 i16x3+ M i24x3 i24x3+ G C",
    "inv5+": "12 i12x3k5+ M i16x3k5 i16x3k5+ M i24x3k5 i24x3k5+ G C",
    "mixed": "16 24 M s36k5 s36k5+ M s44k5 s44k5+ G C",
}


def filled(layout: str, cap: int, input_shape: tuple[int, int, int]) -> Architecture:
    """The layout with its widths scaled by the largest factor, in hundredths, that the cap admits."""

    def scaled(factor: float) -> Architecture:
        def width(match: re.Match[str]) -> str:
            return f"{match[1]}{max(1, round(int(match[2]) * factor))}"

        return Architecture.parse(re.sub(r"(?<!\S)([si]?)([0-9]+)", width, layout), input_shape=input_shape)

    factors = [step / 100 for step in range(10, 1000)]
    return [each for factor in factors if (each := scaled(factor)).num_params <= cap][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a name, or the path of a folder of images")
    parser.add_argument("--max-params", type=int, default=11_400)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, help="train on the first so many of the training images alone")
    parser.add_argument("--only", action="append", choices=list(LAYOUTS), help="this layout (may be repeated)")
    arguments = parser.parse_args()
    import torch

    from nas.data import Split, load_training_data
    from nas.library import dataset_named
    from nas.train import Recipe, train

    torch.set_num_threads(1)
    dataset = dataset_named(arguments.dataset)
    training = load_training_data(dataset, data_dir=None)
    assert training.validation is not None
    if arguments.images is not None:  # in a fixed random order: files come class by class
        order = torch.randperm(len(training.train.labels), generator=torch.Generator().manual_seed(0))
        few = order[: arguments.images]
        part = Split(training.train.images[few], training.train.labels[few])
        training = dataclasses.replace(training, train=part)
    print(f"{dataset.name}: {len(training.train.labels):,} training images, {len(training.validation.labels):,} others")
    print("layout schedule parameters MACs seed epochs accuracy loss seconds load", flush=True)
    for seed in range(arguments.seeds):
        for name in arguments.only or LAYOUTS:
            architecture = filled(LAYOUTS[name], arguments.max_params, dataset.input_shape)
            began = time.perf_counter()
            run = train(architecture, training, training.validation, Recipe(epochs=arguments.epochs), seed=seed)
            last = run.epochs[-1]
            print(
                f"{name} | {architecture} | {architecture.num_params:,} | {architecture.macs:,} | {seed} | "
                f"{arguments.epochs} | {last.accuracy:.2f} | {last.loss:.4f} | {time.perf_counter() - began:.0f} | "
                f"{os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    try:
        main()
    except NasError as error:
        raise SystemExit(f"error: {error}") from None
