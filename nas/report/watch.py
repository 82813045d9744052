"""The view of a search that runs elsewhere, by what its study holds; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.budget import Budget
from nas.report.tables import duration
from nas.searches import finalists_of
from nas.study import (
    ENDED,
    INTERRUPTED,
    STALE_SECONDS,
    STARTING_WORKERS,
    Event,
    Progress,
    Runs,
    RunState,
    Stage,
    StudyStore,
    View,
    WorkerLine,
    read_runs,
)

BRIEF, FINALISTS = "brief trials", "finalists"
STATES = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Watcher:
    """Follows one study; every `look` reads it once and hands the view what it came to."""

    def __init__(self, store: StudyStore, view: View, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.view, self._clock = store, view, clock
        self.second: StudyStore | None = None  # the finalists', once it is there
        self.settings = store.attrs["settings"]
        budget = Budget(max_params=self.settings["max_params"], max_macs=self.settings["max_macs"])
        self.progress = Progress(
            title=str(budget), target=store.attrs.get("target"), lines=[], clock=clock, max_params=budget.max_params
        )
        self._seen: dict[str, set[int]] = {}  # finished trials that the view knows, by study
        self._runs = Runs(clock=clock)
        self._signature: Any = None
        self._changed = clock()

    def look(self) -> str | None:
        """Read the study; return how its search ended, in words, or None where it goes on."""
        self.store.refresh()
        self.second = self.second or self.store.open_finalists()
        if self.second is not None:
            self.second.refresh()
        attrs = self.store.attrs
        at_work = self._runs.at_work(attrs)
        # Of several at work the one that began last; of those that are over the one that went on longest.
        every = at_work or sorted(read_runs(attrs), key=lambda run: run.entered or run.began)
        state = every[-1] if every else None
        self._note_changes(state)
        self._describe(state)
        for event in self._events():
            self.view(self.progress, event)
        self.progress.note = self._silence(state) or self._waiting(state if at_work else None)
        self.view(self.progress, None)
        return None if at_work else _end(state)

    # --- what it is at

    def _describe(self, state: RunState | None) -> None:
        progress, table = self.progress, self.store.table
        if state is not None:
            progress.began = self._clock() - state.seconds
        phase = state.phase if state is not None else FINALISTS if self.second is not None else BRIEF
        if phase != progress.phase:
            progress.enter(phase)
            progress.stages = [Stage(name=each.name, work=each.work) for each in state.stages] if state else []
        progress.count(self.store.counts())
        progress.results = table.results()
        progress.lines = [_line(trial, self._epochs(trial)) for trial in self._running()]
        ratio = self.settings["finalist_epochs"] / self.settings["recipe.epochs"]
        under_way = sum(line.step / line.steps for line in progress.lines)
        if phase == FINALISTS:
            progress.done = len(self._finals)
            planned = next((round(each.work / ratio) for each in progress.stages if each.name == phase), 0)
            progress.total = max(planned, progress.done + len(progress.lines)) if planned else 0
            done, left = (progress.done + under_way) * ratio, (progress.total - progress.done - under_way) * ratio
        else:
            progress.done, progress.total = table.ended, max(state.trials, table.ended) if state is not None else 0
            done, left = table.ended + under_way, progress.total - table.ended - under_way
        self._fill_stages(phase)
        progress.advance(done, max(0.0, left))
        finalists = () if self.second is None else finalists_of(table, self.second.table)
        if finalists:
            first = finalists[0]
            progress.best = (first.mean, None, first.schedule, first.num_params)
        elif table.complete:
            attrs = table.complete[0].user_attrs
            progress.best = (table.complete[0].value or 0.0, attrs["loss"], attrs["schedule"], attrs["num_params"])

    def _fill_stages(self, phase: str) -> None:
        """Mark the stages before the present one as done."""
        names = [stage.name for stage in self.progress.stages]
        here = names.index(phase) if phase in names else len(names) if phase == ENDED else 0
        for stage in self.progress.stages[:here]:
            stage.done = stage.work

    @property
    def _finals(self) -> list[FrozenTrial]:
        return [] if self.second is None else self.second.table.trials(TrialState.COMPLETE)

    def _running(self) -> list[FrozenTrial]:
        second = [] if self.second is None else self.second.table.running()
        return sorted((*self.store.table.running(), *second), key=lambda trial: trial.number)

    def _epochs(self, trial: FrozenTrial) -> int:
        return int(self.settings["finalist_epochs" if "candidate" in trial.params else "recipe.epochs"])

    # --- what is new

    def _events(self) -> Iterator[Event]:
        """Yield trials that ended since the last look; those before the first one are no news."""
        for store in filter(None, (self.store, self.second)):
            known = self._seen.get(store.name)
            new = [trial for number, trial in store.table.finished.items() if known is not None and number not in known]
            self._seen[store.name] = set(store.table.finished)
            yield from (self._event(trial) for trial in sorted(new, key=lambda each: each.number))
        if self.second is None:
            self._seen[f"{self.store.name}/finalists"] = set()

    def _event(self, trial: FrozenTrial) -> Event:
        attrs, final = trial.user_attrs, "candidate" in trial.params
        if attrs.get("interrupted"):
            name = f"finalist {trial.params['candidate']}" if final else f"trial {trial.number}"
            return Event(note=f"{name}: {attrs.get('reason', 'interrupted')}")
        accuracy = trial.value
        if accuracy is None and trial.intermediate_values:
            accuracy = trial.intermediate_values[max(trial.intermediate_values)]
        schedule = str(attrs.get("schedule", ""))
        return Event(
            label=f"finalist {trial.params['candidate']}" if final else f"trial {trial.number}",
            state=STATES.get(trial.state, ""), accuracy=accuracy, loss=attrs.get("loss"),
            num_params=attrs.get("num_params", 0), note=str(attrs.get("reason", "")),
            text=f"seed {trial.params['seed']}  {schedule}" if final else schedule,
            leads=not final and bool(self.store.table.complete) and self.store.table.complete[0].number == trial.number,
        )  # fmt: skip

    def _note_changes(self, state: RunState | None) -> None:
        running = [
            (trial.number, trial.user_attrs.get("heartbeat"), len(trial.intermediate_values))
            for trial in self._running()
        ]
        counts = [len(each.table) for each in (self.store, self.second) if each is not None]
        if (signature := (counts, running, None if state is None else state.phase)) != self._signature:
            self._signature, self._changed = signature, self._clock()

    # --- whether it goes on

    def _silence(self, state: RunState | None) -> str:
        """Return what to say where nothing has been written for long."""
        silent = self._clock() - self._changed
        if silent < STALE_SECONDS:
            return ""
        if state is not None and not self._running():
            return f"nothing to see for {duration(silent)}: teachers and winners are made outside the study"
        return f"nothing has been written for {duration(silent)}: is the search still running?"

    def _waiting(self, state: RunState | None) -> str:
        """Return what a search that is at work does before its study shows anything of it."""
        if state is None or self._running():
            return ""
        if state.phase not in (BRIEF, FINALISTS):
            return f"{state.phase}: the study shows nothing of them, trials follow"
        return "" if self.store.table.finished else STARTING_WORKERS


def _end(state: RunState | None) -> str:
    """Return how the latest search ended, where none is at work."""
    if state is None:
        return "no search is at work on this study"
    if state.phase == ENDED:
        return "the search has ended"
    how = "interrupted" if state.phase == INTERRUPTED else "killed"
    return f"the search was {how}: run it again to go on"


def _line(trial: FrozenTrial, epochs: int) -> WorkerLine:
    history = [value for _, value in sorted(trial.intermediate_values.items())]
    name = f"finalist {trial.params['candidate']}" if "candidate" in trial.params else f"trial {trial.number}"
    return WorkerLine(
        text=f"{name}  {trial.user_attrs.get('schedule', '')}", num_params=trial.user_attrs.get("num_params", 0),
        step=len(history), steps=epochs, accuracy=history[-1] if history else None, history=history,
    )  # fmt: skip
