"""The comparison with FastNAS: how a pruned network becomes a schedule, what it inherits, and the record."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
import toys
from rich.console import Console

from nas.architecture import Architecture
from nas.model import build
from nas.train import Recipe, train

fastnas = toys.benchmark("fastnas")
TRAINING = toys.part(toys.synthetic(), 256)
TEACHER = Architecture.parse("6v 8v M 10 G C", input_shape=(1, 16, 16), num_classes=4)


def test_a_pruned_module_is_a_schedule_of_its_widths():
    narrow = Architecture.parse("3v 1v M 7 G C", input_shape=(1, 16, 16), num_classes=4)
    assert fastnas.narrowed(TEACHER, build(narrow, seed=0)) == narrow


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    for module in ("torchprofile", "modelopt.torch.prune"):
        pytest.importorskip(module, reason=f"no {module} of NVIDIA's FastNAS: pip install '.[rivals]'")
    scores = tmp_path_factory.mktemp("pruned") / "scores.pth"
    weights = train(TEACHER, TRAINING, TRAINING.validation, Recipe(epochs=8), backend="torch").state_dict
    return scores, weights, fastnas.pruned(TEACHER, weights, TRAINING, 500, scores)


def test_fastnas_prunes_to_the_cap_in_our_count(pruned):
    _, weights, (state, row) = pruned
    found = Architecture.parse(row["schedule"])
    assert found.num_params == row["num_params"] <= 500 < TEACHER.num_params
    module = build(found, seed=1)
    module.load_state_dict(state)
    assert fastnas.accuracy(module.eval(), TRAINING) == row["accuracy"]
    norms = sum(each.numel() for name, each in state.items() if each.ndim == 1 and "running" not in name)
    assert row["counted"] == found.num_params - norms  # the classifier has no bias
    kept = {channel.numpy().tobytes() for channel in weights["0.weight"]}
    assert {channel.numpy().tobytes() for channel in state["0.weight"]} < kept  # inherited, in another order
    assert 6 + 8 + 10 >= row["scores"] > 3


def test_scores_serve_another_cap(pruned):
    scores, weights, (_, row) = pruned
    _, smaller = fastnas.pruned(TEACHER, weights, TRAINING, 200, scores)
    assert smaller["num_params"] <= 200 < row["num_params"]
    assert smaller["scores"] <= smaller["prunings"]  # none of a layer, at most that of the network as it is


def test_without_modelopt_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.torch", None)
    with pytest.raises(SystemExit, match=r"pip install '.\[rivals\]'"):
        fastnas.pruned(TEACHER, build(TEACHER, seed=0).state_dict(), TRAINING, 500, tmp_path / "scores.pth")


def test_a_training_begins_with_what_is_inherited():
    """At a rate of nothing the weights stay what they were, and the next training draws its own again."""
    weights = build(TEACHER, seed=7).state_dict()
    recipe = Recipe(epochs=1, peak_lr=1e-8, weight_decay=0.0)
    with fastnas.inherited(weights):
        run = train(TEACHER, TRAINING, TRAINING.validation, recipe, seed=0, backend="torch")
    assert torch.allclose(run.state_dict["0.weight"], weights["0.weight"], atol=1e-5)
    with fastnas.inherited(None):
        run = train(TEACHER, TRAINING, TRAINING.validation, recipe, seed=0, backend="torch")
    assert torch.allclose(run.state_dict["0.weight"], build(TEACHER, seed=0).state_dict()["0.weight"], atol=1e-5)


def test_recalibrated_norms_have_the_statistics_of_the_images():
    module = build(TEACHER, seed=0)
    fastnas.recalibrate(module, TRAINING)
    batches = list(fastnas.calibration(TRAINING))
    means = torch.stack([module[0](batch).mean((0, 2, 3)) for batch in batches])
    assert torch.allclose(module[1].running_mean, means.mean(0), atol=1e-5)
    assert (module.training, module[1].momentum) == (False, 0.1)


@pytest.fixture
def cheap(monkeypatch):
    """Nothing trains; what was done is listed, and a search fails once."""
    done, fails = list[str](), ["left with 1"]
    given = SimpleNamespace(weights={}, training=TRAINING, teacher=TEACHER, logits=None)

    def pruned(teacher, weights, training, cap, scores, on_score):
        done.append(f"pruned {cap}")
        if not scores.exists():
            scores.write_text("scores")
            on_score()
        return {"0.weight": torch.ones(2, 1, 3, 3)}, {"schedule": f"{cap // 1000} G C", "num_params": cap - 1}

    def searched(arm, seed, seconds, cap):
        done.append(f"searched {cap}")
        if cap == 2000 and fails:
            raise SystemExit(fails.pop())
        return {"schedule": "9 G C", "num_params": cap}

    def finished(schedule, weights, seed, given, checkpoint):
        done.append(f"{schedule} {seed} {'inherited' if weights else 'drawn'}")
        return {"last5": 99.0 + seed % 100 / 5, "lowest": 98.9, "loss": 0.1, "trained": 1.0}

    monkeypatch.setenv("NAS_STUDIES", "")  # the script sets it
    monkeypatch.setattr(fastnas, "prepare", lambda cap, seeds: None)
    for stand_in in (pruned, searched, finished):
        monkeypatch.setattr(fastnas, stand_in.__name__, stand_in)
    monkeypatch.setattr(fastnas, "Given", lambda folder: given)
    return done


def test_what_is_done_is_not_done_again(cheap, tmp_path):
    path = tmp_path / "fastnas.json"
    pruned_finals = [f"{cap} G C 100 {how}" for cap in (8, 2) for how in ("drawn", "inherited")]
    with pytest.raises(SystemExit, match="left with 1"):
        fastnas.compare(path, (8000, 2000), 1)
    assert cheap == ["pruned 8000", "pruned 2000", *pruned_finals, "searched 8000", "searched 2000"]
    cheap.clear()
    record = fastnas.compare(path, (8000, 2000), 1)
    assert cheap == ["searched 2000", "9 G C 100 drawn", "9 G C 100 drawn"]
    assert record == json.loads(path.read_text())
    cheap.clear()
    assert fastnas.compare(path, (8000, 2000), 1) == record
    assert cheap == []
    assert len(fastnas.compare(path, (8000, 2000), 2)["finals"]) == 12
    assert record["pruned"]["2000"]["processor_seconds"] > 0


def test_a_pruning_goes_on_with_the_time_that_it_had_taken(cheap, tmp_path):
    """So does one to another cap, by the same scores; those of unknown time are made again."""
    folder = tmp_path / "fastnas-studies"
    folder.mkdir()
    (folder / "scores.pth").write_text("cut")
    (folder / "scores.json").write_text('{"seconds": 1000.0, "processor_seconds": 500.0}')
    with pytest.raises(SystemExit):
        fastnas.compare(tmp_path / "fastnas.json", (8000, 2000), 1)
    rows = json.loads((tmp_path / "fastnas.json").read_text())["pruned"]
    assert [round(rows[cap]["seconds"], -2) for cap in ("8000", "2000")] == [1000, 1000]
    assert [round(rows[cap]["processor_seconds"], -2) for cap in ("8000", "2000")] == [500, 500]
    (folder / "scores.json").unlink()
    (tmp_path / "fastnas.json").unlink()
    record = fastnas.compare(tmp_path / "fastnas.json", (8000,), 1)
    assert record["pruned"]["8000"]["seconds"] < 100
    assert (folder / "scores.pth").read_text() == "scores"


def test_the_table_has_a_row_for_each_cap_and_way(cheap, tmp_path, monkeypatch, capsys):
    path = tmp_path / "fastnas.json"
    monkeypatch.setattr(fastnas, "RECORD", path)
    assert fastnas.markdown() == "Not measured yet: there is no record."
    with pytest.raises(SystemExit):
        fastnas.compare(path, (8000, 2000), 2)
    record = fastnas.compare(path, (8000, 2000), 2)
    lines = fastnas.markdown().splitlines()
    assert len(lines) == 2 + 2 * 3
    assert lines[2].startswith("| 8,000 | FastNAS, from scratch | `8 G C` | 7,999 | 0.0 | 99.100 ± 0.141 | 98.90 | 2 |")
    del record["finals"], record["searches"]["2000"]
    Console(width=180).print(fastnas.table(record | {"finals": {}}))
    assert "nas search" in capsys.readouterr().out
    assert len(fastnas.rows(record | {"finals": {}})) == 5
