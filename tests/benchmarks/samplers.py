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
* `as shipped` is Optuna as it comes (shipped.py): nothing is drawn again or refilled, and what cannot be trained is
  told as pruned, as in its examples, and costs nothing.
* Not among them: Wilcoxon's pruner, which compares a trial's scores on several instances, where a brief trial has one
  seed; and Optuna's GP sampler, which took 37 s for one proposal over these ranges, more than a trial takes to train.
  With the median pruner it never began: of the random points too few completed beside the published designs.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import optuna
import pandas as pd
import truth_scores
import typer
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from scipy import stats
from shipped import Shipped
from truth import make_table, output
from truth_runs import CAP, FIDELITIES, FOLDER, NEAR, load, progress

from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import find_dataset
from nas.errors import NasError
from nas.searches import BriefTrials, GaussianProcess, Propose, Proposer, Settings, features
from nas.space import SearchSpace
from nas.study import ClaimedTrial, StudyStore

WORKERS = 2
SETTINGS = Settings.for_budget(Budget(max_params=8000), find_dataset("mnist"), trials=10**6)
"""What `nas search` does by default, but for the total."""

PLACES = tuple(SETTINGS.places(turn) for turn in range(SETTINGS.finalist_seeds))
"""Finalists of each turn."""

WAVES = 200
"""Of a world's random function: enough for it to be nearly normal."""


class Table:
    """Gaussian processes of a table of truth, for brief runs of one fidelity."""

    def __init__(self, runs: pd.DataFrame, fidelity: str) -> None:
        how, full = FIDELITIES[fidelity], truth_scores.truth(runs)
        brief = runs[(runs["fidelity"] == fidelity) & (runs["seed"] == 0)].dropna(subset=["last"]).set_index("schedule")
        full = full[full.index.isin(brief.index)]
        brief = brief.loc[full.index]
        if len(full) < 20:
            raise SystemExit(f"networks with {fidelity} and full runs: {len(full)} of at least 20; train more")
        points = np.array([features(str(schedule)) for schedule in full.index])
        errors = np.log(100 - full.to_numpy(float))
        gaps = np.log(100 - brief["accuracies"].str.split(expand=True).to_numpy(float)) - errors[:, None]
        self.fidelity, self.seed_sd = fidelity, truth_scores.seed_sd(runs)
        if math.isnan(self.seed_sd):
            raise SystemExit("no network has two full runs: train more")
        self.full = GaussianProcess(points, errors)
        self.gaps = [GaussianProcess(points, column) for column in gaps.T]
        self.pace = np.log(brief["seconds"].to_numpy(float) / how.epochs)
        self.log_seconds = GaussianProcess(points, self.pace)
        self.left = np.stack([process.loo_residuals for process in self.gaps], 1)  # (networks, epochs)
        self.near = np.array([NEAR[0] <= math.exp(point[0]) <= NEAR[1] for point in points])
        self.errors, self.short = errors, gaps[:, -1]
        seeds = self.seed_sd / float(np.exp(errors[self.near]).mean())
        luck = float(np.mean(self.full.loo_residuals[self.near] ** 2)) - seeds**2 / 2
        self.unexplained = math.sqrt(max(luck, 0.02**2))

    def fits(self) -> Iterator[tuple[str, float, float, float]]:
        """By process, near the cap: its leave-one-out error, the sd of its values, Spearman's correlation of both."""
        for name, process, values in (
            ("log error, full", self.full, self.errors),
            (f"what {self.fidelity} adds to it", self.gaps[-1], self.short),
            ("log seconds of an epoch", self.log_seconds, self.pace),
        ):
            left, true = process.loo_residuals[self.near], values[self.near]
            rho = float(stats.spearmanr(true - left, true).statistic)
            yield name, math.sqrt(float(np.mean(left**2))), float(true.std()), rho


class World:
    """One replay's truth: the table's Gaussian process and a smooth random function of the size of what it leaves."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table, rng = table, np.random.default_rng((seed, 1))
        self.waves = rng.normal(0, 1 / table.full.length, (WAVES, table.full.points.shape[1]))
        self.phases = rng.uniform(0, 2 * math.pi, WAVES)
        self.rng = np.random.default_rng((seed, 2))

    def score(self, schedule: str) -> float:
        process, point = self.table.full, features(schedule)
        luck = math.sqrt(2 / WAVES) * float(np.cos(self.waves @ process.standardise(point) + self.phases).sum())
        return 100 - math.exp(process(point) + self.table.unexplained * luck)

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
            architecture = space.check(params, scores)
            if isinstance(architecture, Architecture):
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


Prune = Callable[[StudyStore, ClaimedTrial], bool]
"""Whether to stop a trial after the epoch that it has reported."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to search: who proposes and who prunes, made anew for each replay; None for the pruner of `nas search`."""

    name: str
    propose: Callable[[SearchSpace, int], Propose]
    prune: Callable[[], Prune] | None = None


def _ours(name: Literal["guided", "tpe", "random"]) -> Callable[[SearchSpace, int], Propose]:
    return lambda space, seed: Proposer(space=space, seed=seed, name=name)


