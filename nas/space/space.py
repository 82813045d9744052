"""`SearchSpace`: the cap check, proposals and their discards, the published designs, and the smallest schedule."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nas.architecture import Architecture
from nas.budget import CAP_UNITS
from nas.designs import PUBLISHED_DESIGNS
from nas.errors import InfeasibleError, UsageError
from nas.space.moves import Moves
from nas.space.points import POOLS, Params, choices

OVER_CAP, ILLEGAL, DUPLICATE, SCREENED_OUT = "over a cap", "illegal shape", "duplicate", "screened out"
DISCARDS = (OVER_CAP, ILLEGAL, DUPLICATE, SCREENED_OUT)
"""Why a generated schedule is not trained. Screened out: legal, but predicted worse than the one that is."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A new schedule within the caps, and what was generated and discarded before it."""

    params: Params
    architecture: Architecture
    discards: Mapping[str, int]
    """Counts by reason, one of `DISCARDS`; reasons without any are left out."""
    shrunk: bool
    """True if the schedule was over a cap as drawn, and made to fit."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace(Moves):
    """The schedules of `Points` under the caps of the budget."""

    def check(self, params: Mapping[str, Any], seen: Collection[str]) -> Architecture | str:
        """Return the schedule, or why it is discarded: one of `DISCARDS`. Builds nothing; some 50 microseconds.

        A schedule is a duplicate if `seen` has it or its `commuted_head`.
        """
        try:
            architecture = self.decode(params)
        except UsageError:
            return ILLEGAL
        return self._reason(architecture, seen) or architecture

    def _reason(self, architecture: Architecture, seen: Collection[str]) -> str | None:
        """Return why a legal schedule is discarded, or None."""
        if not self.budget.admits(*self.counts(architecture)):
            return OVER_CAP
        schedule = str(architecture)
        return DUPLICATE if schedule in seen or commuted_head(schedule) in seen else None

    def propose(self, draw: Callable[[int], Params], seen: Collection[str], tries: int = 200) -> Proposal:
        """Draw until a schedule is legal, within the caps and not in `seen`: `draw(n)` gives the n-th point.

        After `tries` discards, points over a cap are shrunk to fit as well. Raises `InfeasibleError`, which carries the
        discards, when twenty times as many find nothing.
        """
        discards: Counter[str] = Counter()
        for attempt in range(21 * tries):
            params = draw(attempt)
            checked = self.check(params, seen)
            if isinstance(checked, Architecture):
                return Proposal(params=params, architecture=checked, discards=dict(discards), shrunk=False)
            if attempt >= tries and checked == OVER_CAP and (smaller := self.shrink(params)) is not None:
                shrunk, architecture = smaller
                if self._reason(architecture, seen) is None:  # not discarded: it lives on as the smaller schedule
                    return Proposal(params=shrunk, architecture=architecture, discards=dict(discards), shrunk=True)
            discards[checked] += 1
        counts = ", ".join(f"{count:,} {reason}" for reason, count in discards.most_common())
        least = " or ".join(f"{least:,} {unit}" for _, least, unit in self._caps())
        raise InfeasibleError(
            f"no new schedule of {self.budget} in {21 * tries:,} proposals ({counts}): "
            f"{len(seen):,} have been tried and the smallest has {least}; raise the cap or stop here",
            discards=discards,
        )

    def published(self) -> list[tuple[str, Params]]:
        """Return the published designs that the space has and the caps admit, as (name, point), largest first."""
        found = []
        for design in PUBLISHED_DESIGNS:
            try:
                architecture = Architecture.parse(
                    design.text, input_shape=self.input_shape, num_classes=self.num_classes
                )
            except UsageError:  # its map shrinks to nothing on a smaller input
                continue
            params = self.encode(architecture)
            if params is not None and self.budget.admits(*self.counts(architecture)):
                found.append((architecture.num_params, design.name, params))
        return [(name, params) for _, name, params in sorted(found, key=lambda item: -item[0])]

    def random_share(self, rng: np.random.Generator) -> float:
        """Return a share of the budget for a front of every size: log-uniform, from twice the smallest schedule's."""
        least = 2 * min(self.budget.share(*counts) for counts in self._floor)
        return math.exp(rng.uniform(min(math.log(least), math.log(0.5)), 0))

    def smallest(self) -> tuple[int, ...]:
        """Return the fewest of each of `counts` of any schedule of the space (of several schedules, maybe)."""
        return tuple(map(min, zip(*self._floor, strict=True)))

    @cached_property
    def _floor(self) -> list[tuple[int, ...]]:
        """The counts of schedules such that any of the space has no fewer of each than one of them.

        They have the least width and depth (a deeper one costs more than its first blocks) and average before they
        classify. Where the space ties widths, they are the smallest of the simplest layouts: its fewest parameters are
        exact, its fewest MACs those of a schedule that hardly any other is below.
        """
        least = {"order": "norm-relu", "bias": False, "residual": False, "head": "G C"}
        fixed: Params = {name: choices(distribution)[0] for name, distribution in self.distributions.items()}
        fixed |= {name: value for name, value in least.items() if value in choices(self.distributions[name])}
        fixed |= {name: value for name, value in self.plain.items() if name == "expansion"}
        fixed["depth"] = self.min_depth
        # A squeeze is the cheapest block on its map, and a valid separable one the cheapest that cuts the map for those
        # after it; a pool may cut it more than a stride, or be too much for it.
        layout = [*POOLS[: self.stages - 1], "down", "first_kernel", "first_stride", "padded_1"]
        free = {name: choices(self.distributions[name]) for name in layout if name in self.distributions}
        if self.ranges.ties_widths:
            free |= {name: free[name][:2] for name in POOLS if name in free}
        counts = set()
        for values in itertools.product(*free.values(), self._cheap_kinds()):
            point = fixed | dict(zip(free, values, strict=False)) | values[-1]
            try:
                architecture = self.decode(
                    point | {f"padded_{s}": point["padded_1"] for s in range(2, self.stages + 1)}
                )
            except UsageError:
                continue
            counts.add(self.counts(architecture))
        return sorted(counts)

    def _cheap_kinds(self) -> list[Params]:
        """Return the kinds of the blocks of cheap schedules."""
        slots = range(2, self.min_depth + 1)
        kinds = [kind for kind in ("squeeze", "separable", "inverted", "conv") if kind in self.ranges.blocks][:2]
        if not self.ranges.ties_widths:
            patterns: Iterable[tuple[str, ...]] = itertools.product(kinds, repeat=len(slots))
        else:  # the one that cuts the map first
            patterns = [(*[kinds[-1]] * n, *[kinds[0]] * (len(slots) - n)) for n in range(len(slots) + 1)]
            patterns += [tuple(kinds[-1] if slot == only else kinds[0] for slot in slots) for only in slots]
        points = [{f"kind_{slot}": kind for slot, kind in zip(slots, each, strict=True)} for each in patterns]
        kernels = {min(self.ranges.kernel_sizes), max(self.ranges.kernel_sizes)}  # a large valid one cuts the map most
        return [point | {f"kernel_{slot}": kernel for slot in slots} for point in points for kernel in kernels]

    def _caps(self) -> list[tuple[int, int, str]]:
        """Return each cap there is, with the smallest count of its unit."""
        caps = zip(self.budget.caps, self.smallest(), CAP_UNITS, strict=False)
        return [(cap, least, unit) for cap, least, unit in caps if cap is not None]

    def require_feasible(self) -> None:
        """Raise `InfeasibleError`, with the smallest possible count, when no schedule meets the caps."""
        for cap, least, unit in self._caps():
            if cap < least:
                raise InfeasibleError(
                    f"no schedule of the space has {cap:,} {unit} or fewer: the smallest has {least:,}; raise the cap"
                )
        if not any(self.budget.admits(*counts) for counts in self._floor):
            first, *others = [(i, cap) for i, cap in enumerate(self.budget.caps) if cap is not None]
            within = [counts for counts in self._floor if counts[first[0]] <= first[1]]
            found = " and ".join(f"{min(counts[i] for counts in within):,} {CAP_UNITS[i]}" for i, _ in others)
            raise InfeasibleError(
                f"no schedule of the space has {self.budget}: within the first cap, the smallest has {found}; "
                "raise one of them"
            )


