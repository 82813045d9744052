"""Texts and tables of the page: the answer, the finalists, and how it all was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.budget import LAST_EPOCHS, last_epochs
from nas.export import Provenance
from nas.report.findings import Findings, RunFiles
from nas.report.markup import Markup, join, tag
from nas.report.tables import cost, duration, epochs_text, score_of

MOST_FAILURES = 20


def answer(found: Findings) -> Markup:
    """Return the answer: winner, accuracy with interval, parameters against the cap, target, cost."""
    notices = [tag("p", line, class_="notice") for line in notices_of(found)]
    architecture = found.architecture
    if found.schedule is None or architecture is None:
        text = (
            "No trial is complete yet: there is no answer." if found.schedule is None else "The winner cannot be read."
        )
        return join(tag("p", text, class_="winner"), notices)
    cap, max_macs = found.settings.get("max_params"), found.settings.get("max_macs")
    boxes = [_validation_box(found), *_test_boxes(found)]
    of_cap = "no cap" if cap is None else f"{architecture.num_params / cap:.1%} of the cap of {cap:,}"
    boxes.append(_box("parameters", f"{architecture.num_params:,}", of_cap))
    of_macs = "for one image" if max_macs is None else f"of at most {max_macs:,}, for one image"
    boxes.append(_box("MACs", f"{architecture.macs:,}", of_macs))
    boxes.append(_box("cost", *cost_of(found)))
    standing = "Winner" if found.reason is not None else "Leads so far"
    verdict = f" {found.reason.verdict.capitalize()}." if found.reason is not None else ""
    winner = tag("p", f"{standing}: ", tag("code", found.schedule), f".{verdict}", class_="winner")
    return join(winner, tag("dl", boxes, class_="answer"), notices)


def _box(name: str, value: Any, small: Any = None) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, None if small is None else tag("small", small)))


def _validation_box(found: Findings) -> Markup:
    if found.reason is not None and found.reason.finalists:
        row = found.reason.finalists[0]
        low_high = "no interval from one seed" if row.interval is None else (
            "95 % interval {:.2f} to {:.2f}".format(*row.interval)
        )  # fmt: skip
        epochs, seeds = found.reason.finalist_epochs, len(row.scores)
        detail = f"{low_high}; mean of {seeds} seed{'s' * (seeds != 1)}, {epochs_text(epochs)}"
        return _box("validation accuracy", f"{row.mean:.2f} %", detail)
    if found.finalists:
        first = found.finalists[0]
        return _box("validation accuracy", f"{first.mean:.2f} %", f"finalists under way, {len(first.scores)} seeds")
    best = min(found.complete, key=lambda trial: trial.user_attrs["loss"])
    detail = f"one brief trial of {epochs_text(found.brief_epochs)}, one seed: no interval"
    return _box("validation accuracy", f"{best.value:.2f} %", detail)


def _test_boxes(found: Findings) -> list[Markup]:
    target = found.target
    if found.run is None:
        aim = "no target" if target is None else f"target {target:g} % not measured"
        return [_box("test accuracy", "not measured", f"{aim}: nas train-best makes the full run")]
    result = found.run.result
    sd = "" if result.last5_sd is None else f" ± {result.last5_sd:.3f}"
    seeds = len(result.seeds)
    detail = (
        f"{last_epochs(result.epochs)} of {epochs_text(result.epochs)}, {seeds} seed{'s' * (seeds != 1)}; "
        f"lowest epoch of them {result.lowest_of_last5:.2f}"
    )
    boxes = [_box("test accuracy", f"{result.last5_mean:.3f}{sd} %", detail)]
    if result.target is not None:
        held, gap = bool(result.target_held), result.last5_mean - result.target
        word = tag("span", "held" if held else "not held", class_="good" if held else "bad")
        above = f"mean {abs(gap):.3f} points {'above' if gap >= 0 else 'below'} it"
        span = epochs_text(min(LAST_EPOCHS, result.epochs))
        boxes.append(_box(f"target {result.target:g} %", word, f"over the last {span} of every seed; {above}"))
    return boxes


def cost_of(found: Findings) -> tuple[str, str]:
    """Return what the search took in workers' time, and of what that is made."""
    trials = (*found.trials, *found.finalist_trials)
    spent = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    if found.reason is None:
        return duration(spent), "of workers' time so far"
    teacher = 0.0 if found.reason.teacher is None else found.reason.teacher.seconds
    text = cost(found.reason)
    if found.run is not None:
        text += f"; the full run took {duration(sum(found.run.result.seconds.values()))}"
    return duration(found.reason.training_seconds + teacher), text


