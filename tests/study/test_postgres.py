"""A study on a real PostgreSQL server: shared by several processes, and served on after a restart."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter

import optuna
import postgres_server
import pytest
import toys
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from sqlalchemy import RootTransaction, event
from sqlalchemy.exc import OperationalError

from nas.errors import NasError, StorageError, UsageError
from nas.machine import redact_url
from nas.study import StudyStore, patience, storage
from nas.study.batch import batch
from nas.study.ownership import process_token

pytest.importorskip("psycopg", reason=postgres_server.HOW_TO_GET_IT)


def search(folder, url, *more, study="shared", data="synthetic"):
    """A tiny search in a process of its own, with a studies folder of its own: another machine's."""
    options = [
        "search", "--dataset", data, "--max-params", str(toys.CAP), "--trials", "12", "--brief-epochs", "1",
        "--finalists", "2", "--finalist-seeds", "2", "--finalist-epochs", "1", "--study", study, "--storage", url,
        "--no-report", "--quiet", *toys.ONE_WORKER,
    ]  # fmt: skip
    return nas(folder, *options, *more)


def nas(folder, *arguments):
    return subprocess.Popen(
        [*toys.COMMAND, *arguments], env={**os.environ, "NAS_STUDIES": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process, code=0):
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return out + err


@pytest.mark.slow
def test_two_machines_share_a_study_and_the_winner_is_found_on_a_third(postgres, tmp_path):
    """The server is restarted meanwhile. No schedule is trained twice, and none is lost."""
    shared = ["--artifacts", str(tmp_path / "artifacts")]
    machines = [search(tmp_path / name, postgres.url, *shared) for name in ("one", "two")]
    store = None
    while store is None or store.refresh().ended < 3:
        time.sleep(0.3)
        assert any(machine.poll() is None for machine in machines)
        with contextlib.suppress(StorageError):
            store = store or StudyStore.open("shared", postgres.url)
    postgres.stop()
    time.sleep(2)
    postgres.start()
    outputs = [ended(machine) for machine in machines]
    assert any("does not answer: tried again" in each and "answers again" in each for each in outputs)
    table = store.refresh()
    by_state = [trial.state for trial in table.trials() if not trial.user_attrs.get("interrupted")]
    assert by_state.count(TrialState.COMPLETE) + by_state.count(TrialState.PRUNED) == table.ended == 12
    schedules = [trial.user_attrs["schedule"] for trial in table.learned]
    assert len(schedules) == len(set(schedules))
    assert len({trial.user_attrs["owner"] for trial in table.learned}) == 2
    assert store.counts()["unaccounted"] == 0
    third = ["--storage", postgres.url, "--quiet", "--to", "torch", "-o", str(tmp_path / "exported")]
    assert "torch: model.pt2" in ended(nas(tmp_path / "three", "export", "shared", *third))
    reason = tmp_path / "three" / "shared" / "best" / "reason.json"
    assert reason.read_text() in [(tmp_path / name / "shared/best/reason.json").read_text() for name in ("one", "two")]
    again = ended(search(tmp_path / "three", postgres.url, "--artifacts", str(tmp_path / "elsewhere")), 2)
    assert f"keeps its weights in {tmp_path / 'artifacts'}, not {tmp_path / 'elsewhere'}" in again
    again = ended(search(tmp_path / "three", postgres.url))  # the weights come from the artifacts
    assert (tmp_path / "three" / "shared" / "weights").is_dir(), again


def test_two_searches_share_a_study_while_the_server_restarts(postgres, folder):
    """In a space with few schedules, where both soon draw the same: none is trained twice, and the total is exact."""
    cap, total, restarted = 250, 12, threading.Event()
    gate, errors = threading.Barrier(3), []

    class Late(toys.Pool):
        def submit(self, job):
            if not self.trained:
                gate.wait(60)  # both have begun; the server goes
                restarted.wait(60)
            return super().submit(job)

    def parent(pool):
        try:
            store = toys.open_study("few", postgres.url, toys.settings(cap))
            toys.run(pool, store=store, cap=cap, trials=total, sampler="random")
        except BaseException as error:
            errors.append(error)

    pools = [Late(2), Late(2)]
    threads = [threading.Thread(target=parent, args=(pool,), daemon=True) for pool in pools]
    for thread in threads:
        thread.start()
    gate.wait(60)
    postgres.stop()
    restarted.set()
    time.sleep(1)
    postgres.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    table = StudyStore.open("few", postgres.url).refresh()
    assert (table.ended, table.running()) == (total, [])
    # One that was claimed when the other search had just reached the total waits for a larger one.
    assert all("again_after" in trial.user_attrs for trial in table.waiting())
    jobs = Counter(job for pool in pools for job in pool.trained)
    assert max(jobs.values()) == 1
    assert all(pool.trained for pool in pools)


@pytest.mark.parametrize("key", ["data_hash", "space", "nas", "recipe.batch_size", "dataset"])
def test_a_worker_that_differs_is_refused_by_name(postgres, folder, monkeypatch, key):
    identity = {"data_hash": "1", "space": "2", "recipe.batch_size": 64, "dataset": "mnist"}
    name = f"differs-{key}"
    StudyStore.create(name, postgres.url, identity, {})
    other = {**identity, key: "3"} if key != "nas" else identity
    if key == "nas":
        monkeypatch.setattr("nas.study.identity.version", lambda _: "9.9")
    with pytest.raises(
        UsageError, match=rf"the study '{name}' was made otherwise: .*, the study has \S+\. Give what it has"
    ):
        StudyStore.create(name, postgres.url, other, {})
    assert StudyStore.open(name, postgres.url).refresh().trials() == []


def test_a_server_that_stays_away_is_one_line_without_secrets(postgres, folder, monkeypatch, capsys):
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 1.5)
    store = StudyStore.create("away", postgres.url.replace("nas@", "nas:hidden@"), {}, {})
    postgres.stop()
    try:
        with pytest.raises(StorageError, match=r"cannot be used \(.*\): check that the server runs") as caught:
            store.set_attr("key", 1)
        began = time.monotonic()
        with pytest.raises(StorageError):
            store.set_attr("key", 1)
        assert time.monotonic() - began < 1  # waited for once, not at each request
    finally:
        postgres.start()
    assert "hidden" not in f"{caught.value}{capsys.readouterr()}"
    store.set_attr("key", 2)
    assert store.attrs["key"] == 2


