"""`nas predict`: text, CSV and JSON; bad files on standard error and exit code 1."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import toys
from PIL import Image
from tiny_run import STRIPES, write_tiny_run

from nas import cli
from nas.final import find_predictor


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny_run(tmp_path / "studies" / "mine" / "full-run-500-abc")
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "studies"))
    folder = tmp_path / "my images"
    folder.mkdir()
    for name, level in (("a.png", 10), ("b.png", 240)):
        image = Image.new("L", (40, 40), level)
        image.paste(120, (15, 15, 25, 25))
        image.resize((16, 16)).save(folder / name)
    return folder


def test_text_is_a_line_for_each_file(images):
    code, out, err = toys.nas("predict", str(images), "--network", "mine")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith(str(images / "a.png"))
    assert any(f"  {label}  " in first for label in STRIPES)
    assert " %  then " in first
    assert second.endswith("(inverted)")


def test_csv_and_json_hold_the_same(images):
    code, out, _ = toys.nas("predict", str(images), "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    code, out, _ = toys.nas("predict", str(images), "--json")
    assert code == 0
    fields = json.loads(out)
    assert fields["unread"] == []
    for row, one in zip(rows, fields["predictions"], strict=True):
        assert (row["file"], row["class"], row["runner_up"]) == (one["file"], one["class"], one["runner_up"])
        assert abs(float(row["probability"]) - one["probability"]) < 1e-6
    assert rows[1]["notes"] == "inverted"


def test_a_blank_image_is_noted_in_every_form(images):
    for path in images.iterdir():
        path.unlink()
    Image.new("L", (40, 40), 240).save(images / "a.png")
    note = "blank: all pixels alike"
    code, out, err = toys.nas("predict", str(images))
    assert (code, err) == (0, "")
    assert out.endswith(f"(inverted, {note})\n")
    (row,) = csv.DictReader(io.StringIO(toys.nas("predict", str(images), "--csv")[1]))
    assert row["notes"] == f"inverted; {note}"
    assert json.loads(toys.nas("predict", str(images), "--json")[1])["predictions"][0]["notes"] == ["inverted", note]


def test_help_says_what_a_probability_is_not():
    code, out, _ = toys.nas("predict", "--help")
    assert code == 0
    assert "no measure for images of another kind" in " ".join(out.split())


def test_a_bad_file_has_a_line_and_the_others_go_on(images):
    (images / "c.png").write_text("no image")
    code, out, err = toys.nas("predict", str(images), "nowhere.png")
    assert code == 1
    assert len(out.splitlines()) == 2
    assert err.splitlines() == [
        "error: nowhere.png: No such file or directory",
        f"error: {images / 'c.png'}: it is no image that Pillow reads",
    ]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network can be loaded."""
    monkeypatch.setattr("nas.final.find_predictor", lambda name: pytest.fail("a network is loaded"))
    monkeypatch.setattr("nas.library.export_network", lambda *args, **options: pytest.fail("a network is loaded"))


def test_missing_files_are_named_before_anything_is_loaded(images, monkeypatch, capfd):
    loop = images / "loop.png"
    loop.symlink_to(loop)
    paths = ["nowhere.png", str(images / "a.png"), str(loop), str(images / "a.png" / "b.png"), "n" * 300, ""]
    named: list[str] = []

    def load(name):
        named.extend(capfd.readouterr().err.splitlines())
        return find_predictor(name)

    monkeypatch.setattr("nas.final.find_predictor", load)
    with pytest.raises(SystemExit) as left:
        cli.main(["predict", "--json", *paths])
    assert left.value.code == 1
    fields = json.loads(capfd.readouterr().out)
    assert [each["file"] for each in fields["predictions"]] == [paths[1]]
    assert fields["unread"] == [
        {"file": path, "reason": os.strerror(code)}
        for path, code in zip(
            [paths[0], *paths[2:]],
            (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT), strict=True,
        )
    ]  # fmt: skip
    assert named == [f"error: {each['file']}: {each['reason']}" for each in fields["unread"]]


def test_nothing_but_missing_files_is_a_wrong_use(images, unloaded):
    code, out, err = toys.nas("predict", "nowhere.png", "nor here.png")
    assert (code, out) == (2, "")
    assert err == "error: there is no nowhere.png: name image files or folders that are there, or -\n"


