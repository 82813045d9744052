"""Samplers and pruners, compared on a surrogate of the table of truth: a search takes a second or two.

    python tests/benchmarks/truth.py train         # first the table, hours
    python tests/benchmarks/samplers.py            # then the comparison, minutes

* Samplers propose what no table holds. So a Gaussian process is fitted to the full scores of the table's networks, over
  eleven features of a schedule, and others to what a brief run is short of that after each epoch, and to the seconds of
  an epoch; all on a log scale of errors, for a point near 97 % is not one near 99.5. How wrong they are, every network
  left out in turn, is shown first. What the first does not explain near the cap is real, but for the luck of seeds, and
  is put back: a replay has a world of its own, in which a smooth random function of that size is added. A brief run is
  off by what was left of a network of the table, its whole curve.
* A replay is a search by simulated wall-clock: two workers, the same seconds of brief trials for all (proposing costs
  nothing). The eight leaders are then raced as `nas search` does it, each score off by the table's sd between seeds.
  The regret is what the winner's true score is below the best that a hill climb without noise finds in that world.
* `as shipped` is Optuna as it comes, over the same ranges: nothing is drawn again or refilled, a proposal over the cap
  or of an illegal shape is told as pruned, as in its examples, and costs nothing; a schedule may come twice.
* Not among them: Wilcoxon's pruner, which compares a trial's scores on several instances, where a brief trial has one
  seed; and Optuna's GP sampler, which took 37 s for one proposal over these ranges, more than a trial takes to train.
  With the median pruner it never began: of the random points too few completed beside the published designs.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import pandas as pd
import truth
import typer
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import Trial, TrialState
from scipy import stats

from nas import search
from nas.architecture import Architecture
from nas.budget import Budget, brief_epochs_of
from nas.errors import NasError, UsageError
from nas.sampler import Proposer
from nas.space import SearchSpace
from nas.surrogate import Surface
from nas.surrogate import features as features_of
from nas.train import Recipe

WORKERS = 2
SETTINGS = search.Settings(budget=Budget(max_params=8000), dataset="mnist", recipe=Recipe(epochs=brief_epochs_of(8000)))
"""What `nas search` does by default."""

PLACES = tuple(
    search._places(SETTINGS.finalists, turn, SETTINGS) for turn in range(SETTINGS.finalist_seeds)
)  # fmt: skip
"""Finalists of each turn."""

WAVES = 200
"""Of a world's random function: enough for it to be nearly normal."""


@lru_cache(maxsize=100_000)
def features(schedule: str) -> tuple[float, ...]:
    return features_of(Architecture.parse(schedule))


class Table:
    """The surfaces of a table of truth, for brief runs of one fidelity."""

    def __init__(self, runs: pd.DataFrame, fidelity: str) -> None:
        how, full = truth.FIDELITIES[fidelity], truth.truth(runs)
        brief = runs[(runs["fidelity"] == fidelity) & (runs["seed"] == 0)].dropna(subset=["last"]).set_index("schedule")
        full = full[full.index.isin(brief.index)]
        brief = brief.loc[full.index]
        if len(full) < 20:
            raise SystemExit(f"networks with {fidelity} and full runs: {len(full)} of at least 20; train more")
        points = np.array([features(str(schedule)) for schedule in full.index])
        errors = np.log(100 - full.to_numpy(float))
        gaps = np.log(100 - brief["accuracies"].str.split(expand=True).to_numpy(float)) - errors[:, None]
        self.fidelity, self.seed_sd = fidelity, truth.seed_sd(runs)
        if math.isnan(self.seed_sd):
            raise SystemExit("no network has two full runs: train more")
        self.full = Surface(points, errors)
        self.gaps = [Surface(points, column) for column in gaps.T]
        self.pace = np.log(brief["seconds"].to_numpy(float) / how.epochs)
        self.log_seconds = Surface(points, self.pace)
        self.left = np.stack([surface.left for surface in self.gaps], 1)  # (networks, epochs)
        self.near = np.array([truth.NEAR[0] <= math.exp(point[0]) <= truth.NEAR[1] for point in points])
        self.errors, self.short = errors, gaps[:, -1]
        seeds = self.seed_sd / float(np.exp(errors[self.near]).mean())
        luck = float(np.mean(self.full.left[self.near] ** 2)) - seeds**2 / 2
        self.unexplained = math.sqrt(max(luck, 0.02**2))

    def fits(self) -> Iterator[tuple[str, float, float, float]]:
        """By surface, near the cap: its left-out error, the sd of its values, and Spearman's correlation of both."""
        for name, surface, values in (
            ("log error, full", self.full, self.errors),
            (f"what {self.fidelity} adds to it", self.gaps[-1], self.short),
            ("log seconds of an epoch", self.log_seconds, self.pace),
        ):
            left, true = surface.left[self.near], values[self.near]
            rho = float(stats.spearmanr(true - left, true).statistic)
            yield name, math.sqrt(float(np.mean(left**2))), float(true.std()), rho


