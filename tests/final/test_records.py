"""The committed results: every record is whole and can be trained again, every row of the history is consistent."""

import csv
import json
from pathlib import Path

import pytest

from nas.architecture import Architecture
from nas.export import load_trained, read_run, read_seeds
from nas.export.source import source
from nas.files import read_record
from nas.final import OPENINGS, FullRunPlan
from nas.searches import SearchReason

STUDIES = Path(__file__).parents[2] / "studies"
RECORDS = sorted((STUDIES / "records").iterdir())
FILES = {
    "architecture.json", "architecture.txt", "CARD.md", "log.csv", "model.py", "result.json", "test-openings.jsonl",
    "weights.safetensors",
}  # fmt: skip


@pytest.fixture(params=RECORDS, ids=lambda folder: folder.name)
def record(request):
    return request.param


def test_a_record_is_one_flat_folder_named_by_its_cap(record):
    made = read_run(record)
    weights = {f"weights-seed{seed}.safetensors" for seed in made.result.seeds}
    files = {path.name for path in record.iterdir()}
    assert files - {"search.json"} == FILES | weights
    dataset, _, cap = record.name.rpartition("-")
    assert made.result.dataset == (dataset or "mnist")
    assert made.architecture.num_params == made.result.num_params <= int(cap)
    assert str(made.architecture) == made.result.schedule
    assert len(read_seeds(made)) == len(made.result.seeds) >= (3 if dataset else 10)
    if "search.json" in files:
        search = read_record(record / "search.json", SearchReason)
        assert (search.max_params, search.dataset) == (int(cap), made.result.dataset)
        assert search.finalists[0].schedule == made.result.schedule


def test_the_result_of_a_record_is_that_of_its_log(record):
    result = json.loads((record / "result.json").read_text(encoding="utf-8"))
    with (record / "log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    last = {seed: [float(row["accuracy"]) for row in rows if row["seed"] == str(seed)][-5:] for seed in result["seeds"]}
    assert {str(seed): sum(five) / 5 for seed, five in last.items()} == pytest.approx(result["last5"])
    assert sum(result["last5"].values()) / len(last) == pytest.approx(result["last5_mean"])
    assert min(min(five) for five in last.values()) == result["lowest_of_last5"]
    assert f"**{result['last5_mean']:.3f} ± {result['last5_sd']:.3f} %**" in (record / "CARD.md").read_text("utf-8")


def test_the_network_of_a_record_is_as_an_export_writes_it(record):
    network = load_trained(record)
    text = source(network.architecture, network.normalization, network.classes)
    assert (record / "model.py").read_text(encoding="utf-8") == text


def test_the_openings_of_a_record_begin_with_a_full_run_of_its_network(record):
    first = json.loads((record / OPENINGS).read_text(encoding="utf-8").splitlines()[0])
    schedule = (record / "architecture.txt").read_text(encoding="utf-8").strip()
    assert first["purpose"].startswith(f"full run of {schedule}, seeds ")


def test_a_record_can_be_trained_again(record, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(STUDIES))
    plan = FullRunPlan.of_reference(record.name)
    result = read_run(record).result
    assert (plan.dataset, plan.seeds, plan.architecture.num_params) == (result.dataset, result.seeds, result.num_params)


def test_every_row_of_the_history_is_a_network_with_its_counts():
    with (STUDIES / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == sorted(rows, key=lambda row: row["date"], reverse=True)
    for row in rows:
        architecture = Architecture.parse(row["schedule"])
        assert (str(architecture.num_params), str(architecture.macs)) == (row["num_params"], row["macs"])
        assert not row["cap"] or int(row["num_params"]) <= int(row["cap"])
        assert float(row["lowest"]) <= float(row["last5_mean"])
        assert row["superseded"]
        assert row["folder"].startswith("studies/")
        assert row["folder"].split("full-run-")[1].startswith(f"{row['num_params']}-")