@pytest.mark.parametrize("place", ["missing/grid.png", "file/grid.png", "folder.png", "n" * 300 + ".png"])
def test_a_picture_that_cannot_be_is_refused_before_anything_is_loaded(place, images, unloaded, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    code, out, err = toys.nas("predict", str(images), "--picture", str(tmp_path / place))
    assert (code, out) == (4, "")
    assert err.startswith(f"error: cannot write {tmp_path / place}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["grid.json", "grid.jpg", "grid"])
def test_a_picture_is_a_png(name, images, unloaded, tmp_path):
    (tmp_path / name).write_text("{}")
    code, out, err = toys.nas("predict", str(images), "--picture", str(tmp_path / name))
    assert (code, out) == (2, "")
    assert "ends in .png" in err
    assert (tmp_path / name).read_text() == "{}"


def test_a_closed_standard_input_is_named(unloaded, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    code, _, err = toys.nas("predict", "-")
    assert (code, err) == (
        2, "error: there is no - (standard input is closed): name image files or folders that are there, or -\n"
    )  # fmt: skip


def test_a_picture_is_written(images, tmp_path):
    code, _, err = toys.nas("predict", str(images), "--picture", str(tmp_path / "grid.png"))
    assert code == 0
    assert err == f"2 images in {tmp_path / 'grid.png'}\n"
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.format == "PNG"


def test_a_network_that_is_not_there_is_one_line(images):
    for name in ("nobody", "nothing.onnx"):
        code, out, err = toys.nas("predict", str(images), "--network", name)
        assert (code, out) == (4, "")
        assert len(err.splitlines()) == 1
    assert toys.nas("predict", str(images), "--csv", "--json")[0] == 2


@pytest.mark.parametrize("way", ["itself", "in its folder", "link", "hard link", "dots", "link to the folder"])
def test_a_picture_never_takes_the_place_of_an_image_that_is_read(way, images, unloaded, tmp_path):
    image = images / "a.png"
    before = image.read_bytes()
    (tmp_path / "link.png").symlink_to(image)
    (tmp_path / "hard.png").hardlink_to(image)
    (tmp_path / "folder").symlink_to(images)
    named = image if way == "itself" else images
    place = {
        "link": tmp_path / "link.png", "hard link": tmp_path / "hard.png",
        "link to the folder": tmp_path / "folder" / "a.png", "dots": images / ".." / images.name / "a.png",
    }.get(way, image)  # fmt: skip
    code, out, err = toys.nas("predict", str(named), "--picture", str(place))
    assert (code, out) == (2, "")
    assert err == f"error: --picture {place} is one of the images that are read: name another file\n"
    assert image.read_bytes() == before


def test_a_picture_may_take_the_place_of_another_file(images, tmp_path):
    (tmp_path / "grid.png").write_text("old")
    assert toys.nas("predict", str(images), "--picture", str(tmp_path / "grid.png"))[0] == 0
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.format == "PNG"


def test_links_that_lead_nowhere_are_named_and_other_files_counted(images):
    (images / "gone.png").symlink_to(images / "nowhere.png")
    (images / "notes.txt").touch()
    (images / "link").symlink_to(images)
    os.mkfifo(images / "pipe.png")
    code, out, err = toys.nas("predict", str(images))
    assert (code, len(out.splitlines())) == (1, 2)
    assert (
        err == f"error: {images / 'gone.png'}: No such file or directory\n3 other files or links to folders left out\n"
    )


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="as root it takes setpriv (util-linux)")
def test_a_folder_that_may_not_be_entered_is_named(images):
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    (images / "closed").mkdir()
    (images / "closed").chmod(0)
    try:
        command = [*drop, *toys.COMMAND, "predict", str(images), str(images / "closed")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        (images / "closed").chmod(0o755)
    assert (ran.returncode, len(ran.stdout.splitlines())) == (1, 2)
    assert ran.stderr == 2 * f"error: {images / 'closed'}: Permission denied\n"


def test_what_a_terminal_would_obey_is_escaped_in_text_alone(images, monkeypatch):
    monkeypatch.chdir(images)
    name = "\x1b[31mred\n画.png"
    (images / "a.png").rename(images / name)
    (images / "bad\r.png").write_text("no image")
    code, out, err = toys.nas("predict", ".")
    assert code == 1
    assert out.startswith("\\x1b[31mred\\n画.png  ")
    assert out.splitlines()[1].startswith("b.png" + 14 * " " + "  ")  # as wide on the screen
    assert err == "error: bad\\r.png: it is no image that Pillow reads\n"
    assert next(csv.DictReader(io.StringIO(toys.nas("predict", ".", "--csv")[1])))["file"] == name
