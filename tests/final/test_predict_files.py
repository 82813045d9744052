"""Predictions for files are the network's own; a bad file does not stop the others."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import STRIPES, TINY, tiny_network, write_tiny_run

from nas.architecture import Architecture
from nas.data import DATASETS, FolderOptions, load_training_data, prepare_dataset
from nas.errors import StorageError
from nas.export import export_onnx, write_int8
from nas.final import UnreadFile, find_network, find_predictor, locate_network, predict_files, write_grid
from nas.final import predict as module
from nas.final.predict import fit_of


def stripes(folder: Path, count: int) -> torch.Tensor:
    """Write images; return them (count, 1, 16, 16). Their ground is dark."""
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 16), dtype=np.uint8)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    return torch.from_numpy(images)[:, None]


def predictions(network, paths, **options):
    return [each for batch in predict_files(network, paths, **options) for each in batch.predictions]


def test_they_are_the_networks_own_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    images, network = stripes(tmp_path, 7), tiny_network()
    expected = network.predict(images).topk(2)
    found = predictions(network, [tmp_path])
    assert [Path(each.file).name for each in found] == [f"{index:03}.png" for index in range(7)]
    assert [(each.label, each.runner_up) for each in found] == [
        tuple(STRIPES[index] for index in row) for row in expected.indices.tolist()
    ]
    values = torch.tensor([[each.probability, each.runner_up_probability] for each in found])
    torch.testing.assert_close(values, expected.values)


def test_bad_files_are_named_and_the_others_go_on(tmp_path, monkeypatch):
    stripes(tmp_path, 2)
    (tmp_path / "001.png").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    data = io.BytesIO((tmp_path / "000.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))
    paths = [tmp_path / "none.png", tmp_path / "001.png", "-", tmp_path / "empty", tmp_path / "000.png"]
    (batch,) = predict_files(tiny_network(), paths)
    assert [each.file for each in batch.predictions] == ["standard input", str(tmp_path / "000.png")]
    assert batch.predictions[0].label == batch.predictions[1].label
    assert batch.unread == (
        UnreadFile(file=str(tmp_path / "none.png"), reason="No such file or directory"),
        UnreadFile(file=str(tmp_path / "001.png"), reason="it is no image that Pillow reads"),
        UnreadFile(file=str(tmp_path / "empty"), reason="no image in this folder"),
    )


def test_a_network_of_one_class_has_no_runner_up(tmp_path):
    stripes(tmp_path, 1)
    (found,) = predictions(tiny_network(Architecture.parse("1x16x16: 4 G C1"), ("thing",)), [tmp_path])
    assert (found.label, found.probability, found.runner_up) == ("thing", 1.0, "")


@pytest.mark.parametrize("kind", ["plain", "raw", "probabilities", "int8"])
def test_an_onnx_file_predicts_as_its_network(kind, tmp_path):
    (tmp_path / "images").mkdir()
    images, network = stripes(tmp_path / "images", 5), tiny_network()
    path = tmp_path / "model.onnx"
    if kind == "int8":
        path = write_int8(tmp_path, network, images).files[0]
    else:
        export_onnx(path, network, raw=kind == "raw", probabilities=kind == "probabilities")
    expected, found = (predictions(each, [tmp_path / "images"]) for each in (network, find_predictor(str(path))[0]))
    close = 0.2 if kind == "int8" else 1e-4
    for one, other in zip(expected, found, strict=True):
        assert abs(one.probability - other.probability) < close or one.label != other.label
        assert kind == "int8" or one.label == other.label


def test_the_images_of_a_network_are_known_by_its_set():
    def fit(shape, classes, dataset=None):
        architecture = Architecture.parse(f"{shape}: 4 G C{len(classes)}")
        return fit_of(tiny_network(architecture, classes), dataset)

    digits, clothes = tuple("0123456789"), DATASETS["fashion-mnist"].classes
    assert fit("1x28x28", digits).digits
    assert fit("1x28x28", digits, "mnist") == fit("1x28x28", digits)
    assert fit("1x28x28", clothes).light_on_dark
    assert not fit("1x28x28", clothes).digits
    assert not fit("3x32x32", DATASETS["cifar10"].classes).light_on_dark
    for own in (fit("1x28x28", digits, "digits-of-mine-12345678"), fit("1x32x32", digits), fit("1x28x28", STRIPES)):
        assert not own.light_on_dark
        assert own.own == FolderOptions(image_size=own.input_shape[1], grayscale=True)
    assert fit("3x20x24", STRIPES).own is None


def test_own_images_are_read_as_for_training(tmp_path, monkeypatch):
    """The folder's own reader and `nas predict` agree on every pixel."""
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for index in range(20):
            size = (30 + index, 50 - index, 4 if index % 2 else 3)
            Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / name / f"{index:02}.png")
    options = FolderOptions(image_size=16, crop=True, background="white")
    dataset = prepare_dataset(str(folder), data_dir=None, options=options)
    training = load_training_data(dataset, data_dir=None, validation=None)
    known = {image.numpy().tobytes() for image in training.train.images}
    network = tiny_network(Architecture.parse("3x16x16: 4 G C2"), ("cats", "dogs"))
    batches = list(predict_files(network, [folder], dataset=dataset.name))
    made = {image.tobytes() for batch in batches for image in batch.pixels}
    assert len(known) >= 20
    assert known <= made


def test_a_grid_shows_what_the_network_saw(tmp_path, monkeypatch):
    stripes(tmp_path, 5)
    (batch,) = predict_files(tiny_network(), [tmp_path])
    assert write_grid(tmp_path / "grid.png", batch.predictions, batch.pixels) == 5
    with Image.open(tmp_path / "grid.png") as grid:
        tile = np.asarray(grid.convert("L"))[6 : 6 + 80, 6 : 6 + 80]
    assert (tile[::5, ::5] == batch.pixels[0][0]).all()
    assert write_grid(tmp_path / "none.png", (), ()) == 0
    monkeypatch.setattr("nas.final.grid.GRID_IMAGES", 2)
    assert write_grid(tmp_path / "grid.png", batch.predictions, batch.pixels) == 2


def test_the_network_is_found_by_study_run_record_and_alone(tmp_path, monkeypatch):
    studies = tmp_path / "studies"
    monkeypatch.setenv("NAS_STUDIES", str(studies))
    run = write_tiny_run(studies / "mine" / "full-run-500-abc")
    write_tiny_run(studies / "records" / "8000")
    for name in ("mine", str(run), str(studies / "mine")):
        assert locate_network(name).resolve() == run
    assert locate_network("8k") == studies / "records" / "8000"
    assert find_network("mine").network.architecture == TINY
    assert find_network(None).dataset == "synthetic"
    with pytest.raises(StorageError, match="no trained network in 'other'"):
        find_network("other")
    with pytest.raises(StorageError, match=r"no file .*none\.onnx"):
        find_predictor(str(tmp_path / "none.onnx"))
