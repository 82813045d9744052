"""The recipe study: which training recipe suits one fixed network, judged on the validation split alone.

A trial is a recipe, trained with the same seeds as every other: recipes are compared seed by seed. A trial whose
process was killed is taken over with the seeds it has: that needs no second trial of its recipe and leaves no cut one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy.stats import t as student

from nas import search
from nas import study as studies
from nas.architecture import Architecture
from nas.budget import Budget
from nas.errors import InfeasibleError
from nas.export import replace_folder, write_atomic
from nas.run import LAST
from nas.search import Line, Progress, View
from nas.train import Optimizer, Recipe
from nas.workers import Job, Message, Pool

Params = dict[str, Any]

RANGES: dict[str, BaseDistribution] = {
    "optimizer": CategoricalDistribution(get_args(Optimizer)),
    "batch_size": CategoricalDistribution((32, 64, 128, 256)),
    "rate_at_128": FloatDistribution(0.003, 0.06, log=True),
    "warm_up": FloatDistribution(0.05, 0.4),
    "weight_decay": FloatDistribution(1e-5, 0.1, log=True),
    "average": FloatDistribution(0.02, 0.3, log=True),
    "label_smoothing": FloatDistribution(0.0, 0.1),
    "augmentation": FloatDistribution(0.4, 2.0),
}
"""`rate_at_128` times sqrt(batch_size / 128) is the peak rate: rate and batch belong together, and Adam's steps stay as
noisy when the rate grows with the root of the batch (Malladi and others, 2022). `augmentation` scales the four ranges
of the random affine maps together; 1 is the default's."""

SAME = ("optimizer", "batch_size", "warm_up", "weight_decay", "average", "label_smoothing")
AFFINE = ("degrees", "translate", "scale", "shear")

STARTUP_TRIALS = 8
"""Random recipes, the default among them, before TPE has enough to learn from."""

LONG_AGO = "1970-01-01T00:00:00+00:00"
"""The stamp of a trial that its process has left for whoever comes next."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe study does, resolved; `recipe` is the default one, with the epochs of every training."""

    architecture: Architecture
    dataset: str
    recipe: Recipe
    trials: int = 24
    num_seeds: int = 4
    seed: int = 0
    timeout: float | None = None
    target: float | None = None

    @property
    def seeds(self) -> range:
        """The seeds of every trial, in their order."""
        return range(self.seed + 1, self.seed + 1 + self.num_seeds)

    def shared(self, data_hash: str) -> dict[str, Any]:
        """What a resumed study must have in common, by key."""
        return {
            "architecture": str(self.architecture),
            "dataset": self.dataset,
            "data_hash": data_hash,
            "seeds": list(self.seeds),
            "ranges": studies.digest(repr(RANGES)),
            **{f"recipe.{key}": value for key, value in dataclasses.asdict(self.recipe).items()},
        }


class Proposer(BaseSampler):
    """TPE over `RANGES`; draws come from the seed and the trial's number, so a resumed study repeats none."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return RANGES

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        seed = int(np.random.default_rng((self.seed, trial.number)).integers(2**31))
        tpe, chance = TPESampler(n_startup_trials=STARTUP_TRIALS, multivariate=True, seed=seed), RandomSampler(seed)
        return tpe.sample_relative(study, trial, RANGES) or {
            name: chance.sample_independent(study, trial, name, range_) for name, range_ in RANGES.items()
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} was not drawn with the others")


def encode(default: Recipe) -> Params:
    """The point of the default recipe; `decode` gives it back."""
    rate = default.peak_rate / math.sqrt(default.batch_size / 128)
    return {**{name: getattr(default, name) for name in SAME}, "rate_at_128": rate, "augmentation": 1.0}


def decode(params: Params, default: Recipe) -> Recipe:
    """The recipe of a point, to four digits; what the ranges do not name is the default's."""
    fields: Params = {name: params[name] for name in SAME}
    fields["peak_rate"] = params["rate_at_128"] * math.sqrt(params["batch_size"] / 128)
    fields |= {name: getattr(default, name) * params["augmentation"] for name in AFFINE}
    rounded: Params = {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in fields.items()}
    return dataclasses.replace(default, **rounded)


