"""The identity of a study: all that the settings it is resumed with must have in common with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from nas.errors import UsageError

SETTINGS = "settings"
"""The study's attribute with what a resumed study must share; its presence marks a study of this tool."""

FORMAT = 2
"""The version of the attributes that a study holds; studies of another one are refused."""


def recorded(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as a study records it."""
    return {"format": FORMAT, "nas": version("nas"), **identity}


def require_same(name: str, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise `UsageError` naming the first key by which a study's record differs from an identity."""
    ours = json.loads(json.dumps(recorded(identity)))  # as it comes back from the database
    known = {"nas": ours["nas"], **known}  # one made before that was recorded
    if known.get("format") != FORMAT:
        raise UsageError(
            f"the study '{name}' is of another version of nas (format {known.get('format', 1)}, not {FORMAT}): "
            "give another --study"
        )
    for key in sorted(known.keys() | ours.keys()):
        if known.get(key) != ours.get(key):
            raise UsageError(
                f"the study '{name}' was made with {key} = {known.get(key)}, not {ours.get(key)}: "
                "give the same, or another --study"
            )
