"""The identity of a study: all that the settings it is resumed with must have in common with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from nas.errors import UsageError

SETTINGS = "settings"
"""The study's attribute with what a resumed study must share; its presence marks a study of this tool."""

FORMAT = 2
"""The version of the attributes that a study holds; studies of another one are refused."""


OPTIONS = {
    "max_params": "--max-params", "max_macs": "--max-macs", "max_flash": "--max-flash", "max_ram": "--max-ram",
    "architecture": "--architecture", "dataset": "--dataset", "pareto": "--pareto", "metric": "--metric",
    "recipe.epochs": "--brief-epochs", "finalist_epochs": "--finalist-epochs", "recipe.teacher": "--teacher",
    "recipe.class_weights": "--class-weights", "recipe.mirror": "--augment mirror", "recipe.crop": "--augment crop",
    "recipe.jitter": "--augment jitter", "recipe.cutout": "--augment cutout", "recipe.degrees": "--augment degrees",
    "recipe.translate": "--augment translate", "recipe.scale": "--augment scale", "recipe.shear": "--augment shear",
    "data_hash": "training images of sha256", "space": "a search space of", "nas": "version",
}  # fmt: skip
"""The words of the command line for the keys of an identity, in the order in which they are named."""

FIRST = ("max_params", "max_macs", "max_flash", "max_ram", "architecture", "dataset")
DERIVED = ("recipe.epochs", "finalist_epochs", "recipe.teacher", "data_hash", "space", "ranges", "recipe.peak_lr")
"""Keys whose defaults follow from the first ones: left out where one of those differs."""

MOST = 4
"""Differences that are named."""


def recorded(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as a study records it."""
    return {"format": FORMAT, "nas": version("nas"), **identity}


def foreign(name: str) -> UsageError:
    """Return the error of a study that another program made."""
    return UsageError(
        f"the study '{name}' was not made by nas, and is left untouched: give another --study or --storage"
    )


def require_same(name: str, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise `UsageError` with all that a study's record differs in from an identity, the caps first."""
    ours = json.loads(json.dumps(recorded(identity)))  # as it comes back from the database
    known = {"nas": ours["nas"], **known}  # one made before that was recorded
    if known.get("format") != FORMAT:
        raise UsageError(
            f"the study '{name}' is of another version of nas (format {known.get('format', 1)}, not {FORMAT}): "
            f"give another {_naming(ours)}"
        )
    _refuse(name, known, ours, known.keys() | ours.keys())


def require_alike(name: str, known: Mapping[str, Any], part: Mapping[str, Any]) -> None:
    """Raise `UsageError` as `require_same` does, for the keys of a part of an identity; no value is None."""
    if known.get("format") == FORMAT:  # else refused when all is known
        _refuse(name, known, part, part.keys())


def _refuse(name: str, known: Mapping[str, Any], ours: Mapping[str, Any], keys: Iterable[str]) -> None:
    differing = [key for key in keys if known.get(key) != ours.get(key)]
    order = list(OPTIONS)
    differing.sort(key=lambda key: (order.index(key) if key in order else len(order), key))
    if not differing:
        return
    if any(key in FIRST for key in differing):  # what is derived from these is no choice of the user's
        differing = [key for key in differing if key not in DERIVED]
    parts = [f"{_spelt(key, ours)}, the study has {_value(known.get(key))}" for key in differing[:MOST]]
    more = f" and {len(differing) - MOST} more" if len(differing) > MOST else ""
    raise UsageError(
        f"the study '{name}' was made otherwise: {'; '.join(parts)}{more}. Give what it has, or another "
        f"{_naming(ours)} NAME"
    )


def _spelt(key: str, ours: Mapping[str, Any]) -> str:
    """Return a key and its value as the user gives them."""
    option, value = OPTIONS.get(key, key), ours.get(key)
    if key == "recipe.epochs" and "architecture" in ours:  # there are no brief trials among recipes
        option = "--epochs"
    if option == "--pareto":
        return option if value else f"no {option}"
    if option == "--teacher":
        return f"{option} {_value(value)}"
    return f"no {option}" if value is None and option.startswith("--") else f"{option} {_value(value)}"


def _value(value: Any) -> str:
    return "none" if value in (None, False) else str(value)


def _naming(identity: Mapping[str, Any]) -> str:
    """Return the option that names a study: of recipes, or a search's."""
    return "--name" if "architecture" in identity else "--study"
