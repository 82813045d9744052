"""`Budget`: the caps of a track and its fixed rules; reads `budgets/*.toml`, and counts and times as people type."""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.space_options import SpaceOptions

BUDGETS = Path(__file__).parent / "budgets"
if not BUDGETS.is_dir():  # a source checkout has them at the top level; the wheel carries them in the package
    BUDGETS = Path(__file__).parent.parent / "budgets"

BOARDS = BUDGETS / "boards" / "boards.toml"
"""In a folder of its own: every other file of `BUDGETS` is a track."""

LAST_EPOCHS = 5
"""The protocol's last-5 accuracy: the mean over so many last epochs, for each seed."""

FINALIST_LAST_EPOCHS = 3
"""A finalist's score is its mean validation accuracy over this many last epochs."""

FULL_EPOCHS = 15
"""Epochs of a full run by default: those of the public records on MNIST."""

MAX_EPOCHS = 10_000
"""The most epochs of a recipe: a budget with more would be refused only once its brief trials are trained."""

MAX_DIGITS = 30
"""The most digits of a cap: it is part of the name of a study's folder, and Python prints no more than 4,300."""

MAX_SECONDS = 3650 * 86_400
"""Ten years: longer waits overflow in the operating system."""


CAPS = ("max_params", "max_macs", "max_flash", "max_ram")
CAP_UNITS = ("parameters", "MACs", "bytes of flash", "bytes of RAM")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The caps, inclusive, and what a track fixes. At least one cap is given.

    `max_params` counts convolution weights, biases and norm affines, not buffers; `max_macs` counts the
    multiply-accumulates of the convolutions for one image. `max_flash` and `max_ram` are bytes that the int8 C code
    takes of a device, as counted by `nas.footprint`: the input image and the logits are part of the RAM. `dataset` None
    means that none was named. Epochs of None follow the caps and the data set. `target` is an accuracy in percent; None
    follows the data set.
    """

    max_params: int | None = None
    max_macs: int | None = None
    max_flash: int | None = None
    max_ram: int | None = None
    dataset: str | None = None
    brief_epochs: int | None = None
    full_epochs: int | None = None
    target: float | None = None
    space: SpaceOptions | None = None

    def __post_init__(self) -> None:
        for name in CAPS:
            _require_whole(name, getattr(self, name), None)
        if self.max_params is None and self.max_macs is None and self.max_flash is None:
            raise UsageError(
                "a budget needs a cap: give --max-params N, --max-macs N or --budget NAME"
                if self.max_ram is None else
                "a cap on RAM leaves the number of weights open: give --max-flash N or --max-params N besides"
            )  # fmt: skip
        for name in ("brief_epochs", "full_epochs"):
            _require_whole(name, getattr(self, name), MAX_EPOCHS)
        target = self.target
        if target is not None and (
            isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target <= 100
        ):
            raise UsageError(f"target is an accuracy in percent, over 0 and at most 100, not {_shown(self.target)}")
        if not isinstance(self.space, SpaceOptions | None):
            raise UsageError(f"space is a table of options, [space], not {_shown(self.space)}")
        if self.dataset is not None and (not isinstance(self.dataset, str) or not self.dataset):
            raise UsageError(f"dataset is a name, not {_shown(self.dataset)}")

    @property
    def caps(self) -> tuple[int | None, int | None, int | None, int | None]:
        """The caps on parameters, MACs, bytes of flash and bytes of RAM."""
        return self.max_params, self.max_macs, self.max_flash, self.max_ram

    def on(self, dataset: str | None) -> Budget:
        """Return the budget for another data set: without epochs and target, which are for the one it names."""
        if dataset is None or self.dataset is None or _plain(dataset) == _plain(self.dataset):
            return self
        return dataclasses.replace(self, dataset=dataset, brief_epochs=None, full_epochs=None, target=None)

    @property
    def caps_memory(self) -> bool:
        """True if flash or RAM is capped."""
        return self.max_flash is not None or self.max_ram is not None

    @property
    def most_params(self) -> int | None:
        """A bound on the parameters that the caps admit: a parameter takes a byte of flash or more; None for none."""
        return min((cap for cap in (self.max_params, self.max_flash) if cap is not None), default=None)

    def share(self, *counts: int) -> float:
        """Return the share of the budget that counts in the order of `caps` use: the largest of what is capped.

        Those of flash and RAM may be left out where neither is capped.
        """
        return max(count / (cap or math.inf) for count, cap in zip(counts, self.caps, strict=False))

    def admits(self, *counts: int) -> bool:
        """Return True if counts, as for `share`, are within the caps; a cap is inclusive."""
        return all(cap is None or count <= cap for count, cap in zip(counts, self.caps, strict=False))

    @property
    def name(self) -> str:
        """A short name for folders: `8000-params`, `500000-macs`, or both."""
        return "-".join(
            f"{cap}-{name.removeprefix('max_')}" for cap, name in zip(self.caps, CAPS, strict=True) if cap is not None
        )

    def study_name(self, dataset: str, *, pareto: bool) -> str:
        """Return the name of a search's study by default: data set, caps and kind."""
        return f"{dataset}-{self.name}{'-pareto' * pareto}"

    def __str__(self) -> str:
        caps = zip(self.caps, CAP_UNITS, strict=True)
        return " and ".join(f"at most {cap:,} {unit}" for cap, unit in caps if cap is not None)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def default_brief_epochs(max_params: int | None) -> int:
    """Return the epochs of a brief trial: 3 from 8,000 parameters on, growing to 8 as the root of their number falls.

    Small networks learn more slowly, so that few epochs would rank them by their speed; they also cost less.
    """
    return 3 if max_params is None else min(8, round(3 * max(1.0, math.sqrt(8000 / max_params))))


