"""`nas study`: what it prints, asks and refuses; what becomes of studies is tested in tests/study/test_manage.py."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import toys

from nas.study import in_use, study_names


def test_list_shows_every_study(tiny):
    code, out, err = toys.nas("study", "list")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split("\t")[:3] == ["tiny", "4", "synthetic"]  # a pipe gets no padding
    assert " " * 3 not in out
    with in_use(tiny / "tiny"):
        assert "in use" in toys.nas("study", "list")[1]
        (found,) = json.loads(toys.nas("study", "list", "--json")[1])
    assert (found["name"], found["trials"], found["in_use"]) == ("tiny", 4, True)


def test_without_a_study_the_list_says_so(folder):
    assert toys.nas("study", "list") == (0, f"no study in {folder}\n", "")


def test_rename_copy_and_delete(tiny):
    assert toys.nas("study", "copy", "tiny", "a copy")[0] == 0
    code, out, err = toys.nas("study", "rename", "tiny", "first [v2]")
    assert (code, err) == (0, "")
    assert out == f"tiny is now {tiny / 'first [v2]'}\n"
    assert sorted(study_names()) == ["a copy", "first [v2]"]
    for name in study_names():
        assert f"{name}: best trials" in toys.nas("show", "--study", name)[1]
        assert toys.nas(*toys.TINY_SEARCH, "--study", name, "-q", "--json")[0] == 0
    assert toys.nas("study", "delete", "a copy", "--yes", "-q") == (0, "", "")
    assert study_names() == ["first [v2]"]


def test_delete_asks_before_it_does(tiny):
    code, out, err = toys.nas("study", "delete", "tiny")  # nobody is there
    assert (code, out) == (2, "")
    assert "give --yes" in err
    for answer, left in (("n", ["tiny"]), ("y", [])):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*toys.COMMAND, "study", "delete", "tiny"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "NAS_STUDIES": str(tiny)}, text=True,
        )  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        _, err = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert f"Delete {tiny / 'tiny'} with its trials, weights and full runs? [y/N]" in err
        assert (process.returncode, study_names()) == (int(bool(left)), left)


def test_what_cannot_be_is_one_line(tiny):
    with in_use(tiny / "tiny"):
        for words in (["rename", "tiny", "b"], ["copy", "tiny", "b"], ["delete", "tiny", "--yes"]):
            code, out, err = toys.nas("study", *words)
            assert (code, out) == (2, "")
            assert err == "error: the study 'tiny' is worked in by another process: end that first\n"
    for words, wanted in ((["rename", "nothing", "b"], 4), (["copy", "tiny", "tiny"], 2), (["delete", "a/b"], 2)):
        code, out, err = toys.nas("study", *words)
        assert (code, out, err.count("\n")) == (wanted, "", 1)
    assert study_names() == ["tiny"]
