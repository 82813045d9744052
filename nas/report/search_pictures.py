"""Pictures of a search: accuracy against parameters, the best so far, curves, discards, features, fidelity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from nas.budget import FINALIST_LAST_EPOCHS, last_epochs
from nas.designs import PUBLISHED_DESIGNS
from nas.errors import NasError
from nas.report.chart import (
    BarChart,
    BarRow,
    Point,
    Rule,
    Series,
    XYChart,
    accuracy_axis,
    epoch_axis,
    number_axis,
    thinned,
)
from nas.report.findings import Findings
from nas.report.tables import STATES, duration, epochs_text
from nas.searches import pareto_front
from nas.space import DISCARDS

MOST_POINTS = 1500
"""Trials drawn of one kind at most, so that a page stays small; those of the front are always drawn."""

MOST_CURVES = 300
FEWEST_FOR_FEATURES = 10
"""Complete trials below which a rank correlation with eleven features says nothing."""


def parameters(found: Findings) -> XYChart | None:
    """Draw accuracy against parameters, with the front, the cap, the finalists, full runs and public designs."""
    complete = found.complete
    if not complete:
        return None
    best = pareto_front(complete, lambda trial: (trial.user_attrs["num_params"], trial.value or 0.0))
    # The front by accuracy as drawn; which trials go on is decided by their loss.
    shown = {trial.number: trial for trial in (*thinned(complete, MOST_POINTS), *best)}.values()
    series = [
        Series(
            name=f"brief trial ({epochs_text(found.brief_epochs)}, validation)", tone=1,
            parts=(tuple(_trial_point(trial) for trial in shown if not trial.user_attrs.get("published")),),
        ),
        Series(name="front of them", tone=1, parts=(tuple(map(_trial_point, best)),), join="step", mark=None),
    ]  # fmt: skip
    published = [trial for trial in shown if trial.user_attrs.get("published")]
    if published:
        points = tuple(map(_trial_point, published))
        series.append(Series(name="public design, as a brief trial", tone=4, parts=(points,), mark="square"))
    if found.finalists:
        rows = found.reason.finalists if found.reason is not None else ()
        intervals = {row.trial: row.interval for row in rows}
        points = tuple(
            _interval_point(
                one.num_params, one.mean, intervals.get(one.trial),
                f"finalist {one.trial}: {one.mean:.2f} % over {_seeds(len(one.scores))}, "
                f"{one.num_params:,} parameters, {one.schedule}",
            )
            for one in found.finalists
        )  # fmt: skip
        epochs = epochs_text(found.settings["finalist_epochs"])
        series.append(Series(name=f"finalist ({epochs}, validation)", tone=8, parts=(points,), mark="diamond"))
    if found.runs:
        points = tuple(
            _interval_point(
                run.result.num_params, run.result.last5_mean, None,
                f"full run: {run.result.last5_mean:.3f} % {last_epochs(run.result.epochs)} on test, "
                f"{_seeds(len(run.result.seeds))}, {epochs_text(run.result.epochs)}, {run.result.schedule}",
            )
            for run in found.runs
        )  # fmt: skip
        last = " and ".join(sorted({last_epochs(run.result.epochs) for run in found.runs}))
        series.append(Series(name=f"full run (test, {last})", tone=5, parts=(points,), mark="triangle"))
    cap = found.settings.get("max_params")
    far = 1.3 * max(cap or 0, *(trial.user_attrs["num_params"] for trial in complete))
    public = [each for each in PUBLISHED_DESIGNS if each.num_params <= far]
    if public and found.settings["dataset"] == "mnist":
        points = tuple(
            Point(x=each.num_params, y=each.accuracy, tip=f"{each.name}: {each.num_params:,} parameters, {each.result}")
            for each in public
        )
        series.append(Series(name="public design (test, as its author states)", tone=3, parts=(points,), mark="square"))
    rules = () if cap is None else (Rule(axis="x", value=cap, label=f"cap {cap:,}"),)
    drawn = [point for each in series for point in each.points]
    return XYChart(
        name="parameters", title="Accuracy against parameters", rules=rules,
        series=tuple(each for each in series if each.shows),
        x=number_axis("parameters", [*(point.x for point in drawn), *(rule.value for rule in rules)]),
        y=accuracy_axis("accuracy, percent", [point.y for point in drawn]),
        alt=f"{len(complete)} brief trials of {min(map(_size, complete)):,} to {max(map(_size, complete)):,} "
        f"parameters; the most accurate had {max(trial.value or 0 for trial in complete):.2f} %.",
        note=f"Each dot is one network with one seed. Validation and test figures stand on one scale only for a rough "
        f"view: they differ in images and epochs.{_thinned(len(complete), MOST_POINTS)}",
    )  # fmt: skip


def progress(found: Findings) -> XYChart | None:
    """Draw the best so far against the time that the trainings took, teachers and finalists marked."""
    ended = sorted(
        (trial for trial in found.complete if trial.datetime_complete), key=lambda trial: trial.datetime_complete or 0
    )
    if not ended:
        return None
    teacher = found.reason.teacher if found.reason is not None else None
    spent = 0.0 if teacher is None else teacher.seconds / 60
    rules = () if teacher is None else (Rule(axis="x", value=spent, label="teachers trained"),)
    best, steps, dots = -math.inf, list[Point](), list[Point]()
    others = [trial for trial in found.trials if trial.state in (TrialState.PRUNED, TrialState.FAIL)]
    for trial in sorted((*ended, *others), key=lambda trial: str(trial.datetime_complete)):
        spent += trial.user_attrs.get("seconds", 0.0) / 60
        if trial.state != TrialState.COMPLETE or trial.value is None:
            continue
        dots.append(_at(_trial_point(trial), spent))
        if trial.value > best:
            best = trial.value
            steps.append(_at(_trial_point(trial), spent))
    if steps[-1].x < spent:
        steps.append(Point(x=spent, y=best))
    series = [
        Series(name="best so far", tone=1, parts=(tuple(steps),), join="step", mark=None),
        Series(name="brief trial", tone=1, parts=(tuple(thinned(dots, MOST_POINTS)),), dim=True),
    ]
    finals = list[Point]()
    for trial in sorted(found.finalist_trials, key=lambda trial: str(trial.datetime_complete)):
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            spent += trial.user_attrs.get("seconds", 0.0) / 60
            tip = f"finalist {trial.params['candidate']}, seed {trial.params['seed']}: {trial.value:.2f} %"
            finals.append(Point(x=spent, y=trial.value, tip=tip))
    if finals:
        series.append(Series(name="finalist, one seed", tone=8, parts=(tuple(finals),), mark="diamond"))
        rules = (*rules, Rule(axis="x", value=steps[-1].x, label="finalists from here"))
    drawn = [point for each in series for point in each.points]
    return XYChart(
        name="progress", title="Best so far", series=tuple(each for each in series if each.shows), rules=rules,
        x=number_axis("minutes of training, all workers together", [0, *(p.x for p in drawn)], from_zero=True),
        y=accuracy_axis("validation accuracy, percent", [point.y for point in drawn]),
        alt=f"The best brief trial reached {best:.2f} % after {steps[-1].x:.1f} minutes of training or before.",
        note="Time is what the trainings took, added up; several workers take less of it by the clock.",
    )  # fmt: skip


def curves(found: Findings) -> XYChart | None:
    """Draw the learning curves of the brief trials and the finalists; those of pruned trials are dim."""
    kinds = {
        "pruned": [trial for trial in found.trials if trial.state == TrialState.PRUNED],
        "complete": [trial for trial in found.complete if trial.number != found.winner_trial],
        "winner, brief": [trial for trial in found.complete if trial.number == found.winner_trial],
        "finalist": [trial for trial in found.finalist_trials if trial.state == TrialState.COMPLETE],
    }
    tones = {"pruned": 0, "complete": 1, "winner, brief": 6, "finalist": 8}
    series = []
    for name, trials in kinds.items():
        parts = [part for trial in thinned(trials, MOST_CURVES) if (part := _curve(trial))]
        if parts:
            dim = name == "pruned"
            mark = None if max(map(len, parts)) > 1 and len(parts) > 60 else "circle"
            series.append(
                Series(name=name, tone=tones[name], parts=tuple(parts), join="line", dim=dim, mark=mark)  # type: ignore[arg-type]
            )
    drawn = [point for each in series for point in each.points]
    if not drawn:
        return None
    pruned = len(kinds["pruned"])
    return XYChart(
        name="curves", title="Learning curves", series=tuple(series),
        x=epoch_axis(point.x for point in drawn),
        y=accuracy_axis("validation accuracy, percent", [point.y for point in drawn]),
        alt=f"Accuracy by epoch of {len(found.complete)} complete and {pruned} pruned trials.",
        note=f"A finalist's score is its mean over the last {FINALIST_LAST_EPOCHS} epochs, or all it has."
        f"{_thinned(max(map(len, kinds.values())), MOST_CURVES)}",
    )  # fmt: skip


def schedules(found: Findings) -> BarChart | None:
    """Draw where every generated schedule went."""
    counts, ends = found.counts, ("waiting", "running", "complete", "pruned", "fail", "interrupted")
    total = counts["generated"] + counts["tried again"]
    if not total:
        return None
    rows = []
    for key in (*DISCARDS, *ends):
        if not counts[key] and key not in (*DISCARDS, "complete", "pruned"):
            continue
        share = counts[key] / total
        where = "discarded before any training" if key in DISCARDS else "a trial"
        rows.append(
            BarRow(
                label=STATES.get(key, key), values=(float(counts[key]),), texts=(f"{counts[key]:,}  ({share:.1%})",),
                tip=f"{STATES.get(key, key)}: {counts[key]:,} of {total:,} schedules, {where}",
            )
        )  # fmt: skip
    twice = counts["tried again"]
    again = f"; {twice:,} stand{'s' * (twice == 1)} in two trials, the first of which was interrupted" if twice else ""
    lost = (
        f" {counts['unaccounted']:,} are not accounted for." if counts["unaccounted"] else " None is unaccounted for."
    )
    shrunk = f" {counts['shrunk to fit']:,} were shrunk to fit." if counts["shrunk to fit"] else ""
    return BarChart(
        name="schedules", title="Where every generated schedule went", columns=("schedules",), rows=tuple(rows),
        alt="; ".join(f"{row.label} {row.texts[0]}" for row in rows) + ".",
        note=f"{counts['generated']:,} schedules were generated{again}.{lost}{shrunk} "
        "None over a cap was ever trained.",
    )  # fmt: skip


def feature_ranks(found: Findings) -> BarChart | None:
    """Draw the rank correlation of each feature of a schedule with its accuracy, by loss; also at equal parameters."""
    from nas.searches import FEATURE_NAMES, features

    points, losses = [], []
    for trial in found.complete:
        try:
            points.append(features(trial.user_attrs["schedule"]))
        except NasError:
            continue
        losses.append(trial.user_attrs["loss"])
    if len(points) < FEWEST_FOR_FEATURES:
        return None
    table, target = np.array(points), -np.array(losses)  # the sign of accuracy: more is better
    rows = []
    for place, name in enumerate(FEATURE_NAMES):
        values = table[:, place]
        if np.ptp(values) == 0:
            continue
        plain = _rank_correlation(values, target)
        given = 0.0 if place == 0 else _partial(values, target, table[:, 0])
        tip = f"{name}: rank correlation with accuracy {plain:+.2f}"
        equal = "" if place == 0 else f"{given:+.2f}"
        tip += f", {equal} at equal parameters" if equal else ""
        rows.append(BarRow(label=name, values=(plain, given), texts=(f"{plain:+.2f}", equal), tip=tip))
    if not rows:
        return None
    rows.sort(key=lambda row: -max(map(abs, row.values)))
    chance = 1.96 / math.sqrt(len(points) - 1)
    return BarChart(
        name="features", title="Which choices mattered", columns=("alone", "at equal parameters"), rows=tuple(rows),
        signed=True, limit=1.0, threshold=chance,
        alt="Rank correlation with accuracy: " + "; ".join(f"{row.label} {row.texts[0]}" for row in rows) + ".",
        note=f"Spearman's rank correlation of a feature with the accuracy (by loss) of {len(points)} complete trials; "
        f"blue: more is better, red: less is better, grey: within ±{chance:.2f}, which chance alone makes in 19 of 20 "
        "cases. A sampler does not draw at random, so these are no effects.",
    )  # fmt: skip


def fidelity(found: Findings) -> XYChart | None:
    """Draw brief accuracy against the finalists' mean: how well brief trials told good from better."""
    finalists = found.finalists
    if len(finalists) < 2:
        return None
    rows = found.reason.finalists if found.reason is not None else ()
    intervals = {row.trial: row.interval for row in rows}
    points = tuple(
        _interval_point(
            one.brief, one.mean, intervals.get(one.trial),
            f"trial {one.trial}: brief {one.brief:.2f} %, finalist {one.mean:.2f} % over {_seeds(len(one.scores))}, "
            f"{one.schedule}",
        )
        for one in finalists
    )  # fmt: skip
    rank = "" if len(finalists) < 4 else (
        f" Spearman's rank correlation is "
        f"{_rank_correlation([one.brief for one in finalists], [one.mean for one in finalists]):+.2f}."
    )  # fmt: skip
    ends = [value for point in points for value in (point.low, point.high, point.y) if value is not None]
    return XYChart(
        name="fidelity", title="Brief trials against finalists", series=(
            Series(name="finalist, mean over seeds, with its 95 % interval", tone=8, parts=(points,), mark="diamond"),
        ),
        x=accuracy_axis(f"brief accuracy after {epochs_text(found.brief_epochs)}, percent", [p.x for p in points]),
        y=accuracy_axis(f"finalist's mean of {epochs_text(found.settings['finalist_epochs'])}, percent", ends),
        alt=f"{len(finalists)} finalists.{rank}",
        note=f"Were brief trials without error, the points would rise from left to right.{rank} The finalists are the "
        "best of the brief trials, and among the best even a good measure ranks poorly.",
    )  # fmt: skip


