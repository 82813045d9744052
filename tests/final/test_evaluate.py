"""A full run's weights scored again: they score as their run did, each opening is recorded, damage is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas import data
from nas.architecture import Architecture
from nas.data import Normalization
from nas.data.synthetic import Synthetic
from nas.errors import StorageError, UsageError
from nas.export.weights import write_network
from nas.final import OPENINGS, TOLERANCE, evaluate_run, evaluation_summary

SMALL = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)


def score(folder, backend="torch"):
    return evaluate_run(folder, data_dir=None, device="cpu", backend=backend)


def openings(folder):
    return [json.loads(line) for line in (folder.parent / OPENINGS).read_text().splitlines()]


def restate(folder, **changes):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_weights_score_as_their_run_did(trained, copied):
    """Number and loss are those of the last epoch of the typical seed; the other seed has other ones."""
    run = trained[0]
    typical = run.result.typical_seed
    last, other = run.seeds[typical].epochs[-1], run.seeds[1 - typical].epochs[-1]
    result = score(copied)
    assert (result.correct, result.count, result.stated) == (last.correct, 300, last.correct)
    assert result.loss == pytest.approx(last.loss, abs=1e-6)
    assert result.accuracy == result.stated_accuracy == run.result.final[typical]
    assert (result.seed, result.backend) == (typical, "torch")
    assert result.agrees
    assert result.same_images
    assert other.loss != pytest.approx(last.loss, abs=1e-3)
    by_kernels = score(copied, "auto")
    assert by_kernels.agrees
    assert by_kernels.loss == pytest.approx(last.loss, abs=1e-4)


def test_a_summary_has_its_denominators(copied):
    result = score(copied)
    summary = evaluation_summary(result, {"torch": "2.x", "device": "cpu"})
    assert json.loads(json.dumps(summary)).keys() == summary.keys()
    wanted = {
        "schedule": str(SMALL), "num_params": SMALL.num_params, "dataset": "synthetic", "split": "test", "epochs": 2,
        "count": 300, "correct": result.correct, "stated_correct": result.stated, "tolerance": TOLERANCE,
        "agrees": True, "same_images": True, "backend": "torch", "torch": "2.x", "device": "cpu",
    }  # fmt: skip
    assert {key: summary[key] for key in wanted} == wanted


def test_each_evaluation_is_recorded_beside_the_full_run(copied):
    score(copied)
    score(copied)
    first, *more = openings(copied)
    assert first["purpose"].startswith("full run of ")
    assert [line["purpose"] for line in more] == [f"evaluate {copied.name}, {SMALL}"] * 2
    assert {line["sha256"] for line in more} == {first["sha256"]}


def test_an_evaluation_of_a_record_is_recorded_in_its_own_folder(copied, studies):
    record = studies / "records" / "700"
    assert score(record).same_images
    assert len((record / OPENINGS).read_text().splitlines()) == 2
    assert not (record.parent / OPENINGS).exists()
    assert len(openings(copied)) == 1


def test_an_evaluation_uses_the_normalization_of_the_run_and_no_training_image(copied, monkeypatch):
    read, splits = Synthetic.read, []
    monkeypatch.setattr(
        Synthetic, "read", lambda reader, split, root: splits.append(split) or read(reader, split, root)
    )
    before = score(copied)
    restate(copied, mean=[0.0], std=[1.0])
    with pytest.raises(StorageError, match="its mean is"):
        score(copied)
    other = Normalization(mean=(0.0,), std=(1.0,))
    write_network(copied / "weights.safetensors", dataclasses.replace(before.run.network, normalization=other))
    after = score(copied)
    assert splits == ["test", "test"]
    test = read(Synthetic(data.find_dataset("synthetic")), "test", Path())
    model = before.run.network.module()
    for result, inputs in ((before, before.run.network.normalization), (after, other)):
        with torch.no_grad():
            logits = model(inputs.apply(test.images))
        assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, test.labels)), abs=1e-5)


@pytest.mark.parametrize("apart", [0, TOLERANCE, TOLERANCE + 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_agreement_is_a_number_of_images(copied, trained, apart, sign):
    run = trained[0].result
    correct = round(3 * run.final[run.typical_seed])
    stated = run.final | {run.typical_seed: 100 * (correct + sign * apart) / 300}
    restate(copied, final=stated)
    after = score(copied)
    assert after.stated - after.correct == sign * apart
    assert after.agrees is (apart <= TOLERANCE)


def test_other_test_images_are_noticed(copied):
    log = copied.parent / OPENINGS
    line = json.loads(log.read_text())
    log.write_text(json.dumps(line | {"sha256": "another"}) + "\n")
    assert score(copied).same_images is False
    log.write_text(json.dumps(line | {"dataset": "mnist"}) + "\n")
    assert score(copied).same_images is None
    log.write_text("no JSON\n")
    assert score(copied).same_images is None


def test_what_does_not_belong_to_the_run_is_refused_before_the_test_split_is_opened(copied):
    weights = copied / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(StorageError, match=r"weights\.safetensors is damaged"):
        score(copied)
    save_file({"other": torch.zeros(1)}, weights)
    with pytest.raises(StorageError, match=r"weights\.safetensors is damaged"):
        score(copied)
    weights.write_bytes(content)
    restate(copied, dataset="mnist")
    with pytest.raises(StorageError, match="does not take the images and classes of mnist"):
        score(copied)
    restate(copied, dataset="nowhere to be found")
    with pytest.raises(UsageError, match="unknown data set"):
        score(copied)
    assert len(openings(copied)) == 1


def test_a_damaged_result_is_named_in_one_line(copied):
    path = copied / "result.json"
    whole = path.read_text()
    fields = json.loads(whole)
    lacking = {key: value for key, value in fields.items() if key != "typical_seed"}
    wrong = [
        fields | {"seeds": "all"}, fields | {"final": {}}, fields | {"typical_seed": 7}, fields | {"mean": [0.1, 0.2]},
        fields | {"std": [0.0]}, fields | {"classes": []}, fields | {"schedule": "8q"}, fields | {"more": 1}, lacking,
    ]  # fmt: skip
    for content in (*map(json.dumps, wrong), "{}", "", whole[:-30], "[" * 100_000, whole.replace("0.", "NaN", 1)):
        path.write_text(content)
        with pytest.raises((StorageError, UsageError), match=r"^[^\n]*(damaged|8q)[^\n]*$"):
            score(copied)
    assert len(openings(copied)) == 1
