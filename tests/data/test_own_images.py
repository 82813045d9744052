"""A folder of own images: its splits, its name, its tensors; what comes and goes; options; array files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from glyphs import write_glyphs, write_splits

from nas.data import FolderOptions, check_images, find_dataset, load_training_data, open_test, prepare_dataset
from nas.data import own_images as own
from nas.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("image_cache")


def prepare(root: Path, **options):
    return prepare_dataset(str(root), data_dir=None, options=FolderOptions(**options))


def train(dataset, **given):
    return load_training_data(dataset, data_dir=None, **given)


def test_images(dataset, tmp_path):
    return open_test(dataset, data_dir=None, log=tmp_path / "log", purpose="law")


test_images.__test__ = False


def splits(cache: Path) -> dict[str, str]:
    (path,) = (cache / "manifests").iterdir()
    return {name: fields[6] for name, fields in json.loads(path.read_text())["files"].items()}


# --- without splits ---------------------------------------------------------------------------------------------------


def test_a_folder_is_split_class_by_class_and_the_split_stays(tmp_path, image_cache):
    root = write_glyphs(tmp_path / "my glyphs", 12)
    dataset = prepare(root)
    assert dataset.classes == tuple(sorted("ABCDEFGHKX"))
    assert (dataset.num_train, dataset.num_test, dataset.comparable) == (100, 20, True)
    assert dataset.input_shape == (1, 28, 28)
    assert dataset.name.startswith("my-glyphs-")
    whole, test = train(dataset, validation=None), test_images(dataset, tmp_path)
    assert whole.train.labels.bincount().tolist() == [10] * 10
    assert test.labels.bincount().tolist() == [2] * 10
    before = splits(image_cache)
    assert list(before.values()).count("test") == 20
    shutil.rmtree(image_cache)
    assert prepare(root) == dataset  # the same draw anywhere
    assert splits(image_cache) == before
    assert train(dataset, validation=None).hash == whole.hash


def test_files_that_come_never_move_others(tmp_path, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 12)
    dataset, before = prepare(root), splits(image_cache)
    write_glyphs(root, 30, seed=1, first=100)
    later, after = prepare(root), splits(image_cache)
    assert later.name == dataset.name
    assert {name: after[name] for name in before} == before
    added = [part for name, part in after.items() if name not in before]
    assert len(added) == 300
    assert 25 < added.count("test") < 80  # by hash, a sixth of them on average
    assert later.num_train + later.num_test == 420
    assert train(later).warning == "files since these images were first split: 300 added"
    shutil.rmtree(root / "A")
    write_glyphs(root, 12, letters="A")  # the same files again, at another time
    prepare(root)
    assert {name: part for name, part in splits(image_cache).items() if name in before} == before


def test_a_file_that_goes_and_comes_back_has_its_split(tmp_path, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 6, letters="ABC")
    prepare(root)
    before = splits(image_cache)
    moved = root / "A" / "000.png"
    content = moved.read_bytes()
    moved.unlink()
    assert prepare(root).num_train + prepare(root).num_test == 17
    assert train(prepare(root)).warning == "files since these images were first split: 1 removed"
    (root / "A" / "renamed.png").write_bytes(content)
    prepare(root)
    assert splits(image_cache)["A/renamed.png"] == before["A/000.png"]


def test_equal_files_are_in_one_split(tmp_path, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 12, letters="AB")
    for path in sorted(root.glob("*/*.png")):
        shutil.copy(path, path.with_name(f"copy {path.name}"))
    prepare(root)
    found = splits(image_cache)
    assert all(found[name] == found[name.replace("copy ", "")] for name in found if "copy" in name)


def test_a_new_class_is_another_data_set_and_the_old_one_can_still_be_evaluated(tmp_path):
    root = write_glyphs(tmp_path / "glyphs", 6, letters="ABC")
    old = prepare(root)
    test = test_images(old, tmp_path)
    write_glyphs(root, 6, letters="D", seed=4)
    new = prepare(root)
    assert new.classes == ("A", "B", "C", "D")
    assert new.name != old.name
    assert find_dataset(old.name) == old
    assert torch.equal(test_images(find_dataset(old.name), tmp_path).images, test.images)
    assert test_images(new, tmp_path).labels.bincount().tolist() == [1] * 4


# --- with splits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "validation", "Testing"), ("train", "valid", "test")]
)
def test_folders_of_splits_are_the_splits(tmp_path, names):
    root = write_splits(tmp_path / "glyphs", **dict(zip(names, (6, 2, 3), strict=True)))
    dataset = prepare(root)
    training = train(dataset)
    assert (dataset.num_train, dataset.num_test) == (24, 9)
    assert (len(training.train), len(training.validation)) == (18, 6)
    assert training.validation.labels.bincount().tolist() == [2, 2, 2]
    assert len(train(dataset, validation=None).train) == 24  # a full run learns from both
    assert training.hash == train(dataset, validation=None).hash


def test_without_a_folder_for_test_it_is_drawn_from_train_alone(tmp_path, image_cache):
    root = write_splits(tmp_path / "glyphs", train=12, val=3)
    dataset = prepare(root)
    assert (dataset.num_train, dataset.num_test) == (30 + 9, 6)
    assert {name.split("/")[0] for name, part in splits(image_cache).items() if part == "test"} == {"train"}


def test_a_class_may_be_called_train(tmp_path):
    root = write_glyphs(tmp_path / "vehicles", 4, letters=["train", "car"])
    assert prepare(root).classes == ("car", "train")


# --- names, options, tensors ------------------------------------------------------------------------------------------


def test_options_are_part_of_the_name_and_defaults_are_the_same_as_given(tmp_path):
    root = write_glyphs(tmp_path / "glyphs", 4, letters="AB")
    default = prepare(root)
    size = default.input_shape[1]
    assert prepare(root, image_size=size, grayscale=True) == default
    others = [prepare(root, **options) for options in (
        {"image_size": 16}, {"crop": True}, {"grayscale": False}, {"background": "white"})]  # fmt: skip
    assert len({dataset.name for dataset in [default, *others]}) == 5
    assert others[0].input_shape == (1, 16, 16)
    assert others[2].input_shape == (3, size, size)
    hashes = {train(dataset).hash for dataset in [default, *others]}
    assert len(hashes) == 5


def test_the_default_size_stays_when_larger_images_come(tmp_path):
    root = write_glyphs(tmp_path / "glyphs", 4, letters="AB")
    dataset = prepare(root)
    for path in (root / "A").iterdir():
        with own_image(path) as image:
            for number in range(5):
                image.resize((200 + number, 200)).save(path.with_name(f"large {number} {path.name}"))
    assert prepare(root).input_shape == dataset.input_shape


def own_image(path: Path):
    from PIL import Image

    return Image.open(path)


def test_a_data_set_is_found_by_its_name_alone_and_its_options_are_its_own(tmp_path):
    root = write_glyphs(tmp_path / "glyphs", 4, letters="AB")
    dataset = prepare(root, image_size=16)
    assert find_dataset(dataset.name) == dataset
    assert prepare_dataset(dataset.name, data_dir=None) == dataset
    with pytest.raises(UsageError, match="this data set has image_size = 16, not 32: give its folder"):
        prepare_dataset(dataset.name, data_dir=None, options=FolderOptions(image_size=32))
    with pytest.raises(UsageError, match="image options are for own images"):
        prepare_dataset("synthetic", data_dir=None, options=FolderOptions(image_size=32))
    shutil.rmtree(root)
    assert len(test_images(find_dataset(dataset.name), tmp_path)) == 2
    with pytest.raises(DataError, match="glyphs is not there"):
        prepare_dataset(dataset.name, data_dir=None)


def test_tensors_that_are_gone_are_made_again(tmp_path, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 4, letters="AB")
    dataset = prepare(root)
    before = train(dataset)
    shutil.rmtree(image_cache / "tensors")
    assert train(dataset).hash == before.hash
    shutil.rmtree(image_cache / "tensors")
    (root / "A" / "000.png").unlink()
    with pytest.raises(DataError, match=r"tensors of .* are gone, and .* has other files now"):
        train(dataset)


def test_a_damaged_manifest_is_refused_in_a_line(tmp_path, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 4, letters="AB")
    prepare(root)
    (path,) = (image_cache / "manifests").iterdir()
    path.write_text('{"format": 1}')
    write_glyphs(root, 1, letters="A", first=50)
    with pytest.raises(DataError, match=r"\.json, which says what images .* are test images, is damaged") as caught:
        prepare(root)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_in_memory_is_refused_before_decoding(tmp_path, monkeypatch, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 4, letters="AB")
    monkeypatch.setattr(own, "available_memory", lambda: 20_000)
    with pytest.raises(DataError, match=r"8 images of 1x64x64 take 0.0 GB .* give --image-size 28 or less"):
        prepare(root, image_size=64)
    assert not image_cache.exists()


def test_processes_read_what_one_process_reads(tmp_path, monkeypatch, image_cache):
    root = write_glyphs(tmp_path / "glyphs", 40, letters="ABCD")
    alone = train(prepare(root)).hash
    shutil.rmtree(image_cache)
    monkeypatch.setattr(own, "PARALLEL_FILES", 100)
    monkeypatch.setattr(own, "cores", lambda: 2)
    steps: list[tuple[str, int, int]] = []
    dataset = prepare_dataset(str(root), data_dir=None, progress=lambda *step: steps.append(step))
    assert train(dataset).hash == alone
    whole = [step for step in steps if step[1] == step[2]]
    assert whole == [("reading files", 160, 160), ("decoding images", 160, 160)]


# --- array files ------------------------------------------------------------------------------------------------------


def arrays(count: int, *, channels: int | None = None, seed: int = 0):
    shape = (count, 10, 12) if channels is None else (count, 10, 12, channels)
    return np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8), np.arange(count) % 3 + 4


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_an_array_file_with_its_splits(tmp_path, channels):
    (x, y), (x_test, y_test) = arrays(30, channels=channels), arrays(9, channels=channels, seed=1)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    dataset = prepare(tmp_path / "a.npz")
    assert dataset.classes == ("4", "5", "6")
    assert dataset.input_shape == (3 if channels == 3 else 1, 10, 12)
    found = train(dataset, validation=None).train
    pixels = found.images.movedim(1, -1).squeeze(-1).numpy()
    assert (pixels == x.reshape(pixels.shape)).all()
    assert (found.labels.numpy() == y - 4).all()
    assert len(test_images(dataset, tmp_path)) == 9
    assert prepare(tmp_path / "a.npz", image_size=16).input_shape[1:] == (16, 16)


def test_an_array_file_without_splits_keeps_each_image_where_it_was(tmp_path):
    x, y = arrays(60)
    names = np.array(["cat", "dog", "été"])[y - 4]
    np.savez(tmp_path / "a.npz", x=x / 255, y=names)
    dataset = prepare(tmp_path / "a.npz")
    assert dataset.classes == ("cat", "dog", "été")
    assert (dataset.num_train, dataset.num_test) == (51, 9)
    before = {row.tobytes() for row in test_images(dataset, tmp_path).images.numpy()}
    more, _ = arrays(60, seed=5)
    np.savez(tmp_path / "a.npz", x=np.concatenate([more, x])[::-1] / 255, y=np.concatenate([names, names])[::-1])
    after = {row.tobytes() for row in test_images(prepare(tmp_path / "a.npz"), tmp_path).images.numpy()}
    rest = {row.tobytes() for row in train(prepare(tmp_path / "a.npz"), validation=None).train.images.numpy()}
    assert before <= after
    assert not rest & after


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros((4, 8, 8), np.uint8)}, "has no y: save x_train"),
        ({"images": np.zeros(3)}, "has images: save x_train"),
        ({"x": np.zeros((4, 8), np.uint8), "y": np.arange(4)}, r"x of shape \(4, 8\): images are \(N, H, W\)"),
        ({"x": np.zeros((4, 8, 8)) - 1, "y": np.arange(4)}, "x of float64: pixels are 0 to 255"),
        ({"x": np.zeros((4, 8, 8)), "y": np.arange(3)}, r"y of shape \(3,\) and int64 for 4 images"),
        ({"x": np.zeros((4, 8, 8)), "y": np.zeros(4, int)}, "has one class, '0'"),
    ],
)
def test_array_files_that_are_none(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"b.npz is cut short, or no .npz file"):
        check_images(tmp_path / "b.npz")
