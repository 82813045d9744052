"""The trials of one study in memory: finished ones are read once, and every sum over them is always current."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import ChainMap, Counter
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.space import DISCARDS
from nas.study.storage import make_study

INTERRUPTED = "interrupted"
"""The attribute of a trial that did not end by itself: to Optuna it has failed, to people it was interrupted."""

STATES = (*(state.name.lower() for state in TrialState), INTERRUPTED)
"""How trials stand: in Optuna's states, of which those that were interrupted are counted apart."""

MANY_LEARNED = 1000
"""Trials up to which a sampler of Optuna is given all: its work for each draw grows with them."""


def rank(trial: FrozenTrial) -> tuple[float, int, int]:
    """Return the key that orders complete trials, best first: validation loss, then parameters, then number.

    Accuracy counts the few images near a boundary, the loss weighs all: near a cap of 8,000 it ranks brief trials more
    as full runs do (studies/LOG.md).
    """
    return trial.user_attrs["loss"], trial.user_attrs["num_params"], trial.number


class TrialTable:
    """Trials by number. `add` takes finished ones once; `open` is replaced at every reading."""

    def __init__(self) -> None:
        self.finished: dict[int, FrozenTrial] = {}
        self.open: dict[int, FrozenTrial] = {}
        self.complete: list[FrozenTrial] = []  # best first, by `rank`
        self.learned: list[FrozenTrial] = []  # complete and pruned, by number
        self.curves: dict[int, list[float]] = {}  # epoch -> accuracies of the complete trials, in ascending order
        self._schedules: dict[str, list[FrozenTrial]] = {}  # of all finished trials
        self._ended: list[int] = []  # numbers of those that finished by themselves: not cut by an interruption
        self._states: Counter[str] = Counter()
        self._discards: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.finished) + len(self.open)

    def add(self, trial: FrozenTrial) -> None:
        """Take a finished trial; one that is there already is left as it is."""
        if trial.number in self.finished:
            return
        self.open.pop(trial.number, None)
        self.finished[trial.number] = trial
        self._states[INTERRUPTED if trial.user_attrs.get(INTERRUPTED) else trial.state.name.lower()] += 1
        self._count(self._discards, trial)
        if not trial.user_attrs.get(INTERRUPTED):
            insort(self._ended, trial.number)
        if "schedule" in trial.user_attrs:
            self._schedules.setdefault(trial.user_attrs["schedule"], []).append(trial)
        if trial.state == TrialState.COMPLETE and "loss" in trial.user_attrs:
            insort(self.complete, trial, key=rank)
            for epoch, accuracy in trial.intermediate_values.items():
                if not math.isnan(accuracy):
                    insort(self.curves.setdefault(epoch, []), accuracy)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            insort(self.learned, trial, key=lambda each: each.number)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """List trials by number, of the given states or all."""
        every = sorted((*self.finished.values(), *self.open.values()), key=lambda trial: trial.number)
        return [trial for trial in every if not states or trial.state in states]

    def running(self) -> list[FrozenTrial]:
        return [trial for trial in self.open.values() if trial.state == TrialState.RUNNING]

    def waiting(self) -> list[FrozenTrial]:
        """Enqueued trials that nobody has begun, by number."""
        waiting = (trial for trial in self.open.values() if trial.state == TrialState.WAITING)
        return sorted(waiting, key=lambda trial: trial.number)

    def by_hand(self) -> list[FrozenTrial]:
        """Waiting trials that somebody enqueued with Optuna: no points of the space, and left alone."""
        return [trial for trial in self.waiting() if not trial.params and "schedule" not in trial.user_attrs]

    @property
    def taken(self) -> int:
        """Trials under way in any process, and those that ended by themselves."""
        return self.ended + len(self.running())

    def results(self) -> list[tuple[int, float]]:
        """List parameters and accuracy of the complete trials, by number."""
        ordered = sorted(self.complete, key=lambda trial: trial.number)
        return [(int(trial.user_attrs["num_params"]), trial.value or 0.0) for trial in ordered]

    @property
    def ended(self) -> int:
        """Trials that finished by themselves."""
        return len(self._ended)

    def ended_after(self, number: int) -> int:
        """Count the trials after the given one that finished by themselves."""
        return len(self._ended) - bisect_right(self._ended, number)

    def begun_before(self, number: int) -> int:
        """Count the trials before the given one that are running, or finished by themselves."""
        return bisect_left(self._ended, number) + sum(trial.number < number for trial in self.running())

    def seen(self) -> MutableMapping[str, Any]:
        """Return a view of the schedules of every trial there is: a copy would cost more with each."""
        return ChainMap(self._open_schedules(), self._schedules)

    def of_schedules(self, *schedules: str) -> list[FrozenTrial]:
        """List the trials of these schedules."""
        every = ChainMap(self._open_schedules(), self._schedules)
        return [trial for part in every.maps for schedule in schedules for trial in part.get(schedule, ())]

    def _open_schedules(self) -> dict[str, list[FrozenTrial]]:
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self.open.values():
            if "schedule" in trial.user_attrs:
                found.setdefault(trial.user_attrs["schedule"], []).append(trial)
        return found

    def counts(self, without_trial: Mapping[str, int] = MappingProxyType({})) -> dict[str, int]:
        """Account for every schedule: generated + tried again = discards by reason + trials by state.

        "fail" counts trials that failed for a reason of their own, "interrupted" those that did not end by
        themselves. "generated" is counted where schedules are drawn, discards where they are made, so that a loss shows
        as "unaccounted"; what was enqueued by hand is left out. `without_trial` counts, by reason, discards after which
        no trial could be made.
        """
        totals = Counter(self._discards)
        for trial in self.open.values():
            self._count(totals, trial)
        lost = Counter(without_trial)
        totals.update(lost)
        totals["generated"] += lost.total()
        states = Counter(self._states)
        states.update(trial.state.name.lower() for trial in self.open.values())
        by_hand = len(self.by_hand())
        states["waiting"] -= by_hand
        by_state = {state: states[state] for state in STATES}
        discards = {reason: totals[reason] for reason in DISCARDS}
        return {
            "generated": totals["generated"],
            **discards,
            **by_state,
            "tried again": totals["tried again"],
            "unaccounted": totals["generated"] + totals["tried again"] + by_hand - sum(discards.values()) - len(self),
            "shrunk to fit": totals["shrunk to fit"],
        }

    def as_study(self) -> Study:
        """Return the complete and pruned trials as a study in memory, for a sampler of Optuna.

        A sampler remembers what it reads until `Study.ask` or `Study.tell`, which `StudyStore` does without: of the
        stored study it would see only the trials of its first draw. Of more than `MANY_LEARNED` it gets the best and
        the latest, half of each.
        """
        storage = InMemoryStorage()
        make_study(storage, "trials")
        study = optuna.load_study(study_name="trials", storage=storage)
        learned = self.learned
        if len(learned) > MANY_LEARNED:
            half = MANY_LEARNED // 2
            latest = learned[-half:]
            best = [trial for trial in self.complete[:half] if trial.number < latest[0].number]
            learned = [*sorted(best, key=lambda trial: trial.number), *latest]
        study.add_trials(learned)
        return study

    @staticmethod
    def _count(totals: Counter[str], trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        totals.update(attributes.get("discards", {}))
        totals["generated"] += attributes.get("generated", 0)
        totals["tried again"] += "again_after" in attributes
        totals["shrunk to fit"] += bool(attributes.get("shrunk"))
