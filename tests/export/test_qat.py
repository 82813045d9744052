"""Training in an integer network's own arithmetic: the forward pass is the integer network's, and it wins accuracy."""

from __future__ import annotations

import json

import pytest
import torch
from deployed import ARCHITECTURES, random_images, random_network
from exports import images, network

from nas.architecture import Architecture
from nas.data import Split
from nas.errors import UsageError
from nas.export import ExportOptions, ExportSource, export_targets
from nas.export.calibrate import equalize, observe
from nas.export.fold import fold
from nas.export.int8 import check_int8, int8_model
from nas.export.qat import _train, _Trained
from nas.export.quantize import quantize
from nas.export.targets import require_targets
from nas.train import Recipe

SMALL = Architecture.parse("1x12x12: 4vr s6v 6+ M 8 G C")
RECIPE = vars(Recipe(epochs=3, teacher="8 G C"))


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_the_forward_pass_is_the_integer_network(text):
    architecture = Architecture.parse(text)
    pictures = random_images(architecture, 24)
    folded = fold(random_network(architecture), one_pad_value=True)
    integer = quantize(folded, pictures)
    trained = _Trained(equalize(folded, observe(folded, pictures)), integer)
    wanted = integer.run(pictures).double() * float(integer.logit_scale)
    with torch.no_grad():
        found = trained(pictures)
    # a residual is a product and a shift of integers there, and here a sum of floats that is rounded
    assert (found - wanted).abs().max() <= (0.05 if "+" in text else 1e-5) * wanted.std()
    assert (trained.integer().run(pictures) == integer.run(pictures)).all()


def test_training_comes_closer_to_the_float_network_and_stays_exact():
    """From biases that are off: what a training of 16 steps can mend."""
    architecture = Architecture.parse("1x8x8: 3 3+ M 4 G C4")
    pictures = random_images(architecture, 1024)
    folded = fold(random_network(architecture), one_pad_value=True)
    trained = _Trained(equalize(folded, observe(folded, pictures)), quantize(folded, pictures))
    with torch.no_grad():
        trained.biases[-1] += torch.tensor([0.05, -0.05, 0.0, 0.0])
    wanted = folded.run(pictures)

    def error():
        integer = trained.integer()
        return float((integer.run(pictures) * float(integer.logit_scale) - wanted).diff(dim=1).abs().mean())

    before = error()
    _train(trained, folded, pictures, epochs=2)
    assert error() < before
    check_int8(int8_model(trained.integer()).SerializeToString(), trained.integer(), pictures[:100])


def origin() -> ExportSource:
    pictures = images(SMALL, 40)
    labels = network(SMALL).predict(pictures).argmax(1)  # where the float network is right on all of them
    return ExportSource(
        network=network(SMALL), dataset="mnist", recipe=RECIPE, calibration=pictures, images=Split(pictures, labels),
        split="test", validation=Split(pictures, labels),
    )  # fmt: skip


@pytest.mark.parametrize("limit", [-1.0, 100.0])
def test_an_export_says_what_training_came_to_on_validation_images(limit, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.export.targets.INT8_LOSS", limit)
    export_targets(tmp_path / "out", origin(), ["int8"], options=ExportOptions(qat=True))
    (note,) = [
        note
        for note in json.loads((tmp_path / "out" / "export.json").read_text())["targets"]["int8"]["notes"]
        if note.startswith("static quantisation loses")
    ]
    assert "on 40 validation images" in note
    assert ("after 3 epochs of quantisation-aware training" in note) == (limit < 0)


def test_options_without_their_target_are_refused_before_anything_is_read(tmp_path):
    for options, words in ((ExportOptions(qat=True), "--qat"), (ExportOptions(cmsis_nn=True), "--cmsis-nn")):
        with pytest.raises(UsageError, match=words):
            require_targets(["onnx"], "mnist", RECIPE, tmp_path / "out", options)
