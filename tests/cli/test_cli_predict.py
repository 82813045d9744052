"""`nas predict`: text, CSV and JSON; bad files on standard error and exit code 1."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
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
        image.putpixel((20, 20), 120)
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


@pytest.mark.parametrize("place", ["missing/grid.png", "file/grid.png", "folder", "n" * 300 + ".png"])
def test_a_picture_that_cannot_be_is_refused_before_anything_is_loaded(place, images, unloaded, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    code, out, err = toys.nas("predict", str(images), "--picture", str(tmp_path / place))
    assert (code, out) == (4, "")
    assert err.startswith(f"error: cannot write {tmp_path / place}: ")
    assert err.count("\n") == 1


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
