"""Own images in every export: class names, size and the rule by which files are read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from glyphs import glyph, write_glyphs, write_splits
from PIL import Image

import nas
from nas.architecture import Architecture
from nas.data import FolderOptions, load_training_data, own_files, own_listing, prepare_dataset
from nas.errors import DataError, StorageError, UsageError
from nas.export import ExportSource, export_targets, parse_targets
from nas.export.script import script_files
from nas.final import find_predictor, predict_files
from nas.model import TrainedNetwork, build
from nas.train import Recipe

ODD = ("grey of 16 bits.png", "inks.jpg", "clear.png", "turned.jpg", "wide.webp")


def odd_files(root: Path) -> None:
    """Files that want care: 16 bits, CMYK, transparency, an EXIF turn, one that is far from square."""
    rng = random.Random(4)
    picture = glyph("A", rng)
    Image.fromarray(np.asarray(picture).astype(np.uint16) * 257).save(root / ODD[0])
    picture.convert("CMYK").save(root / ODD[1])
    clear = picture.convert("RGBA")
    clear.putalpha(picture)
    clear.save(root / ODD[2])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.convert("RGB").resize((400, 200)).save(root / ODD[3], exif=exif)
    picture.convert("RGB").resize((90, 11)).save(root / ODD[4])


def exported(root: Path, folder: Path, options: FolderOptions, targets: str = "all") -> TrainedNetwork:
    dataset = prepare_dataset(str(root), data_dir=None, options=options)
    training = load_training_data(dataset, data_dir=None)
    architecture = Architecture.parse(
        "4 M s4+ G C", input_shape=dataset.input_shape, num_classes=dataset.num_classes
    )  # fmt: skip
    own = own_files(dataset.name)
    network = TrainedNetwork(
        architecture=architecture, state_dict=build(architecture, seed=0).state_dict(), classes=dataset.classes,
        normalization=training.normalization, preparation=own.options,
    )  # fmt: skip
    source = ExportSource(
        network=network, dataset=dataset.name, recipe=vars(Recipe.for_dataset(dataset)), images=training.validation,
        calibration=training.train.images, split="validation",
    )  # fmt: skip
    export_targets(folder, source, parse_targets(targets))
    return network


@pytest.mark.parametrize(
    "options",
    [FolderOptions(image_size=16), FolderOptions(image_size=20, crop=True, grayscale=False, background="white")],
    ids=("bars", "crop"),
)
def test_every_export_says_how_images_are_read(options, tmp_path, image_cache, monkeypatch):
    """The script's pixels are compared with the tool's as it is written; odd files are among them."""
    root = write_glyphs(tmp_path / "my letters", 12, letters="ABC")
    odd_files(root / "A")
    network = exported(root, tmp_path / "out", options)
    stated = json.loads((tmp_path / "out" / "export.json").read_text())
    assert stated["classes"] == ["A", "B", "C"]
    assert FolderOptions(**stated["preparation"]) == network.preparation
    words = network.preparation.words
    for name in ("model.py", "train.py", "c-int8/nas_net.h", "c-float32/nas_net.h"):
        assert words in (tmp_path / "out" / name).read_text()
    for name in ("model.onnx", "model-probabilities.onnx", "model-int8.onnx", "model-int8-batch1.onnx"):
        properties = {each.key: each.value for each in onnx.load(tmp_path / "out" / name).metadata_props}
        assert FolderOptions(**json.loads(properties["preparation"])) == network.preparation
    listed = json.loads((tmp_path / "out" / "images.json").read_text())
    assert len(listed["train"]) + len(listed["test"]) == 36 + len(ODD)
    assert {label for _, label in listed["test"]} == {"A", "B", "C"}

    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "another machine"))
    files = sorted((root / "A").iterdir())
    expected = network.predict(np.stack([own_pixels(tmp_path / "out", path) for path in files]))
    for name in ("out", "out/model.onnx", "out/model-raw.onnx"):
        found, dataset = find_predictor(str(tmp_path / name))
        assert dataset is None
        batches = list(predict_files(found, files))
        assert not any(batch.unread for batch in batches)
        probabilities = [each.probability for batch in batches for each in batch.predictions]
        torch.testing.assert_close(torch.tensor(probabilities), expected.max(1).values, atol=1e-4, rtol=0)


def own_pixels(folder: Path, path: Path) -> np.ndarray:
    """A file's pixels as the training script reads them."""
    names = {"__name__": "train", "__file__": str(folder / "train.py")}
    exec((folder / "train.py").read_text(), names)
    return names["picture"](path).numpy()


def test_a_script_reads_the_splits_of_the_tool(tmp_path, image_cache):
    root = write_splits(tmp_path / "letters", train=8, val=2, test=3)
    exported(root, tmp_path / "out", FolderOptions(image_size=16), "script")
    names = {"__name__": "train", "__file__": str(tmp_path / "out" / "train.py")}
    exec((tmp_path / "out" / "train.py").read_text(), names)
    images, labels = names["load"](root, train=True)
    assert (tuple(images.shape), images.dtype) == ((30, 1, 16, 16), torch.uint8)
    assert labels.bincount().tolist() == [10, 10, 10]  # a full run learns from val too
    assert names["load"](root, train=False)[1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    glyph("A", random.Random(1)).save(root / "train" / "A" / "new.png")
    (record,) = (image_cache / "sets").glob("*.json")
    with pytest.raises(UsageError, match=r"cannot export to script: .* is not as it was when it was read"):
        script_files(record.stem, vars(Recipe()))


def test_the_folder_is_scanned_once_for_a_script(tmp_path, image_cache, monkeypatch):
    root, scanned = write_glyphs(tmp_path / "letters", 6, letters="AB"), []
    scan = own_listing.scan_folder
    monkeypatch.setattr(own_listing, "scan_folder", lambda path: scanned.append(path) or scan(path))
    prepare_dataset(str(root), data_dir=None, options=FolderOptions(image_size=16))
    exported(root, tmp_path / "out", FolderOptions(image_size=16), "script")
    assert len(scanned) == 2  # one of them is this test's own, for the network's preparation


def test_arrays_are_no_files_for_a_script(tmp_path, image_cache):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.integers(0, 256, (30, 16, 16), dtype=np.uint8), y=np.arange(30) % 3)
    dataset = prepare_dataset(str(tmp_path / "a.npz"), data_dir=None)
    with pytest.raises(DataError, match="save them as a folder for each class"):
        own_files(dataset.name)
    with pytest.raises(UsageError, match="are arrays in"):
        script_files(dataset.name, vars(Recipe()))


def test_a_preparation_that_is_none_is_refused(tmp_path, image_cache):
    root = write_glyphs(tmp_path / "letters", 6, letters="AB")
    exported(root, tmp_path / "out", FolderOptions(image_size=16), "onnx")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    (item,) = (each for each in model.metadata_props if each.key == "preparation")
    for value in ("[]", '{"image_size": 4}', '{"size": 16}', "no JSON"):
        item.value = value
        onnx.save(model, tmp_path / "bad.onnx")
        with pytest.raises(StorageError, match="its preparation is"):
            nas.load_network(tmp_path / "bad.onnx")


def test_options_in_words():
    assert FolderOptions(image_size=32, grayscale=True).words == (
        "32 x 32, grey, black bars on the shorter sides, transparent on white"
    )
    cut = FolderOptions(image_size=48, crop=True, background="black", grayscale=False)
    assert cut.words == "48 x 48, RGB, the middle square cut out, transparent on black"
