"""The table of truth: what its networks are, that no run is lost or done twice, and what its rankings say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toys

from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import Normalization
from nas.designs import PUBLISHED_DESIGNS
from nas.space import SearchSpace
from nas.train import Diverged, Recipe, train

truth, runs_of, scores_of = toys.benchmark("truth"), toys.benchmark("truth_runs"), toys.benchmark("truth_scores")

SCHEDULES = [f"{width} {width} M {width} {width} {width} G C" for width in range(14, 20)]


def row(schedule: str, fidelity: str, seed: int, last: float | None, **fields: Any) -> dict[str, Any]:
    epochs = runs_of.FIDELITIES[fidelity].epochs
    known = {"num_params": Architecture.parse(schedule).num_params, "epochs": epochs, "seconds": 10.0 * epochs}
    scores: dict[str, Any] = {}
    if last is not None:
        accuracies, losses = ([f"{value:.2f}"] * epochs for value in (last, 100 - last))
        scores = {
            "last": last,
            "accuracies": " ".join(accuracies),
            "losses": " ".join(losses),
            "train_loss": 100 - last,
        }
    return {"schedule": schedule, "fidelity": fidelity, "seed": seed, **known, **scores, **fields}


def table(path: Path, full: Sequence[float], **briefs: Sequence[float | None]) -> pd.DataFrame:
    """Runs of as many networks: two full ones, the second with easier images for all, and seed 0 of the brief ones."""
    for number, (schedule, mean) in enumerate(zip(SCHEDULES, full, strict=True)):
        off = 0.01 * (-1) ** number
        runs_of.append(path, row(schedule, "full", 0, mean - off))
        runs_of.append(path, row(schedule, "full", 1, mean + off + 0.3))
    for fidelity, scores in briefs.items():
        for schedule, score in zip(SCHEDULES, scores, strict=True):
            runs_of.append(path, row(schedule, fidelity, 0, score))
    return runs_of.load(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With three networks, and the real training data out of reach."""
    pd.DataFrame({"schedule": [SCHEDULES[0], SCHEDULES[1], "8v 8v 8v M 8v 8v 8v 8v C G"]}).to_csv(
        tmp_path / "networks.csv", index=False
    )
    training = toys.synthetic()
    monkeypatch.setattr(truth, "material", lambda fraction, side, data_dir: training)
    return tmp_path


def fill(folder: Path, monkeypatch: pytest.MonkeyPatch, *, most: int = 10**9, score: Any = toys.luck) -> list[Any]:
    """What `train` hands to toy pools; cut like a killed process before the row after the first `most`."""
    pools: list[toys.Pool] = []
    append, written = runs_of.append, []

    def pool(count: int, *_: Any, **__: Any) -> toys.Pool:
        pools.append(toys.Pool(count, score=score))
        return pools[-1]

    def counted(path: Path, fields: dict[str, Any]) -> None:
        if len(written) == most:
            raise KeyboardInterrupt
        append(path, fields)
        written.append(fields)

    with monkeypatch.context() as patch:
        patch.setattr(truth, "ProcessPool", pool)
        patch.setattr(runs_of, "append", counted)
        try:
            truth.train_command(workers=2, device="cpu", folder=folder)
        except KeyboardInterrupt:
            assert most < 10**9
    return [job for each in pools for job in each.trained]


def keys(runs: pd.DataFrame) -> list[tuple[str, str, int]]:
    return list(zip(runs["schedule"], runs["fidelity"], runs["seed"], strict=True))


