"""What becomes of characters, colours and closed pipes: degraded, cut or gone, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
from contextlib import closing

import pytest
import toys

from nas import cli

ENCODINGS = ["ascii", "latin-1", "cp437"]


def ran(*arguments, encoding=None, shell=None, **options):
    environment = {**os.environ, **({} if encoding is None else {"PYTHONIOENCODING": encoding})}
    command = [*toys.COMMAND, *arguments]
    if shell is not None:
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    return subprocess.run(command, env=environment, capture_output=True, check=False, **options)


def test_the_environment_sets_the_encoding():
    for arguments in (["search", "--help"], ["search", "--nonsense"]):
        done = ran(*arguments, encoding="ascii")
        assert done.returncode == (2 if "--nonsense" in arguments else 0)
        assert b"Traceback" not in done.stderr
        assert b"--nonsense" in done.stderr or b"Example: nas" in done.stdout


def encoded(encoding, *arguments):
    """Exit code and standard output of a command in this process, with streams of an encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    code = 0
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            cli.main(list(arguments))
        except SystemExit as left:
            code = left.code or 0
    out, err = (stream.flush() or stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert "Traceback" not in err
    return code, out


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_a_full_run_and_a_comparison_in_any_encoding(encoding, reproduced):
    """ASCII has no sign for the sd; no characters of a box are in latin-1."""
    code, out = encoded(encoding, "search", "--help")
    assert code == 0
    assert "Example: nas search" in out
    code, out = encoded(encoding, "train-best", "--reference", "700", *toys.ONE_WORKER)
    assert code == 0
    sign = r"\?" if encoding == "ascii" else "±"
    assert re.search(rf"here       \d+\.\d+ {sign} \d+\.\d+ \(n = 2\)", out)
    code, out = encoded(encoding, "evaluate", str(reproduced), "--against", str(reproduced), "--backend", "torch")
    assert code == 0
    assert re.search(rf" {sign} \d+\.\d+ \(n = 2\)", out)


def test_a_studys_name_in_ascii(tiny):
    (tiny / "tiny").rename(tiny / "ü☃")
    done = ran("show", encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert b"trial" in done.stdout


def test_a_closed_pipe_ends_quietly(tiny):
    for arguments in (["count", "8 M G C"], ["show"]):
        done = ran(*arguments, shell="| head -1", timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b"\n") == 1
    closed = ran("count", "8 M G C", shell=">&-")
    assert b"Traceback" not in closed.stderr


def test_a_full_disk_is_one_line(tiny):
    for arguments in (["count", "8 M G C"], ["show", "--csv"], ["--help"]):
        done = ran(*arguments, shell="> /dev/full")
        assert done.returncode == 1
        assert done.stderr.startswith(b"error: standard output cannot be written"), done.stderr
        assert done.stderr.count(b"\n") == 1


def test_no_color_means_no_escape_codes():
    """With a terminal to write to there are some, without NO_COLOR."""

    def shown(**environment):
        main, side = pty.openpty()
        variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        variables |= {"TERM": "xterm-256color", **environment}
        process = subprocess.Popen([*toys.COMMAND, "count", "8 M G C"], stdout=side, stderr=side, env=variables)
        os.close(side)
        out = b""
        with closing(os.fdopen(main, "rb", buffering=0)) as terminal:
            try:
                while block := terminal.read(65536):
                    out += block
            except OSError:  # the other side is closed
                pass
        assert process.wait() == 0
        return out.decode()

    assert re.search(r"\x1b\[[0-9;]*m", shown())
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown(NO_COLOR="1"))