def run(
    study: Study, settings: Settings, pool: Pool, view: View, record: Mapping[str, Any], *, began: float | None = None
) -> dict[str, Any]:
    """Try recipes to `settings.trials` trials, and write the one to keep to best/recipe.json of the study's folder.

    Resumes what the study already holds. `pool` must score on the validation split. `began`, on the monotonic clock, is
    where the time limit counts from: now, unless said. What comes back is best/reason.json. Raises `InfeasibleError`
    when no training ended, `StorageError` when the database fails.
    """
    began = time.monotonic() if began is None else began
    budget = Budget(max_params=settings.architecture.num_params, target=settings.target or Budget.target)
    shown = search.Settings(budget=budget, dataset=settings.dataset, recipe=settings.recipe)
    progress = Progress(settings=shown, lines=[Line() for _ in range(len(pool))], phase="trainings", began=began)
    deadline = None if settings.timeout is None else began + settings.timeout
    with studies.storage_errors(study.study_name):
        done = _trials(study, settings, pool, view, progress, deadline)
        reason = {**standing(study), "cut": not done, **record}
    kept = next((row["recipe"] for row in reason["recipes"] if row["kept"]), dataclasses.asdict(settings.recipe))
    with replace_folder(studies.folder(study.study_name) / "best") as new:  # as a search leaves its winner
        write_atomic(new / "architecture.txt", f"{settings.architecture}\n")
        write_atomic(new / "architecture.json", settings.architecture.to_json() + "\n")
        write_atomic(new / "recipe.json", json.dumps(kept, indent=1) + "\n")
        write_atomic(new / "reason.json", json.dumps(reason, indent=1) + "\n")
    return reason


def _trials(
    study: Study, settings: Settings, pool: Pool, view: View, progress: Progress, deadline: float | None
) -> bool:
    """Trials until the total is reached; False when the deadline came first."""
    study.sampler = Proposer(settings.seed)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(encode(settings.recipe), user_attrs=search.mark())
    running: dict[int, Trial] = {}
    try:
        while True:
            while pool.idle is not None and not search.past(deadline):
                busy = {job.key for job in pool.jobs}
                paused = (trial for number, trial in running.items() if number not in busy)  # between two seeds
                trial = next(paused, None) or _claim(study, settings, running)
                if trial is None:
                    break
                running[trial.number] = trial
                if line := _ended(study, settings, trial):
                    del running[trial.number]
                    view(progress, line)
                    continue
                recipe, seed = Recipe.from_dict(trial.user_attrs["recipe"]), settings.seeds[len(_scores(trial))]
                job = Job(key=trial.number, architecture=settings.architecture, recipe=recipe, seed=seed)
                text = f"trial {trial.number}  seed {seed}  {summary(recipe)}"
                progress.lines[pool.submit(job)] = Line(text=text, num_params=settings.architecture.num_params)
            _count(study, settings, progress)
            search.estimate(progress, deadline)
            view(progress, None)
            if search.past(deadline):
                return False
            if running:
                for message in search.listen(pool, deadline, progress, view):
                    _hear(study, pool, view, progress, running, message)
                search.stamp(running)
            elif study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                time.sleep(1)  # another process trains what is left
            else:
                return True
    finally:
        with contextlib.suppress(Exception):  # where the database is the trouble, the next start finds them stale
            for trial in running.values():
                trial.set_user_attr("stamp", LONG_AGO)


def _claim(study: Study, settings: Settings, running: Mapping[int, Trial]) -> Trial | None:
    """A trial whose process is gone, else a new one, else None; its recipe is in its user attributes."""
    trials = study.get_trials(deepcopy=False)
    foreign = [trial for trial in trials if trial.state == TrialState.RUNNING and trial.number not in running]
    orphan = next((trial for trial in foreign if studies.is_stale(trial, seconds=search.STALE_SECONDS)), None)
    if orphan is not None:
        trial = Trial(study, orphan._trial_id)
    elif sum(trial.state != TrialState.WAITING for trial in trials) < settings.trials:
        if not any(trial.state == TrialState.WAITING for trial in trials):
            study.enqueue_trial({}, user_attrs=search.mark())  # drawn when asked for: none is ever without an owner
        trial = study.ask()
    else:
        return None
    params = {name: trial._suggest(name, range_) for name, range_ in RANGES.items()}  # kept ones stay as they are
    recipe = dataclasses.asdict(decode(params, settings.recipe))
    for key, value in {**search.mark(), "recipe": recipe}.items():
        trial.set_user_attr(key, value)
    return trial


