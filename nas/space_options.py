"""`SpaceOptions`: what a user narrows or widens of a search space, the `[space]` table of a budget file."""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass
from typing import Any

from nas.errors import UsageError

BLOCKS = ("conv", "separable", "squeeze", "inverted")
HEADS = ("C G", "Cb G", "G C", "G Cb", "G dense C")

SPANS = {"depth": (2, 24), "widths": (1, 4096), "pools": (0, 5)}
"""Options that are the least and the most, and the bounds of both."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "blocks": BLOCKS, "kernel_sizes": (3, 5, 7), "first_kernel_sizes": (1, 3, 5, 7), "first_strides": (1, 2),
    "expansions": (1, 2, 3, 4, 5, 6, 7, 8, 9), "down": ("pool", "stride"), "orders": ("norm-relu", "relu-norm"),
    "padded": (True, False), "residual": (True, False), "bias": (True, False), "heads": HEADS,
}  # fmt: skip
"""Options that are a list of some of these."""


@dataclass(frozen=True, kw_only=True)
class SpaceOptions:
    """The ranges that a user sets; None leaves one to what follows from the input and the caps.

    `depth` counts the blocks before the head, `pools` the halvings of the map after the first block, by a pool or a
    stride (`down`). `kernel_sizes` are those of depthwise convolutions, `expansions` those of inverted bottlenecks. The
    first block is always a convolution. Raises `UsageError` for a value that breaks a rule.
    """

    blocks: tuple[str, ...] | None = None
    depth: tuple[int, int] | None = None
    widths: tuple[int, int] | None = None
    kernel_sizes: tuple[int, ...] | None = None
    first_kernel_sizes: tuple[int, ...] | None = None
    first_strides: tuple[int, ...] | None = None
    expansions: tuple[int, ...] | None = None
    pools: tuple[int, int] | None = None
    down: tuple[str, ...] | None = None
    orders: tuple[str, ...] | None = None
    padded: tuple[bool, ...] | None = None
    residual: tuple[bool, ...] | None = None
    bias: tuple[bool, ...] | None = None
    heads: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if name in SPANS:
                low, high = SPANS[name]
                whole = isinstance(value, tuple) and all(type(number) is int for number in value)
                if not whole or len(value) != 2 or not low <= value[0] <= value[1] <= high:
                    raise UsageError(
                        f"[space] {name} is [least, most], whole numbers from {low} to {high}, not {_shown(value)}"
                    )
            else:
                known = {(type(choice), choice) for choice in CHOICES[name]}  # True is 1 as well
                good = isinstance(value, tuple) and all(isinstance(each, bool | int | str) for each in value)
                if not good or not value or not {(type(each), each) for each in value} <= known:
                    some = ", ".join(_toml(choice) for choice in CHOICES[name])
                    raise UsageError(f"[space] {name} is a list of some of {some}, not {_shown(value)}")
                if len(set(value)) < len(value):
                    raise UsageError(f"[space] {name} names a choice twice: {_shown(value)}")

    def given(self) -> dict[str, Any]:
        """Return what is set."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def of_table(cls, table: object) -> SpaceOptions:
        """Return the options of a TOML table; raises `UsageError` for an unknown key or a wrong value."""
        if not isinstance(table, dict):
            raise UsageError(f"[space] is a table of options, not {_shown(table)}")
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(table) - set(known)):
            raise UsageError(f"unknown key '{unknown[0]}' in [space]: it has {', '.join(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _shown(value: object) -> str:
    return reprlib.repr(list(value) if isinstance(value, tuple) else value)
