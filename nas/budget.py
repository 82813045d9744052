"""`Budget`: the caps of a track and its fixed rules; reads `budgets/*.toml`."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import UsageError

BUDGETS = Path(__file__).parent / "budgets"
if not BUDGETS.is_dir():  # a source checkout keeps them at the top level; the wheel carries them in the package
    BUDGETS = Path(__file__).parent.parent / "budgets"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The caps, inclusive, and what a track fixes. At least one cap is given.

    `max_params` counts convolution weights, biases and norm affines, not buffers; `max_macs` counts the
    multiply-accumulates of the convolutions for one image. `target` is an accuracy in percent. `dataset` None means
    that none was named. `brief_epochs` None stands for `brief_epochs_of` the cap.
    """

    max_params: int | None = None
    max_macs: int | None = None
    dataset: str | None = None
    brief_epochs: int | None = None
    full_epochs: int = 15
    target: float = 99.4

    def __post_init__(self) -> None:
        if self.max_params is None and self.max_macs is None:
            raise UsageError("a budget needs a cap: give --max-params N, --max-macs N or --budget NAME")
        for name, least in (("max_params", 1), ("max_macs", 1), ("brief_epochs", 1), ("full_epochs", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise UsageError(f"{name} is a whole number of {least} or more, not {value!r}")
        if isinstance(self.target, bool) or not isinstance(self.target, int | float) or not 0 < self.target <= 100:
            raise UsageError(f"target is an accuracy in percent, over 0 and at most 100, not {self.target!r}")
        if self.dataset is not None and (not isinstance(self.dataset, str) or not self.dataset):
            raise UsageError(f"dataset is a name, not {self.dataset!r}")

    def share(self, num_params: int, macs: int) -> float:
        """The share of the budget that the counts use: the larger of the two, where both are capped."""
        return max(num_params / (self.max_params or math.inf), macs / (self.max_macs or math.inf))

    def admits(self, num_params: int, macs: int) -> bool:
        """Whether both counts are within the caps; a cap is inclusive."""
        return (self.max_params is None or num_params <= self.max_params) and (
            self.max_macs is None or macs <= self.max_macs
        )

    @property
    def name(self) -> str:
        """A short name for folders: `8000-params`, `500000-macs`, or both."""
        caps = ((self.max_params, "params"), (self.max_macs, "macs"))
        return "-".join(f"{cap}-{unit}" for cap, unit in caps if cap is not None)

    def __str__(self) -> str:
        caps = ((self.max_params, "parameters"), (self.max_macs, "MACs"))
        return " and ".join(f"at most {cap:,} {unit}" for cap, unit in caps if cap is not None)


def brief_epochs_of(max_params: int | None) -> int:
    """Epochs of a brief trial: three for 8,000 parameters and more, up to eight for fewer, as the root of their number.

    Small networks learn more slowly, and three epochs may rank them by that: they put one of 3,608 parameters with two
    pools beside a deep separable one of 4,106, which was 0.05 points ahead after six (one seed, the mean of the last
    three epochs). They also cost less.
    """
    return 3 if max_params is None else min(8, round(3 * max(1.0, math.sqrt(8000 / max_params))))


def read(name: str, **overrides: Any) -> Budget:
    """The budget of a file: a name such as `8k` for one of `budgets/`, or a path to a TOML file.

    `overrides` that are not None replace its values. Raises `UsageError` on a missing file, bad TOML, an unknown key
    or a value that breaks a rule.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = BUDGETS / f"{name}.toml"
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted((file.stem for file in BUDGETS.glob("*.toml")), key=lambda stem: (len(stem), stem)))
        raise UsageError(f"no budget '{name}': give one of {known}, or the path of a .toml file") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of TOML, UTF-8, a path, or a giant integer
        raise UsageError(f"cannot read the budget {path}: {error}") from error
    known_keys = [field.name for field in dataclasses.fields(Budget)]
    if unknown := sorted(set(fields) - set(known_keys)):
        raise UsageError(f"unknown key '{unknown[0]}' in {path}: a budget has {', '.join(known_keys)}")
    fields |= {key: value for key, value in overrides.items() if value is not None}
    return Budget(**fields)