def _ended(study: Study, settings: Settings, trial: Trial) -> str | None:
    """Ends a trial that has all its seeds, or is clearly behind, and says so; None where a seed is to be trained."""
    if not (scores := _scores(trial)):
        return None
    mean, n = statistics.fmean(scores), len(scores)
    if n not in study._storage.get_trial(trial._trial_id).intermediate_values:
        trial.report(mean, n)
    if n == settings.num_seeds:
        study.tell(trial, mean)
    elif trial.number > 0 and is_behind(study, trial.number):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        return None
    state = "" if n == settings.num_seeds else "pruned"
    recipe = summary(Recipe.from_dict(trial.user_attrs["recipe"]))
    return f"trial {trial.number:>3}  {state:<6}  {mean:7.3f} %  mean of {n}  {recipe}"


def _hear(
    study: Study, pool: Pool, view: View, progress: Progress, running: dict[int, Trial], message: Message
) -> None:
    """Act on a worker's message."""
    trial, line = running[message.job.key], progress.lines[message.worker]
    label = f"seed {message.job.seed}     {summary(message.job.recipe)}"
    if message.step is not None:
        line.step, line.steps = message.step
    elif message.epoch is not None:
        line.accuracy = message.epoch.accuracy
        pool.answer(message, stop=False)
    elif message.run is not None:
        score, seconds = message.run.last(LAST), message.run.seconds
        trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0.0) + seconds, 2))
        trial.set_user_attr("scores", [*_scores(trial), score])  # one write: a seed is kept, or trained again
        progress.lines[message.worker] = Line()
        view(progress, f"trial {trial.number:>3}          {score:7.3f} %  {label}")
    else:
        trial.set_user_attr("reason", message.failure)
        study.tell(trial, state=TrialState.FAIL)
        del running[trial.number]
        progress.lines[message.worker] = Line()
        view(progress, f"trial {trial.number:>3}  failed             {label}  ({message.failure})")


def _scores(trial: Trial | FrozenTrial) -> list[float]:
    """Last-5 validation accuracies in percent, in the order of the seeds."""
    return list(trial.user_attrs.get("scores", ()))


