"""`nas predict`: text, CSV and JSON; bad files on standard error and exit code 1."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import toys
from PIL import Image
from tiny_run import STRIPES, write_tiny_run


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny_run(tmp_path / "studies" / "mine" / "full-run-500-abc")
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "studies"))
    folder = tmp_path / "my images"
    folder.mkdir()
    for name, level in (("a.png", 10), ("b.png", 240)):
        Image.new("L", (40, 40), level).save(folder / name)
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


def test_a_bad_file_has_a_line_and_the_others_go_on(images):
    (images / "c.png").write_text("no image")
    code, out, err = toys.nas("predict", str(images), "nowhere.png")
    assert code == 1
    assert len(out.splitlines()) == 2
    assert err.splitlines() == [
        f"error: {images / 'c.png'}: it is no image that Pillow reads",
        "error: nowhere.png: No such file or directory",
    ]


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