def read_budget(name: str, **overrides: Any) -> Budget:
    """Return the budget of a file: a name such as `8k` for one of `budgets/`, or a path to a TOML file.

    `overrides` that are not None replace its values; of a file for another data set the caps alone hold. Raises
    `UsageError` on a missing file, bad TOML, an unknown key or a value that breaks a rule.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = BUDGETS / f"{name}.toml"
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path == Path(name):
            raise UsageError(
                f"there is no {path}: a budget is the path of a .toml file, or a track such as 8k"
            ) from None
        known = ", ".join(sorted((file.stem for file in BUDGETS.glob("*.toml")), key=lambda stem: (len(stem), stem)))
        raise UsageError(f"no budget '{name}': give one of {known}, or the path of a .toml file") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of TOML, UTF-8, a path, or a giant integer
        raise UsageError(f"cannot read the budget {path}: {error}") from error
    known_keys = [field.name for field in dataclasses.fields(Budget)]
    if unknown := sorted(set(fields) - set(known_keys)):
        raise UsageError(f"unknown key '{unknown[0]}' in {path}: a budget has {', '.join(known_keys)}")
    if "space" in fields:
        fields["space"] = SpaceOptions.of_table(fields["space"])
    given = {key: value for key, value in overrides.items() if value is not None}
    named = Budget(**(fields | {key: given[key] for key in given.keys() & {*CAPS}}))
    return dataclasses.replace(named.on(given.get("dataset")), **given)


@dataclass(frozen=True, kw_only=True)
class Board:
    """A microcontroller board, and the bytes of flash and RAM that a program may have on it."""

    name: str
    title: str
    chip: str
    flash: int
    ram: int


def read_boards() -> dict[str, Board]:
    """Return the well-known boards by name, from `BOARDS`. Raises `UsageError` where it cannot be read."""
    try:
        tables = tomllib.loads(BOARDS.read_text(encoding="utf-8"))
        return {name: Board(name=name, **fields) for name, fields in tables.items()}
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"cannot read the boards in {BOARDS}: {error}") from error


def find_board(name: str) -> Board:
    """Return the board of that name, capitals and hyphens aside. Raises `UsageError` for an unknown one."""
    plain = re.sub("[^a-z0-9]", "", name.lower())
    boards = read_boards()
    found = [board for board in boards.values() if re.sub("[^a-z0-9]", "", board.name) == plain]
    if not found:
        tracks = {path.stem for path in BUDGETS.glob("*.toml")}
        rule = f"no board '{name}'" + (f" ('{name}' is a budget: --budget {name})" if name in tracks else "")
        raise UsageError(f"{rule}: give one of {', '.join(boards)}, or --max-flash N and --max-ram N")
    return found[0]


# [0-9] and not \d, which also takes the digits of other scripts.
_COUNT = re.compile(r"([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:_[0-9]{3})+)(\.[0-9]+)?\s?([kmg]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_DURATION = re.compile(
    rf"(?:{_NUMBER}\s?d)?\s*(?:{_NUMBER}\s?h)?\s*(?:{_NUMBER}\s?m(?:in)?)?\s*(?:{_NUMBER}\s?s)?|{_NUMBER}",
    re.IGNORECASE,
)


def last_epochs(epochs: int) -> str:
    """Return the name of a run's accuracy: `last-5`; of a run with fewer epochs it is the mean over all, `last-2`."""
    return f"last-{min(LAST_EPOCHS, epochs)}"