def notices_of(found: Findings) -> list[str]:
    """List what a reader has to know before any score."""
    lines = list(found.damaged)
    if found.reason is not None:
        lines += [text for text in (found.reason.notice, found.reason.data_warning) if text]
    if running := sum(trial.state == TrialState.RUNNING for trial in found.trials):
        lines.append(f"{running} trial{'s are' if running > 1 else ' is'} under way: this page is a moment's view")
    return lines


def finalists(found: Findings) -> Markup | None:
    """Return the finalists as a table."""
    rows: Sequence[Any] = found.reason.finalists if found.reason is not None else found.finalists
    if not rows:
        return None
    front = (found.reason.front if found.reason is not None else None) or ()
    ordered = sorted(rows, key=lambda row: row.num_params) if front else rows
    body = []
    for row in ordered:
        first = row is rows[0]
        mark = ("winner" if found.reason is not None else "leads") if first else "front" if row.trial in front else ""
        interval = getattr(row, "interval", None)
        between = "" if interval is None or callable(interval) else "{:.2f} to {:.2f}".format(*interval)
        numbers = (
            row.trial, f"{row.num_params:,}", f"{row.brief:.2f}", f"{row.mean:.3f}",
            "" if row.sd is None else f"{row.sd:.3f}", len(row.scores), between,
        )  # fmt: skip
        name = f" ({row.published})" if row.published else ""
        body.append(
            tag("tr", tag("td", mark), [tag("td", number, class_="number") for number in numbers],
                tag("td", tag("code", row.schedule), name, class_="schedule"), class_="first" if first else None)
        )  # fmt: skip
    header = ("", "trial", "parameters", "brief", "mean", "sd", "n", "95 % interval", "schedule")
    score = f", {score_of(found.reason)}" if found.reason is not None else ""
    epochs = found.settings["finalist_epochs"]
    note = f"{epochs_text(epochs)}{score}; validation images of each seed, never test images."
    return join(
        tag("h2", "Finalists"), table(header, body, label=f"Finalists of {found.name}"), tag("p", note, class_="muted")
    )


def recalls(found: Findings) -> Markup | None:
    """Return the recall of each class in the winner's full run, where the classes differ in size; else nothing."""
    result = None if found.run is None else found.run.result
    if result is None or result.by_class is None:
        return None
    scores = result.by_class
    sd = "" if scores.balanced_sd is None else f" ± {scores.balanced_sd:.3f}"
    body = [
        tag("tr", tag("td", name), tag("td", f"{count:,}", class_="number"),
            tag("td", "" if recall is None else f"{recall:.2f}", class_="number"))
        for name, count, recall in zip(result.classes, scores.counts, scores.recalls, strict=True)
    ]  # fmt: skip
    note = (
        f"Balanced accuracy, the mean recall: {scores.balanced_mean:.3f}{sd} %, beside an accuracy of "
        f"{result.last5_mean:.3f} %; test split, last-{LAST_EPOCHS}, mean over {len(result.seeds)} seeds."
    )
    return join(
        tag("h2", "Recall by class"), table(("class", "test images", "recall"), body, label="Recall by class"),
        tag("p", note, class_="muted"),
    )  # fmt: skip


def table(header: Sequence[str], rows: Iterable[Markup], *, label: str) -> Markup:
    """Return a table that scrolls by itself on a narrow screen; columns of numbers have right-aligned heads."""
    words = ("", "class", "schedule", "what", "winner", "study", "when (UTC)", "command", "trial's schedule", "reason",
             "state", "training")  # fmt: skip
    cells = [
        tag("th", name, scope="col", class_=None if name in words else "number") if name else tag("td", "")
        for name in header
    ]
    inner = tag("table", tag("thead", tag("tr", cells)), tag("tbody", list(rows)))
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=label)


