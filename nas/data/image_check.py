"""The check of own images: what there is, what is wrong with it, and what a search would do with it."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from nas.data.folder_options import FolderOptions, ImageProgress
from nas.data.manifest import Entry, across
from nas.data.own_images import Examination, empty_folders, examine, list_warnings
from nas.data.own_sets import OwnSet, load_split, store_own_set
from nas.data.pictures import Pixels
from nas.data.splits import VALIDATION_SHARE, class_quotas, held_out_size

BITS_APART = 3
"""Bits of 64 in which the hashes of near duplicates differ at the most."""
CORRELATION = 0.98
"""Least correlation of the pixels of near duplicates: contrast and compression leave more, another letter less."""
STEP = 4.0
"""Levels by which a column is brighter than the next to count: less is the noise of compression."""
FLAT = 2.0
"""Standard deviation, of 255 levels, under which an image is blank: two of them are alike if their means are."""
COMPARED = 50
"""Others with a part of its hash in common that an image is compared with: many blank images would take for ever."""
TINY = 4
"""Pixels of a side below which an image holds next to nothing."""


@dataclass(frozen=True, kw_only=True)
class ImageCheck:
    """All that `nas data check` tells of a folder or an array file."""

    name: str
    source: str
    counts: Mapping[str, Mapping[str, int]]
    """Images by class and split, as a search has them."""
    widths: tuple[int, int, int]
    """Least, median and largest, in pixels."""
    heights: tuple[int, int, int]
    modes: Mapping[str, int]
    """Images by Pillow's mode."""
    unreadable: Mapping[str, str]
    """Files that should be images, and why they cannot be read."""
    empty_folders: tuple[str, ...]
    ignored: Mapping[str, int]
    """Files and folders that are left out, by kind."""
    nested: int
    loose: int
    tiny: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    """Files of one content, a group each."""
    near_duplicates: tuple[tuple[str, str], ...]
    leaks: tuple[tuple[str, str], ...]
    """Equal files in two splits."""
    near_leaks: tuple[tuple[str, str], ...]
    imbalance: float
    """Images of the largest class for one of the smallest."""
    similar_classes: tuple[tuple[str, ...], ...]
    """Class names that differ in case alone."""
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    num_train: int
    num_validation: int
    """Images that each training of a search holds out; a full run learns from them too."""
    num_test: int
    has_validation: bool
    """False: the images for validation are drawn from those for training, for each training."""
    has_test: bool
    """False: the test images are drawn from all, once."""
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    """Reasons for which a search would refuse it."""


def check_images(
    source: Path | OwnSet, options: FolderOptions | None = None, progress: ImageProgress | None = None
) -> ImageCheck:
    """Examine own images, those of the test split too: equal files are looked for in all of them, and no score is made.

    The split is written down where a search would take the images as they are.

    Raise `DataError` for a source without images of two classes, and for more than fits in memory.
    """
    options = options or FolderOptions()
    found = examine(source, options, progress)
    if not found.problems:
        found.manifest.write()
        store_own_set(found.record)
    near = near_duplicates(found)
    part_of = {entry.name: entry.part for entry in found.entries}
    record, scan = found.record, found.scan
    counts = {label: dict.fromkeys(("train", "validation", "test"), 0) for label in record.classes}
    for entry in found.entries:
        counts[entry.label][entry.part] += 1
    labels, held_out = torch.from_numpy(found.tensors.labels["train"]), record.num_validation
    if not held_out:
        held_out = held_out_size(len(labels), VALIDATION_SHARE, len(record.classes))
        for label, quota in zip(counts, class_quotas(labels, held_out, len(counts)).tolist(), strict=True):
            counts[label] |= {"train": counts[label]["train"] - quota, "validation": quota}
    totals = [sum(row.values()) for row in counts.values()]
    return ImageCheck(
        name=record.name, source=record.source, counts=counts,
        widths=_range([entry.header.width for entry in found.entries]),
        heights=_range([entry.header.height for entry in found.entries]),
        modes=dict(Counter(entry.header.mode for entry in found.entries).most_common()),
        unreadable=found.broken, empty_folders=tuple(empty_folders(scan, record.classes)),
        ignored={} if scan is None else {kind: count for kind, count in scan.ignored.items() if count},
        nested=0 if scan is None else scan.nested, loose=0 if scan is None else scan.loose,
        tiny=tuple(entry.name for entry in found.entries if min(entry.header.width, entry.header.height) < TINY),
        duplicates=_groups(found.entries), near_duplicates=near,
        leaks=tuple((first.name, second.name) for first, second in across(found.entries)),
        near_leaks=tuple(pair for pair in near if part_of[pair[0]] != part_of[pair[1]]),
        imbalance=max(totals) / max(1, min(totals)), similar_classes=_similar(record.classes), options=record.options,
        input_shape=record.input_shape, num_train=record.num_train - held_out,
        num_validation=held_out, num_test=record.num_test, has_validation=record.num_validation > 0,
        has_test=found.has_test,
        warnings=tuple(list_warnings(found, options)), problems=tuple(found.problems),
    )  # fmt: skip


