"""Real MNIST, from the search to the full run."""

from __future__ import annotations

import json

import pytest
import toys

from nas.searches import MNIST_TARGET


@pytest.mark.slow
def test_mnist_from_the_search_to_the_full_run(mnist_dir):
    code, out, err = toys.nas(
        "search", "--dataset", "mnist", "--data-dir", str(mnist_dir), "--max-params", "2000", "--trials", "4",
        "--brief-epochs", "1", "--finalists", "2", "--finalist-seeds", "1", "--finalist-epochs", "1", "--json",
    )  # fmt: skip
    assert code == 0, err
    reason = json.loads(out)
    winner = reason["finalists"][0]
    assert winner["mean"] > 90
    assert winner["num_params"] <= 2000
    assert reason["counts"]["complete"] + reason["counts"]["pruned"] + reason["counts"]["fail"] == 4
    code, out, err = toys.nas("train-best", "--epochs", "1", "--data-dir", str(mnist_dir), "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["schedule"] == winner["schedule"]
    assert result["teacher"]["num_params"] == 84_892  # on MNIST there is one by default
    assert result["last5_mean"] > 90
    assert result["target"] == MNIST_TARGET
    assert result["target_held"] is (result["last5_mean"] >= MNIST_TARGET)
