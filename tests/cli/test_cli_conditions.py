"""The command line where the system is short of something, in a hurry, or told a secret: a line, never a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import toys

SECRET = "Hunter2-is-known"
MODULE = [sys.executable, "-m", "nas"]


def shell(command, *words, **environment):
    """Run a line of the shell, in which "$@" is the command."""
    return subprocess.run(
        ["bash", "-c", command, "bash", *words], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def is_a_line(text):
    return text.startswith("error: ") and text.count("\n") == 1


def test_a_password_of_the_storage_is_in_no_file_no_attribute_and_no_stream(folder, tmp_path):
    """Nothing that is written, printed or raised holds it: the whole search's files, its database among them."""
    database = tmp_path / "shared.db"
    storage = f"sqlite:///file:{database}?uri=true&password={SECRET}&sslpassword={SECRET}"
    arguments = [*toys.TINY_SEARCH, "--study", "guarded"]
    code, out, err = toys.nas(*arguments, "--storage", storage)
    assert code == 0, err
    shown = toys.nas("show", "--study", "guarded", "--storage", storage)
    resumed = toys.nas(*arguments, "-q", "--json", NAS_STORAGE=storage)  # the whole URL by the environment
    refused = toys.nas(*arguments, "--seed", "1", "--finalist-epochs", "9", "--storage", storage)
    database.write_bytes(b"damaged")
    broken = toys.nas("show", "--storage", storage)
    assert [each[0] for each in (shown, resumed, refused, broken)] == [0, 0, 2, 4]
    for stream in (out, err, *(text for each in (shown, resumed, refused, broken) for text in each[1:])):
        assert SECRET not in stream
    files = [path for path in (*folder.rglob("*"), *tmp_path.rglob("*")) if path.is_file()]
    assert any(path.name == "reason.json" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_an_interrupted_search_prints_no_password(folder, tmp_path):
    database = tmp_path / "shared.db"
    storage = f"sqlite:///file:{database}?uri=true&password={SECRET}"
    arguments = [*toys.TINY_SEARCH, "--trials", "500", "--storage", storage, "--study", "guarded"]
    process = toys.spawn(*arguments, studies_dir=folder)
    toys.until(database.exists, 120)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To resume: nas search" in err
    assert "password=***" in err
    assert SECRET not in out + err
    assert SECRET.encode() not in database.read_bytes()


@pytest.mark.parametrize("files", [32, 64])
def test_few_open_files_are_enough_or_a_line(files, tiny):
    ran = shell(f'ulimit -n {files}; "$@"', *MODULE, "show", "--study", "tiny", NAS_STUDIES=str(tiny))
    assert ran.returncode == 0 or is_a_line(ran.stderr), ran.stderr
    arguments = [*toys.TINY_SEARCH, "--study", "tiny", "--trials", "5", "-q", "--no-report"]
    ran = shell(f'ulimit -n {files}; "$@"', *MODULE, *arguments, NAS_STUDIES=str(tiny))
    assert "Traceback" not in ran.stderr
    assert ran.returncode == 0 or is_a_line(ran.stderr), ran.stderr


@pytest.mark.parametrize("seconds", [0.03, 0.05, 0.2, 0.5])
def test_ctrl_c_in_the_first_moments_has_no_traceback(seconds):
    process = subprocess.Popen(
        [*MODULE, "search", "--max-params", "8000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "NAS_STORAGE": ""},
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if process.returncode == 1:  # Python itself had not started yet, and no line of ours had run
        assert "Fatal Python error: init" in err
    else:
        assert process.returncode in (130, -signal.SIGINT)
    assert (out, "nas/" in err) == ("", False)


def test_a_closed_standard_output_is_no_crash(tiny):
    for redirect in (">&-", ">&- 2>&-"):
        ran = shell(f'"$@" {redirect}', *MODULE, "show", "--study", "tiny", NAS_STUDIES=str(tiny))
        assert (ran.returncode, ran.stderr) == (0, "")


def test_pick_takes_a_trial_of_another_storage(tiny, tmp_path):
    """The last words of a search for a front suggest it."""
    elsewhere = tmp_path / "elsewhere.db"
    shutil.move(tiny / "tiny" / "study.db", elsewhere)
    code, _, err = toys.nas(
        "train-best", "--study", "tiny", "--storage", str(elsewhere), "--pick", "0", "--seeds", "1", "--epochs", "1",
        "-q", *toys.ONE_WORKER,
    )  # fmt: skip
    assert code == 0, err
    code, _, err = toys.nas("train-best", "--study", "tiny", "--storage", str(elsewhere), "--pick", "99")
    assert code == 2
    assert "no trial 99" in err
