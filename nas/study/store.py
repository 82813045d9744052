"""`StudyStore`: one Optuna study, with everything that is read from it and written to it.

It uses Optuna's storage interface (`BaseStorage`) for writing, so that a claim is one write: number, parameters and
attributes are there together or not at all. What it makes stays an ordinary Optuna study.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import StorageError
from nas.machine import redact_url
from nas.study.batch import batch
from nas.study.identity import FORMAT, SETTINGS, foreign, recorded, require_same
from nas.study.ownership import Staleness, owner_attrs
from nas.study.paths import DATABASE, make_folder, studies_dir, study_folder, study_names
from nas.study.reader import TrialReader
from nas.study.storage import FINALISTS, make_study, open_storage, rename_in_database, storage_errors
from nas.study.table import INTERRUPTED, TrialTable

WITHOUT_TRIAL = "discards_without_trial"
"""The study's attribute with the discards, by reason, after which no trial could be made."""

ARTIFACTS = "artifacts"
"""The study's attribute with the place of weights that all machines find."""

AGAIN = "; enqueued again"
"""The end of the reason of an interrupted trial whose point is tried once more."""

CARRIED = ("schedule", "num_params", "macs", "published", "regular", "seed", "recipe", "default", "scores", "seconds")
"""Attributes that a trial hands on to the one that takes its place."""

WRITE_SECONDS = 1.0
"""Least time between two writes of epochs: a commit takes some 25 ms on a disk, and 64 workers end many epochs."""

Params = Mapping[str, Any]
Distributions = Mapping[str, BaseDistribution]


@dataclass(frozen=True, kw_only=True)
class ClaimedTrial:
    """A running trial of this process."""

    trial_id: int
    number: int
    params: dict[str, Any]
    attrs: dict[str, Any]
    values: dict[int, float] = field(default_factory=dict)  # epoch -> accuracy, as reported


