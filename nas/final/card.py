"""A short model card in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nas.budget import LAST_EPOCHS, last_epochs
from nas.export import RunResult


class Seed(Protocol):
    """The part of a seed's result that the card states."""

    @property
    def seed(self) -> int: ...
    @property
    def last(self) -> list[float]: ...
    @property
    def last5(self) -> float: ...
    @property
    def final(self) -> float: ...


def card(result: RunResult, seeds: Sequence[Seed]) -> str:
    """Return CARD.md: what the network is, how good, on what, and the command."""
    n, sd = len(seeds), "" if result.last5_sd is None else f" ± {result.last5_sd:.3f}"
    rows = "\n".join(f"| {seed.seed} | {seed.last5:.3f} | {min(seed.last):.2f} | {seed.final:.2f} |" for seed in seeds)
    notice = "".join(f"\n> {text}\n" for text in (result.notice, result.data_warning) if text)
    return f"""# {result.num_params:,} parameters on {result.dataset}

`{result.schedule}`
{notice}
Test accuracy, {_mean(result.epochs)}: **{result.last5_mean:.3f}{sd} %**
over {n} seed{"s" * (n > 1)}; lowest of those epochs {result.lowest_of_last5:.2f} %.
{result.macs:,} multiply-accumulates per image.
{_recalls(result)}{_distillation(result)}
| seed | {last_epochs(result.epochs)} | lowest of them | final |
|-|-|-|-|
{rows}

Trained on the whole training set ({result.num_train:,} images); test split opened {result.opened}.
Weights: exponential moving average of seed {result.typical_seed}, the middle one. Device {result.device}
({result.processor}), torch {result.torch}, {", ".join(result.backend)}.

    {result.command}

`from model import Net` takes images on 0..1 (or uint8) and needs torch alone. The raw network of `build()` and
`model-raw.onnx` take images less the mean {list(result.mean)}, over the standard deviation {list(result.std)}.
"""


def _mean(epochs: int) -> str:
    if epochs == 1:
        return "after one epoch"
    return f"mean of the last {min(LAST_EPOCHS, epochs)} of {epochs} epochs"


def _recalls(result: RunResult) -> str:
    scores = result.by_class
    if scores is None:
        return ""
    sd = "" if scores.balanced_sd is None else f" ± {scores.balanced_sd:.3f}"
    rows = "\n".join(
        f"| {name} | {count:,} | {'' if recall is None else f'{recall:.2f}'} |"
        for name, count, recall in zip(result.classes, scores.counts, scores.recalls, strict=True)
    )
    return f"""
Balanced accuracy, the mean recall of the classes: **{scores.balanced_mean:.3f}{sd} %**.

| class | test images | recall |
|-|-|-|
{rows}
"""


def _distillation(result: RunResult) -> str:
    teacher = result.teacher
    if teacher is None:
        return ""
    return (
        f"\nDistilled from `{teacher['schedule']}` ({teacher['num_params']:,} parameters),\n"
        f"trained before on the same images with {result.recipe['teacher_augmentation']:g} times the augmentation,\n"
        f"in {teacher['seconds']:.0f} s; its logits took {teacher['logits_seconds']:.0f} s, once for all seeds.\n"
    )