def _range(values: list[int]) -> tuple[int, int, int]:
    return (min(values), statistics.median_low(values), max(values)) if values else (0, 0, 0)


def _groups(entries: list[Entry]) -> tuple[tuple[str, ...], ...]:
    names = defaultdict(list)
    for entry in entries:
        names[entry.header.sha256].append(entry.name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


def _similar(classes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    names = defaultdict(list)
    for name in classes:
        names[name.casefold().strip()].append(name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


# Near duplicates


def near_duplicates(found: Examination) -> tuple[tuple[str, str], ...]:
    """Return pairs of images of different files that look the same: by a small hash first, then by their pixels."""
    pixels = np.concatenate([load_split(found.record.key, split).images.numpy() for split in ("train", "test")])
    hashes = difference_hashes(pixels)
    entries, pairs = found.entries, set()
    for band in range(4):  # of pairs that differ in three bits at the most, one of four parts is the same
        part = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(part, kind="stable")
        for step in range(1, min(COMPARED, len(order) - 1) + 1):
            first, second = order[:-step], order[step:]
            same = part[first] == part[second]
            first, second = first[same], second[same]
            if not len(first):
                break
            close = np.bitwise_count(hashes[first] ^ hashes[second]) <= BITS_APART
            pairs |= set(zip(first[close].tolist(), second[close].tolist(), strict=True))
    return tuple(
        (entries[first].name, entries[second].name)
        for first, second in sorted(pairs)
        if entries[first].header.sha256 != entries[second].header.sha256 and alike(pixels[first], pixels[second])
    )


def alike(first: Pixels, second: Pixels) -> bool:
    """Tell whether two images differ by contrast and noise alone."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    means, spreads = (one.mean(), other.mean()), (one.std(), other.std())
    if min(spreads) < FLAT:
        return bool(max(spreads) < FLAT and abs(means[0] - means[1]) < FLAT)
    return bool(((one - means[0]) * (other - means[1])).mean() >= CORRELATION * spreads[0] * spreads[1])


def difference_hashes(pixels: Pixels) -> NDArray[np.uint64]:
    """Return a hash of 64 bits for each image (N, C, H, W): in 8 rows, where a column is brighter than the next."""
    parts = []
    for chunk in torch.split(torch.from_numpy(pixels), 4096):
        grey = F.adaptive_avg_pool2d(chunk.float().mean(1, keepdim=True), (8, 9)).squeeze(1)
        parts.append((grey[:, :, :-1] - grey[:, :, 1:] > STEP).flatten(1).numpy())
    bits = np.packbits(np.concatenate(parts), axis=1)
    return np.ascontiguousarray(bits).view(np.uint64).ravel()