# --- the networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["drawn", "committed"])
def test_the_networks_are_many_feasible_and_mostly_near_the_cap(source):
    networks = runs_of.draw(72, 0) if source == "drawn" else pd.read_csv(runs_of.FOLDER / "networks.csv")
    sizes = networks["num_params"]
    assert len(networks) >= 60
    assert networks["schedule"].is_unique
    assert sizes.between(6000, 8000).sum() >= 40
    assert (sizes.min() <= 1000, sizes.max() > 9000) == (True, True)
    assert all(sizes.between(low, high).any() for low, high in ((1000, 2000), (2000, 4000), (4000, 6000)))
    assert networks["macs"].max() <= 2_200_000
    assert {known.text for known in PUBLISHED_DESIGNS} <= set(networks["schedule"])
    for network in networks.itertuples():
        architecture = Architecture.parse(network.schedule)
        counts = (architecture.num_params, architecture.macs, architecture.depth)
        assert counts == (network.num_params, network.macs, network.depth)
        space = SearchSpace(budget=Budget(max_params=architecture.num_params if network.num_params > 8000 else 8000))
        assert network.num_params < 2000 or space.encode(architecture) is not None
    texts = networks["schedule"]
    kinds = {"separable": " s", "strided": "/2", "padded": "r ", "stages": "M .*M", "residual": r"\+", "dense": "bn C"}
    assert all(texts.str.contains(pattern).sum() >= 3 for pattern in kinds.values())
    assert set(networks["depth"]) >= {5, 6, 7, 8}


def test_the_draw_is_the_same_for_the_same_seed():
    first = runs_of.draw(30, 3)
    pd.testing.assert_frame_equal(first, runs_of.draw(30, 3))
    pd.testing.assert_frame_equal(first, runs_of.draw(40, 3)[:30])
    assert set(first["schedule"]) != set(runs_of.draw(30, 4)["schedule"])


# --- the runs ---------------------------------------------------------------------------------------------------------


def test_the_first_runs_are_those_that_a_short_table_needs():
    nothing = runs_of.load(Path("none"))
    tasks = runs_of.plan(["a", "b"], nothing)
    assert tasks[:6] == [("a", "e3", 0), ("a", "full", 0), ("b", "e3", 0), ("b", "full", 0), ("a", "e5", 0),
                         ("b", "e5", 0)]  # fmt: skip
    tasks += runs_of.repeat(["a", "b"], nothing)
    assert len(tasks) == len(set(tasks)) == 2 * 7 * 2


def test_training_fills_the_table_and_then_does_nothing(folder, monkeypatch):
    trained = fill(folder, monkeypatch)
    runs = runs_of.load(folder / "runs.csv")
    # Two seeds of seven fidelities, five of the full one; the last network has no map left at small3.
    assert len(trained) == len(runs) == len(set(keys(runs))) == 3 * (2 * 7 + 3) - 2
    full = runs[(runs["fidelity"] == "full") & (runs["seed"] == 1)].iloc[0]
    scores = [toys.luck(Architecture.parse(full["schedule"]), 1, epoch) for epoch in range(1, 16)]
    assert full["last"] == pytest.approx(sum(scores[-5:]) / 5, abs=1e-3)
    assert [float(each) for each in full["accuracies"].split()] == pytest.approx(scores, abs=0.006)
    brief = runs[runs["fidelity"] == "e3"].iloc[0]
    assert brief["last"] == brief["final"] == float(brief["accuracies"].split()[-1])
    before = (folder / "runs.csv").read_bytes()
    assert fill(folder, monkeypatch) == []
    assert (folder / "runs.csv").read_bytes() == before


@pytest.mark.parametrize("most", [0, 1, 7, 40])
def test_what_was_interrupted_is_all_that_is_done_again(folder, monkeypatch, most):
    fill(folder, monkeypatch, most=most)
    before = runs_of.load(folder / "runs.csv")
    assert len(before) == most
    again = fill(folder, monkeypatch)
    runs = runs_of.load(folder / "runs.csv")
    assert len(again) == len(runs) - most
    assert len(set(keys(runs))) == len(runs) == 49
    pd.testing.assert_frame_equal(runs[:most], before, check_dtype=False)


@pytest.mark.parametrize("left", [0, 4, 200, -40, -1])
def test_a_torn_last_line_is_dropped_with_a_word_and_done_again(folder, monkeypatch, capsys, left):
    fill(folder, monkeypatch)
    path = folder / "runs.csv"
    whole = path.read_bytes()
    lost = len(whole[:left].splitlines()[1:]) - (left != 0 and not whole[:left].endswith(b"\n"))
    path.write_bytes(whole[:left])
    runs = runs_of.load(path)
    assert ("cut short" in capsys.readouterr().err) == (left != 0)
    assert len(runs) == max(0, lost)
    fill(folder, monkeypatch)
    assert sorted(keys(runs_of.load(path))) == sorted(keys(pd.read_csv(path)))
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_no_run_begins_after_the_time(folder, monkeypatch):
    monkeypatch.setattr(truth, "ProcessPool", lambda *_, **__: pytest.fail("a pool was made"))
    truth.train_command(workers=1, device="cpu", minutes=0, folder=folder)
    assert not (folder / "runs.csv").exists()


