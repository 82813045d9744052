"""The pictures by name and the files they are written to: checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from nas.errors import UsageError

PICTURE_NAMES = {
    "parameters": "accuracy against parameters, the front, the cap, public designs",
    "progress": "the best so far against time",
    "curves": "the learning curves of trials and finalists",
    "schedules": "where every generated schedule went",
    "features": "which features of a schedule went with accuracy",
    "fidelity": "how well brief trials predicted the finalists",
    "seeds": "the full run, seed by seed",
    "layers": "the winner, layer by layer",
    "filters": "the filters of its first layer",
    "confusion": "what it takes for what, on validation images",
    "calibration": "whether its probabilities are right, on validation images",
    "misread": "the validation images it misreads",
    "augmented": "a batch of training images as it saw them",
}
"""A line on each picture, by its name."""

SUFFIXES = (".svg", ".png", ".html")


def require_name(name: str) -> None:
    """Raise `UsageError` for a name that no picture has."""
    if name not in PICTURE_NAMES:
        raise UsageError(f"no picture '{name}': one of {', '.join(PICTURE_NAMES)}")


def require_suffix(path: Path) -> None:
    """Raise `UsageError` for a file that no picture can be written to."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"a picture is a {', '.join(SUFFIXES)} file, not '{path}'")
