"""`nas data check`: what it finds, and what it writes down."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from glyphs import glyph, write_glyphs, write_splits
from PIL import Image, ImageEnhance

from nas import cli
from nas.data import check_images, load_training_data, prepare_dataset
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
    assert check.counts["A"] == {"train": 5, "validation": 1, "test": 1}
    assert check.modes == {"L": 30, "RGB": 1}
    assert (check.widths[2], check.heights[0]) == (90, 10)
    assert check.input_shape[0] == 3
    assert check.imbalance == 3
    assert (check.num_train, check.num_validation, check.num_test) == (22, 4, 5)
    assert not check.has_test
    assert not check.has_validation
    assert not check.problems


@pytest.mark.parametrize("counts", [{"A": 3, "B": 3}, {"A": 6, "B": 40, "C": 15}, {"A": 25, "B": 25}])
def test_a_check_tells_what_each_training_holds_out(tmp_path, counts):
    root = tmp_path / "glyphs"
    for label, count in counts.items():
        write_glyphs(root, count, letters=label)
    check = check_images(root)
    training = load_training_data(prepare_dataset(str(root), data_dir=None), data_dir=None)
    for part, images in (("train", training.train), ("validation", training.validation)):
        assert [row[part] for row in check.counts.values()] == images.labels.bincount(minlength=len(counts)).tolist()
    assert (check.num_train, check.num_validation) == (len(training.train), len(training.validation))


def test_a_check_counts_a_split_for_validation(tmp_path, capfd):
    root = write_splits(tmp_path / "glyphs", letters="AB", train=8, val=2, test=3)
    check = check_images(root)
    assert check.counts == {label: {"train": 8, "validation": 2, "test": 3} for label in "AB"}
    assert check.has_validation
    assert run(str(root)) == 0
    assert (
        "16 images to train and 4 for validation (a full run learns from both), 6 to test\n" in capfd.readouterr().out
    )


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
    assert "8 images to train and 2 for validation, drawn from those of each class (a full run learns from both)" in out
    assert ", 2 to test, drawn class by class once" in out
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