def test_a_command_as_it_was_printed_takes_the_password_from_elsewhere(postgres, folder):
    url = redact_url(postgres.url.replace("nas@", "nas:secret@"))
    assert "nas:***@" in url
    assert StudyStore.create("printed", url, {}, {}).storage.engine.url.password is None


@pytest.fixture
def hasty(monkeypatch):
    """No pause between two tries."""
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.01)


def without_answer(store, monkeypatch, before=RootTransaction.commit):
    """Break the connection once, as a batch is to be committed, after what is given."""
    whole, broken = RootTransaction.commit, []

    def commit(transaction):
        if broken or store.storage._open is None:
            return whole(transaction)
        broken.append(True)
        before(transaction)
        raise OperationalError("", {}, Exception("gone"))

    monkeypatch.setattr(RootTransaction, "commit", commit)
    return broken


def test_what_was_done_without_an_answer_is_done_once(postgres, folder, monkeypatch, hasty):
    store = StudyStore.create("answers", postgres.url, {}, {})
    claimed = store.claim({}, {}, {"schedule": "8 M G C"})
    broken = without_answer(store, monkeypatch)
    trial = store.finish(claimed, TrialState.COMPLETE, 50.0, loss=1.0, num_params=1)
    assert broken
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 50.0)
    with pytest.raises(StorageError, match="given up by another process"):  # not ours: it says so
        store.finish(claimed, TrialState.FAIL)


