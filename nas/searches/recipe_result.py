"""The result of a recipe study: every recipe beside the default one, and the one to use."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from scipy.special import stdtrit  # Student's t: scipy.stats takes seconds to import

from nas.architecture import Architecture
from nas.budget import LAST_EPOCHS
from nas.errors import InfeasibleError
from nas.files import replace_folder, write_atomic
from nas.searches.recipes import RecipeSettings, RecipeTrials
from nas.searches.selection import better_half, paired_sd
from nas.study import (
    Deadline,
    Interrupts,
    Loop,
    Progress,
    Stage,
    StudyStore,
    View,
    WorkerLine,
    study_folder,
)
from nas.workers import Pool


def search_recipes(
    store: StudyStore, settings: RecipeSettings, pool: Pool, view: View, record: Mapping[str, Any],
    *, deadline: Deadline | None = None, logits: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Try recipes to `settings.trials` trials, and write the one to use to best/recipe.json of the study's folder.

    Resume what the study holds. `pool` must score on the validation split. Return best/reason.json. Raise
    `InfeasibleError` when no training ended, `StorageError` when the database fails.
    """
    progress = Progress(
        title=f"recipes for {settings.architecture}", target=settings.target,
        lines=[WorkerLine() for _ in range(len(pool))],
        stages=[Stage(name=RecipeTrials.name, work=float(settings.trials * settings.num_seeds))],
    )  # fmt: skip
    with Interrupts() as interrupts:
        loop = Loop(pool, progress, view, interrupts)
        done = loop.run(RecipeTrials(store, settings, logits), deadline or Deadline.after(settings.timeout))
        reason = {**standing(store), "cut": not done, **record}
    used = next((row["recipe"] for row in reason["recipes"] if row["chosen"]), dataclasses.asdict(settings.recipe))
    with replace_folder(study_folder(store.base) / "best") as new:  # as a search leaves its winner
        write_atomic(new / "architecture.txt", f"{settings.architecture}\n")
        write_atomic(new / "architecture.json", settings.architecture.to_json() + "\n")
        write_atomic(new / "recipe.json", json.dumps(used, indent=1) + "\n")
        write_atomic(new / "reason.json", json.dumps(reason, indent=1) + "\n")
    return reason


def standing(store: StudyStore) -> dict[str, Any]:
    """Return where a recipe study stands, with every denominator; accuracies in percent of the validation split.

    The intervals hold for all recipes at once (95 %, Bonferroni): the best of many is ahead of the default by chance
    alone. Raise `InfeasibleError` when no training has ended.
    """
    shared, table = store.attrs["settings"], store.refresh()
    trials = [trial for trial in table.trials() if not trial.user_attrs.get("interrupted")]
    scored = [trial for trial in trials if _scores(trial)]
    if not scored:
        raise InfeasibleError(f"no training of the study '{store.name}' ended well: give a longer --timeout")
    complete = [dict(enumerate(_scores(trial))) for trial in scored if trial.state == TrialState.COMPLETE]
    sd, degrees = paired_sd(better_half(complete)) if len(complete) > 1 else (None, 0)
    default = next((trial for trial in trials if trial.user_attrs.get("default")), None)
    compared = max(1, sum(trial is not default for trial in scored))
    rows = []
    for trial in sorted(scored, key=lambda each: (-len(_scores(each)), -statistics.fmean(_scores(each)))):
        chance = None if sd is None else float(stdtrit(degrees, 1 - 0.025 / compared)) * sd
        rows.append(_row(trial, default, chance))
    architecture = Architecture.parse(shared["architecture"])
    return {
        "study": store.name,
        "verdict": _choose(rows),
        "schedule": str(architecture),
        "num_params": architecture.num_params,
        "split": "validation",
        "epochs": shared["recipe.epochs"],
        "seeds": shared["seeds"],
        "score": f"mean accuracy over the last {min(LAST_EPOCHS, shared['recipe.epochs'])} epochs, percent",
        "paired_sd": sd,
        "degrees_of_freedom": degrees,
        "compared": compared,
        "counts": {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState},
        "trainings": sum(len(row["scores"]) for row in rows),
        "training_seconds": round(sum(row["seconds"] for row in rows), 2),
        "recipes": rows,
    }


def _row(trial: FrozenTrial, default: FrozenTrial | None, chance: float | None) -> dict[str, Any]:
    """Return a recipe beside the default one; `chance` is the half-width of an interval for one seed."""
    scores, difference, interval = _scores(trial), None, None
    if default is not None and trial is not default and (n := min(len(scores), len(_scores(default)))):
        difference = statistics.fmean(scores[:n]) - statistics.fmean(_scores(default)[:n])
        if chance is not None:
            half = chance * (2 / n) ** 0.5
            interval = (difference - half, difference + half)
    return {
        "trial": trial.number, "default": trial is default, "state": trial.state.name.lower(), "chosen": False,
        "scores": scores, "mean": statistics.fmean(scores),
        "sd": statistics.stdev(scores) if len(scores) > 1 else None,
        "difference": difference, "interval": interval, "seconds": trial.user_attrs["seconds"],
        "recipe": trial.user_attrs["recipe"], "augmentation": trial.params.get("augmentation", 1.0),
    }  # fmt: skip


def _choose(rows: list[dict[str, Any]]) -> str:
    """Mark the recipe to use, and say why: the best when it is better beyond chance, else the default."""
    default = next((row for row in rows if row["default"]), None)
    complete = [row for row in rows if row["state"] == "complete"]
    best = next((row for row in complete if row is not default), None)
    chosen, verdict = default, "not significantly different from the default: use the default"
    if best is None or default is None or default not in complete:
        verdict = "nothing to compare the default with has all its seeds: use the default"
    elif best["interval"] is None:
        verdict = "one seed says nothing of chance: use the default"
    elif best["interval"][0] > 0:
        chosen, verdict = best, f"trial {best['trial']} is better than the default"
    elif best["interval"][1] < 0:
        verdict = "worse than the default: use the default"
    if chosen is not None:
        chosen["chosen"] = True
    return verdict if chosen is best or best is None else f"trial {best['trial']}, the best of the others: {verdict}"


def _scores(trial: FrozenTrial) -> list[float]:
    return list(trial.user_attrs.get("scores", ()))
