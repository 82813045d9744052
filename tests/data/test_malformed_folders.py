"""Folders that are not as they should be: each has its line, and a search runs or refuses."""

from __future__ import annotations

import os

import pytest
from glyphs import write_glyphs
from malformed import CASES, make

from nas.data import FolderOptions, check_images, load_training_data, prepare_dataset
from nas.errors import DataError
from nas.report import make_console, print_check

pytestmark = pytest.mark.usefixtures("image_cache")


def printed(check) -> str:
    console = make_console(stdout=True)
    with console.capture() as capture:
        print_check(console, check)
    return capture.get()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_malformed_folder_has_its_line(case, tmp_path):
    root = make(case, tmp_path / "images")
    if case.refused is None:
        dataset = prepare_dataset(str(root), data_dir=None)
        assert len(load_training_data(dataset, data_dir=None).train) > 0
        assert case.told in printed(check_images(root))
        return
    with pytest.raises(DataError) as caught:
        prepare_dataset(str(root), data_dir=None)
    message = str(caught.value)
    assert case.refused in message
    assert "\n" not in message
    assert len(message) < 700


@pytest.mark.parametrize("title", ["an empty file", "a broken link", "a text named as an image", "a file cut short"])
def test_unreadable_files_are_left_out_as_wished_and_stated(title, tmp_path):
    (case,) = [case for case in CASES if case.title == title]
    root = make(case, tmp_path / "images")
    check = check_images(root)
    assert len(check.unreadable) == 1
    assert check.problems
    dataset = prepare_dataset(str(root), data_dir=None, options=FolderOptions(skip_unreadable=True))
    training = load_training_data(dataset, data_dir=None)
    assert next(iter(check.unreadable)) in training.warning
    assert dataset.num_train + dataset.num_test == (11 if title == "a file cut short" else 12)


def test_equal_files_in_two_splits_are_taken_as_wished_and_stated(tmp_path):
    (case,) = [case for case in CASES if case.title == "a file in train and in test"]
    root = make(case, tmp_path / "images")
    assert check_images(root).leaks == (("test/A/x.png", "train/A/000.png"),)
    dataset = prepare_dataset(str(root), data_dir=None, options=FolderOptions(allow_duplicates=True))
    assert load_training_data(dataset, data_dir=None).warning == "1 file in two splits"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_what_may_not_be_read_is_named(tmp_path):
    root = write_glyphs(tmp_path, 4, letters="AB")
    (root / "A" / "000.png").chmod(0)
    with pytest.raises(DataError, match=r"A/000.png: Permission denied"):
        prepare_dataset(str(root), data_dir=None)
    (root / "A").chmod(0)
    try:
        with pytest.raises(DataError, match=r"cannot read the folder .*A .Permission denied.: make it readable"):
            prepare_dataset(str(root), data_dir=None)
    finally:
        (root / "A").chmod(0o755)


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="nowhere is not there: give a folder of class folders"):
        prepare_dataset(f"folder:{tmp_path / 'nowhere'}", data_dir=None)
    with pytest.raises(DataError, match=r"notes.txt is a file: give a folder with a folder for each class, or a .npz"):
        prepare_dataset(str(tmp_path / "notes.txt"), data_dir=None)
