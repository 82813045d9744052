"""Moves between points: random points to start from, filling the budget, mutation, and shrinking to fit.

Every draw comes from the generator given, in an order that is fixed: another order is another search.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from optuna.distributions import IntDistribution

from nas.architecture import Architecture
from nas.space.points import POOLS, Params, Points, choices

LEAST_SHARE = 0.85
"""Proposals that use less of the budget are widened: of schedules that differ in width, the wider score higher."""

PRIOR: dict[str, tuple[float, ...]] = {
    "down": (0.8,),  # pool, stride
    "first_kernel": (0.75,),  # 3, 5
    "padded": (0.6,),  # no, yes
    "bias": (15 / 16,),  # no, yes: before a batch norm a bias only costs parameters
}
WIDE_PRIOR = PRIOR | {"padded": (0.15,), "residual": (0.3,), "kernel": (0.4, 0.8)}  # 3, 5, 7
"""Cumulative odds of the choices of a random point, but for the last; the others are as likely as each other. The wide
ones are for spaces whose residuals fit by construction."""

SQUEEZE_ODDS, LEAN = 0.2, (0.6, 0.4)
"""For each random point a share of separable blocks is drawn from the Beta distribution of `LEAN`, which favours none
and all of them, all more than none, as good networks are nearly all of one kind. Of the other blocks one in five is a
squeeze."""

WIDE_SQUEEZE_ODDS, WIDE_LEAN = 0.08, {"conv": 0.3, "separable": 0.6, "inverted": 0.15}
"""The same where there are more kinds, from a Dirichlet distribution; of all blocks one in twelve is a squeeze.
Inverted bottlenecks are the fewest: at 11,400 parameters they scored lowest on validation images of CIFAR-10."""

CHANGES = ("width", "width", "kind", "depth", "option")
"""Changes of a mutation, each as likely as the others: widths are most of a schedule."""

SHRINK = 0.9

REGULAR = (("separable", 5, True), ("separable", 3, False), ("conv", 3, False))
"""The kinds of blocks of regular schedules, with their kernel sizes, and whether they are residual."""

REGULAR_SHARE = 0.97
"""The share of the budget that they aim at, so that rounded widths stay within it."""


@dataclass(frozen=True, kw_only=True)
class Moves(Points):
    """Points that can be drawn and changed. No move changes the point it is given."""

    @cached_property
    def options(self) -> tuple[str, ...]:
        """Choices for more than one block. Without the bias: before a batch norm it only costs parameters."""
        single = ("depth", "bias", "width", "kind", "kernel", "dense_width")
        names = [name for name in self.distributions if name.rstrip("_0123456789") not in single]
        return tuple(name for name in names if len(choices(self.distributions[name])) > 1)

    @cached_property
    def plain(self) -> Params:
        """The choices with the fewest parameters."""
        kinds = [kind for kind in ("squeeze", "separable", "inverted", "conv") if kind in self.ranges.blocks]
        least = {"bias": False, "kind": kinds[0], "head": "C G"}
        found: Params = {}
        for name, distribution in self.distributions.items():
            if (stem := name.rstrip("_0123456789")) in ("bias", "first_kernel", "head", "kind", "kernel", "expansion"):
                options = choices(distribution)
                found[name] = least[stem] if least.get(stem) in options else min(options, key=str)
        return found

    def random(self, rng: np.random.Generator, share: float | None = None) -> Params:
        """Return a random point: widths that grow from stage to stage, scaled to most of the budget or a share of it.

        Choices are drawn by `PRIOR` or `WIDE_PRIOR`, kinds of blocks by the point's own lean (see `LEAN`), all else
        uniformly.
        """
        params: Params = {}
        kinds, prior = self._kind_odds(rng), WIDE_PRIOR if self.ranges.ties_widths else PRIOR
        for (name, distribution), drawn in zip(
            self.distributions.items(), rng.random(len(self.distributions)).tolist(), strict=True
        ):
            options = choices(distribution)
            odds = kinds if name.startswith("kind") else prior.get(name.rstrip("_0123456789"))
            if odds is not None and len(odds) != len(options) - 1:  # narrowed by the user
                odds = None
            params[name] = options[int(drawn * len(options)) if odds is None else bisect(odds, drawn)]
        pools = list(accumulate(params[name] for name in POOLS[: self.stages - 1]))
        growth, jitter = math.exp(rng.uniform(0, 0.7)), np.exp(rng.uniform(-0.4, 0.4, self.slots)).tolist()
        base = self.max_width / 5
        for slot in range(1, self.slots + 1):
            relative = growth ** sum(slot > pool for pool in pools) * jitter[slot - 1]
            params[f"width_{slot}"] = self._clip(base * relative)
        params["dense_width"] = self._clip(base * growth)
        most = 0.99 if self.ranges.ties_widths else 1.02
        return self.fill(params, share or rng.uniform(LEAST_SHARE, most))

    def _kind_odds(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Return cumulative odds of the kinds of blocks, for one point."""
        kinds = self.ranges.blocks
        if not self.ranges.ties_widths:
            separable = float(rng.beta(*LEAN))
            squeeze = (1 - separable) * SQUEEZE_ODDS
            return 1 - separable - squeeze, 1 - squeeze
        spatial = [kind for kind in kinds if kind != "squeeze"]
        shares = (
            dict(zip(spatial, rng.dirichlet([WIDE_LEAN[kind] for kind in spatial]), strict=True)) if spatial else {}
        )
        squeeze = (WIDE_SQUEEZE_ODDS if spatial else 1.0) if "squeeze" in kinds else 0.0
        odds = [squeeze if kind == "squeeze" else float(shares[kind]) * (1 - squeeze) for kind in kinds]
        return tuple(accumulate(odds[:-1]))

    def fill(self, params: Params, share: float, *, used: float | None = None) -> Params:
        """Return the same schedule with its widths scaled together until it uses about `share` of the budget.

        `used` is its own share, where the caller knows it. An illegal shape stays as it is.
        """
        factor, filled = 1.0, params
        # Counts grow about as the square of the widths: two steps come close, but for what grows with the width alone.
        for _ in range(4 if self.ranges.ties_widths else 2):
            used = self.share(filled) if used is None else used
            if used is None:
                return params
            factor *= math.sqrt(share / used)
            filled = params | {name: self._clip(params[name] * factor) for name in params if "width" in name}
            used = None
        return filled

    def regular(self) -> list[tuple[str, Params]]:
        """Return schedules of one kind of block each, as (name, point): two blocks a stage, widths that fill the caps.

        They are what is drawn by hand on a new task. A space of the MNIST records has published designs instead.
        """
        ranges, found = self.ranges, []
        for kind, kernel, residual in REGULAR if ranges.ties_widths else ():
            sizes = ranges.kernel_sizes if kind == "separable" else (3,)
            if kind in ranges.blocks and kernel in sizes and residual in ranges.residual:
                params = self._regular(kind, kernel, residual)
                if self.share(params) is not None and (fits := self.shrink(self.fill(params, REGULAR_SHARE))):
                    found.append((f"regular {kind} {kernel}x{kernel}", fits[0]))
        return found

    def _regular(self, kind: str, kernel: int, residual: bool) -> Params:
        """Return the point of the fewest pools, half as wide again from stage to stage."""
        pools = self.ranges.pools[0]
        wanted = {"bias": False, "order": "norm-relu", "padded": True, "down": "pool", "kind": kind, "kernel": kernel}
        params: Params = {}
        for name, distribution in self.distributions.items():
            options, value = choices(distribution), wanted.get(name.rstrip("_0123456789"))
            params[name] = value if value in options else options[0]
        params |= {name: min(2, choices(self.distributions[name])[-1]) for name in POOLS[:pools]}
        params |= {"residual": residual, "depth": min(max(2 * pools + 3, self.min_depth), self.slots)}
        ends = set(accumulate(params[name] for name in POOLS[:pools]))
        width = 8.0
        for slot in range(1, self.slots + 1):
            params[f"width_{slot}"] = self._clip(width)
            width *= 1.5 if slot in ends else 1.0
        return params

    def widen(self, params: Params, rng: np.random.Generator) -> Params:
        """Return the point without biases, filled to a random share if it uses less than `LEAST_SHARE`."""
        params = params | {"bias": self.plain["bias"]}
        used = self.share(params)
        if used is None or used >= LEAST_SHARE:
            return params
        return self.fill(params, rng.uniform(LEAST_SHARE, 1.0), used=used)

    def mutate(self, params: Params, rng: np.random.Generator, share: float | None = None) -> Params:
        """Return a neighbour: one to three small changes to the schedule, filled again if they left the budget.

        With a share of the budget, it is filled to that in any case. A change moves a width by up to half, inserts or
        removes a block, or takes another choice or the next place of a pool.
        """
        mutant = dict(params)
        for _ in range(min(3, int(rng.geometric(0.6)))):
            change, slot = rng.choice(CHANGES), int(rng.integers(1, mutant["depth"] + 1))
            if change == "width":
                name = "dense_width" if "dense" in mutant["head"] and rng.random() < 0.1 else f"width_{slot}"
                step = rng.choice((-1, 1)) * max(1.0, mutant[name] * rng.uniform(0, 0.5))
                mutant[name] = self._clip(mutant[name] + step)
            elif change == "depth":
                mutant = self._lengthen(mutant, slot) if rng.random() < 0.5 else self._shorten(mutant, slot)
            else:
                name = f"kind_{max(2, slot)}" if change == "kind" else str(rng.choice(self.options))
                if change == "kind" and len(self.ranges.kernel_sizes) > 1 and rng.random() < 0.4:
                    name = f"kernel_{max(2, slot)}"
                options = choices(self.distributions[name])
                place = options.index(mutant[name])
                near = isinstance(self.distributions[name], IntDistribution)
                others = [i for i in range(len(options)) if i != place and (not near or abs(i - place) == 1)]
                if others:
                    mutant[name] = options[int(rng.choice(others))]
        mutant["bias"] = self.plain["bias"]
        if share is not None:
            return self.fill(mutant, share)
        used = self.share(mutant)
        if used is None or LEAST_SHARE <= used <= 1:
            return mutant
        return self.fill(mutant, rng.uniform(0.9, 1.0), used=used)

    def _lengthen(self, params: Params, slot: int) -> Params:
        """Insert a copy of the block after it, where there is room for one more."""
        if params["depth"] == self.slots:
            return params
        moved = {name: params[before] for before, name in self._neighbours(slot) if before in params}
        return params | moved | {"depth": params["depth"] + 1}

    def _shorten(self, params: Params, slot: int) -> Params:
        """Remove the block, where there are more than the fewest."""
        if params["depth"] == self.min_depth:
            return params
        moved = {name: params[after] for name, after in self._neighbours(slot) if name in params}
        return params | moved | {"depth": params["depth"] - 1}

    def shrink(self, params: Params) -> tuple[Params, Architecture] | None:
        """Narrow the schedule by tenths, then drop its last blocks, then take the plainest choices, until it fits.

        Returns the point with its architecture; as it was if the caps admit it already, None if they admit none.
        """
        shrunk = dict(params)
        while True:
            architecture = self.decode(shrunk)
            if self.budget.admits(*self.counts(architecture)):
                return shrunk, architecture
            wide = [name for name, value in shrunk.items() if "width" in name and value > self.min_width]
            if wide:
                shrunk |= {name: max(self.min_width, int(shrunk[name] * SHRINK)) for name in wide}
            elif shrunk["depth"] > self.min_depth:
                shrunk["depth"] -= 1
            elif shrunk | self.plain != shrunk:
                shrunk |= self.plain
            else:
                return None

    def _clip(self, width: float) -> int:
        return min(max(round(width), self.min_width), self.max_width)

    def _neighbours(self, slot: int) -> list[tuple[str, str]]:
        """Return the names of what each slot has, from this one on, paired with those of the next slot."""
        names = ("width", "kind", "kernel")
        return [(f"{name}_{n}", f"{name}_{n + 1}") for name in names for n in range(slot, self.slots)]
