"""`nas train-best` and `nas evaluate`: openings on record, epochs printed, a record trained again bit for bit."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import toys

from nas import data
from nas.export import read_run
from nas.final import FullRunPlan
from nas.library import Machine
from nas.library.full_runs import useful_workers
from nas.study import load_study

BY_HAND = ["train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--epochs", "1", *toys.ONE_WORKER]


def openings(study):
    return [json.loads(line) for line in (study / "test-openings.jsonl").read_text().splitlines()]


# --- train-best -------------------------------------------------------------------------------------------------------


def test_train_best_records_each_opening_and_prints_every_epoch(tiny):
    arguments = ["train-best", "--study", "tiny", "--epochs", "2", *toys.ONE_WORKER]
    code, out, err = toys.nas(*arguments)
    assert code == 0, err
    assert len(re.findall(r"epoch +\d+  loss .*Accuracy: \d+/300 \(\d+\.\d\d%\)", out)) == 2
    assert "last-2" in out  # of two epochs
    assert err.count("made up") == 1  # the notice of the data set, once
    (line,) = openings(tiny / "tiny")
    assert line["num_images"] == 300
    assert "full run of" in line["purpose"]
    code, out, _ = toys.nas(*arguments, "--json", "--require-target")  # its seed is stored: nothing is trained
    assert code == 1
    fields = json.loads(out)
    winner = json.loads((tiny / "tiny" / "best" / "reason.json").read_text())["finalists"][0]
    assert fields["schedule"] == winner["schedule"]
    assert fields["target"] is None
    assert len(openings(tiny / "tiny")) == 2
    run = tiny / "tiny" / Path(fields["folder"]).name
    assert json.loads((run / "result.json").read_text())["last5_mean"] == fields["last5_mean"]
    assert {"CARD.md", "log.csv", "model.onnx", "model.py", "weights.safetensors"} <= {p.name for p in run.iterdir()}


def test_train_best_picks_any_trial_of_the_study(tiny):
    winner = (tiny / "tiny" / "best" / "architecture.txt").read_text().strip()
    table = load_study("tiny")
    other = table[(table["state"] == "COMPLETE") & (table["schedule"] != winner)].iloc[0]
    arguments = ["train-best", "--study", "tiny", "--epochs", "1", *toys.ONE_WORKER, "--json"]
    code, out, err = toys.nas(*arguments, "--pick", str(other["number"]))
    assert code == 0, err
    assert json.loads(out)["schedule"] == other["schedule"]
    code, _, err = toys.nas(*arguments, "--pick", "999")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no trial 999" in err


def test_a_winner_is_not_trained_on_images_of_another_shape(tiny):
    code, out, err = toys.nas("train-best", "--study", "tiny", "--dataset", "mnist")
    assert (code, out) == (2, "")
    assert "does not take the images and classes of mnist" in err
    assert not (tiny / "tiny" / "test-openings.jsonl").exists()


def test_train_best_names_the_teacher_and_a_damaged_one_is_one_line(folder):
    code, out, err = toys.nas(*BY_HAND, "--teacher", "8 M 8 G C")
    assert code == 0, err
    assert "distilling from 8 M 8 G C" in out
    lines = re.findall(r"^teacher  epoch +1 .* train [0-9.]+ %  [0-9.]+ s$", out, re.MULTILINE)  # no test score
    assert len(lines) == 1
    (teacher,) = (folder / "teachers").glob("*/teacher.json")
    whole = teacher.read_text()
    for content in ("{}", whole[:-20], "", "[" * 100_000, json.dumps(json.loads(whole) | {"seed": "one"})):
        teacher.write_text(content)
        code, out, err = toys.nas(*BY_HAND, "--teacher", "8 M 8 G C", "--seeds", "2", "--json")
        assert (code, out) == (4, "")
        assert f"error: {teacher} is damaged" in err.splitlines()[-1]
        assert "Traceback" not in err
    teacher.write_text(whole)
    (logits,) = teacher.parent.glob("logits-*.safetensors")
    logits.write_bytes(logits.read_bytes()[:-1])
    code, out, err = toys.nas(*BY_HAND, "--teacher", "8 M 8 G C", "--json")
    assert (code, out) == (4, "")
    assert "Traceback" not in err
    assert str(logits) in err.splitlines()[-1]


def test_a_lone_seed_has_its_teachers_logits_computed_by_all_workers():
    alone = FullRunPlan.of_schedule("8 M 8 G C", data.find_dataset("mnist"), "by-hand")
    distilled = alone.with_teacher("auto")

    def workers(plan, backend, device="cpu"):
        return useful_workers(plan, Machine(backend=backend, device=device))

    assert workers(distilled, "kernels") == workers(distilled, "torch", "cuda") == distilled.recipe.epochs == 15
    assert workers(distilled, "torch") == 1  # a process alone has all the threads
    assert workers(alone, "kernels") == workers(alone, "torch", "cuda") == 1
    assert workers(dataclasses.replace(distilled, seeds=tuple(range(20))), "kernels") == 20


def test_a_record_is_trained_again_beside_it_and_comes_out_the_same(record, folder):
    """Same seeds, device, threads and versions: the same bits; and not a byte of the record changes."""
    before = {path: path.read_bytes() for path in record.rglob("*") if path.is_file()}
    stated = json.loads((record / "result.json").read_text())
    code, out, err = toys.nas("train-best", "--reference", "700", "--quiet", *toys.ONE_WORKER)
    assert code == 0, err
    assert {path: path.read_bytes() for path in record.rglob("*") if path.is_file()} == before
    number = f"{stated['last5_mean']:.3f} ± {stated['last5_sd']:.3f} (n = 2), 2 epochs, cpu"
    assert f"here       {number}" in out
    assert f"committed  {number}" in out
    assert "training images are not those" not in out
    again = next((folder / "reproduction-700").glob("full-run-*/result.json")).parent
    result = json.loads((again / "result.json").read_text())
    assert (result["last5"], result["recipe"]) == (stated["last5"], stated["recipe"])
    assert result["reference"]["last5_mean"] == stated["last5_mean"]
    ours, theirs = (read_run(run).network.state_dict for run in (again, record))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert openings(folder / "reproduction-700")[0]["purpose"] == f"full run of {stated['schedule']}, seeds 0, 1"
    code, out, _ = toys.nas("train-best", "--reference", "700", "--seeds", "1", "--json", *toys.ONE_WORKER)
    assert code == 0
    assert json.loads(out)["seeds"] == [0]
    assert json.loads(out)["reference"]["seeds"] == [0, 1]


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate_prints_what_the_run_stated_beside_what_is_found(record):
    stated = json.loads((record / "result.json").read_text())
    seed = stated["typical_seed"]
    correct = round(stated["final"][str(seed)] * 3)
    code, out, err = toys.nas("evaluate", str(record), "--backend", "torch")
    assert code == 0, err
    assert "made up" in err  # the notice of the data set
    assert str(record) in err
    assert re.findall(r"(\d+)/300 \(\d+\.\d\d%\)", out) == [str(correct)] * 2
    wanted = (stated["schedule"], f"{stated['num_params']:,} parameters", "synthetic stripes", "cpu, torch",
              f"weights of seed {seed} (the middle one of 2 seeds) after 2 epochs", "test split", "result.json",
              "agrees", "the same test images", "differ by 0, at most 2")  # fmt: skip
    for text in wanted:
        assert text in out
    assert [line["purpose"].split()[0] for line in openings(record)] == ["full", "evaluate"]
    code, out, err = toys.nas("evaluate", "700", "--backend", "torch", "--json", "--quiet")
    assert code == 0
    assert "scoring" not in err
    fields = json.loads(out)
    assert (fields["correct"], fields["stated_correct"], fields["count"]) == (correct, correct, 300)
    assert (fields["seed"], fields["epochs"], fields["split"], fields["agrees"]) == (seed, 2, "test", True)
    assert {"torch", "device", "backend", "command", "num_params", "schedule", "dataset"} <= fields.keys()
    assert len(openings(record)) == 3


def test_an_evaluation_that_disagrees_leaves_with_1(record):
    path = record / "result.json"
    fields = json.loads(path.read_text())
    seed = str(fields["typical_seed"])
    fields["final"][seed] -= 100 * 3 / 300
    path.write_text(json.dumps(fields))
    code, out, err = toys.nas("evaluate", "700", "--backend", "torch")
    assert code == 1
    assert "DISAGREES: the numbers of correct images differ by 3, at most 2" in out
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "more than 2 apart" in last
    assert "test images" in last
    code, out, _ = toys.nas("evaluate", "700", "--backend", "torch", "--json")
    assert (code, json.loads(out)["agrees"]) == (1, False)


def test_damaged_weights_are_an_error_in_one_line_and_open_nothing(record):
    weights = record / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    for damage in (bytes(content), bytes(content[:-9]), b""):
        weights.write_bytes(damage)
        code, out, err = toys.nas("evaluate", "700", "--quiet")
        assert (code, out) == (4, "")
        assert len(err.splitlines()) == 1
        assert f"{weights} is damaged" in err
    assert len(openings(record)) == 1


def test_own_images_are_read_once_for_a_full_run(folder, tmp_path, monkeypatch):
    import numpy as np

    from nas.data import own_images

    rng, reads, examine = np.random.default_rng(0), [], own_images._examine
    path = tmp_path / "dots.npz"
    labels = np.arange(60) % 2
    images = rng.integers(0, 100, (60, 16, 16), dtype=np.uint8) + (100 * labels[:, None, None]).astype(np.uint8)
    np.savez(path, x_train=images, y_train=labels)
    monkeypatch.setattr(own_images, "_examine", lambda *given: reads.append(given) or examine(*given))
    monkeypatch.setenv("NAS_DATA_DIR", str(tmp_path / "data"))
    arguments = ["train-best", "--architecture", "2 M 2 G C", "--dataset", str(path), "--epochs", "1", "--no-report"]
    code, _, err = toys.nas(*arguments, "-q", *toys.ONE_WORKER)
    assert code == 0, err
    assert len(reads) == 1
