"""Pictures of a winner: its full run, its layers, its filters, and what it does on validation images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nas.architecture import Layer
from nas.budget import LAST_EPOCHS, last_epochs
from nas.data import Normalization, apply_draws
from nas.errors import NasError
from nas.report.chart import (
    BarChart,
    BarRow,
    MatrixChart,
    Point,
    Rule,
    Series,
    Tile,
    TileChart,
    XYChart,
    accuracy_axis,
    cut,
    epoch_axis,
    number_axis,
)
from nas.report.confusions import matrix, store_confusion
from nas.report.findings import Findings
from nas.report.tables import FLOAT_BYTES, epochs_text
from nas.train import Recipe, random_draws

BINS = 10
"""Equal bins of confidence in a calibration plot (Guo and others, "On Calibration of Modern Neural Networks", 2017)."""

MOST_MISREAD, MOST_FILTERS, AUGMENTED = 24, 48, 12
MOST_CLASSES = 60
"""Classes above which a confusion matrix has cells smaller than a fingertip and a page of megabytes."""


def seeds(found: Findings) -> XYChart | None:
    """Draw the test accuracy of the latest full run by epoch, the seeds over each other."""
    run = found.run or (found.runs[-1] if found.runs else None)
    if run is None or not run.curves:
        return None
    parts = tuple(
        tuple(Point(x=epoch, y=value, tip=f"seed {seed}: {value:.2f} % after epoch {epoch}") for epoch, value in curve)
        for seed, curve in run.curves.items()
    )
    epochs = sorted(set.intersection(*(set(dict(curve)) for curve in run.curves.values())))
    means = [sum(dict(curve)[epoch] for curve in run.curves.values()) / len(run.curves) for epoch in epochs]
    middle = tuple(
        Point(x=epoch, y=mean, tip=f"mean of {len(parts)} seeds: {mean:.3f} % after epoch {epoch}")
        for epoch, mean in zip(epochs, means, strict=True)
    )
    series = [Series(name="one seed", tone=5, parts=parts, join="line", dim=len(parts) > 1)]
    if len(parts) > 1:
        series.append(Series(name="mean over seeds", tone=5, parts=(middle,), join="line", mark=None))
    result = run.result
    rules = [Rule(axis="x", value=max(0, result.epochs - LAST_EPOCHS) + 0.5, label=last_epochs(result.epochs))]
    if result.target is not None:
        rules.append(Rule(axis="y", value=result.target, label=f"target {result.target:g}"))
    values = [point.y for part in parts for point in part] + [rule.value for rule in rules if rule.axis == "y"]
    return XYChart(
        name="seeds", title="The full run, seed over seed", series=tuple(series), rules=tuple(rules),
        x=epoch_axis([1, result.epochs]), y=accuracy_axis("test accuracy, percent", values),
        alt=f"{len(parts)} seeds of {epochs_text(result.epochs)}; {last_epochs(result.epochs)} "
        f"{result.last5_mean:.3f} %.",
        note=f"{result.schedule}, {result.num_params:,} parameters; nothing was chosen by what the test split shows.",
    )  # fmt: skip


def layers(found: Findings) -> BarChart | None:
    """Draw the winner layer by layer: shapes, parameters, MACs, and where memory peaks."""
    architecture = found.architecture
    if architecture is None:
        return None
    live, peak = architecture.live_activations, architecture.peak_activations
    rows = []
    for layer, numbers in zip(architecture.layers, live, strict=True):
        if layer.op == "relu":  # it works in place, and has no parameters
            continue
        size = numbers * FLOAT_BYTES / 1024
        shape = "×".join(map(str, layer.output_shape))
        rows.append(
            BarRow(
                label=f"{_layer_name(layer)} → {shape}",
                values=(float(layer.num_params), float(layer.macs), size),
                texts=(f"{layer.num_params:,}", f"{layer.macs:,}", f"{size:.1f} KiB"),
                tip=f"{layer.name} ({_layer_name(layer)}): {'×'.join(map(str, layer.input_shape))} to {shape}, "
                f"{layer.num_params:,} parameters, {layer.macs:,} MACs, {size:.1f} KiB alive"
                + ", where memory peaks" * (numbers == peak),
                marked=(False, False, numbers == peak),
            )
        )  # fmt: skip
    if not rows:
        return None
    return BarChart(
        name="layers", title="The winner, layer by layer", columns=("parameters", "MACs", "memory"), rows=tuple(rows),
        alt=f"{architecture}: {architecture.num_params:,} parameters, {architecture.macs:,} MACs; memory peaks at "
        f"{peak * FLOAT_BYTES / 1024:.1f} KiB.",
        note=f"In all {architecture.num_params:,} parameters (weights, biases and norm affines), {architecture.macs:,} "
        "MACs for one image. Memory is that of a layer's input, output and pending residual in float32, norm and ReLU "
        "in place; red: its peak. ReLUs are left out.",
    )  # fmt: skip


def _layer_name(layer: Layer) -> str:
    side = f"{layer.kernel_size}×{layer.kernel_size}"
    if layer.op == "conv":
        stride = f" /{layer.stride}" if layer.stride > 1 else ""
        return f"{'depthwise ' if layer.groups > 1 else 'conv '}{side}{stride}"
    names = {"norm": "norm", "relu": "ReLU", "add": "add", "maxpool": f"max pool {side}", "globalpool": "average"}
    return names[layer.op]


def filters(found: Findings) -> TileChart | None:
    """Draw the filters of the first layer."""
    if found.network is None:
        return None
    weights = next(
        (each for key, each in found.network.state_dict.items() if key.endswith("weight") and each.ndim == 4), None
    )  # fmt: skip
    if weights is None or weights.shape[-1] == 1:
        return None
    array = weights.detach().float().cpu().numpy()
    tiles = []
    for number, kernel in enumerate(array[:MOST_FILTERS]):
        strongest = float(np.abs(kernel).max()) or 1.0
        scaled = np.clip(127.5 + 127.5 * kernel / strongest, 0, 255).astype(np.uint8)
        colour = scaled.shape[0] == 3
        pixels = scaled.transpose(1, 2, 0) if colour else scaled[0]
        tip = (
            f"filter {number}: {kernel.shape[1]}×{kernel.shape[2]}, weights {kernel.min():+.3f} to {kernel.max():+.3f}"
        )
        tiles.append(Tile(pixels=pixels, lines=(f"{number}",), tip=tip))
    more = f" The first {MOST_FILTERS} of {len(array)}." if len(array) > MOST_FILTERS else ""
    return TileChart(
        name="filters", title="Filters of the first layer", tiles=tuple(tiles),
        alt=f"{len(tiles)} filters of {array.shape[2]}×{array.shape[3]} weights.",
        note=f"Grey is zero, white the largest positive weight of a filter, black the largest negative one.{more}",
    )  # fmt: skip


# --- on validation images ---------------------------------------------------------------------------------------------


def confusion(found: Findings) -> MatrixChart | None:
    """Draw the confusion matrix of the winner on validation images, and store it: `stored_confusion` needs none."""
    seen = found.validation
    if isinstance(seen, str) or seen.probabilities.shape[1] > MOST_CLASSES:
        return None
    classes = seen.probabilities.shape[1]
    predicted = seen.probabilities.argmax(1)
    counts = torch.bincount(seen.labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    chart = matrix(found, counts.tolist())
    store_confusion(found, chart)
    return chart


def calibration(found: Findings) -> XYChart | None:
    """Draw accuracy against confidence of the winner on validation images, with the calibration error."""
    seen = found.validation
    if isinstance(seen, str):
        return None
    confidence, predicted = seen.probabilities.max(1)
    right = (predicted == seen.labels).double()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    points, error = [], 0.0
    for number in range(BINS):
        chosen = bins == number
        if count := int(chosen.sum()):
            mean, share = float(confidence[chosen].double().mean()) * 100, float(right[chosen].mean()) * 100
            error += count / len(right) * abs(mean - share)
            tip = f"{count:,} images of {mean:.1f} % confidence: {share:.1f} % right"
            points.append(Point(x=mean, y=share, tip=tip))
    low = min(min(point.x for point in points), min(point.y for point in points))
    axis = max(0.0, low - 5)
    ideal = (Point(x=axis, y=axis), Point(x=100.0, y=100.0))
    series = (
        Series(name="as sure as it is right", tone=0, parts=(ideal,), join="line", mark=None),
        Series(name="validation images in ten bins", tone=1, parts=(tuple(points),), join="line"),
    )
    return XYChart(
        name="calibration", title="Is it as sure as it is right?", series=series,
        x=number_axis("confidence, percent", [axis, 100]), y=number_axis("right, percent", [axis, 100]),
        alt=f"The expected calibration error is {error:.2f} points.",
        note=f"Expected calibration error {error:.2f} points over {len(right):,} validation images. Above the grey "
        "line it is right more often than it claims, below it less often.",
    )  # fmt: skip


def misread(found: Findings) -> TileChart | None:
    """Draw validation images that the winner misreads, the surest first, with label, prediction and confidence."""
    seen = found.validation
    if isinstance(seen, str):
        return None
    confidence, predicted = seen.probabilities.max(1)
    wrong = (predicted != seen.labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    names, tiles = _classes(found), []
    for index in order[:MOST_MISREAD].tolist():
        label, read, sure = names[int(seen.labels[index])], names[int(predicted[index])], float(confidence[index])
        tiles.append(
            Tile(
                pixels=_pixels(seen.images[index]), lines=(f"is {cut(label, 8)}", f"as {cut(read, 8)}", f"{sure:.0%}"),
                tip=f"{label} read as {read} with {sure:.1%} confidence (validation image {index})",
            )
        )  # fmt: skip
    if not tiles:
        return None
    return TileChart(
        name="misread", title="What it misreads", tiles=tuple(tiles),
        alt=f"{len(tiles)} of {len(order):,} misread validation images, the surest first.",
        note=f"{len(order):,} of {len(seen.labels):,} validation images are misread; these are the {len(tiles)} that "
        "it is surest of: what it is, what it is read as, and how sure the network is of that.",
    )  # fmt: skip


def augmented(found: Findings) -> TileChart | None:
    """Draw images as the winner's recipe augments them; validation images, so that no others need be read."""
    seen = found.validation
    if isinstance(seen, str) or found.recipe is None:
        return None
    try:
        recipe = Recipe.from_dict(dict(found.recipe))
    except NasError:
        return None
    chosen = torch.linspace(0, len(seen.labels) - 1, min(AUGMENTED, len(seen.labels))).long()  # of every class
    images = seen.images[chosen]
    generator = torch.Generator().manual_seed(0)
    channels, height, width = images.shape[1:]
    draws = random_draws(recipe, len(images), (height, width), generator)
    moved = apply_draws(images, draws, Normalization((0.0,) * channels, (1.0,) * channels))
    names = _classes(found)
    tiles = tuple(
        Tile(
            pixels=_pixels((each * 255).round().clamp(0, 255).to(torch.uint8)), lines=(names[label],), tip=names[label]
        )
        for each, label in zip(moved, seen.labels[chosen].tolist(), strict=True)
    )
    return TileChart(
        name="augmented", title="A batch as it is augmented", tiles=tiles,
        alt=f"{len(tiles)} images turned, moved, scaled and sheared.",
        note=f"±{recipe.degrees:g}° turned, ±{recipe.translate:g} pixels moved, ±{recipe.scale:.0%} scaled, "
        f"±{recipe.shear:g} sheared, drawn anew for each image and epoch.",
    )  # fmt: skip


def _pixels(image: Any) -> Any:
    """Return an image (C, H, W) uint8 as (H, W) or (H, W, 3)."""
    array = image.cpu().numpy()
    return array.transpose(1, 2, 0) if array.shape[0] == 3 else array[0]


def _classes(found: Findings) -> tuple[str, ...]:
    assert found.reason is not None
    return found.reason.classes
