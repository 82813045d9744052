"""Markup: elements whose texts and attributes are escaped, whatever the data hold."""

from __future__ import annotations

import html
import re
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that no XML document may hold, or that a page shows as nothing."""


class Markup(str):
    """Text that is markup already: `tag` puts it in as it is, and escapes every other text."""

    __slots__ = ()


def escape(value: Any) -> Markup:
    """Return any value as text of a document or of a quoted attribute."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Return an element; `class_` is class, `data_tip` is data-tip; an attribute that is None is left out."""
    head = name
    for key, value in attributes.items():
        if value is not None:
            head += f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
    inner = join(*children)
    if not inner and name in ("circle", "image", "line", "path", "polygon", "rect", "meta"):
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{inner}</{name}>")


def join(*children: Any) -> Markup:
    """Return the children side by side; None is nothing, and a list or tuple is its items."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        elif child is not None:
            parts.append(escape(child))
    return Markup("".join(parts))