@pytest.mark.parametrize("other", [False, True])
def test_a_waiting_trial_that_is_begun_without_an_answer_is_its_owners(postgres, folder, monkeypatch, hasty, other):
    """With `other` another process begins it while the server is away."""
    name = f"begun-{other}"
    store = StudyStore.create(name, postgres.url, {}, {})
    for x in (1, 2):
        store.enqueue({"x": x}, {"x": IntDistribution(0, 9)}, {})
    store.refresh()

    def begun_elsewhere(transaction):
        transaction.rollback()
        with monkeypatch.context() as patch:
            patch.setattr("nas.study.store.owner_attrs", lambda: {"owner": "another", "heartbeat": 0})
            elsewhere = StudyStore.open(name, postgres.url)
            elsewhere.refresh()
            assert elsewhere.claim_waiting().params == {"x": 1}

    broken = without_answer(store, monkeypatch, *([begun_elsewhere] if other else []))
    assert store.claim_waiting().params == {"x": 1 + other}
    assert broken
    owners = {trial.params["x"]: trial.user_attrs["owner"] for trial in store.refresh().running()}
    assert owners == ({1: "another", 2: process_token()} if other else {1: process_token()})


def test_the_writes_of_a_trial_are_one_transaction(postgres, folder):
    store = StudyStore.create("commits", postgres.url, {}, {})
    commits = []
    event.listen(store.storage.engine, "commit", lambda _: commits.append(1))

    def counted(write):
        commits.clear()
        write()
        return len(commits)

    first, second = (store.claim({"x": x}, {"x": IntDistribution(0, 9)}, {"schedule": f"{x} G C"}) for x in (1, 2))
    store.report(first, 1, 10.0)
    store.report(first, 2, 20.0)
    store.report(second, 1, 30.0)
    assert counted(store.write_epochs) == 1
    assert counted(lambda: store.heartbeat([first, second])) == 1
    assert counted(lambda: store.finish(first, TrialState.PRUNED, loss=1.0, seconds=2.0)) == 1
    store.refresh()
    assert counted(lambda: store.fail_interrupted(second, "cut", again=True)) == 3  # before and after it one that reads
    other = StudyStore.open("commits", postgres.url).refresh()
    assert other.finished[0].intermediate_values == {1: 10.0, 2: 20.0}
    assert (other.finished[1].state, other.finished[1].intermediate_values) == (TrialState.FAIL, {1: 30.0})
    assert [trial.params for trial in other.waiting()] == [{"x": 2}]


def test_what_fails_leaves_nothing_of_a_batch_and_the_next_one_is_whole(postgres, folder):
    store = StudyStore.create("halves", postgres.url, {}, {})
    first, second = (store.claim({"x": x}, {"x": IntDistribution(0, 9)}, {}) for x in (1, 2))
    store.finish(first, TrialState.FAIL)

    def halves():
        with store.errors(), batch:
            store.annotate(second, half=True)
            store.annotate(first, late=True)

    with pytest.raises(StorageError, match="given up by another process"):
        halves()
    with batch:
        store.enqueue({"x": 3}, {"x": IntDistribution(0, 9)}, {})
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            store.storage.set_trial_user_attr(first.trial_id, "late", True)
        store.annotate(second, whole=True)
    stored = StudyStore.open("halves", postgres.url).refresh()
    assert {"late", "half"} & {key for trial in stored.trials() for key in trial.user_attrs} == set()
    assert stored.open[second.number].user_attrs["whole"]
    assert [trial.params for trial in stored.waiting()] == [{"x": 3}]
    assert store.claim_waiting() is None  # not read yet
    store.refresh()
    assert store.claim_waiting().params == {"x": 3}


