"""Law 5, by the real thing: interrupted, terminated, killed, and run again by the same command to the end."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
import time
from contextlib import closing

import optuna
import toys
from optuna.trial import TrialState


def complete(path, name):
    """The complete trials of a study, read past every cache: number -> value."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        try:
            rows = connection.execute(
                "select t.number, v.value from trials t join studies s using (study_id) "
                "join trial_values v using (trial_id) where s.study_name = ? and t.state = 'COMPLETE'", [name]
            ).fetchall()  # fmt: skip
        except sqlite3.OperationalError:  # no tables yet
            return {}
    return dict(rows)


class Hunt:
    """A search that is ended again and again; what is complete must never change."""

    def __init__(self, folder, arguments, name):
        self.folder, self.arguments, self.name = folder, arguments, name
        self.database = folder / name / "study.db"
        self.seen: dict[str, dict[int, float]] = {name: {}, f"{name}/finalists": {}}

    def end(self, study, count, how):
        """Start it, and end it while it trains after `count` trials of a study are complete."""
        process = toys.spawn(*self.arguments, studies_dir=self.folder)
        try:
            toys.until(lambda: self.database.exists() and len(complete(self.database, study)) >= count, 120)
            time.sleep(0.1)  # into the next one
            how(process)
            out, err = process.communicate(timeout=60)
            toys.until(lambda: not toys.group(process.pid), 20)  # no orphan lives on
        finally:
            for pid in toys.group(process.pid):
                os.kill(pid, signal.SIGKILL)
        self.check()
        return process.returncode, out, err

    def check(self):
        for study, before in self.seen.items():
            now = complete(self.database, study)
            assert now.items() >= before.items(), "a finished trial changed"
            self.seen[study] = now


def test_interrupted_terminated_and_killed_and_run_again(folder):
    """Ctrl-C, SIGTERM and SIGKILL in both phases."""
    # Enough epochs that a quick machine is still searching when the signal comes.
    epochs = ["--brief-epochs", "6", "--finalist-epochs", "6"]
    arguments = [*toys.TINY_SEARCH, *epochs, "--study", "the hunted", "--pruner", "none"]
    hunt = Hunt(folder, arguments, "the hunted")
    signals = (
        (1, 130, lambda process: os.killpg(process.pid, signal.SIGINT)),
        (2, 143, lambda process: os.kill(process.pid, signal.SIGTERM)),
    )
    for count, wanted, how in signals:
        code, out, err = hunt.end("the hunted", count, how)
        assert (code, out) == (wanted, "")
        assert "Traceback" not in err
        resume = err.strip().splitlines()[-1]
        assert shlex.split(resume.partition("To resume: ")[2]) == ["nas", *arguments]
    code, _, _ = hunt.end("the hunted/finalists", 1, lambda process: os.kill(process.pid, signal.SIGKILL))
    assert code == -signal.SIGKILL
    process = toys.spawn(*arguments, studies_dir=folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    hunt.check()
    study = optuna.load_study(study_name="the hunted", storage=f"sqlite:///{hunt.database}")
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 4
    assert TrialState.RUNNING not in states
    cut = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert all(trial.user_attrs["interrupted"] and trial.user_attrs["reason"] for trial in cut)
    done = {trial.user_attrs["schedule"] for trial in study.trials if trial.state == TrialState.COMPLETE}
    assert len(done) == 4
    assert {trial.user_attrs["schedule"] for trial in cut if "schedule" in trial.user_attrs} <= done
    second = optuna.load_study(study_name="the hunted/finalists", storage=f"sqlite:///{hunt.database}")
    scored = [trial.params for trial in second.trials if trial.state == TrialState.COMPLETE]
    assert len(scored) == 4
    assert (folder / "the hunted" / "best" / "weights.safetensors").is_file()


def test_a_full_run_that_is_interrupted_says_how_to_resume(folder):
    arguments = [
        "train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--epochs", "400", *toys.ONE_WORKER
    ]  # fmt: skip
    process = toys.spawn(*arguments, studies_dir=folder, PYTHONUNBUFFERED="1")
    try:
        assert process.stdout is not None
        toys.until(lambda: process.stdout.readline().startswith("epoch"), 120)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        toys.until(lambda: not toys.group(process.pid), 20)
    finally:
        for pid in toys.group(process.pid):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert shlex.split(err.strip().splitlines()[-1].partition("To resume: ")[2]) == ["nas", *arguments]