class World:
    """One replay's truth: the table's surface and a smooth random function of the size of what it leaves."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table, rng = table, np.random.default_rng((seed, 1))
        self.waves = rng.normal(0, 1 / table.full.length, (WAVES, table.full.points.shape[1]))
        self.phases = rng.uniform(0, 2 * math.pi, WAVES)
        self.rng = np.random.default_rng((seed, 2))

    def score(self, schedule: str) -> float:
        surface, point = self.table.full, features(schedule)
        luck = math.sqrt(2 / WAVES) * float(np.cos(self.waves @ surface.place(point) + self.phases).sum())
        return 100 - math.exp(surface(point) + self.table.unexplained * luck)

    def curve(self, schedule: str) -> list[float]:
        """The accuracies of a brief run."""
        point, error = features(schedule), math.log(100 - self.score(schedule))
        left = self.table.left[self.rng.integers(len(self.table.left))]
        gaps = [gap(point) + float(off) for gap, off in zip(self.table.gaps, left, strict=True)]
        return [100 - math.exp(error + gap) for gap in gaps]

    def seconds(self, schedule: str) -> float:
        """Of an epoch, on a core."""
        return math.exp(self.table.log_seconds(features(schedule)))

    def best(self, space: SearchSpace, seed: int, known: Sequence[str]) -> float:
        """The best score of a hill climb: a thousand random schedules, then thirty rounds of mutants of the best."""
        rng, scores = np.random.default_rng((seed, 3)), {}
        points: dict[str, Any] = {}

        def add(params: Any) -> None:
            architecture, _ = space.check(params, scores)
            if architecture is not None:
                schedule = str(architecture)
                scores[schedule], points[schedule] = self.score(schedule), params

        for schedule in known:
            add(space.encode(Architecture.parse(schedule)))
        while len(scores) < 1000:
            add(space.random(rng))
        for _ in range(30):
            leaders = sorted(scores, key=lambda schedule: -scores[schedule])[:20]
            for schedule in leaders * 5:
                add(space.mutate(points[schedule], rng))
        return max(scores.values())


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to search: who proposes and who prunes."""

    name: str
    sampler: Callable[[SearchSpace, int], BaseSampler]
    pruner: Callable[[], BasePruner]


def _ours(kind: Any) -> Callable[[SearchSpace, int], BaseSampler]:
    return lambda space, seed: Proposer(space, seed=seed, sampler=kind)


def _median() -> BasePruner:
    return search.pruner(SETTINGS)


ARMS = (
    Arm(name="guided, median", sampler=_ours("guided"), pruner=_median),
    Arm(name="guided, none", sampler=_ours("guided"), pruner=NopPruner),
    Arm(name="evolution, median", sampler=_ours("evolution"), pruner=_median),
    Arm(name="evolution, none", sampler=_ours("evolution"), pruner=NopPruner),
    Arm(name="evolution, halving", sampler=_ours("evolution"), pruner=lambda: SuccessiveHalvingPruner(1, 2)),
    Arm(name="evolution, Hyperband", sampler=_ours("evolution"), pruner=lambda: HyperbandPruner(1, "auto", 2)),
    Arm(name="TPE as set up, median", sampler=_ours("tpe"), pruner=_median),
    Arm(name="TPE as set up, none", sampler=_ours("tpe"), pruner=NopPruner),
    Arm(name="random, median", sampler=_ours("random"), pruner=_median),
    Arm(name="random, none", sampler=_ours("random"), pruner=NopPruner),
    Arm(name="TPE as shipped, median", sampler=lambda _, seed: TPESampler(seed=seed), pruner=MedianPruner),
)  # fmt: skip


def simulate(
    arm: Arm, world: World, space: SearchSpace, *, seed: int, seconds: float, known: bool
) -> tuple[float, int, int]:
    """A search of simulated seconds of brief trials: the winner's true score, trials trained, and proposals."""
    study = optuna.create_study(
        study_name=f"replay {seed}", direction="maximize", sampler=arm.sampler(space, seed), pruner=arm.pruner()
    )  # by the name Hyperband shares out its brackets
    if known:
        search.enqueue_known(study, space)
    found: dict[str, float] = {}
    trained, events = 0, [(0.0, worker, None) for worker in range(WORKERS)]
    running: dict[int, tuple[Trial, str, list[float], float]] = {}
    while events:
        now, worker, epoch = heapq.heappop(events)
        if epoch is not None:
            trial, schedule, curve, _ = running[worker]
            trial.report(curve[epoch - 1], epoch)
            if epoch == len(curve):
                trial.set_user_attr("loss", 1 - curve[-1] / 100)  # the surrogate knows accuracies alone
                study.tell(trial, curve[-1])
                found[schedule] = max(found.get(schedule, 0), curve[-1])
                epoch = None
            elif trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                epoch = None
        if epoch is None:
            if now >= seconds or (proposed := _propose(study, space)) is None:
                continue
            trial, schedule = proposed
            running[worker] = trial, schedule, world.curve(schedule), world.seconds(schedule)
            trained, epoch = trained + 1, 0
        heapq.heappush(events, (now + running[worker][3], worker, epoch + 1))
    return _race(world, found, seed), trained, len(study.get_trials(deepcopy=False))