def _count(study: Study, settings: Settings, progress: Progress) -> None:
    """Trainings done, and all there can still be; the best complete recipe."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    left = sum(settings.num_seeds - len(_scores(trial)) for trial in trials if trial.state == TrialState.RUNNING)
    progress.done = sum(len(_scores(trial)) for trial in trials)
    progress.total = progress.done + left + settings.num_seeds * max(0, settings.trials - len(trials))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if best := max(complete, key=lambda trial: trial.value or 0.0, default=None):
        recipe = summary(Recipe.from_dict(best.user_attrs["recipe"]))
        progress.best = (best.value or 0.0, recipe, settings.architecture.num_params)


def noise(rows: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """The sd of one score once its recipe's mean and its seed's are taken out, and its degrees of freedom.

    `rows` holds a recipe's scores each, of the same seeds: the residuals of a randomized block design, which with two
    recipes are those of the paired t-test. Of more than three, only the better half counts, by its means, which are
    independent of the residuals: recipes that nearly fail scatter far more than those there is to choose from.
    """
    kept = sorted(rows, key=statistics.fmean, reverse=True)[: max(2, math.ceil(len(rows) / 2))]
    if len(kept) < 2 or len(kept[0]) < 2:
        return None, 0
    table = np.array(kept)  # (recipes, seeds)
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    degrees = (table.shape[0] - 1) * (table.shape[1] - 1)
    return math.sqrt(float((residuals**2).sum()) / degrees), degrees


def is_behind(study: Study, number: int) -> bool:
    """Whether a trial is below the best by more than chance explains, on the seeds it has (95 %, one-sided, paired).

    Paired, not `search.behind`: seeds share initial weights and the order of images, and what they share would count as
    noise there. One score alone says nothing of its spread: judged from two on.
    """
    scores = {trial.number: _scores(trial) for trial in study.get_trials(deepcopy=False)}
    n = len(scores[number])
    rows = {other: each[:n] for other, each in scores.items() if len(each) >= n}
    sd, degrees = noise(list(rows.values()))
    if sd is None:
        return False
    lag = max(map(statistics.fmean, rows.values())) - statistics.fmean(rows[number])
    return lag > float(student.ppf(0.95, degrees)) * sd * math.sqrt(2 / n)


def standing(study: Study) -> dict[str, Any]:
    """Where a recipe study stands, with every denominator; accuracies in percent of the validation split.

    The intervals hold for all recipes at once (95 %, Bonferroni): of many, the best is ahead of the default by chance
    alone, the further the more there are. Raises `InfeasibleError` when no training has ended.
    """
    shared, trials = study.user_attrs[studies.SETTINGS], study.get_trials(deepcopy=False)
    scored = [trial for trial in trials if _scores(trial)]
    if not scored:
        raise InfeasibleError(f"no training of the study '{study.study_name}' ended well: give a longer --timeout")
    sd, degrees = noise([_scores(trial) for trial in scored if trial.state == TrialState.COMPLETE])
    yardstick = _scores(trials[0])  # the default is the first trial
    compared = max(1, sum(trial.number > 0 for trial in scored))
    rows: list[dict[str, Any]] = []
    for trial in sorted(scored, key=lambda trial: (-len(_scores(trial)), -statistics.fmean(_scores(trial)))):
        scores, difference, interval = _scores(trial), None, None
        if trial.number > 0 and (n := min(len(scores), len(yardstick))):
            difference = statistics.fmean(scores[:n]) - statistics.fmean(yardstick[:n])
            if sd is not None:
                half = float(student.ppf(1 - 0.025 / compared, degrees)) * sd * math.sqrt(2 / n)
                interval = (difference - half, difference + half)
        rows.append(
            {
                "trial": trial.number, "state": trial.state.name.lower(), "kept": False, "scores": scores,
                "mean": statistics.fmean(scores), "sd": statistics.stdev(scores) if len(scores) > 1 else None,
                "difference": difference, "interval": interval, "seconds": trial.user_attrs["seconds"],
                "recipe": trial.user_attrs["recipe"], "augmentation": trial.params["augmentation"],
            }
        )  # fmt: skip
    architecture = Architecture.parse(shared["architecture"])
    return {
        "study": study.study_name,
        "verdict": _choose(rows),
        "schedule": str(architecture),
        "num_params": architecture.num_params,
        "split": "validation",
        "epochs": shared["recipe.epochs"],
        "seeds": shared["seeds"],
        "score": f"mean accuracy over the last {min(LAST, shared['recipe.epochs'])} epochs, percent",
        "noise_sd": sd,
        "noise_degrees": degrees,
        "compared": compared,
        "counts": {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState},
        "trainings": sum(len(row["scores"]) for row in rows),
        "training_seconds": round(sum(row["seconds"] for row in rows), 2),
        "recipes": rows,
    }


def _choose(rows: list[dict[str, Any]]) -> str:
    """Mark the recipe to keep, and say why: the best when it is better beyond chance, else the default."""
    default = next((row for row in rows if row["trial"] == 0), None)
    complete = [row for row in rows if row["state"] == "complete"]
    best = next((row for row in complete if row is not default), None)
    chosen, verdict = default, "within chance of the default: keep it"
    if best is None or default is None or default not in complete:
        verdict = "nothing to compare the default with has all its seeds: keep it"
    elif best["interval"] is None:
        verdict = "one seed says nothing of chance: keep the default"
    elif best["interval"][0] > 0:
        chosen, verdict = best, f"trial {best['trial']} is better than the default"
    elif best["interval"][1] < 0:
        verdict = "worse than the default: keep it"
    if chosen is not None:
        chosen["kept"] = True
    return verdict if chosen is best or best is None else f"trial {best['trial']}, the best of the others: {verdict}"


def summary(recipe: Recipe) -> str:
    """A recipe in one line; degrees stand for the four ranges of the augmentation."""
    return (
        f"{recipe.optimizer}  batch {recipe.batch_size}  rate {recipe.peak_rate:.4g}  warm-up {recipe.warm_up:.2f}  "
        f"decay {recipe.weight_decay:.1e}  average {recipe.average:.3f}  smoothing {recipe.label_smoothing:.3f}  "
        f"{recipe.degrees:.1f} degrees"
    )
