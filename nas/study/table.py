"""The trials of one study in memory: finished ones are read once, and every sum over them is always current."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.space import DISCARDS

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


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
        self.schedules: Counter[str] = Counter()  # of all finished trials
        self.ended = 0  # finished by themselves: not cut by an interruption
        self._states: Counter[TrialState] = Counter()
        self._discards: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.finished) + len(self.open)

    def add(self, trial: FrozenTrial) -> None:
        """Take a finished trial; one that is there already is left as it is."""
        if trial.number in self.finished:
            return
        self.open.pop(trial.number, None)
        self.finished[trial.number] = trial
        self._states[trial.state] += 1
        self._count(self._discards, trial)
        self.ended += not trial.user_attrs.get("interrupted")
        if "schedule" in trial.user_attrs:
            self.schedules[trial.user_attrs["schedule"]] += 1
        if trial.state == TrialState.COMPLETE and "loss" in trial.user_attrs:
            insort(self.complete, trial, key=rank)
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

    @property
    def taken(self) -> int:
        """Trials under way in any process, and those that ended by themselves."""
        return self.ended + len(self.running())

    def seen(self) -> set[str]:
        """Return the schedule of every trial there is."""
        now = (trial.user_attrs["schedule"] for trial in self.open.values() if "schedule" in trial.user_attrs)
        return {*self.schedules, *now}

    def counts(self, without_trial: Mapping[str, int] = MappingProxyType({})) -> dict[str, int]:
        """Account for every schedule: generated + tried again = discards by reason + trials by state.

        "generated" is counted where schedules are drawn, discards where they are made, so that a loss shows as
        "unaccounted". `without_trial` counts, by reason, discards after which no trial could be made.
        """
        totals = Counter(self._discards)
        for trial in self.open.values():
            self._count(totals, trial)
        lost = Counter(without_trial)
        totals.update(lost)
        totals["generated"] += lost.total()
        states = Counter(self._states)
        states.update(trial.state for trial in self.open.values())
        by_state = {state.name.lower(): states[state] for state in TrialState}
        discards = {reason: totals[reason] for reason in DISCARDS}
        return {
            "generated": totals["generated"],
            **discards,
            **by_state,
            "tried again": totals["tried again"],
            "unaccounted": totals["generated"] + totals["tried again"] - sum(discards.values()) - len(self),
            "shrunk to fit": totals["shrunk to fit"],
        }

    def as_study(self) -> Study:
        """Return the complete and pruned trials as a study in memory, for a sampler of Optuna.

        A sampler remembers what it reads until `Study.ask` or `Study.tell`, which `StudyStore` does without: of the
        stored study it would see only the trials of its first draw.
        """
        storage = InMemoryStorage()
        storage.create_new_study([StudyDirection.MAXIMIZE], "trials")
        study = optuna.load_study(study_name="trials", storage=storage)
        study.add_trials(self.learned)
        return study

    @staticmethod
    def _count(totals: Counter[str], trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        totals.update(attributes.get("discards", {}))
        totals["generated"] += attributes.get("generated", 0)
        totals["tried again"] += "again_after" in attributes
        totals["shrunk to fit"] += bool(attributes.get("shrunk"))
