"""Predictions for image files: the class, its probability and the runner-up of each, and the files that are none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nas.data import DATASETS, FolderOptions, own_options
from nas.errors import DataError
from nas.export import OnnxNetwork
from nas.final.pictures import Fit, ImageFiles, Pixels, Polarity, read_picture
from nas.model import TrainedNetwork

STDIN = "-"
BATCH = 256
"""Files at a time: what is read of more need not be held."""

_DIGITS = tuple("0123456789")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one file; probabilities are on 0..1."""

    file: str
    label: str
    probability: float
    runner_up: str
    """The second class; empty where there is but one."""
    runner_up_probability: float
    notes: tuple[str, ...]
    """The guesses made of the file, inverted and centred; that it has several pictures; and that there is little to see
    in it, very low contrast, or nothing, blank."""


@dataclass(frozen=True, kw_only=True)
class UnreadFile:
    """A file that could not be read, and the reason in one line."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictionBatch:
    """Some files in their order: predictions with the images that the network saw, and files that were none."""

    predictions: tuple[Prediction, ...]
    pixels: tuple[Pixels, ...]
    """The image (C, H, W) of each prediction."""
    unread: tuple[UnreadFile, ...]
    left_out: int = 0
    """Other files in the folders; of all folders in the last batch."""


def fit_of(network: TrainedNetwork | OnnxNetwork, dataset: str | None = None) -> Fit:
    """Return the kind of images that a network knows.

    Those of a catalogued data set, all of which show light things on a dark ground where they are grey, or own images,
    which are read as for training. Where neither the network nor the data set's name says which, a network with the
    input and the classes of a catalogued set is taken to be trained on that, and any other on own images read by
    default.
    """
    shape, classes = network.architecture.input_shape, network.classes
    if network.preparation is not None:
        known = False
    elif dataset is None:
        known = any((each.input_shape, each.classes) == (shape, classes) for each in DATASETS.values())
    else:
        known = dataset in DATASETS
    if known:
        return Fit(input_shape=shape, light_on_dark=shape[0] == 1, digits=shape[0] == 1 and classes == _DIGITS)
    own = network.preparation or (own_options(dataset) if dataset is not None else None)
    if own is None:
        own = FolderOptions(image_size=max(shape[1:]), grayscale=shape[0] == 1)
    return Fit(input_shape=shape, light_on_dark=False, digits=False, own=own if shape[1] == shape[2] else None)


def predict_files(
    network: TrainedNetwork | OnnxNetwork,
    paths: Sequence[str | Path],
    *,
    dataset: str | None = None,
    polarity: Polarity = "auto",
) -> Iterator[PredictionBatch]:
    """Yield the predictions for image files, folders (with what is below them) and `-` (standard input), in order.

    Files are made ready as the images of `dataset`, the data set that the network was trained on, if it is known. A
    file that is missing or no image is among `unread`, and the others go on; so is a folder that cannot be read.
    """
    fit = fit_of(network, dataset)
    names: list[str] = []
    pixels: list[Pixels] = []
    notes: list[tuple[str, ...]] = []
    unread: list[UnreadFile] = []
    folders = ImageFiles()
    for name, read in _sources(paths, folders):
        try:
            picture = read_picture(read(), fit, polarity)
        except DataError as error:
            unread.append(UnreadFile(file=name, reason=" ".join(str(error).split())))
        except OSError as error:
            unread.append(UnreadFile(file=name, reason=error.strerror or str(error)))
        else:
            names.append(name)
            pixels.append(picture.pixels)
            notes.append(picture.notes)
        if len(names) + len(unread) == BATCH:
            yield _batch(network, names, pixels, notes, unread)
            names, pixels, notes, unread = [], [], [], []
    if names or unread or folders.left_out:
        yield replace(_batch(network, names, pixels, notes, unread), left_out=folders.left_out)


def _sources(paths: Sequence[str | Path], folders: ImageFiles) -> Iterator[tuple[str, Callable[[], Path | bytes]]]:
    """Each file's name, and a function that gives its path or its bytes."""
    for path in map(str, paths):
        if path == STDIN:
            yield "standard input", sys.stdin.buffer.read
        elif os.path.isdir(path):  # noqa: PTH112  pathlib raises for a name that is too long
            found = False
            for file, error in folders.below(Path(path)):
                found = True
                yield str(file), partial(_read_or_raise, file, error)
            if not found:
                yield path, partial(_read_or_raise, Path(path), DataError("no image in this folder"))
        else:
            yield path, partial(_read_or_raise, Path(path))


def _read_or_raise(path: Path, error: Exception | None = None) -> Path:
    if error is not None:
        raise error
    return path


def _batch(
    network: TrainedNetwork | OnnxNetwork, names: list[str], pixels: list[Pixels], notes: list[tuple[str, ...]],
    unread: list[UnreadFile],
) -> PredictionBatch:  # fmt: skip
    predictions: list[Prediction] = []
    if names:
        probabilities = network.predict(torch.from_numpy(np.stack(pixels)))
        best = probabilities.topk(min(2, probabilities.shape[1]), dim=1)
        rows = zip(names, best.indices.tolist(), best.values.tolist(), notes, strict=True)
        for name, order, values, changes in rows:
            second = (network.classes[order[1]], values[1]) if len(order) > 1 else ("", 0.0)
            predictions.append(
                Prediction(
                    file=name, label=network.classes[order[0]], probability=values[0], runner_up=second[0],
                    runner_up_probability=second[1], notes=changes,
                )
            )  # fmt: skip
    return PredictionBatch(predictions=tuple(predictions), pixels=tuple(pixels), unread=tuple(unread))