def _propose(study: optuna.Study, space: SearchSpace, tries: int = 100) -> tuple[Trial, str] | None:
    """The next schedule that can be trained; None where there is none to be had."""
    if isinstance(study.sampler, Proposer):
        asked = search.ask(study, space)
        return None if asked is None else (asked[0], str(asked[1]))
    for _ in range(tries):
        trial = study.ask(space.distributions)
        with contextlib.suppress(UsageError):
            architecture = space.decode(trial.params)
            if space.budget.admits(architecture.num_params, architecture.macs):
                return trial, str(architecture)
        study.tell(trial, state=TrialState.PRUNED)
    return None


def _race(world: World, found: dict[str, float], seed: int) -> float:
    """The true score of the finalist that wins; the best published design has no place of its own here."""
    rng, live = np.random.default_rng((seed, 4)), sorted(found, key=lambda schedule: -found[schedule])
    totals = dict.fromkeys(live, 0.0)
    for places in PLACES:
        live = live[:places]
        for schedule in live:
            totals[schedule] += rng.normal(world.score(schedule), world.table.seed_sd)
        live.sort(key=lambda schedule: -totals[schedule])
    return world.score(live[0])


def main(
    fidelity: Annotated[str, typer.Option(help="Of the brief trials: e2, e3 or e5.")] = "e2",
    replays: Annotated[int, typer.Option(min=2, help="Worlds, each searched once by every arm.")] = 10,
    seconds: Annotated[float, typer.Option(min=1, help="Of brief trials, on two workers.")] = 240,
    known: Annotated[bool, typer.Option(help="Begin with the published designs.")] = True,
    max_params: Annotated[int, typer.Option(min=500, help="The cap.")] = truth.CAP,
    folder: Annotated[Path, typer.Option(help="Of runs.csv.", show_default="studies/truth")] = truth.FOLDER,
) -> None:
    """Compare samplers and pruners on a surrogate of the table of truth."""
    table = Table(truth.load(folder / "runs.csv"), fidelity)
    shown = truth._table(
        f"The surrogate, {len(table.errors)} networks; near the cap of {truth.CAP} ({table.near.sum()})",
        "of", "left-out error", "sd", "Spearman",
    )  # fmt: skip
    for name, error, sd, rho in table.fits():
        shown.add_row(name, f"{error:.3f}", f"{sd:.3f}", f"{rho:.3f}")
    truth.output().print(shown)
    space = SearchSpace(budget=Budget(max_params=max_params))
    rows: dict[str, list[tuple[float, int, int]]] = {arm.name: [] for arm in ARMS}
    for seed in range(replays):
        best = World(table, seed).best(space, seed, [str(space.decode(params)) for _, params in space.known()])
        for arm in ARMS:
            score, trained, proposed = simulate(
                arm, World(table, seed), space, seed=seed, seconds=seconds, known=known
            )  # fmt: skip
            rows[arm.name].append((best - score, trained, proposed))
            truth.progress.print(f"replay {seed}  {arm.name:24} regret {best - score:.3f}  {trained} trained")
    shown = truth._table(
        f"{replays} replays, {seconds:g} s of {fidelity} trials, at most {max_params:,} parameters, "
        f"{'with' if known else 'without'} the published designs",
        "sampler, pruner", "regret", "standard error", "trained", "proposed", "to the first, paired",
    )  # fmt: skip
    first = np.array([row[0] for row in rows[ARMS[0].name]])
    for name, each in sorted(rows.items(), key=lambda item: np.mean([row[0] for row in item[1]])):
        regrets, trained, proposed = (np.array(column, float) for column in zip(*each, strict=True))
        gap = regrets - first
        paired = "" if name == ARMS[0].name else f"{gap.mean():+.3f} ± {stats.sem(gap):.3f}"
        shown.add_row(
            name, f"{regrets.mean():.3f}", f"{stats.sem(regrets):.3f}", f"{trained.mean():.0f}",
            f"{proposed.mean():.0f}", paired,
        )  # fmt: skip
    truth.output().print(shown)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        typer.run(main)
    except NasError as error:
        raise SystemExit(f"error: {error}") from None
