"""Studies renamed, copied and deleted: whole or not at all, and never while somebody works in one."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import killing
import pytest
import toys

from nas.errors import StorageError, UsageError
from nas.files import read_json
from nas.study import (
    StudyStore,
    copy_study,
    delete_study,
    in_use,
    list_studies,
    load_study,
    rename_study,
    require_resumable,
    study_names,
    trials_to_resume,
)
from nas.study.identity import SETTINGS

CHANGES = frozenset(
    {"open", "os.rename", "os.remove", "os.mkdir", "shutil.copytree", "shutil.copyfile", "shutil.rmtree"}
)


@pytest.fixture(scope="module")
def one():
    """A folder of studies with one that has a winner, and a file of a full run."""
    with toys.quick_folder() as quick, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_STUDIES", str(quick))
        toys.run(toys.Pool(), store=toys.open_study("a"), trials=4)
        (quick / "a" / "full-run-1-x").mkdir()
        (quick / "a" / "full-run-1-x" / "log.csv").write_text("seed,number\n")
        yield quick


@pytest.fixture
def made(one, folder):
    """A folder of such studies for a test of its own."""
    shutil.copytree(one, folder)
    return folder


def names_in(name):
    return sorted(each.study_name for each in StudyStore.open(name).storage.get_all_studies())


def content(path):
    return {each.relative_to(path): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def is_whole(folder, name):
    """The study can be read, and has all its files and names."""
    store = StudyStore.open(name)
    assert len(store.refresh()) == 4
    assert len(store.finalists().refresh()) == 4
    assert {"best", "weights", "full-run-1-x", "study.db"} <= {path.name for path in (folder / name).iterdir()}
    assert toys.open_study(name).name == name  # as a search does
    assert names_in(name) == [name, f"{name}/finalists"]


def goes_on(name):
    result = toys.run(pool := toys.Pool(), store=toys.open_study(name), trials=4)
    assert pool.trained == []
    assert result.reason.study == name


def test_a_renamed_study_is_the_same_under_its_new_name(made):
    before, table = content(made / "a" / "weights"), load_study("a")
    assert rename_study("a", "b [v2]") == made / "b [v2]"
    assert study_names() == ["b [v2]"]
    assert load_study("b [v2]").equals(table)
    assert content(made / "b [v2]" / "weights") == before
    assert read_json(made / "b [v2]" / "best" / "reason.json")["study"] == "b [v2]"
    is_whole(made, "b [v2]")


def test_a_copy_goes_its_own_way(made):
    before, table = content(made / "a"), load_study("a")
    assert copy_study("a", "b") == made / "b"
    assert content(made / "a") == before
    assert sorted(study_names()) == ["a", "b"]
    assert read_json(made / "b" / "best" / "reason.json")["study"] == "b"
    is_whole(made, "b")
    toys.run(toys.Pool(), store=toys.open_study("b"), trials=6)
    assert len(load_study("b")) == 6
    assert load_study("a").equals(table)


def test_a_deleted_study_is_gone_and_the_others_stay(made):
    copy_study("a", "b")
    delete_study("a")
    assert [path.name for path in made.iterdir()] == ["b"]
    is_whole(made, "b")


def test_the_list_has_every_study_and_damaged_ones(made):
    (made / "bad").mkdir()
    (made / "bad" / "study.db").write_bytes(b"no database")
    with in_use(made / "a"):
        found = {each.name: each for each in list_studies()}
    assert (found["a"].trials, found["a"].dataset, found["a"].in_use, found["a"].problem) == (
        4,
        "synthetic",
        True,
        None,
    )
    assert found["a"].bytes > 10_000
    assert (found["bad"].trials, found["bad"].in_use) == (None, False)
    assert "cannot be used" in found["bad"].problem
    delete_study("bad")
    assert study_names() == ["a"]


# --- refusals ---------------------------------------------------------------------------------------------------------

CHANGE = {
    "rename": lambda: rename_study("a", "b"), "copy": lambda: copy_study("a", "b"), "delete": lambda: delete_study("a"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGE)
def test_a_study_that_is_worked_in_is_left_alone(made, change):
    before = content(made)
    with in_use(made / "a"), in_use(made / "a"), pytest.raises(UsageError, match="is worked in by another process"):
        CHANGE[change]()
    assert content(made) == before
    CHANGE[change]()  # afterwards


@pytest.mark.parametrize("change", CHANGE)
@pytest.mark.parametrize("finalists", [False, True])
def test_a_running_trial_of_another_machine_is_in_the_way(made, change, finalists):
    store = StudyStore.open("a")
    store = store.finalists() if finalists else store
    left = store.claim({}, {}, {"schedule": "x", "num_params": 1, "macs": 1, "seed": 1})
    store.annotate(left, owner="elsewhere/boot/pid:[1]/7/1/token")
    before = content(made / "a" / "best")
    with pytest.raises(UsageError, match=r"trial 4 of the study 'a' is running in elsewhere \(pid 7\)"):
        CHANGE[change]()
    assert content(made / "a" / "best") == before
    assert study_names() == ["a"]


def test_what_a_dead_process_left_is_not_in_the_way(made, dead_owner):
    store = StudyStore.open("a")
    store.annotate(store.claim({}, {}, {"schedule": "x", "num_params": 1, "macs": 1, "seed": 1}), owner=dead_owner)
    rename_study("a", "b")
    assert study_names() == ["b"]


def test_a_killed_search_leaves_no_mark(made):
    script = (
        "import sys, pathlib; from nas.study import in_use\nwith in_use(pathlib.Path(sys.argv[1])): print(); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(made / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    with pytest.raises(UsageError, match="worked in"):
        rename_study("a", "b")
    child.kill()
    child.communicate()
    rename_study("a", "b")


@pytest.mark.parametrize("change", [rename_study, copy_study])
def test_a_name_that_is_taken_or_none_is_refused(made, change):
    (made / "file").write_text("")
    before = content(made)
    for new, reason in (
        ("file", "is there already"),
        ("a", "is there already"),
        ("x/y", "plain folder name"),
        ("", "plain folder name"),
    ):
        with pytest.raises(UsageError, match=reason):
            change("a", new)
    with pytest.raises(StorageError, match=r"no study 'c' .*\(a\)"):
        change("c", "d")
    assert content(made) == before


# --- cut short --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGE)
def test_killed_at_any_step_there_is_no_half_study(one, made, change):
    """The study is there, whole, under the old name or the new; a search goes on with it, and puts the names right."""
    steps = killing.events_of(CHANGE[change], events=CHANGES)
    for number in {0, 1, *killing.instants(0, 5, steps)}:
        shutil.rmtree(made)
        shutil.copytree(one, made)
        assert not killing.kill_at_event(number, CHANGE[change], events=CHANGES)
        names = study_names()
        assert {"rename": len(names) == 1, "copy": "a" in names, "delete": names in (["a"], [])}[change]
        for name in names:
            is_whole(made, name)


# --- folders copied by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [shutil.copytree, shutil.move])
def test_a_search_goes_on_with_the_one_study_of_a_copied_or_renamed_folder(made, move):
    move(made / "a", made / "b")
    goes_on("b")
    is_whole(made, "b")
    toys.run(toys.Pool(), store=toys.open_study("b"), trials=5)
    assert len(load_study("b")) == 5
    if move is shutil.copytree:
        assert names_in("a") == ["a", "a/finalists"]
        is_whole(made, "a")


def test_a_foreign_study_of_another_name_stays_as_it_is(made):
    import optuna

    (made / "c").mkdir()
    optuna.create_study(study_name="theirs", storage=f"sqlite:///{made / 'c' / 'study.db'}")
    assert SETTINGS in toys.open_study("c").attrs
    assert names_in("c") == ["c", "theirs"]


@pytest.mark.parametrize("tables", [0, 1, 5, 13])
def test_a_search_completes_a_study_that_was_killed_while_it_was_made(folder, tables):
    """Its file is empty, or has some of its tables, or all of them and no study."""
    store = toys.open_study("whole")
    (folder / "half").mkdir()
    with (
        closing(sqlite3.connect(folder / "half" / "study.db")) as half,
        closing(sqlite3.connect(folder / "whole" / "study.db")) as whole,
    ):
        for (statement,) in whole.execute("select sql from sqlite_master where type = 'table'").fetchall()[
            : tables or 0
        ]:
            half.execute(statement)
    identity = {"max_params": 500}
    assert trials_to_resume("half", None, identity) is None
    require_resumable("half", None, identity)
    assert len(store.refresh()) == len(toys.open_study("half").refresh()) == 0
