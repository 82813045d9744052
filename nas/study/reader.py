"""Reading trials: each finished one once, in a few plain queries.

Optuna reads trials object by object, some 2 ms each: minutes for the first look at 50,000. Here whole tables are read
in order, and afterwards only what is new or unfinished. The tables are those of Optuna's database, whose version is
checked where it is opened; a test compares with Optuna's own reading.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, DateTime, Engine, Select, String, column, func, select, table

MANY = 500
"""Unfinished trials that one query reads."""

SNAPSHOTS: Mapping[str, Mapping[str, str]] = {"sqlite": {}, "postgresql": {"isolation_level": "REPEATABLE READ"}}
"""Databases that are read here, with what makes all queries of a transaction see one state. Otherwise a trial that ends
between two queries would be read as finished, and without its last attributes."""

_TRIALS = table(
    "trials", column("trial_id"), column("study_id"), column("number"), column("state", String),
    column("datetime_start", DateTime), column("datetime_complete", DateTime),
)  # fmt: skip
_PARAMS = table(
    "trial_params", column("param_id"), column("trial_id"), column("param_name"), column("param_value"),
    column("distribution_json"),
)  # fmt: skip
_USER = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))
_SYSTEM = table("trial_system_attributes", column("trial_id"), column("key"), column("value_json"))
_VALUES = table("trial_values", column("trial_id"), column("objective"), column("value"), column("value_type", String))
_STEPS = table(
    "trial_intermediate_values", column("trial_id"), column("step"), column("intermediate_value"),
    column("intermediate_value_type", String),
)  # fmt: skip
_SPECIAL = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


class TrialReader:
    """Reads the trials of one study, at first all of them, then what has changed."""

    def __init__(self, storage: BaseStorage, backend: BaseStorage, study_id: int) -> None:
        self._source, self._study = storage, study_id
        engine: Engine | None = getattr(backend, "engine", None)
        self._engine = engine if engine is not None and engine.dialect.name in SNAPSHOTS else None
        self._again: Callable[[Callable[[], Any]], Any] = getattr(backend, "again", lambda go: go())
        self._known = 0  # trials read so far: numbers are given without a gap
        self._last = -1  # the greatest id among them
        self._open: set[int] = set()  # ids of those not finished; numbers where there is no database

    def count(self) -> int:
        """Return the number of trials."""
        if self._engine is None:
            return len(self._source.get_all_trials(self._study, deepcopy=False))
        query = select(func.count()).select_from(_TRIALS).where(_TRIALS.c.study_id == self._study)
        return int(self._query(lambda connection: connection.execute(query).scalar_one()))

    def read(self) -> list[FrozenTrial]:
        """Return the trials that are new, or were not finished at the last reading, as they are now."""
        if self._engine is None:
            every = self._source.get_all_trials(self._study, deepcopy=False)  # in memory: a journal
            trials = [every[number] for number in sorted(self._open)] + every[self._known :]
            self._known, self._open = len(every), {each.number for each in trials if not each.state.is_finished()}
            return trials
        found: dict[int, FrozenTrial] = self._query(lambda connection: dict(self._changed(connection)))
        self._known += sum(1 for trial_id in found if trial_id > self._last)
        self._open = {trial_id for trial_id, trial in found.items() if not trial.state.is_finished()}
        self._last = max([self._last, *found])
        if any(trial.number >= self._known for trial in found.values()):  # one came between: look at all again
            self._known, self._last, self._open = 0, -1, set()
        return list(found.values())

    def _query(self, go: Callable[[Connection], Any]) -> Any:
        def once() -> Any:
            assert self._engine is not None
            with reading(self._engine) as connection:
                return go(connection)

        return self._again(once)

    def _changed(self, connection: Connection) -> Iterator[tuple[int, FrozenTrial]]:
        ids, this = sorted(self._open), _TRIALS.c
        for start in range(0, len(ids), MANY):
            yield from _trials(connection, ids[start : start + MANY])
        new = select(this.trial_id).where(this.study_id == self._study, this.trial_id > self._last)
        if connection.execute(new.limit(1)).first() is not None:
            yield from _trials(connection, new)


def reading(engine: Engine) -> Connection:
    """Return a connection, to be used in a `with`, whose transaction sees one state and takes no lock for writing."""
    return engine.connect().execution_options(nas_reading=True, **SNAPSHOTS.get(engine.dialect.name, {}))


def _trials(connection: Connection, ids: Sequence[int] | Select[Any]) -> Iterator[tuple[int, FrozenTrial]]:
    """Yield the trials of these ids, or of those that a query selects, by id, each with its id."""

    def rows(query: Select[Any]) -> Iterable[Any]:
        return connection.execute(query.where(query.selected_columns.trial_id.in_(ids)))

    params: dict[int, dict[str, Any]] = defaultdict(dict)
    texts: dict[int, list[tuple[str, str]]] = defaultdict(list)
    this = _PARAMS.c
    for trial, name, value, text in rows(
        select(this.trial_id, this.param_name, this.param_value, this.distribution_json).order_by(this.param_id)
    ):
        name = sys.intern(name)
        params[trial][name] = _distribution(text).to_external_repr(value)
        texts[trial].append((name, text))
    user, system = (_attributes(rows(select(*each.c))) for each in (_USER, _SYSTEM))
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for trial, objective, number, kind in rows(select(*_VALUES.c)):
        values[trial][objective] = _SPECIAL.get(kind, number)
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    for trial, step, number, kind in rows(select(*_STEPS.c)):
        steps[trial][step] = _SPECIAL.get(kind, number)
    for trial, _, number, state, start, end in rows(select(*_TRIALS.c).order_by(_TRIALS.c.trial_id)):
        yield trial, FrozenTrial(
            number, TrialState[state], None, _local(start), _local(end), params.get(trial, {}),
            _distributions(tuple(texts.get(trial, ()))), user.get(trial, {}), system.get(trial, {}),
            steps.get(trial, {}), trial,
            values=[value for _, value in sorted(values[trial].items())] if trial in values else None,
        )  # fmt: skip


def _attributes(rows: Iterable[Any]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial, key, text in rows:
        found[trial][sys.intern(key)] = json.loads(text)
    return found


@lru_cache(maxsize=10_000)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


@lru_cache(maxsize=1000)
def _distributions(texts: tuple[tuple[str, str], ...]) -> dict[str, BaseDistribution]:
    """Return the distributions by name; trials of one space share them."""
    return {name: _distribution(text) for name, text in texts}


def _local(time: datetime | None) -> datetime | None:
    """Return a time of the database, which is UTC, as Optuna has it: local and naive."""
    return None if time is None else time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