class StudyStore:
    """An open study. Make one with `create` or `open`; `refresh` before reading `table`."""

    def __init__(self, name: str, storage: BaseStorage, url: str | None, *, base: str | None = None) -> None:
        self.name, self.storage, self.url = name, get_storage(storage), url
        self.base = base or name  # the study whose folder holds it: the finalists' is in that of their search
        self.table = TrialTable()
        self.staleness = Staleness()
        self._backend = storage
        self._id = self.storage.get_study_id_from_name(name)
        self._reader = TrialReader(self.storage, storage, self._id)
        self._without_trial: Mapping[str, int] = {}
        self.clock = time.monotonic
        self._unwritten: dict[int, dict[int, float]] = {}  # of trials of this process: epoch -> accuracy
        self._written = -math.inf

    # Opening

    @classmethod
    def create(cls, name: str, url: str | None, identity: Mapping[str, Any], record: Mapping[str, Any]) -> StudyStore:
        """Make or resume the study of this name.

        `identity` must equal what the study was made with; `record` is stored besides. Raise `UsageError` naming the
        first key that differs or a study of another origin, `StorageError` for a database that cannot be used.
        """
        make_folder(study_folder(name))  # with a storage elsewhere too: weights and the winner go here
        storage = open_storage(url, name, create=True)
        with storage_errors(url, name):
            if url is None and isinstance(storage, RDBStorage):
                _take_name(storage, name)
            make_study(storage, name)  # where it is there, it is resumed below
            store = cls(name, storage, url)
            # In this order: where another process makes it at once, its settings are there before its first trial.
            directions = storage.get_study_directions(store._id)
            empty = directions == [StudyDirection.MAXIMIZE] and store.num_trials == 0
            known = store.attrs.get(SETTINGS)
            if not isinstance(known, Mapping) and (known is not None or not empty):
                raise foreign(name)
            if known is None:
                with batch:
                    for key, value in record.items():
                        store.set_attr(key, value)
                    store.set_attr(SETTINGS, recorded(identity))  # last: with it, the record is whole
                return store
        require_same(name, known, identity)
        return store

    @classmethod
    def open(cls, name: str, url: str | None = None, *, read_only: bool = False) -> StudyStore:
        """Open a study that is there, for reading alone where a search may write to it at the same time.

        Raise `StorageError` where it is not there, or cannot be read.
        """
        if url is None and not (study_folder(name) / DATABASE).is_file():
            known = ", ".join(study_names()) or "there is none"
            raise StorageError(f"no study '{name}' in {studies_dir()} ({known}): run nas search, or name another")
        storage = open_storage(url, name, create=False, read_only=read_only)
        with storage_errors(url, name):
            names = [study.study_name for study in storage.get_all_studies()]
            ours = [each for each in names if not each.endswith(FINALISTS)]
            if name not in names and len(ours) == 1:  # a copied or renamed folder, a database of one study
                return cls(ours[0], storage, url, base=name if url is None else None)
            if name not in names:
                where = redact_url(url) if url else study_folder(name) / DATABASE
                raise StorageError(
                    f"no study '{name}' in {where} ({', '.join(ours) or 'there is none'}): name another with --study"
                )
            return cls(name, storage, url)

    def finalists(self) -> StudyStore:
        """Open the study of the finalists in the same database; it is made where it is not there."""
        name = self.name + FINALISTS
        with self.errors():
            make_study(self.storage, name)
            store = StudyStore(name, self._backend, self.url, base=self.base)
        store.artifacts = self.artifacts
        return store

    @cached_property
    def artifacts(self) -> str | None:
        """The folder or bucket of weights that all machines find, if the study has one."""
        place: str | None = self.attrs.get(ARTIFACTS)
        return place

    def set_artifacts(self, place: str) -> None:
        self.set_attr(ARTIFACTS, place)
        self.artifacts = place

    def open_finalists(self) -> StudyStore | None:
        """Open the study of the finalists; None where there is none: reading makes nothing."""
        name = self.name + FINALISTS
        with self.errors():
            if name not in (each.study_name for each in self.storage.get_all_studies()):
                return None
            return StudyStore(name, self._backend, self.url, base=self.base)

    def with_finalists(self) -> list[StudyStore]:
        """List this study and, where there is one, that of its finalists; nothing is made."""
        second = self.open_finalists()
        return [self] if second is None else [self, second]

    @property
    def num_trials(self) -> int:
        with self.errors():
            return self._reader.count()

    @property
    def dataset(self) -> str | None:
        """The data set that the study is of; None for a study of another origin."""
        settings = self.attrs.get(SETTINGS)
        return settings.get("dataset") if isinstance(settings, Mapping) else None

    @property
    def study(self) -> Study:
        """The Optuna study, opened anew: an open one would show a sampler the trials of its first draw for ever."""
        with self.errors():
            return optuna.load_study(study_name=self.name, storage=self.storage)

    @property
    def is_ours(self) -> bool:
        """Tell whether this tool made the study, in the present format."""
        known = self.attrs.get(SETTINGS)
        return isinstance(known, Mapping) and known.get("format") == FORMAT

    @property
    def attrs(self) -> dict[str, Any]:
        """The study's user attributes."""
        with self.errors():
            return self.storage.get_study_user_attrs(self._id)

    def set_attr(self, key: str, value: Any) -> None:
        with self.errors():
            self.storage.set_study_user_attr(self._id, key, value)

    def attach(self, number: int, artifact_id: str, meta: Mapping[str, str] | None) -> None:
        """Record a file of an artifact store with a trial, or with `meta` None that it is no longer there.

        Optuna's `upload_artifact` refuses finished trials; optuna-dashboard reads this key of the study for them.
        """
        with self.errors():
            key = f"dashboard:artifacts:{self._id_of(number)}:{artifact_id}"
            self.storage.set_study_system_attr(self._id, key, json.dumps(meta))

    # Reading

    def refresh(self) -> TrialTable:
        """Bring `table` up to date; only what is new or unfinished is read from the database."""
        with self.errors():
            trials = self._reader.read()
            self._without_trial = self.attrs.get(WITHOUT_TRIAL, {})
        for trial in trials:
            if trial.state.is_finished():
                self.table.add(trial)
            else:
                self.table.open[trial.number] = trial
        return self.table

    def read_trials(self) -> list[FrozenTrial]:
        """Return all trials by number, of a study of another origin too."""
        with self.errors():
            return sorted(TrialReader(self.storage, self._backend, self._id).read(), key=lambda trial: trial.number)

    def counts(self) -> dict[str, int]:
        """Account for every schedule, of the trials last read."""
        return self.table.counts(self._without_trial)

    def add_discards(self, discards: Mapping[str, int]) -> None:
        """Account for schedules that were drawn in vain: no trial holds them."""
        before = self.attrs.get(WITHOUT_TRIAL, {})
        total = {reason: before.get(reason, 0) + discards.get(reason, 0) for reason in {*before, *discards}}
        self.set_attr(WITHOUT_TRIAL, total)
        self._without_trial = total

    # Claiming

    def claim(self, params: Params, distributions: Distributions, attrs: Mapping[str, Any]) -> ClaimedTrial:
        """Begin a trial of this process, in one write."""
        attrs = {**attrs, **owner_attrs()}
        template = create_trial(
            state=TrialState.RUNNING, params=dict(params), distributions=dict(distributions), user_attrs=attrs
        )
        template.datetime_start = datetime.now()
        with self.errors():
            trial_id = self.storage.create_new_trial(self._id, template_trial=template)
            number = self.storage.get_trial_number_from_id(trial_id)
        template.number = number
        self.table.open[number] = template
        return ClaimedTrial(trial_id=trial_id, number=number, params=dict(params), attrs=attrs)

    def claim_waiting(self) -> ClaimedTrial | None:
        """Begin the first enqueued trial; None where there is none, or other processes were quicker."""
        with self.errors():
            for trial in self.table.waiting():  # one without parameters was enqueued by hand: no point of the space
                if trial.params and (started := self._start(trial.number)):
                    return started
        return None

    def _start(self, number: int) -> ClaimedTrial | None:
        trial_id = self._id_of(number)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError), batch:  # another process was quicker
            if self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                for key, value in owner_attrs().items():
                    self.storage.set_trial_user_attr(trial_id, key, value)
                fresh = self.table.open[number] = self.storage.get_trial(trial_id)
                return ClaimedTrial(trial_id=trial_id, number=number, params=fresh.params, attrs=fresh.user_attrs)
        return None

    def enqueue(self, params: Params, distributions: Distributions, attrs: Mapping[str, Any]) -> None:
        """Leave a trial for whoever is idle next, with its parameters, in one write."""
        template = create_trial(
            state=TrialState.WAITING, params=dict(params), distributions=dict(distributions), user_attrs=dict(attrs)
        )
        with self.errors():
            self.storage.create_new_trial(self._id, template_trial=template)

    def yields(
        self, claimed: ClaimedTrial, total: int, same: Callable[[TrialTable], Iterable[FrozenTrial]]
    ) -> bool:  # fmt: skip
        """Give a trial up whose point, by `same`, or whose place in the total another process claimed first.

        `same` returns the trials of the claimed point. A claim is one write, so that of two processes the one with the
        later number always sees the other.
        """
        table = self.refresh()
        earlier = [each.number for each in same(table) if not each.user_attrs.get(INTERRUPTED)]
        if min(earlier, default=claimed.number) < claimed.number:
            reason = f"another process claimed its point as trial {min(earlier)}"
            self.fail_interrupted(claimed, reason, again=False)
            return True
        reached = table.begun_before(claimed.number) >= total
        if reached:
            self.fail_interrupted(claimed, "the total was reached by another process", again=True)
        return reached

    # Telling

    def report(self, claimed: ClaimedTrial, epoch: int, accuracy: float) -> None:
        """Take an epoch's accuracy in percent. It is stored with the next `write_epochs`, at the latest at the end."""
        claimed.values[epoch] = accuracy
        self._unwritten.setdefault(claimed.trial_id, {})[epoch] = accuracy

    def write_epochs(self) -> None:
        """Store the accuracies of all trials of this process, in one write, but not too soon after the last time.

        Others look at them; what decides over a trial is in memory, and a trial that is cut is trained anew.
        """
        if self._unwritten and self.clock() - self._written >= WRITE_SECONDS:
            with self.errors(), batch:
                for trial_id in list(self._unwritten):
                    self._write_epochs_of(trial_id)
            self._written = self.clock()

    def annotate(self, claimed: ClaimedTrial, **attrs: Any) -> None:
        with self.errors(), batch:
            for key, value in attrs.items():
                self.storage.set_trial_user_attr(claimed.trial_id, key, value)
        claimed.attrs.update(attrs)

    def finish(self, claimed: ClaimedTrial, state: TrialState, value: float | None = None, **attrs: Any) -> FrozenTrial:
        """End a trial of this process: attributes first, so that a finished trial has them, whatever is killed when."""
        with self.errors(), batch:
            self.annotate(claimed, **attrs)
            self._write_epochs_of(claimed.trial_id)
            self.storage.set_trial_state_values(claimed.trial_id, state, None if value is None else [value])
            trial = self.storage.get_trial(claimed.trial_id)
        self.table.add(trial)
        return trial

    def heartbeat(self, trials: Iterable[ClaimedTrial]) -> None:
        """Show that this process still runs its trials."""
        with self.errors(), batch:
            for claimed in trials:
                self.annotate(claimed, heartbeat=claimed.attrs["heartbeat"] + 1)

    def _write_epochs_of(self, trial_id: int) -> None:
        for epoch, accuracy in self._unwritten.pop(trial_id, {}).items():
            self.storage.set_trial_intermediate_value(trial_id, epoch, accuracy)

    # Giving up

    def stale(self, ours: Mapping[int, ClaimedTrial]) -> list[FrozenTrial]:
        """List running trials whose owner is gone."""
        return [trial for trial, left in self.foreign(ours) if left <= 0]

    def foreign(self, ours: Mapping[int, ClaimedTrial]) -> list[tuple[FrozenTrial, float]]:
        """List running trials of other processes, with the seconds after which each is given up."""
        others = (trial for trial in self.table.running() if trial.number not in ours)
        return [(trial, self.staleness.seconds_left(trial.number, trial.user_attrs)) for trial in others]

    def fail_interrupted(self, trial: FrozenTrial | ClaimedTrial, reason: str, *, again: bool) -> None:
        """Fail a trial that did not end by itself, and enqueue its point once more where `again` says so.

        In this order, where it is not one write: killed in between, it is given up again, and of a schedule enqueued
        twice the second yields.
        """
        with self.errors():
            trial_id = self._id_of(trial.number)
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError), batch:  # else another was quicker
                self._write_epochs_of(trial_id)
                stored = self.storage.get_trial(trial_id)
                again = again and bool(stored.params)
                self.storage.set_trial_user_attr(trial_id, "reason", f"{reason}{AGAIN if again else ''}")
                self.storage.set_trial_user_attr(trial_id, INTERRUPTED, True)
                if again:
                    attrs = {key: stored.user_attrs[key] for key in CARRIED if key in stored.user_attrs}
                    self.enqueue(stored.params, stored.distributions, {**attrs, "again_after": stored.number})
                self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
            self.table.add(self.storage.get_trial(trial_id))

    def stored(self, claimed: ClaimedTrial) -> FrozenTrial:
        """Return a trial of this process as the database has it."""
        with self.errors():
            return self.storage.get_trial(claimed.trial_id)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        with storage_errors(self.url, self.base):
            yield

    def _id_of(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)


def _take_name(storage: RDBStorage, name: str) -> None:
    """Give a copied or renamed folder's study, the only one of its database, the folder's name.

    Otherwise a search would make a second study beside it.
    """
    searches = [study.study_name for study in storage.get_all_studies() if not study.study_name.endswith(FINALISTS)]
    if len(searches) == 1 and name not in searches:
        attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(searches[0]))
        if SETTINGS in attrs:  # ours
            rename_in_database(storage, searches[0], name)
