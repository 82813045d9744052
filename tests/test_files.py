"""Files: what is killed, cut or denied leaves the old file or folder, and what is read back is strict."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import files
from nas.errors import StorageError, UsageError


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden leftovers included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(error: pytest.ExceptionInfo[StorageError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def fill(folder: Path, text: str = "new") -> None:
    with files.replace_folder(folder) as new:
        files.write_atomic(new / "file", text)


# One file


@pytest.mark.parametrize("content", ["8vr M ±8°\r\n", b"\x00\xff\r\n", ""])
def test_a_file_is_written_as_given_and_leaves_nothing_beside_it(tmp_path, content):
    (tmp_path / "file").write_text("old")
    files.write_atomic(tmp_path / "file", content)
    assert tree(tmp_path) == {"file": content.encode() if isinstance(content, str) else content}


@pytest.mark.parametrize(
    ("broken", "code", "step"),
    [
        ("fsync", errno.ENOSPC, "free some space"),
        ("replace", errno.EACCES, "a folder that you may write to"),
        ("replace", errno.EIO, "another path"),
    ],
)
def test_a_full_disk_or_a_denied_one_keeps_the_old_file(tmp_path, monkeypatch, broken, code, step):
    (tmp_path / "file").write_text("old")

    def fail(*_args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(StorageError) as error:
        files.write_atomic(tmp_path / "file", "new")
    one_line(error, str(tmp_path / "file"), os.strerror(code), step)
    assert tree(tmp_path) == {"file": b"old"}


def test_a_file_cut_by_a_real_limit_leaves_no_half(tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "file").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError) as error:
            files.write_atomic(tmp_path / "file", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(error, str(tmp_path / "file"))
    assert tree(tmp_path) == {"file": b"old"}


def test_a_path_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("old")
    for write in (lambda path: files.write_atomic(path, "new"), fill):
        with pytest.raises(StorageError) as error:
            write(tmp_path / "file" / "best")
        one_line(error, str(tmp_path / "file" / "best"), "another path")
    with pytest.raises(StorageError) as error:
        fill(tmp_path / "file")
    one_line(error, str(tmp_path / "file"))
    assert tree(tmp_path) == {"file": b"old"}


# One folder


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "a" / "best"
    with files.replace_folder(folder) as new:
        (new / "one").write_text("1")
    with files.replace_folder(folder) as new:
        (new / "two").write_text("2")
        assert tree(folder) == {"one": b"1"}

    def interrupted():
        with files.replace_folder(folder) as new:
            (new / "three").write_text("3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tree(tmp_path) == {"a/best/two": b"2"}
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_of_two_writers_at_once_the_last_wins(tmp_path):
    folder = tmp_path / "best"
    with files.replace_folder(folder) as first:
        (first / "file").write_text("first")
        with files.replace_folder(folder) as second:
            (second / "file").write_text("second")
        assert tree(folder) == {"file": b"second"}
    assert tree(tmp_path) == {"best/file": b"first"}


def test_a_reader_that_renames_back_in_the_gap_does_not_fail_the_writer(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "file").write_text("old")
    rename, gaps = Path.rename, []

    def with_a_reader(self, target):
        rename(self, target)
        if self == folder and not gaps:
            gaps.append(target)
            files.recover_folder(folder)

    monkeypatch.setattr(Path, "rename", with_a_reader)
    with files.replace_folder(folder) as new:
        (new / "file").write_text("new")
    assert gaps
    assert tree(tmp_path) == {"best/file": b"new"}


KILL_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from nas import files

folder, step, seen = Path(sys.argv[1]) / "best", 0, []

def write(text):
    with files.replace_folder(folder) as new:
        files.write_atomic(new / "one", text)
        files.write_atomic(new / "two", text)

write("old")
while True:
    step += 1
    child = os.fork()
    if child == 0:
        left = step
        def hook(event, _):
            global left
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        write("new")
        os._exit(0)
    finished = os.waitpid(child, 0)[1] == 0
    if "gap" not in seen and not folder.exists():
        seen.append("gap")
    files.recover_folder(folder)
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert texts in ({"one": "old", "two": "old"}, {"one": "new", "two": "new"}), (step, texts)
    seen.append(texts["one"])
    files._ABANDONED_S = -1.0
    write("old")
    assert [path.name for path in folder.parent.iterdir()] == ["best"], step
    if finished:
        break
print(*dict.fromkeys(seen))
assert "torch" not in sys.modules
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed at each of its steps: needs fork")
def test_killed_at_any_step_the_folder_is_the_old_or_the_new_one(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_STEP, tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["old", "gap", "new"]  # the gap between the renames was among the steps


def test_another_runs_young_folder_is_left_alone(tmp_path):
    with files.replace_folder(tmp_path / "best") as first:
        with files.replace_folder(tmp_path / "best"):
            pass
        assert first.is_dir()


def test_a_swap_that_fails_for_good_puts_the_old_folder_back(tmp_path, monkeypatch):
    folder, rename = tmp_path / "best", Path.rename
    fill(folder, "old")

    def fail(self, target):
        if self.name.endswith(".new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StorageError) as error:
        fill(folder)
    one_line(error, str(folder), "free some space")
    assert tree(tmp_path) == {"best/file": b"old"}


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    folder, link = tmp_path / "best", tmp_path / "link"
    fill(folder, "old")
    link.symlink_to(folder, target_is_directory=True)
    fill(link)
    assert link.is_symlink()
    assert tree(folder) == {"file": b"new"}


def test_a_reader_brings_the_old_folder_back_after_a_kill_between_the_renames(tmp_path):
    folder = tmp_path / "best"
    fill(folder, "old")
    folder.rename(files._aside(folder))
    files.recover_folder(folder)
    assert tree(tmp_path) == {"best/file": b"old"}
    files.recover_folder(tmp_path / "nothing")


# JSON


@pytest.mark.parametrize(
    "content", [b"{", b"\xff{}", b"[" * 100_000, b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}', b"[1]", None]
)
def test_what_is_no_strict_json_object_is_one_line(tmp_path, content):
    path = tmp_path / "reason.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError) as error:
        files.read_json(path)
    one_line(error, f"{path} is damaged", "run the command that made it again")
    assert ("delete it" in str(error.value)) == (content is not None)


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:0123456789eE+-.truefalsn ', max_size=40).map(str.encode))
def test_any_bytes_are_an_object_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        assert isinstance(files.read_json(path), dict)
    except StorageError as error:
        assert "\n" not in str(error)  # noqa: PT017  both outcomes are right


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), VALUES, max_size=4))
def test_json_reads_back_equal(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_has_not_is_refused_and_nothing_written(tmp_path, value):
    with pytest.raises(StorageError) as error:
        files.write_json(tmp_path / "result.json", {"last5": [value]})
    one_line(error, "result.json is strict JSON")
    assert tree(tmp_path) == {}


# Records


@dataclasses.dataclass(frozen=True)
class Part:
    number: int
    loss: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    whole: bool
    score: float | None
    parts: tuple[Part, ...]
    by_seed: Mapping[int, float]
    recipe: Mapping[str, Any]
    note: str | None = None

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise UsageError("a name is good")


WHOLE = {
    "name": "one", "whole": True, "score": 1, "parts": [{"number": 1}, {"number": 2, "loss": 0.25}],
    "by_seed": {"0": 99.5, "-1": 99}, "recipe": {"epochs": 3},
}  # fmt: skip


def test_a_record_reads_as_its_types_say(tmp_path):
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(WHOLE))
    read = files.read_record(path, Whole)
    assert read == Whole(
        name="one", whole=True, score=1.0, parts=(Part(1), Part(2, 0.25)), by_seed={0: 99.5, -1: 99.0},
        recipe={"epochs": 3},
    )  # fmt: skip
    assert type(read.score) is type(read.by_seed[-1]) is float
    files.write_json(path, dataclasses.asdict(read))
    assert files.read_record(path, Whole) == read


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": None}, "'name' is None, not text"),
        ({"whole": 1}, "'whole' is 1, not true or false"),
        ({"score": True}, "'score' is True, not a number"),
        ({"score": "1"}, "'score' is '1', not a number"),
        ({"score": 10**400}, "'score' is 1000"),
        ({"parts": {}}, "'parts' is {}, not a list"),
        ({"parts": [{"number": 1}, 7]}, "'parts[1]' is 7, not an object"),
        ({"parts": [{"number": 1.0}]}, "'parts[0].number' is 1.0, not a whole number"),
        ({"parts": [{}]}, "'parts[0].number' is missing"),
        ({"by_seed": {"one": 1}}, "'by_seed' has the key 'one', not a whole number"),
        ({"by_seed": {"01": 1}}, "'by_seed' has the key '01', not a whole number"),
        ({"by_seed": {"1": "x"}}, "'by_seed.1' is 'x', not a number"),
        ({"recipe": []}, "'recipe' is [], not an object"),
        ({"more": 1}, "'more' is unknown"),
        ({"name": "bad"}, "a name is good"),
    ],
)
def test_a_field_of_another_type_is_named_with_its_place(tmp_path, change, problem):
    (tmp_path / "whole.json").write_text(json.dumps(WHOLE | change))
    with pytest.raises(StorageError) as error:
        files.read_record(tmp_path / "whole.json", Whole)
    one_line(error, "whole.json is damaged", problem)


def test_only_a_field_with_a_default_may_be_missing(tmp_path):
    for name in WHOLE:
        (tmp_path / "whole.json").write_text(json.dumps({k: v for k, v in WHOLE.items() if k != name}))
        with pytest.raises(StorageError, match=f"'{name}' is missing"):
            files.read_record(tmp_path / "whole.json", Whole)


@given(value=VALUES, name=st.sampled_from(list(WHOLE)))
def test_any_value_of_a_field_is_read_or_one_line(tmp_path_factory, value, name):
    path = tmp_path_factory.getbasetemp() / "record.json"
    path.write_text(json.dumps(WHOLE | {name: value}))
    try:
        assert isinstance(files.read_record(path, Whole), Whole)
    except StorageError as error:
        assert "\n" not in str(error)  # noqa: PT017  both outcomes are right


def test_a_short_digest_is_stable():
    assert files.short_digest("8 G C") == "7059067e"


def test_a_pipe_is_written_to_and_stays(tmp_path):
    """As a device such as /dev/null: no file takes its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomic(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]
