"""The study: an ordinary Optuna study, read back as it was written; what it refuses, and how it says so."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import optuna
import pandas as pd
import pytest
import toys
from optuna.trial import TrialState, create_trial
from sqlalchemy import MetaData

import nas
from nas import study as studies
from nas.architecture import Architecture
from nas.errors import StorageError, UsageError


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        yield quick / "studies"


@pytest.fixture(scope="module")
def done():
    """The studies folder of a finished toy search, one trial failed; copied by those who change it."""
    with toys.quick_folder() as quick, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_STUDIES", str(quick))
        calls = []

        def score(architecture, seed, epoch):
            calls.append(1)
            if len(calls) == 5:
                raise UsageError("made to fail")
            return toys.luck(architecture, seed, epoch)

        toys.run(toys.Pool(score=score), trials=14)
        yield quick


# --- law 7: round trips -----------------------------------------------------------------------------------------------


def test_a_reopened_study_is_the_same_frame(done, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(done))
    first, second = nas.load_study("toy"), nas.load_study()
    pd.testing.assert_frame_equal(first, second)
    assert list(first["number"]) == list(range(14))
    assert set(first["state"]) == {"COMPLETE", "PRUNED", "FAIL"}
    for row in first.itertuples():
        assert Architecture.parse(row.schedule).num_params == row.num_params
    url = f"sqlite:///{done / 'toy' / 'study.db'}"
    pd.testing.assert_frame_equal(nas.load_study("toy", url), first)


def test_csv_and_json_read_back_equal(done):
    frame = nas.load_study("toy", f"sqlite:///{done / 'toy' / 'study.db'}")
    code, text, _ = toys.nas("show", "--csv", NAS_STUDIES=str(done))
    assert code == 0
    again = pd.read_csv(io.StringIO(text)).astype(frame.dtypes.to_dict())
    pd.testing.assert_frame_equal(*(each.astype(object).where(each.notna(), None) for each in (again, frame)))
    code, text, _ = toys.nas("show", "--json", NAS_STUDIES=str(done))
    assert code == 0
    rows = json.loads(text)
    assert [row["schedule"] for row in rows] == list(frame["schedule"])
    for column in frame.columns:
        values = [None if pd.isna(value) else value for value in frame[column]]
        assert [row[column] for row in rows] == [pytest.approx(v) if isinstance(v, float) else v for v in values]


def test_it_is_an_ordinary_optuna_study(done):
    """Read with no module of ours: by another process, from the plain URL."""
    script = (
        "import optuna, sys; s = optuna.load_study(study_name='toy', storage=sys.argv[1]); t = s.best_trial; "
        "f = optuna.load_study(study_name=s.user_attrs['finalists'], storage=sys.argv[1]); "
        "print(len(s.trials), t.number, t.user_attrs['num_params'], len(t.params), len(f.trials), "
        "any(m.split('.')[0] == 'nas' for m in sys.modules))"
    )
    url = f"sqlite:///{done / 'toy' / 'study.db'}"
    out = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, check=True).stdout.split()
    study = studies.open_study("toy", url)
    best = study.best_trial
    expected = [14, best.number, best.user_attrs["num_params"], len(toys.space().distributions), 4, False]
    assert out == [str(value) for value in expected]
    assert best.state == TrialState.COMPLETE
    assert best.user_attrs["num_params"] <= toys.CAP
    assert len(best.intermediate_values) == 3


def test_an_empty_study_has_an_empty_frame_and_counts():
    study = toys.open_study()
    frame = studies.frame(study)
    assert len(frame) == 0
    assert {"number", "state", "value", "schedule"} <= set(frame.columns)
    assert studies.counts(study)["generated"] == 0
    assert len(studies.pareto_front(frame)) == 0


def test_pareto_front_against_its_definition(done):
    frame = nas.load_study("toy", f"sqlite:///{done / 'toy' / 'study.db'}")
    complete = frame[frame["state"] == "COMPLETE"]
    expected = {
        row.number
        for row in complete.itertuples()
        if not any(
            (other.num_params < row.num_params and other.loss <= row.loss)
            or (other.num_params == row.num_params and other.loss < row.loss)
            for other in complete.itertuples()
        )
    }
    assert set(studies.pareto_front(frame)["number"]) == expected


# --- what a resumed study must share ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_params", 499), ("max_macs", 10**6), ("dataset", "mnist"), ("data_hash", "other"), ("space", "slots-0"),
        ("finalist_epochs", 9), ("recipe.epochs", 4), ("recipe.peak_rate", 0.01),
    ],
)  # fmt: skip
def test_a_setting_that_differs_is_named(key, value):
    shared = toys.settings().shared(toys.space(), "hash")
    assert key in shared
    studies.create("toy", None, shared, {})
    studies.create("toy", None, shared, {})
    with pytest.raises(UsageError, match=f"the study 'toy' was made with {key} = .*, not {value}:"):
        studies.create("toy", None, shared | {key: value}, {})


def test_a_study_killed_while_it_was_made_is_made_whole(monkeypatch):
    shared = toys.settings().shared(toys.space(), "hash")
    record = {"dataset": "synthetic", "torch": "2.x"}
    write = optuna.Study.set_user_attr
    for survived in range(3):
        name, writes = f"toy-{survived}", []

        def dying(self, key, value, writes=writes, survived=survived):
            if len(writes) == survived:
                raise KeyboardInterrupt
            writes.append(key)
            write(self, key, value)

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "set_user_attr", dying)
            with pytest.raises(KeyboardInterrupt):
                studies.create(name, None, shared, record)
        study = studies.create(name, None, shared, record)
        assert study.user_attrs.items() >= record.items()
        assert study.user_attrs[studies.SETTINGS] == json.loads(json.dumps(shared))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden"])
def test_a_name_is_a_plain_folder_name(name, folder):
    with pytest.raises(UsageError, match="plain folder name"):
        studies.create(name, f"sqlite:///{folder.parent / 'x.db'}", {}, {})


# --- storage that cannot be used --------------------------------------------------------------------------------------


def refused(*arguments, **environment):
    """The one line of an error of exit code 4, with no traceback."""
    code, out, err = toys.nas(*arguments, **environment)
    assert code == 4, (code, err)
    assert out == ""
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_random_bytes_in_the_place_of_the_database(folder):
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "study.db").write_bytes(os.urandom(8192))
    line = refused("show", "--study", "toy")
    assert "not a database" in line
    with pytest.raises(StorageError, match="not a database"):
        toys.open_study()


def test_a_truncated_database(done, folder):
    shutil.copytree(done / "toy", folder / "toy")
    path = folder / "toy" / "study.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert "malformed" in refused("show", "--study", "toy")


def test_the_database_of_something_else(folder):
    (folder / "toy").mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(folder / "toy" / "study.db")) as connection:
        connection.execute("create table studies (colour text)")
        connection.commit()
    assert "cannot be used" in refused("show", "--study", "toy")


def test_a_missing_study_and_none_at_all(folder, done):
    assert "no study in" in refused("show")
    assert "no study 'toy'" in refused("show", "--study", "toy")
    assert "(toy)" in refused("show", "--study", "other", NAS_STUDIES=str(done))
    assert "no study 'other'" in refused("show", "--study", "other", "--storage", f"sqlite:///{done}/toy/study.db")
    assert not folder.exists()


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuch://host/db", "sqlite:////nowhere/at/all/study.db", "oracle+cx_oracle://me:secret@host/x"]
)
def test_a_storage_url_that_leads_nowhere(url):
    line = refused("show", "--study", "toy", "--storage", url)
    assert "--storage" in line
    assert "secret" not in line


def test_a_studies_folder_that_cannot_be_made(folder):
    folder.write_text("a file in the way")
    with pytest.raises(StorageError, match=r"cannot make .* set NAS_STUDIES"):
        toys.open_study()


def test_a_full_disk(folder):
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    folder.mkdir()
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with pytest.raises(StorageError) as caught:
            toys.run(toys.Pool(), trials=500, sampler="random")
        assert "\n" not in str(caught.value)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_two_processes_make_the_same_database_at_once(monkeypatch):
    """Both find no tables; this one comes second, and finds that they are there."""
    original, calls = MetaData.create_all, []

    def second(self, engine):
        original(self, engine)
        calls.append(1)
        if len(calls) == 1:
            original(self, engine, checkfirst=False)

    monkeypatch.setattr(MetaData, "create_all", second)
    assert toys.open_study().study_name == "toy"
    assert len(calls) == 2


# --- small things -----------------------------------------------------------------------------------------------------


def test_the_latest_study_is_the_one_written_last():
    for name in ("b", "a"):
        toys.open_study(name)
        time.sleep(0.02)
    assert studies.names() == ["b", "a"]
    assert studies.latest() == "a"
    toys.open_study("b").set_user_attr("touched", True)
    assert studies.latest() == "b"


def test_passwords_are_not_shown():
    assert studies.redact("postgresql://me:secret@host:5432/db") == "postgresql://me@host:5432/db"
    assert studies.redact("postgresql://me@host/db") == "postgresql://me@host/db"
    assert studies.redact("sqlite:///a/b.db") == "sqlite:///a/b.db"


def test_staleness():
    def trial(owner, stamp):
        attributes = {"owner": owner} if owner else {}
        attributes |= {"stamp": stamp.isoformat()} if stamp else {}
        return create_trial(state=TrialState.RUNNING, user_attrs=attributes)

    now, host = datetime.now(UTC), socket.gethostname()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert studies.is_stale(trial(f"{host}:{ended.pid}", now), seconds=60)
    assert not studies.is_stale(trial(f"{host}:{os.getpid()}", now), seconds=60)
    assert studies.is_stale(trial(f"{host}:{os.getpid()}", now - timedelta(seconds=90)), seconds=60)
    assert not studies.is_stale(trial(f"another-host:{ended.pid}", now), seconds=60)
    assert studies.is_stale(trial("another-host:1", now - timedelta(seconds=90)), seconds=60)
    assert not studies.is_stale(trial(None, None), seconds=60)  # just begun
    assert studies.is_stale(trial(None, None), seconds=-1)
    assert studies.owner() == f"{host}:{os.getpid()}"


def test_the_environment_is_what_json_can_hold(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/nas", "train-best", "--architecture", "8 M G C"])
    record = studies.environment("cpu")
    assert json.loads(json.dumps(record)) == record
    assert record["command"] == "nas train-best --architecture '8 M G C'"
    assert {"torch", "optuna", "python", "processor", "cores", "time"} <= record.keys()


def test_cores_are_those_the_process_may_use(monkeypatch):
    """A cluster's job has fewer than its machine."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9}, raising=False)
    assert studies.environment("cpu")["cores"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert studies.environment("cpu")["cores"] == 64


def test_a_waiting_trial_starts_in_one_process_only(tmp_path):
    """Optuna alone starts some of them twice: its SELECT FOR UPDATE is nothing to SQLite."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    parents = [studies.create("shared", url, {}, {}) for _ in range(3)]
    for _ in range(30):
        parents[0].enqueue_trial({})
    started, gate = [], threading.Barrier(len(parents))

    def start(study):
        gate.wait()
        started.extend(study.ask().number for _ in range(10))

    threads = [threading.Thread(target=start, args=(study,)) for study in parents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == list(range(30))