# --- how it was made --------------------------------------------------------------------------------------------------


def provenance(found: Findings) -> Markup:
    """Return environment, data hash, recipe, commands, the openings of the test split, and what failed."""
    parts: list[Any] = []
    if found.reason is not None:
        parts.append(tag("h3", "The search"))
        chosen = {name: getattr(found.reason, name) for name in ("sampler", "pruner", "seed", "brief_epochs")}
        parts += [_facts(_made(found.reason) | chosen), _machine(found.reason)]
    else:
        parts.append(_facts(found.settings))
    for run in reversed(found.runs):
        parts += [
            tag("h3", f"Full run of {run.result.num_params:,} parameters"),
            _facts(_run_facts(run)),
            _machine(run.result),
        ]
    if found.recipe is not None:
        parts.append(tag("details", tag("summary", "The winner's recipe"), _facts(found.recipe)))
    parts.append(_openings(found))
    parts.append(_failures(found))
    return join(parts)


def _made(made: Provenance) -> dict[str, Any]:
    """Return the facts of a result that every score needs beside it."""
    names = ("command", "time", "dataset", "num_train", "data_hash", "device", "nas", "torch")
    return {name: getattr(made, name) for name in names}


def _machine(made: Provenance) -> Markup:
    """Return all that is recorded of images and machine, to be opened."""
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(Provenance)}
    facts = {name: value for name, value in fields.items() if value is not None and name not in _made(made)}
    return tag("details", tag("summary", "Environment: versions, hardware, classes"), _facts(facts))


def _run_facts(run: RunFiles) -> dict[str, Any]:
    result = run.result
    return {
        "schedule": result.schedule, "folder": run.folder.name, "seeds": result.seeds, "epochs": result.epochs,
        f"{last_epochs(result.epochs)} by seed": tuple(f"{value:.3f}" for value in result.last5.values()),
        "test split opened": result.opened, **_made(result),
    }  # fmt: skip


def _facts(facts: Mapping[str, Any]) -> Markup:
    pairs = []
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else "none" if value is None else value
        text: Any = tag("code", shown) if name in ("command", "schedule", "data_hash") else shown
        pairs += [tag("dt", name.replace("_", " ")), tag("dd", text)]
    return tag("dl", pairs, class_="facts")


def _openings(found: Findings) -> Markup:
    title = tag("h3", "Every opening of the test split")
    if not found.openings:
        return join(title, tag("p", "None is on record: the search cannot reach it, and no full run was made here."))
    rows = [
        tag("tr", tag("td", line.get("utc", "")), tag("td", line.get("purpose", ""), class_="schedule"),
            tag("td", tag("code", line.get("command", "")), class_="schedule"))
        for line in found.openings
    ]  # fmt: skip
    return join(
        title, table(("when (UTC)", "what", "command"), rows, label=f"Openings of the test split by {found.name}")
    )


def _failures(found: Findings) -> Markup | None:
    failed = [
        trial for trial in (*found.trials, *found.finalist_trials)
        if trial.state == TrialState.FAIL and trial.user_attrs.get("reason")
    ]  # fmt: skip
    if not failed:
        return None
    rows = [
        tag("tr", tag("td", _called(trial)),
            tag("td", "interrupted" if trial.user_attrs.get("interrupted") else "failed"),
            tag("td", tag("code", trial.user_attrs.get("schedule", ""))), tag("td", trial.user_attrs["reason"]))
        for trial in failed[:MOST_FAILURES]
    ]  # fmt: skip
    more = f" (the first {MOST_FAILURES} of {len(failed)})" if len(failed) > MOST_FAILURES else ""
    return join(
        tag("h3", f"Failed and interrupted trials{more}"),
        table(
            ("training", "state", "trial's schedule", "reason"), rows, label=f"What did not end well in {found.name}"
        ),
    )


def _called(trial: FrozenTrial) -> str:
    """Return what a training is called: the finalists' study numbers its own, one for each seed."""
    if "candidate" in trial.params:
        return f"finalist {trial.params['candidate']}, seed {trial.params['seed']}"
    return f"trial {trial.number}"