def _optuna(make: Callable[[], BasePruner]) -> Callable[[], Prune]:
    def prune() -> Prune:
        pruner = make()
        return lambda store, trial: pruner.prune(store.study, store.storage.get_trial(trial.trial_id))

    return prune


def _never() -> Prune:
    return lambda store, trial: False


ARMS = (
    Arm(name="guided, median", propose=_ours("guided")),
    Arm(name="guided, none", propose=_ours("guided"), prune=_never),
    Arm(name="guided, halving", propose=_ours("guided"), prune=_optuna(lambda: SuccessiveHalvingPruner(1, 2))),
    Arm(name="guided, Hyperband", propose=_ours("guided"), prune=_optuna(lambda: HyperbandPruner(1, "auto", 2))),
    Arm(name="TPE as set up, median", propose=_ours("tpe")),
    Arm(name="TPE as set up, none", propose=_ours("tpe"), prune=_never),
    Arm(name="random, median", propose=_ours("random")),
    Arm(name="random, none", propose=_ours("random"), prune=_never),
    Arm(name="TPE as shipped, median", propose=Shipped, prune=_optuna(MedianPruner)),
)


def simulate(
    arm: Arm, world: World, space: SearchSpace, *, seed: int, seconds: float, published: bool
) -> tuple[float, int, int]:
    """A search of simulated seconds of brief trials: the winner's true score, trials trained, and proposals."""
    store = _store(f"replay {seed}")  # by the name Hyperband shares out its brackets
    settings = dataclasses.replace(SETTINGS, budget=space.budget, seed=seed)
    brief = BriefTrials(store, space, settings, {}, arm.propose(space, seed))
    prune = arm.prune() if arm.prune else lambda store, trial: brief.prune(trial, store.table)
    if published:
        brief.enqueue_designs()
    scores: dict[str, float] = {}
    trained, events = 0, [(0.0, worker, None) for worker in range(WORKERS)]
    running: dict[int, tuple[ClaimedTrial, str, list[float], float]] = {}
    while events:
        now, worker, epoch = heapq.heappop(events)
        if epoch is not None:
            trial, schedule, curve, _ = running[worker]
            accuracy, epochs = curve[epoch - 1], len(curve)
            store.report(trial, epoch, accuracy)
            if epoch == epochs:  # the surrogate knows accuracies alone: the loss stands for them
                store.finish(trial, TrialState.COMPLETE, accuracy, loss=1 - accuracy / 100)
                scores[schedule] = accuracy
                epoch = None
            elif prune(store, trial):
                store.finish(trial, TrialState.PRUNED, loss=1 - accuracy / 100)
                epoch = None
        if epoch is None:
            if now >= seconds or (found := brief.next()) is None:
                continue
            trial, _, schedule = found
            running[worker] = trial, schedule, world.curve(schedule), world.seconds(schedule)
            trained, epoch = trained + 1, 0
        heapq.heappush(events, (now + running[worker][3], worker, epoch + 1))
    store.refresh()
    return _race(world, scores, seed), trained, store.counts()["generated"]


def _store(name: str) -> StudyStore:
    """A study in memory."""
    storage = InMemoryStorage()
    storage.create_new_study([StudyDirection.MAXIMIZE], name)
    return StudyStore(name, storage, None)


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
    published: Annotated[bool, typer.Option(help="Begin with the published designs.")] = True,
    max_params: Annotated[int, typer.Option(min=500, help="The cap.")] = CAP,
    folder: Annotated[Path, typer.Option(help="Of runs.csv.", show_default="studies/benchmarks/truth")] = FOLDER,
) -> None:
    """Compare samplers and pruners on a surrogate of the table of truth."""
    table = Table(load(folder / "runs.csv"), fidelity)
    shown = make_table(
        f"The surrogate, {len(table.errors)} networks; near the cap of {CAP} ({table.near.sum()})",
        "of", "left-out error", "sd", "Spearman",
    )  # fmt: skip
    for name, error, sd, rho in table.fits():
        shown.add_row(name, f"{error:.3f}", f"{sd:.3f}", f"{rho:.3f}")
    output().print(shown)
    space = SearchSpace(budget=Budget(max_params=max_params))
    rows: dict[str, list[tuple[float, int, int]]] = {arm.name: [] for arm in ARMS}
    for seed in range(replays):
        best = World(table, seed).best(space, seed, [str(space.decode(params)) for _, params in space.published()])
        for arm in ARMS:
            score, trained, proposed = simulate(
                arm, World(table, seed), space, seed=seed, seconds=seconds, published=published
            )  # fmt: skip
            rows[arm.name].append((best - score, trained, proposed))
            progress.print(f"replay {seed}  {arm.name:24} regret {best - score:.3f}  {trained} trained")
    shown = make_table(
        f"{replays} replays, {seconds:g} s of {fidelity} trials, at most {max_params:,} parameters, "
        f"{'with' if published else 'without'} the published designs",
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
    output().print(shown)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        typer.run(main)
    except NasError as error:
        raise SystemExit(f"error: {error}") from None
