"""Databases: where they are, what opening leaves alone, and what is said of one that cannot be used."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading

import optuna
import pytest
import toys
from optuna.distributions import IntDistribution
from optuna.study import StudyDirection
from sqlalchemy import URL, MetaData

from nas.errors import NasError, StorageError, UsageError
from nas.machine import redact_url
from nas.study import StudyStore, latest_study, storage_errors, study_folder, study_names
from nas.study.frame import frame, load_study
from nas.study.storage import open_sqlite, open_storage, without_secrets

ODD = ["a?b", "a%20b", "a#b", "run {} {0}", "a b", "run[v2]", "größe-☃", "a'b\"c", "50%", "a&b=c", "x@y:z", "日本" * 20]


def one_line(error):
    assert "\n" not in str(error)
    return str(error)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_any_plain_name_is_a_study(name, folder):
    store = toys.open_study(name)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name / "study.db").is_file()
    assert study_names() == [name] == [latest_study()]
    for opened in (StudyStore.open(name), StudyStore.open(name, str(folder / name / "study.db"))):
        assert opened.attrs == store.attrs
    assert optuna.load_study(study_name=name, storage=_ordinary(name)).user_attrs == store.attrs


def _ordinary(name):
    """The database as Optuna alone opens it, by URL where that can name it."""
    path = study_folder(name) / "study.db"
    if not set(name) & set("?%"):
        return URL.create("sqlite", database=str(path)).render_as_string()
    return optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(path)})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "a\0b", "/a"])
def test_a_name_is_a_plain_folder_name(name, folder):
    with pytest.raises(UsageError, match="plain folder name"):
        StudyStore.create(name, str(folder.parent / "x.db"), {}, {})
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 300, "ü" * 101])
def test_a_name_has_few_enough_bytes_for_a_folder(name, folder):
    for go in (lambda: toys.open_study(name), lambda: StudyStore.open(name), lambda: study_folder(name)):
        with pytest.raises(UsageError, match="at most 200 bytes"):
            go()
    toys.open_study("ü" * 100)


def test_a_name_is_utf_8(folder):
    name = os.fsdecode(b"\xffx")
    for go in (lambda: toys.open_study(name), lambda: StudyStore.open(name)):
        with pytest.raises(UsageError, match="is UTF-8 text") as caught:
            go()
        one_line(caught.value).encode()
    assert not folder.exists()


def test_a_copied_or_renamed_folder_is_its_study_still(folder):
    toys.run(toys.Pool(), store=toys.open_study("a"), trials=2)
    shutil.copytree(folder / "a", folder / "b")
    copy = StudyStore.open("b")
    assert (copy.name, copy.base) == ("a", "b")
    assert len(copy.refresh()) == 2
    assert load_study("b").equals(load_study("a"))
    with pytest.raises(StorageError, match=r"no study 'c' .*\(a, b\)"):
        StudyStore.open("c")


# --- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.db", "me@home?/a%20b#{}.sqlite3", "x.log", "x.journal"])
def test_a_storage_may_be_a_path(name, folder):
    path = folder.parent / name
    path.parent.mkdir(exist_ok=True)
    toys.run(toys.Pool(), store=toys.open_study("toy", str(path)), trials=2)
    assert path.is_file()
    assert not (folder / "toy" / "study.db").exists()
    assert (folder / "toy" / "best" / "weights.safetensors").is_file()  # what is no database is in the study's folder
    again = toys.Pool()
    toys.run(again, store=toys.open_study("toy", str(path)), trials=3)
    assert len({schedule for schedule, _, epochs in again.trained if epochs == 3}) == 1
    assert len(load_study("toy", str(path))) == 3


def test_a_url_of_sqlite_is_its_path(folder):
    folder.mkdir()
    url = f"sqlite:///{folder / 'x.db'}"
    toys.open_study("toy", url)
    for other in (url, str(folder / "x.db"), f"{url}?timeout=20"):
        assert StudyStore.open("toy", other).name == "toy"


@pytest.mark.parametrize("query", ["", "?timeout=30"])
def test_a_waiting_trial_starts_in_one_process_only(query, folder):
    """Optuna alone starts some of them twice: its SELECT FOR UPDATE is nothing to SQLite."""
    folder.mkdir()
    url = f"sqlite:///{folder / 'shared.db'}{query}"
    parents = [StudyStore.create("shared", url, {}, {}) for _ in range(3)]
    for _ in range(12):
        parents[0].enqueue({"x": 1}, {"x": IntDistribution(0, 9)}, {})
    started, gate = [], threading.Barrier(len(parents))

    def start(store):
        store.refresh()
        gate.wait()
        while trial := store.claim_waiting():
            started.append(trial.number)
            store.refresh()

    threads = [threading.Thread(target=start, args=(store,)) for store in parents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == list(range(12))


def test_two_processes_make_the_same_database_at_once(monkeypatch):
    """Both find no tables; this one comes second, and finds that they are there."""
    original, calls = MetaData.create_all, []

    def second(self, engine):
        original(self, engine)
        calls.append(1)
        if len(calls) == 1:
            original(self, engine, checkfirst=False)

    monkeypatch.setattr(MetaData, "create_all", second)
    assert toys.open_study().name == "toy"
    assert len(calls) == 3  # in vain, in its own file, and in that file as the database


# --- reading makes nothing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [None, "x.db", "x.log", "sqlite:///{}/x.db", "sqlite:///{}/x.db?timeout=30"])
def test_reading_makes_nothing(storage, folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(StorageError, match=r"no (study|database)"):
        load_study("toy", storage and storage.format(folder))
    with pytest.raises(StorageError, match="no study in"):
        load_study()
    assert list(folder.iterdir()) == []


def test_reading_a_study_leaves_its_database_as_it_is(folder):
    toys.run(toys.Pool(), trials=2)
    path = folder / "toy" / "study.db"
    before = path.read_bytes(), sorted(each.name for each in (folder / "toy").iterdir())
    store = StudyStore.open("toy")
    assert len(frame(store)) == 2
    store.refresh()
    assert store.counts()["unaccounted"] == 0
    assert (path.read_bytes(), sorted(each.name for each in (folder / "toy").iterdir())) == before


@pytest.mark.parametrize("made", ["create table studies (colour text)", "create table other (colour text)", ""])
def test_the_database_of_something_else_is_not_changed_by_reading(made, folder):
    (folder / "toy").mkdir(parents=True)
    path = folder / "toy" / "study.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(made)
        connection.commit()
    path.touch()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="cannot be used") as caught:
        load_study("toy")
    one_line(caught.value)
    assert path.read_bytes() == before


def test_a_study_on_a_read_only_file_system_is_read(folder):
    toys.run(toys.Pool(), trials=2)
    mount = ["mount", "--bind", str(folder), str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a folder cannot be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True, capture_output=True)
        assert len(load_study("toy")) == 2
        with pytest.raises(StorageError, match="cannot be used"):
            toys.run(toys.Pool(), trials=3)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["study.db", "x.log"])
def test_random_bytes_in_the_place_of_the_database(folder, name):
    (folder / "toy").mkdir(parents=True)
    path = folder / "toy" / name
    path.write_bytes(os.urandom(8192))
    for go in (lambda: StudyStore.open("toy", str(path)), lambda: toys.open_study("toy", str(path))):
        with pytest.raises(StorageError, match=r"not a database|no journal of Optuna") as caught:
            go()
        assert str(path) in one_line(caught.value)


def test_a_search_adds_nothing_to_the_database_of_another_program(folder):
    path = folder.parent / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table customers (name text)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"tables of another program \(customers\): give another --storage"):
        StudyStore.create("toy", str(path), {}, {})
    assert path.read_bytes() == before


def test_an_emptied_database_is_not_filled_anew(folder):
    toys.run(toys.Pool(), trials=3)
    (folder / "toy" / "study.db").write_bytes(b"")
    with pytest.raises(StorageError, match=r"study\.db is empty, its trials are lost: bring it back"):
        toys.open_study("toy")
    assert not (folder / "toy" / "study.db").stat().st_size


def test_a_truncated_database(folder):
    toys.run(toys.Pool(), trials=2)
    path = folder / "toy" / "study.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(StorageError, match="malformed") as caught:
        load_study("toy")
    one_line(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://", "nosuch://host/db", "sqlite:////nowhere/at/all/study.db", "/nowhere/at/all/study.db",
        "/nowhere/at/all/x.log", "oracle+cx_oracle://me:secret@host/x", "postgresql://me:secret@host:xx/db",
        "nas:secret@127.0.0.1:1/nas", "nosuch://host/db?password=secret", "nosuch://me:se@secret@host/db",
    ],
)  # fmt: skip
def test_a_storage_that_leads_nowhere_is_one_line_without_its_password(url):
    for go in (lambda: StudyStore.open("toy", url), lambda: toys.open_study("toy", url)):
        with pytest.raises(NasError) as caught:
            go()
        assert "secret" not in one_line(caught.value)
        chain = caught.value
        while chain is not None:
            assert "secret" not in str(chain) or chain.__suppress_context__ is False
            chain = chain.__cause__


def test_a_studies_folder_that_cannot_be_made(folder):
    folder.write_text("a file in the way")
    with pytest.raises(StorageError, match=r"cannot make .* set NAS_STUDIES"):
        toys.open_study()


@pytest.mark.parametrize("storage", [None, "{}/x.log"])
def test_a_full_disk(folder, storage):
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    folder.mkdir()
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with pytest.raises(StorageError) as caught:  # noqa: PT012  which of the two fills it depends on the system
            store = toys.open_study("toy", storage and storage.format(folder))
            toys.run(toys.Pool(), store=store, trials=500, sampler="random")
        one_line(caught.value)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# --- no password is shown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:secret@host:port/db", "postgresql://me:***@host:port/db"),
        ("postgresql://me:se@secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("mysql+pymysql://me:a%40secret%2F@host/db", "mysql+pymysql://me:***@host/db"),
        ("mysql://host/db?ssl_key_password=secret", "mysql://host/db?ssl_key_password=***"),
        ("nas:secret@127.0.0.1:1/nas", "nas:***@127.0.0.1:1/nas"),
    ],
)
def test_passwords_are_not_shown(storage, shown):
    assert redact_url(storage) == shown
    assert "secret" not in without_secrets(f"cannot connect to {storage}: refused", storage)


def test_a_driver_that_quotes_a_password_is_not_repeated():
    for storage, quoted in (
        ("postgresql://me:a%40secret@host/db", "a@secret"),
        ("postgresql://me:a@secret@host/db", "secret@host"),
        ("postgresql://host/db?sslpassword=secret", "secret"),
    ):
        assert without_secrets(f"refused '{quoted}'", storage) == "refused '***'"


@pytest.mark.parametrize(
    "storage",
    ["postgresql://me@host/db", "postgresql://host/db?sslmode=require", "sqlite:///a/b.db", "/data/me@x/x.db", "x.log"],
)
def test_what_has_no_password_is_shown_as_it_is(storage):
    assert redact_url(storage) == storage
    assert without_secrets("no such host", storage) == "no such host"


def test_a_failure_of_a_driver_is_one_line_without_secrets():
    url = "postgresql://me:secret@host/db?sslpassword=hidden"
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = RuntimeError(f"connection to {url} failed: secret, hidden\nDETAIL: more")
    with pytest.raises(StorageError) as caught, storage_errors(url, "toy"):
        raise error
    line = one_line(caught.value)
    assert "secret" not in line
    assert "hidden" not in line
    assert "check that the server runs" in line


def test_an_unknown_scheme_needs_its_driver():
    with pytest.raises(StorageError, match="give another --storage"):
        open_storage("nosuch://host/db", "toy", create=False)


@pytest.mark.parametrize("at", [1, 5, 20, 40])
def test_a_database_is_made_whole_or_not_at_all(folder, at):
    """Optuna makes it table by table, and its indexes after each: killed in between, it would never have them all."""
    script = f"""