def test_a_run_that_diverged_has_its_reason_and_no_scores(folder, monkeypatch):
    def score(architecture: Architecture, seed: int, epoch: int) -> float:
        if (str(architecture), seed) == (SCHEDULES[0], 0):
            raise Diverged("the loss is nan in epoch 1: drop this network, or\nnot")
        return toys.luck(architecture, seed, epoch)

    fill(folder, monkeypatch, score=score)
    runs = runs_of.load(folder / "runs.csv")
    lost = runs[runs["reason"].notna()]
    assert {(schedule, seed) for schedule, _, seed in keys(lost)} == {(SCHEDULES[0], 0)}
    assert lost[["last", "final", "accuracies", "seconds"]].isna().all(axis=None)
    assert fill(folder, monkeypatch) == []


def test_a_failure_of_the_machine_is_no_run(folder, monkeypatch):
    def score(architecture: Architecture, seed: int, epoch: int) -> float:
        raise Diverged("the worker died (exit code -9; out of memory?)")

    with pytest.raises(SystemExit, match="the worker died"):
        fill(folder, monkeypatch, score=score)
    assert runs_of.load(folder / "runs.csv").empty


def test_training_says_of_a_diverged_run_what_the_table_looks_for():
    training = dataclasses.replace(toys.part(toys.synthetic(), 256), normalization=Normalization((0.0,), (math.nan,)))
    architecture = Architecture.parse("4 M 4 G C", input_shape=(1, 16, 16), num_classes=4)
    with pytest.raises(Diverged, match=f"^{runs_of.DIVERGED}"):
        train(architecture, training, training.validation, Recipe(epochs=1), backend="torch")


def test_the_images_of_a_fidelity(mnist_dir):
    half, small = runs_of.material(0.5, 28, mnist_dir), runs_of.material(1.0, 22, mnist_dir)
    assert half.train.images.shape == (25_000, 1, 28, 28)
    assert small.train.images.shape == (50_000, 1, 22, 22)
    assert small.validation.images.shape == (10_000, 1, 22, 22)
    assert small.dataset.input_shape == (1, 22, 22)
    assert float(small.train.images.float().mean()) / 255 == pytest.approx(small.normalization.mean[0], abs=0.002)


# --- what the table says ----------------------------------------------------------------------------------------------


def test_correlation_of_a_known_table(tmp_path):
    full = [99.0, 99.1, 99.2, 99.3, 99.4, 99.5]
    runs = table(tmp_path / "runs.csv", full, e1=full[::-1], e3=[x - 1 for x in full], e2=[98, 99, 97, None, 99.3, 96])
    rows = {row["name"]: row for row in scores_of.standings(runs)}
    assert (rows["e3"]["spearman"], rows["e3"]["kendall"]) == pytest.approx((1, 1))
    assert (rows["e1"]["spearman"], rows["e1"]["kendall"]) == pytest.approx((-1, -1))
    assert (rows["e3"]["low"], rows["e3"]["high"]) == pytest.approx((1, 1))
    assert rows["e2"]["n"] == rows["e2 loss"]["n"] == 6
    assert rows["e2 loss"]["spearman"] == rows["e2"]["spearman"]
    assert rows["e2"]["spearman"] == pytest.approx(1 - 6 * 44 / (6 * 35))  # ranks 4 5 3 1 6 2: what diverged is last
    assert rows["epoch 1 of 15"]["spearman"] == rows["num_params"]["spearman"] == pytest.approx(1)
    assert rows["epoch 2 of 15"]["seconds"] == pytest.approx(2 * 150 / 15)
    assert rows["e3"]["seconds"] == 30