def _rank_correlation(one: Any, other: Any) -> float:
    from scipy.stats import spearmanr

    value = float(spearmanr(one, other).statistic) if np.ptp(one) and np.ptp(other) else 0.0
    return value if math.isfinite(value) else 0.0


def _partial(one: Any, other: Any, given: Any) -> float:
    """Return the partial rank correlation: that of what ranks of `given` leave of the others' ranks."""
    from scipy.stats import rankdata

    ranks = [rankdata(each) for each in (one, other, given)]
    base = np.stack([np.ones(len(ranks[2])), ranks[2]], 1)
    left, right = (each - base @ np.linalg.lstsq(base, each, rcond=None)[0] for each in ranks[:2])
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    return 0.0 if size < 1e-9 * len(ranks[0]) else float(left @ right) / size


def _curve(trial: FrozenTrial) -> tuple[Point, ...]:
    who = f"finalist {trial.params['candidate']}" if "candidate" in trial.params else f"trial {trial.number}"
    name = f"{who}, {trial.user_attrs.get('schedule', '')}"
    values = sorted(trial.intermediate_values.items())
    return tuple(Point(x=epoch, y=value, tip=f"{name}: {value:.2f} % after epoch {epoch}") for epoch, value in values)


def _trial_point(trial: FrozenTrial) -> Point:
    attrs, value = trial.user_attrs, trial.value or 0.0
    name = f" ({attrs['published']})" if attrs.get("published") else ""
    return Point(
        x=attrs["num_params"], y=value,
        tip=f"trial {trial.number}{name}: {value:.2f} %, loss {attrs['loss']:.4f}, {attrs['num_params']:,} parameters, "
        f"{duration(attrs.get('seconds', 0.0))}, {attrs['schedule']}",
    )  # fmt: skip


def _at(point: Point, x: float) -> Point:
    return Point(x=x, y=point.y, tip=point.tip)


def _interval_point(x: float, y: float, interval: Sequence[float] | None, tip: str) -> Point:
    low, high = interval if interval is not None else (None, None)
    return Point(x=x, y=y, tip=tip, low=low, high=high)


def _size(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["num_params"])


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _thinned(count: int, most: int) -> str:
    return f" Of {count:,}, {most:,} are drawn, evenly spread." if count > most else ""
