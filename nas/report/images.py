"""Own images: how far their decoding is, and what a check found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nas.report.console import can_redraw
from nas.report.tables import plain

if TYPE_CHECKING:  # torch takes seconds to import
    from nas.data import ImageCheck

STATUS_SECONDS = 5.0
"""Seconds between two lines, where nothing is redrawn."""
SOON = 1.0
"""Seconds that pass without a word."""
NAMED = 10


class ImageBar:
    """A context manager that shows a bar, or lines, once images take a while; nothing at all when quiet."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self._bar: Progress | None = None
        self._began = self._written = time.monotonic()

    def __enter__(self) -> ImageBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.quiet or now - self._began < SOON:
            return
        if can_redraw(self.console):
            if self._bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
            ids = {each.description: each.id for each in self._bar.tasks}
            number = ids[task] if task in ids else self._bar.add_task(task, total=total)
            self._bar.update(number, completed=done, total=total)
        elif now - self._written > STATUS_SECONDS or self._written == self._began:
            self._written = now
            self.console.print(f"{task} {done:,}/{total:,}", markup=False)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def print_check(console: Console, check: ImageCheck) -> None:
    """Print what a check of own images found: counts, files, duplicates, and what a search would do."""
    console.print(Text(check.source, style="bold"))
    console.print(_counts(check))
    _print_files(console, check)
    _print_names(console, "unreadable", [f"{name}: {why}" for name, why in check.unreadable.items()])
    _print_names(console, "folders without images", check.empty_folders)
    _print_names(console, f"images with a side under {4} pixels", check.tiny)
    _print_names(console, "class names alike", [" and ".join(group) for group in check.similar_classes])
    _print_names(console, "files in two splits", [" = ".join(pair) for pair in check.leaks])
    _print_names(console, "near duplicates in two splits", [" ~ ".join(pair) for pair in check.near_leaks])
    _print_names(console, "equal files", [" = ".join(group) for group in check.duplicates])
    _print_names(console, "near duplicates", [" ~ ".join(pair) for pair in check.near_duplicates])
    _print_plan(console, check)


def _counts(check: ImageCheck) -> Table:
    parts = ("train", "validation", "test")
    table = plain(("class", *parts, "all"), right=(*parts, "all"))
    for label, row in check.counts.items():
        table.add_row(Text(label), *(f"{row[part]:,}" for part in parts), f"{sum(row.values()):,}")
    sums = [sum(row[part] for row in check.counts.values()) for part in parts]
    table.add_row("all", *(f"{count:,}" for count in sums), f"{sum(sums):,}", style="bold")
    return table


def _print_files(console: Console, check: ImageCheck) -> None:
    (least_w, middle_w, most_w), (least_h, middle_h, most_h) = check.widths, check.heights
    lines = [
        f"sizes      {least_w}x{least_h} to {most_w}x{most_h}, median {middle_w}x{middle_h}",
        f"modes      {_listed(check.modes)}",
    ]
    if check.ignored:
        lines.append(f"left out   {_listed(check.ignored)}")
    if check.loose:
        lines.append(f"left out   {check.loose:,} that lie outside class folders")
    if check.nested:
        lines.append(f"nested     {check.nested:,} in folders below their class, which they belong to")
    from nas.data import IMBALANCE

    if check.imbalance > IMBALANCE:
        lines.append(f"imbalance  {check.imbalance:.1f} images of the largest class for one of the smallest")
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _print_names(console: Console, title: str, names: Sequence[str]) -> None:
    """Print the first of names under their number; nothing where there are none."""
    if not names:
        return
    console.print(f"{title}: {len(names):,}", style="yellow", markup=False)
    rest = [f"and {len(names) - NAMED:,} more (--json lists all)"] if len(names) > NAMED else []
    for name in [*names[:NAMED], *rest]:
        console.print(f"  {name}", markup=False, soft_wrap=True)


def _print_plan(console: Console, check: ImageCheck) -> None:
    channels, height, width = check.input_shape
    fit = "cropped" if check.options["crop"] else "with bars"
    held_out = "" if check.has_validation else ", drawn from those of each class"
    drawn = "" if check.has_test else ", drawn class by class once and written down"
    console.print(
        f"\na search would use {width}x{height} pixels, {'grey' if channels == 1 else 'colour'}, {fit}: "
        f"{check.num_train:,} images to train and {check.num_validation:,} for validation{held_out} (a full run learns "
        f"from both), {check.num_test:,} to test{drawn}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    for line in check.warnings:
        console.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)
    for line in check.problems:
        console.print(f"refused: {line}", style="red", markup=False, soft_wrap=True)
    if not check.problems:
        console.print(f"name       {check.name}", markup=False, soft_wrap=True)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