def test_a_loss_ranks_apart_from_its_accuracy(tmp_path):
    full = [99.0, 99.1, 99.2, 99.3, 99.4, 99.5]
    runs = table(tmp_path / "runs.csv", full, e3=full[::-1])
    runs.loc[runs["fidelity"] == "e3", "losses"] = ["9 9 6.0", "9 9 5.0", "9 9 4.0", "9 9 3.0", "9 9 2.0", "9 9 1.0"]
    rows = {row["name"]: row for row in scores_of.standings(runs)}
    assert rows["e3"]["spearman"] == pytest.approx(-1)
    assert rows["e3 loss"]["spearman"] == pytest.approx(1)
    assert rows["e3 loss"]["seconds"] == rows["e3"]["seconds"]


def test_regret_of_a_known_table(tmp_path):
    full = [99.5, 99.1, 99.2, 99.3, 99.4, 99.0]
    runs = table(tmp_path / "runs.csv", full, e1=[95, 96, 97, 98, 94, 99])
    (rows,) = [row for row in scores_of.standings(runs) if row["name"] == "e1"]
    assert rows["tops"] == pytest.approx([0.5, 0.2, 0.0])


def test_reliability_and_the_spread_of_seeds(tmp_path):
    runs = table(tmp_path / "runs.csv", [99.0, 99.1, 99.2, 99.3, 99.4, 99.5])
    assert scores_of.reliability(runs) == pytest.approx((1, 1, 6))
    assert scores_of.seed_sd(runs) == pytest.approx(math.sqrt(12 * 0.01**2 / 5))
    assert list(scores_of.truth(runs)) == pytest.approx([99.15, 99.25, 99.35, 99.45, 99.55, 99.65])
    easy = runs.drop(runs.index[(runs["seed"] == 1) & (runs["schedule"] != SCHEDULES[0])])
    first, second, *_ = scores_of.truth(easy)
    assert first < second  # though the mean of its two, one with easy images, is higher
    runs.loc[runs["seed"] == 1, "last"] = [99.1, 99.0, 99.3, 99.2, 99.5, 99.4]  # neighbours change places
    half = 1 - 6 * 6 / (6 * 35)
    assert scores_of.reliability(runs) == pytest.approx((half, 2 * half / (1 + half), 6))


def test_replays_of_a_known_table(tmp_path):
    full = [99.0, 99.1, 99.2, 99.3, 99.4, 99.5]
    runs = table(tmp_path / "runs.csv", full, e3=full[::-1])
    drawn, rows = scores_of.replayed(runs, fidelity="e3", trials=6, times=50)
    regret = {name: (mean, error, cost) for name, mean, error, cost in rows}
    assert drawn == 6
    assert regret["best brief alone"] == pytest.approx((0.5, 0, 18))
    assert regret["12 finalists x 1 seed"] == pytest.approx((0, 0, 18 + 6 * 6), abs=1e-9)
    assert regret["4 finalists x 3 seeds"] == pytest.approx((0.2, 0, 18 + 12 * 6))  # the best two were never trained
    assert regret["8, 4, 2 halving"] == pytest.approx((0, 0, 18 + 12 * 6), abs=1e-9)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_commands_print_and_draw(tmp_path, capsys, suffix):
    table(tmp_path / "runs.csv", [99.0, 99.1, 99.2, 99.3, 99.4, 99.5], e3=[98.0, 98.1, 98.2, 98.3, 98.4, 98.5])
    picture = tmp_path / f"plot.{suffix}"
    truth.rank_command(picture=picture, folder=tmp_path)
    truth.replay_command(fidelity="e3", times=10, folder=tmp_path)
    shown = capsys.readouterr().out
    assert "all networks" in shown
    assert "epoch 5 of 15" in shown
    assert "best brief alone" in shown
    first = picture.read_bytes()
    assert len(first) > 1000
    truth.rank_command(picture=picture, folder=tmp_path)
    assert picture.read_bytes() == first


def test_too_little_to_compare_ends_with_a_message(tmp_path):
    runs_of.append(tmp_path / "runs.csv", row(SCHEDULES[0], "full", 0, 99.0))
    with pytest.raises(SystemExit, match="full run: 1, and a comparison needs 3"):
        truth.rank_command(folder=tmp_path)