def commuted_head(schedule: str) -> str:
    """Return the same network with `G` and the classifier in the other order; the schedule itself if it has no other.

    The two commute: the mean of a linear map is the map of the mean.
    """
    *body, one, other = schedule.split()
    return " ".join((*body, other, one)) if {one[0], other[0]} == {"C", "G"} else schedule


def survey(space: SearchSpace, *, samples: int, seed: int) -> dict[str, Any]:
    """Describe random points of a space, without training: shares, counts, depths, examples, speed."""
    rng = np.random.default_rng(seed)
    began = time.perf_counter()
    reasons: Counter[str] = Counter()
    fitting: list[Architecture] = []
    for _ in range(samples):
        checked = space.check(space.random(rng), ())
        if isinstance(checked, Architecture):
            fitting.append(checked)
        reasons["fit" if isinstance(checked, Architecture) else checked] += 1
    seconds = time.perf_counter() - began
    depths = Counter(architecture.depth for architecture in fitting)
    sizes = [architecture.num_params for architecture in fitting] or [0]
    macs = [architecture.macs for architecture in fitting] or [0]
    return {
        "samples": samples,
        "per_second": round(samples / seconds),
        "shares": {reason: reasons[reason] / samples for reason in ("fit", OVER_CAP, ILLEGAL)},
        "distinct": len({str(architecture) for architecture in fitting}),
        "num_params": [round(float(q)) for q in np.percentile(sizes, (5, 50, 95))],
        "macs": [round(float(q)) for q in np.percentile(macs, (5, 50, 95))],
        "smallest": space.smallest()[0],
        "depths": {depth: depths[depth] / max(1, len(fitting)) for depth in sorted(depths)},
        "space": space.key,
        "widths": [space.min_width, space.max_width],
        "examples": [(str(architecture), architecture.num_params) for architecture in fitting[:8]],
    }
