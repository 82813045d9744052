"""`nas data check`: what it finds, and what it writes down."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from glyphs import glyph, write_glyphs, write_splits
from PIL import Image, ImageEnhance

from nas import cli
from nas.data import check_images
from nas.data.image_check import difference_hashes

pytestmark = pytest.mark.usefixtures("image_cache")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["data", "check", *arguments])
    return left.value.code or 0


def test_a_check_counts_classes_sizes_and_modes(tmp_path):
    root = write_glyphs(tmp_path / "glyphs", 6, letters="AB")
    write_glyphs(root, 18, letters="C")
    Image.new("RGB", (90, 10), "red").save(root / "A" / "wide.png")
    check = check_images(root)
    assert check.counts["A"] == {"train": 6, "validation": 0, "test": 1}
    assert check.modes == {"L": 30, "RGB": 1}
    assert (check.widths[2], check.heights[0]) == (90, 10)
    assert check.input_shape[0] == 3
    assert check.imbalance == 3
    assert (check.num_train, check.num_test) == (26, 5)
    assert not check.has_test
    assert not check.problems


def test_near_duplicates_are_found_and_other_letters_are_none(tmp_path):
    root = write_splits(tmp_path / "glyphs", letters="ABC", train=20, test=6)
    rng = random.Random(3)
    picture = glyph("K", rng).resize((60, 50))
    picture.save(root / "train" / "A" / "k.png")
    ImageEnhance.Brightness(picture).enhance(0.8).save(root / "test" / "A" / "k.jpg", quality=80)
    check = check_images(root)
    assert check.near_leaks == (("train/A/k.png", "test/A/k.jpg"),)
    assert check.near_duplicates == check.near_leaks
    assert check.duplicates == ()
    assert check.has_test


def test_a_hash_has_a_bit_for_each_step_down():
    ramp = np.tile(np.arange(90, dtype=np.uint8), (80, 1))[None, None]
    assert difference_hashes(ramp).tolist() == [0]
    assert difference_hashes(ramp[..., ::-1].copy()).tolist() == [2**64 - 1]


def test_the_command_prints_all_and_what_to_type_next(tmp_path, capfd):
    root = write_glyphs(tmp_path / "my glyphs", 6, letters=["A", "雪"])
    assert run(str(root)) == 0
    out = capfd.readouterr().out
    assert "雪" in out
    assert "10 images to train (a sixth of them for validation, drawn), 2 to test" in out
    assert f"nas search --dataset '{root}' --max-params 8000" in out


def test_the_command_leaves_with_1_where_a_search_would_refuse(tmp_path, capfd, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 6, letters="AB")
    (root / "A" / "none.png").touch()
    assert run(str(root), "--json") == 1
    found = json.loads(capfd.readouterr().out)
    assert found["unreadable"] == {"A/none.png": "empty"}
    assert found["problems"] == ["1 file cannot be read (A/none.png: empty); repair or remove, or --skip-unreadable"]
    assert not (image_cache / "manifests").exists()  # nothing is split yet
    assert run(str(root), "--skip-unreadable", "-q") == 0
    assert (image_cache / "manifests").exists()


def test_an_error_is_a_line(tmp_path, capfd):
    assert run(str(tmp_path / "none")) == 4
    assert capfd.readouterr().err == f"error: {tmp_path}/none is not there: give a folder of class folders\n"
