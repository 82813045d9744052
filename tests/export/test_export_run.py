"""A full run's folder: it reads back equal, the latest is found, and what is damaged is one line."""

from __future__ import annotations

import csv
import json
import os
import shutil

import pytest
import torch
from exports import ODD, PLAIN, STATED, network, one_line, result, trained, tree, write_run

from nas import export
from nas.data import Normalization
from nas.errors import StorageError


def test_a_full_run_holds_its_files_and_they_read_back(run):
    assert sorted(path.name for path in run.iterdir()) == [
        "CARD.md", "architecture.json", "architecture.txt", "log.csv", "model-batch1.onnx", "model-raw.onnx",
        "model.onnx", "model.py", "result.json", "weights-seed7.safetensors", "weights-seed8.safetensors",
        "weights.safetensors",
    ]  # fmt: skip
    assert json.loads((run / "result.json").read_text()) == STATED
    assert (run / "CARD.md").read_text() == "# A card\n"
    with (run / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], float(row["loss"]), row["accuracy"], row["note"]) for row in rows] == [
        ("1", 0.25, "", ""),
        ("2", 1e-05, "99.48", 'a "quoted", one'),
    ]
    for name, seed in (("weights", 8), ("weights-seed8", 8), ("weights-seed7", 7)):
        read = export.read_weights(run / f"{name}.safetensors", PLAIN)
        assert all(torch.equal(read[key], tensor) for key, tensor in trained(PLAIN, seed).state_dict().items())
    assert [path.name for path in run.parent.iterdir()] == ["full"]


def test_a_full_run_reads_back_with_its_typical_seeds_weights(study):
    read = export.read_run(study / "full-run-a")
    assert (read.folder, read.architecture, read.result) == (study / "full-run-a", PLAIN, result())
    assert (read.network.normalization, read.network.classes) == (Normalization((0.13,), (0.31,)), tuple("0123456789"))
    assert (read.result.architecture, read.result.normalization) == (PLAIN, read.network.normalization)
    for seed, each in {8: read.network, **export.read_seeds(read)}.items():
        state = trained(PLAIN, seed).state_dict()
        assert list(each.state_dict) == list(state)
        assert all(torch.equal(each.state_dict[key], tensor) for key, tensor in state.items())
        assert (each.normalization, each.classes) == (read.network.normalization, read.network.classes)


@pytest.mark.parametrize("seed", [7, 8])
def test_a_seed_without_its_weights_is_named(study, seed):
    path = study / "full-run-a" / f"weights-seed{seed}.safetensors"
    path.unlink()
    with pytest.raises(StorageError) as error:
        export.read_seeds(export.read_run(path.parent))
    one_line(error, f"{path} is damaged")


def test_the_full_run_of_a_study_is_the_one_begun_last(study):
    """Whatever the times of the files: a clone makes all of them at once, in any order."""
    first, studies = study / "full-run-a", study.parent
    assert {export.find_run(folder) for folder in (first, study, studies)} == {first}
    for name, time in (("full-run-c", "2026-03-01T00:00:00+00:00"), ("full-run-b", "2026-02-01T00:00:00+00:00")):
        shutil.copytree(first, study / name)
        (study / name / "result.json").write_text(json.dumps({**STATED, "time": time}))
    os.utime(study / "full-run-c" / "result.json", (0, 0))
    assert export.find_run(study) == study / "full-run-c"
    assert export.find_run(studies) == study / "full-run-c"
    assert export.find_run(study / "full-run-b") == study / "full-run-b"
    (study / "full-run-c" / "result.json").write_text("{}")
    with pytest.raises(StorageError) as error:
        export.find_run(study)
    one_line(error, "full-run-c", "'dataset' is missing")


def test_a_folder_without_a_full_run_says_so(tmp_path):
    (tmp_path / "study" / "full-run-a.seeds").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "study", tmp_path / "nowhere"):
        with pytest.raises(StorageError) as error:
            export.find_run(folder)
        one_line(error, f"no full run in {folder}", "nas train-best")


