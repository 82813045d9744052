"""The recipe study: which training recipe suits one fixed network, chosen on the validation split alone.

A trial is a recipe, trained with the same seeds as every other, so that recipes are compared seed by seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.architecture import Architecture
from nas.budget import LAST_EPOCHS
from nas.searches.selection import behind, better_half
from nas.searches.settings import Percent, Seconds, Seed
from nas.study import ClaimedTrial, Event, Progress, StudyStore, TrialTable
from nas.train import Epoch, Recipe, Run
from nas.values import Positive, require_fields
from nas.workers import TrainJob

Params = dict[str, Any]

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "batch_size": CategoricalDistribution((32, 64, 128, 256)),
    "lr_at_128": FloatDistribution(0.003, 0.06, log=True),
    "warmup_fraction": FloatDistribution(0.05, 0.4),
    "weight_decay": FloatDistribution(1e-5, 0.1, log=True),
    "ema_horizon": FloatDistribution(0.02, 0.3, log=True),
    "label_smoothing": FloatDistribution(0.0, 0.1),
    "augmentation": FloatDistribution(0.4, 2.0),
}
"""`lr_at_128` times sqrt(batch_size / 128) is the peak learning rate: rate and batch belong together, and Adam's steps
stay as noisy when the rate grows with the root of the batch (Malladi and others, 2022). `augmentation` scales the four
ranges of the random affine maps together; 1 is the default's."""

SAME = ("batch_size", "warmup_fraction", "weight_decay", "ema_horizon", "label_smoothing")
AFFINE = ("degrees", "translate", "scale", "shear")

