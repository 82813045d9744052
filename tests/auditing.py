"""An audit of a study that is hurt again and again: nothing lost, nothing twice, everything accounted for."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from nas.export import read_winner
from nas.study import StudyStore


class Audit:
    """A study that is hurt again and again; what it must never lose."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.finished = folder, dict[tuple[str, int], tuple[object, ...]]()

    def problems(self) -> list[str]:
        """Everything that is wrong with the study now."""
        database = self.folder / "study.db"
        if not database.is_file() or database.stat().st_size == 0:
            return ["finished trials, but no database"] if self.finished else []
        found = []
        with closing(sqlite3.connect(database, timeout=30)) as connection:  # as SQLite recovers it
            if connection.execute("pragma integrity_check").fetchall() != [("ok",)]:
                found.append("the database is damaged")
            with suppress(sqlite3.OperationalError):  # no tables yet
                found += self._trials(connection)
        return [*found, *self._results()]

    def _trials(self, connection: sqlite3.Connection) -> Iterator[str]:
        rows = connection.execute(
            "select s.study_name, t.number, t.state, v.value, a.value_json "
            "from trials t join studies s using (study_id) left join trial_values v using (trial_id) "
            "left join trial_user_attributes a on a.trial_id = t.trial_id and a.key = 'schedule' "
            "where t.state in ('COMPLETE', 'PRUNED')"
        ).fetchall()
        now = {(name.partition("/")[2], number): tuple(rest) for name, number, *rest in rows}
        lost = [key for key, value in self.finished.items() if now.get(key) != value]
        self.finished.update(now)
        if lost:
            yield f"finished trials lost or changed: {lost}"
        brief = Counter(value[2] for (finalists, _), value in now.items() if not finalists)
        if twice := [schedule for schedule, count in brief.items() if count > 1]:
            yield f"trained twice: {twice}"
        pairs = connection.execute(
            "select group_concat(p.param_value) from (select * from trial_params order by param_name) p "
            "join trials t using (trial_id) join studies s using (study_id) "
            "where s.study_name like '%/finalists' and t.state = 'COMPLETE' group by t.trial_id"
        ).fetchall()
        if len(pairs) != len(set(pairs)):
            yield f"finalists' seeds trained twice: {Counter(pairs).most_common(1)}"

    def _results(self) -> Iterator[str]:
        name = self.folder.name
        try:
            with suppress(FileNotFoundError):
                store = StudyStore.open(name)
                if store.is_ours:
                    store.refresh()
                    if unaccounted := store.counts()["unaccounted"]:
                        yield f"{unaccounted} schedules unaccounted for"
                    store.finalists().refresh()
            if (self.folder / "best").exists():
                read_winner(self.folder / "best")
        except Exception as error:
            if self.finished or not re.search("no study|no such table", str(error)):  # killed while it was made
                yield f"cannot be read: {error}"

    def end(self) -> list[str]:
        """Everything wrong with a study whose search has come to its end."""
        found = self.problems()
        store = StudyStore.open(self.folder.name)
        for each in store.with_finalists():
            if each.refresh().running():
                found.append("trials are running after the end")
        if not (self.folder / "best" / "weights.safetensors").is_file():
            found.append("no winner")
        return found
