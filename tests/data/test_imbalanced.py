"""Own images of very unequal numbers: recalls beside the accuracy, and a search for the balanced one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from glyphs import write_glyphs

from nas.data import imbalanced_counts


def test_numbers_that_differ_by_more_than_half_are_imbalanced():
    labels = torch.tensor([0] * 30 + [1] * 20 + [2] * 20)
    assert imbalanced_counts(labels, 3) is None
    assert imbalanced_counts(labels[:-1], 3) == (30, 20, 19)
    assert imbalanced_counts(labels, 4) == (30, 20, 20, 0)


def test_recalls_stand_beside_the_accuracy_of_an_imbalanced_set(tmp_path, image_cache, studies_folder, nas):
    root = tmp_path / "letters"
    write_glyphs(root, 60, letters="AB")
    write_glyphs(root, 12, letters="C", seed=1)
    found = json.loads(
        nas(
            "search", "--dataset", str(root), "--image-size", "16", "--max-params", "2000", "--trials", "2",
            "--brief-epochs", "1", "--finalists", "1", "--finalist-seeds", "1", "--finalist-epochs", "1",
            "--workers", "1", "--backend", "torch", "--no-published", "-q", "--json", "--metric", "balanced-accuracy",
            "--class-weights", "1", "--mirror",
        )
    )  # fmt: skip
    assert found["score"].startswith("mean balanced accuracy over the last")
    nas("train-best", "--epochs", "2", "--seeds", "2", "--backend", "torch", "-q")
    path = next((studies_folder).glob("*/full-run-*/result.json"))
    result = json.loads(path.read_text())
    assert (result["recipe"]["class_weights"], result["recipe"]["mirror"]) == (1.0, 0.5)
    by_class = result["by_class"]
    assert by_class["counts"] == [10, 10, 2]
    assert by_class["balanced_mean"] == pytest.approx(sum(by_class["recalls"]) / 3)
    assert "| C | 2 |" in (path.parent / "CARD.md").read_text()
    assert "Recall by class" in Path(path.parents[1] / "report.html").read_text()
    text = nas("evaluate", "--backend", "torch", "-q")
    assert "balanced     " in text
    assert "recall     " in text
    scored = json.loads(nas("evaluate", "--backend", "torch", "--json", "-q"))
    assert scored["balanced_accuracy"] == pytest.approx(sum(scored["recalls"].values()) / 3)