def parse_count(text: str, name: str = "a count") -> int:
    """Return the whole number that `8000`, `8,000`, `8_000`, `8k`, `1.5M` or `2G` stands for (in powers of 1,000).

    Raises `UsageError`, which begins with `name`, for anything else, for zero and for more than 30 digits.
    """
    match = _COUNT.fullmatch(text.strip())
    # "8.000" without a unit is eight thousand to some readers and eight to others: it is refused.
    if match is not None and (match[3] or not match[2]):
        digits = re.sub("[,_]", "", match[1]).lstrip("0") + (match[2] or "")
        number = Fraction(digits or "0") * _UNITS[match[3].lower()] if len(digits) <= 2 * MAX_DIGITS else None
        if number is None or number >= 10**MAX_DIGITS:
            raise UsageError(f"{name} is a whole number of at most {MAX_DIGITS} digits, not {_shown(text)}")
        if number.denominator == 1 and number >= 1:
            return number.numerator
    raise UsageError(f"{name} is a whole number of 1 or more such as 8000, 8,000 or 8k, not {_shown(text)}")


def parse_duration(text: str, name: str = "a duration") -> float:
    """Return the seconds of `90`, `90s`, `20m`, `1.5h`, `1h30m` or `1d 12h`; capitals mean the same.

    Raises `UsageError`, which begins with `name`, for anything else, for zero and for more than ten years.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is not None:
        days, hours, minutes, seconds, alone = (float(part or 0) for part in match.groups())
        total = 86_400 * days + 3600 * hours + 60 * minutes + seconds + alone
        if 0 < total <= MAX_SECONDS:
            return total
    raise UsageError(f"{name} is a time such as 90s, 20m, 2h or 1h30m, not {_shown(text)}")


def _require_whole(name: str, value: object, most: int | None) -> None:
    """Raise `UsageError` if the value is neither None nor a whole number from 1 to `most` (None: of 30 digits)."""
    if value is None:
        return
    if type(value) is not int or value < 1 or (most is not None and value > most):  # a bool is an int too, but not here
        rule = "of 1 or more" if most is None else f"from 1 to {most:,}"
        raise UsageError(f"{name} is a whole number {rule}, not {_shown(value)}")
    if value >= 10**MAX_DIGITS:
        raise UsageError(f"{name} is a whole number of at most {MAX_DIGITS} digits, not {_shown(value)}")


def _shown(value: object) -> str:
    """Return a value as text that is short and of one line."""
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:  # Python refuses to print the longest
        return f"one of some {math.ceil(abs(value).bit_length() * math.log10(2)):,} digits"
    return reprlib.repr(value)