@pytest.mark.parametrize("name", ["architecture.txt", "architecture.json", "result.json", "weights.safetensors"])
def test_a_missing_or_cut_file_of_a_full_run_is_named(study, name):
    path = study / "full-run-a" / name
    content = path.read_bytes()
    for damage in (lambda: path.write_bytes(content[: len(content) // 2]), path.unlink):
        damage()
        with pytest.raises(StorageError) as error:
            export.read_run(path.parent)
        one_line(error, str(path), "is damaged")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schedule": "8 G C"}, "it is of '8 G C', not of"),
        ({"num_params": 7}, "it has 7 parameters"),
        ({"typical_seed": 9}, "no final accuracy of its typical seed, 9"),
        ({"seeds": [7, 8, 9]}, "for each of its seeds"),
        ({"mean": []}, "one mean and one standard deviation for each channel"),
        ({"std": [0.0]}, "a standard deviation is above 0"),
        ({"std": ["wide"]}, "'std[0]' is 'wide', not a number"),
        ({"classes": ["0"]}, "it has 1 names of classes, not 10"),
        ({"final": {"8": None}}, "'final.8' is None, not a number"),
        ({"final": {"typical": 99.5}}, "'final' has the key 'typical'"),
        ({"recipe": None}, "'recipe' is None, not an object"),
        ({"seeds": [True]}, "'seeds[0]' is True, not a whole number"),
        ({"lessons": 3}, "'lessons' is unknown"),
    ],
)
def test_a_result_that_is_not_of_the_run_is_refused(study, change, problem):
    (study / "full-run-a" / "result.json").write_text(json.dumps(STATED | change))
    with pytest.raises(StorageError) as error:
        export.read_run(study / "full-run-a")
    one_line(error, "result.json", problem)


@pytest.mark.parametrize("name", sorted(STATED.keys() - {"teacher", "reference", "by_class"}))
def test_a_result_without_one_of_its_fields_is_refused(study, name):
    (study / "full-run-a" / "result.json").write_text(json.dumps({k: v for k, v in STATED.items() if k != name}))
    with pytest.raises(StorageError) as error:
        export.read_run(study / "full-run-a")
    one_line(error, f"'{name}' is missing")


def test_a_result_need_not_name_a_teacher_or_a_record(study):
    path = study / "full-run-a" / "result.json"
    path.write_text(json.dumps({k: v for k, v in STATED.items() if k not in ("teacher", "reference")}))
    assert export.read_result(path.parent) == result()


def test_weights_of_another_network_or_with_a_flipped_bit_are_refused(study):
    path = study / "full-run-a" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError) as error:
        export.read_run(path.parent)
    one_line(error, str(path), "checksum")
    export.write_network(path, network(ODD))
    with pytest.raises(StorageError) as error:
        export.read_run(path.parent)
    one_line(error, str(path), f"its weights are those of '{ODD}'")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"result": result(last5_mean=float("nan"))}, "result.json is strict JSON"),
        ({"result": result(mean=[0.1, 0.2])}, "one mean and one standard deviation for each channel"),
        ({"result": result(seeds=[7])}, "for each of its seeds"),
        ({"state_dicts": {7: {}, 8: trained(PLAIN).state_dict()}}, "is missing"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_slow(run, monkeypatch, changes, problem):
    before = tree(run.parent)
    monkeypatch.setattr("nas.export.run.export_onnx", None)
    with pytest.raises(StorageError) as error:
        write_run(run, **changes)
    one_line(error, problem)
    assert tree(run.parent) == before


def test_a_full_run_is_written_again_over_itself_without_images(study):
    def rest() -> dict[str, bytes]:  # safetensors puts its metadata in any order
        return {name: content for name, content in tree(study).items() if not name.endswith(".safetensors")}

    before = rest()
    write_run(study / "full-run-a", images=None)
    assert rest() == before
    assert export.read_run(study / "full-run-a").result == result()