def test_a_server_that_restarts_within_a_batch_loses_nothing_of_it(postgres, folder, hasty):
    store = StudyStore.create("restarted", postgres.url, {}, {})
    claimed = store.claim({}, {}, {"schedule": "8 M G C"})
    with batch:
        store.annotate(claimed, before=True)
        store.enqueue({}, {}, {"schedule": "9 M G C"})
        postgres.stop()
        postgres.start()
        store.annotate(claimed, after=True)
    trial, waiting = StudyStore.open("restarted", postgres.url).refresh().trials()
    assert trial.user_attrs["before"]
    assert trial.user_attrs["after"]
    assert waiting.user_attrs == {"schedule": "9 M G C"}


def test_postgres_is_spoken_to_by_psycopg_3_and_its_lack_named(postgres, folder, monkeypatch):
    opened = storage.open_storage(postgres.url, "any", create=True)
    assert opened.inner._backend.engine.dialect.driver == "psycopg"
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(NasError, match=r"a study on PostgreSQL needs psycopg: pip install 'nas\[postgres\]'"):
        storage.open_storage(postgres.url, "any", create=True)


@pytest.fixture(scope="module")
def keyed(postgres):
    """A URL, without its password, of a user who has to give it."""
    import psycopg

    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"create role keyed login superuser password '{PASSWORD}'")
    rules = postgres.data / "pg_hba.conf"
    rules.write_text("host all keyed 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    postgres.run("pg_ctl", "reload")
    return postgres.url.replace("nas@", "keyed@")


PASSWORD = "opensesame-42"


@pytest.mark.parametrize("way", ["PGPASSWORD", "PGPASSFILE", ".pgpass", "NAS_STORAGE"])
def test_a_password_comes_from_where_postgresql_looks_for_it(keyed, postgres, folder, tmp_path, monkeypatch, way):
    monkeypatch.setenv("HOME", str(tmp_path))
    known = tmp_path / ".pgpass"
    known.write_text(f"127.0.0.1:{postgres.port}:*:keyed:{PASSWORD}\n")
    known.chmod(0o600)
    url = ["--storage", keyed]
    if way == "PGPASSFILE":
        known = known.rename(tmp_path / "elsewhere")
    elif way != ".pgpass":
        known.unlink()
    if way == "NAS_STORAGE":
        url = []
    given = {"PGPASSWORD": PASSWORD, "PGPASSFILE": str(known), "NAS_STORAGE": keyed.replace("@", f":{PASSWORD}@")}
    if way in given:
        monkeypatch.setenv(way, given[way])
    monkeypatch.setattr("nas.library.pools.ProcessPool", lambda count, *_, **__: toys.Pool(count))
    tiny = [word for word in toys.TINY_SEARCH if word not in toys.ONE_WORKER]
    name = f"by{way.lower()}"
    code, out, err = toys.nas(*tiny, "--workers", "1", *url, "--study", name, "--teacher", "none")
    assert code == 0, err
    reason = (folder / name / "best" / "reason.json").read_text()
    assert PASSWORD not in out + err + reason + str(StudyStore.open(name, postgres.url).attrs)


def test_without_its_password_a_server_refuses_in_one_line(keyed, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = toys.nas(*toys.TINY_SEARCH, "--storage", keyed, "--study", "locked", "--quiet")
    assert code == 4
    assert err.splitlines()[-1].startswith("error: the storage postgresql+psycopg://keyed@127.0.0.1")
    assert "no password supplied" in err


@pytest.mark.slow
def test_a_signal_is_not_held_up_by_a_server_that_is_away(postgres, folder, tmp_path):
    process = search(tmp_path / "one", postgres.url, study="signal")
    store = None
    while store is None or store.refresh().ended < 1:
        time.sleep(0.3)
        with contextlib.suppress(StorageError):
            store = store or StudyStore.open("signal", postgres.url)
    postgres.stop()
    try:
        time.sleep(2)
        process.terminate()
        began = time.monotonic()
        ended(process, 143)
        assert time.monotonic() - began < 5
    finally:
        postgres.start()
