"""Seconds of bookkeeping for each trial, by the trials that a study holds and the workers that train.

    python tests/benchmarks/bookkeeping.py [--stored 100,1000,10000,50000] [--workers 1,8,64] [--trials 60]

Nothing is trained: the toy pool of the tests answers at once, so that all time goes into claiming, proposing, pruning,
recording and counting. The process's own CPU time is measured: other programs are not in it, nor the waits for the disk
of the commits of a trial, which do not depend on what is stored. Each study is filled with copies of toy trials that
have schedules of their own, in Optuna's tables; then a search goes on by `--trials` more. Besides: the first reading of
the study in a fresh process, and `nas show`, imports included. Some fifteen minutes in all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

import toys

from nas.searches import BriefTrials
from nas.study import Deadline, Interrupts, Loop, Progress, StudyStore, WorkerLine

CAP = 8000
CHANGES = {"teacher": "none", "target": 0.0, "published": False}
TABLES = {
    "trial_params": "param_name, param_value, distribution_json",
    "trial_user_attributes": "key, value_json",
    "trial_values": "objective, value, value_type",
    "trial_intermediate_values": "step, intermediate_value, intermediate_value_type",
}


def fill(name: str, stored: int) -> None:
    """Make a study of so many finished trials: 100 of a search, then copies with schedules of their own."""
    chosen = toys.settings(CAP, trials=min(stored, 100), sampler="random", **CHANGES)
    search(name, chosen.trials, 8, "random")
    rng = random.Random(0)
    database = Path(os.environ["NAS_STUDIES"]) / name / "study.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        (study,) = connection.execute("select study_id from studies where study_name = ?", [name]).fetchone()
        finished = "select trial_id from trials where study_id = ? and state in ('COMPLETE', 'PRUNED') order by number"
        models = [row[0] for row in connection.execute(finished, [study])]
        first = connection.execute("select max(trial_id) from trials").fetchone()[0] + 1
        numbers = connection.execute("select count(*) from trials where study_id = ?", [study]).fetchone()[0]
        for place in range(stored - len(models)):
            model, trial = rng.choice(models), first + place
            connection.execute(
                "insert into trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
                "select ?, ?, study_id, state, datetime_start, datetime_complete from trials where trial_id = ?",
                [trial, numbers + place, model],
            )
            for table, columns in TABLES.items():
                connection.execute(
                    f"insert into {table} (trial_id, {columns}) select ?, {columns} from {table} where trial_id = ?",
                    [trial, model],
                )
            connection.execute(
                "update trial_user_attributes set value_json = ? where trial_id = ? and key = 'schedule'",
                [json.dumps(new_schedule(place)), trial],
            )


def new_schedule(number: int) -> str:
    """Return a schedule that no other number has; it need not be of the search's space."""
    rest, first = divmod(number, 20)
    rest, second = divmod(rest, 40)
    third, fourth = divmod(rest, 40)
    return f"1x16x16: {first + 3}v {second + 4} M {third + 5} {fourth + 6} G C4"


def search(name: str, trials: int, workers: int, sampler: str) -> list[float]:
    """Go on with a study to so many trials; return the instants at which trials ended."""
    ends = list[float]()

    def view(progress, event):  # type: ignore[no-untyped-def]
        if event is not None and event.label.startswith("trial "):
            ends.append(time.process_time())

    chosen = toys.settings(CAP, trials=trials, sampler=sampler, **CHANGES)
    store, progress = toys.open_study(name, chosen=chosen), Progress(title="", target=None, lines=[])
    progress.lines = [WorkerLine() for _ in range(workers)]
    loop = Loop(toys.Pool(workers), progress, view, Interrupts())
    loop.run(BriefTrials(store, toys.space(CAP), chosen, {}), Deadline())
    return ends


def seconds_per_trial(ends: list[float]) -> float:
    """The time for each trial, by thirds of the run: the best of three, as other programs only add to it."""
    third = (len(ends) - 1) // 3
    return min((ends[start + third] - ends[start]) / third for start in (0, third, 2 * third))


def first_reading(name: str) -> float:
    """Seconds in a fresh process, imports apart."""
    script = (
        "import sys, time; from nas.study import StudyStore; import toys\n"
        "began = time.process_time(); StudyStore.open(sys.argv[1]).refresh(); print(time.process_time() - began)"
    )
    return float(
        subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=True).stdout
    )


def show(name: str) -> float:
    """CPU seconds of the whole command, imports included."""
    script = (
        "import sys, time; from nas.cli import main\n"
        "try: main(['show', '--study', sys.argv[1]])\n"
        "finally: print(time.process_time(), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=False)
    return float(ran.stderr.splitlines()[-1])


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def main() -> None:
    """Measure and print a row for each number of stored trials."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stored", type=numbers, default=[100, 1000, 10_000, 50_000])
    parser.add_argument("--workers", type=numbers, default=[1, 8, 64])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--samplers", default="random,guided")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    samplers = options.samplers.split(",")
    columns = [f"{sampler}, {count}" for sampler in samplers for count in options.workers]
    print(f"| stored | {' | '.join(columns)} | first reading | nas show |\n|-{'|-' * (len(columns) + 2)}|")
    with tempfile.TemporaryDirectory() as studies:
        os.environ["NAS_STUDIES"] = studies
        for stored in options.stored:
            name = f"stored-{stored}"
            fill(name, stored)
            read, shown, cells = first_reading(name), show(name), list[str]()
            for sampler in samplers:
                for workers in options.workers:
                    ended = StudyStore.open(name).refresh().ended
                    ends = search(name, ended + max(options.trials, 3 * workers + 1), workers, sampler)
                    cells.append(f"{1000 * seconds_per_trial(ends):.0f}")
            print(f"| {stored:,} | {' | '.join(cells)} | {read:.2f} s | {shown:.2f} s |", flush=True)
    print("\nCPU milliseconds for each trial, in the best third of a run; CPU seconds of a fresh process.")


if __name__ == "__main__":
    main()