STARTUP_TRIALS = 8
"""Random recipes, the default among them, before TPE has enough to learn from."""


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """The settings of a recipe study; `recipe` is the default one, with the epochs of every training."""

    architecture: Architecture
    dataset: str
    recipe: Recipe
    trials: Positive = 24
    num_seeds: Positive = 4
    seed: Seed = 0
    timeout: Seconds | None = None
    target: Percent | None = None

    def __post_init__(self) -> None:
        require_fields(self)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The ranges of a trial; with a teacher not the augmentation, by which its logits were computed for all."""
        names = DISTRIBUTIONS if self.recipe.teacher is None else DISTRIBUTIONS.keys() - {"augmentation"}
        return {name: range_ for name, range_ in DISTRIBUTIONS.items() if name in names}

    @property
    def seeds(self) -> range:
        """The seeds of every trial, in their order."""
        return range(self.seed + 1, self.seed + 1 + self.num_seeds)

    @property
    def study_name(self) -> str:
        """The name of the study by default."""
        digest = hashlib.sha256(str(self.architecture).encode()).hexdigest()[:8]
        return f"tune-{self.dataset}-{self.architecture.num_params}-{digest}"

    def identity(self, data_hash: str) -> dict[str, Any]:
        """Return what a resumed study must have in common, by key."""
        ranges = hashlib.sha256(repr(DISTRIBUTIONS).encode()).hexdigest()[:8]
        return {
            "architecture": str(self.architecture),
            "dataset": self.dataset,
            "data_hash": data_hash,
            "seeds": list(self.seeds),
            "ranges": ranges,
            **{f"recipe.{key}": value for key, value in self.recipe.identity.items()},
        }


class RecipeTrials:
    """The phase of a recipe study: each trial is trained seed by seed, and ends early where it is clearly behind."""

    name = "trainings"
    again = True

    def __init__(self, store: StudyStore, settings: RecipeSettings, logits: Path | None = None) -> None:
        self.store, self.settings, self.logits = store, settings, logits
        self.paused: list[ClaimedTrial] = []  # between two of their seeds

    def next(self) -> tuple[ClaimedTrial, TrainJob, str] | None:
        """Return the next seed of a trial that is under way, else of a new trial."""
        settings = self.settings
        trial = self.paused.pop(0) if self.paused else self._claim()
        if trial is None:
            return None
        recipe, seed = Recipe.from_dict(trial.attrs["recipe"]), settings.seeds[len(trial.attrs["scores"])]
        job = TrainJob(
            key=trial.number, architecture=settings.architecture, recipe=recipe, seed=seed, teacher_logits=self.logits
        )
        return trial, job, f"trial {trial.number}  seed {seed}  {summary(recipe)}"

    def update(self, progress: Progress) -> bool:
        settings, table = self.settings, self.store.table
        begun = table.trials(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        done = sum(len(_scores(trial)) for trial in begun if not trial.user_attrs.get("interrupted"))
        open_ = [*table.running(), *table.waiting()][: max(0, settings.trials - table.ended)]
        left = sum(settings.num_seeds - len(_scores(trial)) for trial in open_)
        unclaimed = max(0, settings.trials - table.ended - len(open_))
        progress.done, progress.total = done, done + left + settings.num_seeds * unclaimed
        if complete := table.trials(TrialState.COMPLETE):
            best = max(complete, key=lambda trial: trial.value or 0.0)
            recipe = summary(Recipe.from_dict(best.user_attrs["recipe"]))
            progress.best = (best.value or 0.0, None, recipe, settings.architecture.num_params)
        running = sum(line.step / line.steps for line in progress.lines)
        progress.advance(done + running, progress.total - done - running)
        return table.ended >= settings.trials and not table.running()

    def on_epoch(self, trial: ClaimedTrial, job: TrainJob, epoch: Epoch) -> bool:
        return False

    def on_run(self, trial: ClaimedTrial, job: TrainJob, run: Run) -> Event:
        """Store a seed's score in one write, and end the trial where it has all its seeds or is clearly behind."""
        score = run.last(LAST_EPOCHS)
        scores = [*trial.attrs["scores"], score]
        seconds = round(trial.attrs.get("seconds", 0.0) + run.seconds, 2)
        self.store.annotate(trial, seconds=seconds, scores=scores)
        self.store.report(trial, len(scores), statistics.fmean(scores))
        text = f"seed {job.seed}     {summary(job.recipe)}"
        return self._ended(trial) or self._pause(trial, Event(label=f"trial {trial.number}", accuracy=score, text=text))

    def on_failure(self, trial: ClaimedTrial, job: TrainJob, reason: str) -> Event:
        self.store.finish(trial, TrialState.FAIL, reason=reason)
        text = f"seed {job.seed}     {summary(job.recipe)}"
        return Event(label=f"trial {trial.number}", state="failed", text=text, note=reason)

    def _claim(self) -> ClaimedTrial | None:
        while (table := self.store.refresh()).taken < self.settings.trials:
            trial = self.store.claim_waiting() or self._new(table)
            if self._yields(trial):
                continue
            for n in range(1, len(trial.attrs["scores"]) + 1):  # of the trial whose place it takes
                self.store.report(trial, n, statistics.fmean(trial.attrs["scores"][:n]))
            if not self._ended(trial):  # else that one was killed just before its end
                return trial
        return None

    def _yields(self, trial: ClaimedTrial) -> bool:
        def same(table: TrialTable) -> list[FrozenTrial]:
            return [other for other in table.trials() if other.params == trial.params]

        return self.store.yields(trial, self.settings.trials, same)

    def _new(self, table: TrialTable) -> ClaimedTrial:
        # Whatever was interrupted and tried again: the draws are those of a study that never was.
        number = sum("again_after" not in trial.user_attrs for trial in table.trials())
        params = self._draw(number) if number else encode(self.settings.recipe)
        recipe = dataclasses.asdict(decode(params, self.settings.recipe))
        return self.store.claim(
            params, self.settings.distributions, {"recipe": recipe, "scores": [], "default": number == 0}
        )

    def _draw(self, number: int) -> Params:
        """Draw a recipe by TPE; from the seed and the number alone, so that a resumed study repeats none."""
        seed = int(np.random.default_rng((self.settings.seed, number)).integers(2**31))
        study = self.store.table.as_study()
        current = create_trial(state=TrialState.RUNNING)
        tpe = TPESampler(n_startup_trials=STARTUP_TRIALS, multivariate=True, seed=seed, constant_liar=False)
        chance = RandomSampler(seed)
        ranges = self.settings.distributions
        return tpe.sample_relative(study, current, ranges) or {
            name: chance.sample_independent(study, current, name, range_) for name, range_ in ranges.items()
        }

    def _pause(self, trial: ClaimedTrial, event: Event) -> Event:
        self.paused.append(trial)
        return event

    def _ended(self, trial: ClaimedTrial) -> Event | None:
        scores = trial.attrs["scores"]
        if not scores:
            return None
        mean, n = statistics.fmean(scores), len(scores)
        if n == self.settings.num_seeds:
            self.store.finish(trial, TrialState.COMPLETE, mean)
        elif not trial.attrs["default"] and self._is_behind(trial):
            self.store.finish(trial, TrialState.PRUNED)
        else:
            return None
        recipe = summary(Recipe.from_dict(trial.attrs["recipe"]))
        state = "" if n == self.settings.num_seeds else "pruned"
        return Event(label=f"trial {trial.number}", state=state, accuracy=mean, text=f"mean of {n}  {recipe}")

    def _is_behind(self, trial: ClaimedTrial) -> bool:
        """Tell whether a trial is below the best by more than chance explains, on the seeds it has.

        Seeds share initial weights and the order of images: the comparison is paired, with the spread of the better
        half.
        """
        n = len(trial.attrs["scores"])
        rows = {other.number: _scores(other)[:n] for other in self.store.table.trials() if len(_scores(other)) >= n}
        rows[trial.number] = trial.attrs["scores"]
        by_seed = {number: dict(enumerate(scores)) for number, scores in rows.items()}
        return trial.number in behind(by_seed, spread=better_half(list(by_seed.values())))


def encode(default: Recipe) -> Params:
    """Return the point of the default recipe; `decode` gives it back."""
    lr = default.peak_lr / math.sqrt(default.batch_size / 128)
    augmentation = {"augmentation": 1.0} if default.teacher is None else {}
    return {**{name: getattr(default, name) for name in SAME}, "lr_at_128": lr, **augmentation}


def decode(params: Mapping[str, Any], default: Recipe) -> Recipe:
    """Return the recipe of a point, to four digits; what the ranges do not name is the default's."""
    fields: Params = {name: params[name] for name in SAME}
    fields["peak_lr"] = params["lr_at_128"] * math.sqrt(params["batch_size"] / 128)
    fields |= {name: getattr(default, name) * params.get("augmentation", 1.0) for name in AFFINE}
    rounded: Params = {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in fields.items()}
    return dataclasses.replace(default, **rounded)


def summary(recipe: Recipe) -> str:
    """Return a recipe in one line; degrees stand for the four ranges of the augmentation."""
    return (
        f"batch {recipe.batch_size}  lr {recipe.peak_lr:.4g}  warm-up {recipe.warmup_fraction:.2f}  "
        f"decay {recipe.weight_decay:.1e}  EMA {recipe.ema_horizon:.3f}  smoothing {recipe.label_smoothing:.3f}  "
        f"{recipe.degrees:.1f} degrees"
    )


def _scores(trial: FrozenTrial) -> list[float]:
    """Return last-5 validation accuracies in percent, in the order of the seeds."""
    return list(trial.user_attrs.get("scores", ()))