import os
import nas.study.storage as storage
left = [{at}]
class Killed(storage.BatchedConnection):
    def cursor(self, *arguments, **options):
        left[0] -= 1
        if not left[0]:
            os._exit(9)
        return super().cursor(*arguments, **options)
storage.BatchedConnection = Killed
storage.open_sqlite(storage.Path("study.db"), create=True)
"""
    made = folder / "made"
    made.mkdir(parents=True)
    killed = subprocess.run([sys.executable, "-c", script], cwd=made, check=False)
    assert killed.returncode == 9
    assert not (made / "study.db").exists()
    opened = open_sqlite(made / "study.db", create=True)
    opened.create_new_study([StudyDirection.MAXIMIZE], "a")
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        opened.create_new_study([StudyDirection.MAXIMIZE], "a")


def test_a_database_that_another_process_has_made_meanwhile_stays(folder, monkeypatch):
    folder.mkdir(parents=True, exist_ok=True)
    path, link = folder / "study.db", os.link

    def late(new, target):
        monkeypatch.setattr(os, "link", link)
        open_sqlite(path, create=True).create_new_study([StudyDirection.MAXIMIZE], "theirs")
        link(new, target)

    monkeypatch.setattr(os, "link", late)
    opened = open_sqlite(path, create=True)
    assert [study.study_name for study in opened.get_all_studies()] == ["theirs"]
    assert [each.name for each in folder.iterdir()] == ["study.db"]


def test_a_disk_without_links_has_its_database_made_in_place(folder, monkeypatch):
    folder.mkdir(parents=True, exist_ok=True)

    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    open_sqlite(folder / "study.db", create=True).create_new_study([StudyDirection.MAXIMIZE], "a")
    assert [each.name for each in folder.iterdir()] == ["study.db"]
