"""A folder of letters through the command line: search, full run, evaluation; and the seconds that many images take."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from glyphs import LETTERS, write_glyphs
from PIL import Image
from timing import seconds

SMALL = [
    "--max-params", "3000", "--trials", "2", "--brief-epochs", "1", "--finalists", "1", "--finalist-seeds", "1",
    "--finalist-epochs", "1", "--workers", "1", "--backend", "torch", "--no-published", "-q",
]  # fmt: skip


def test_a_folder_is_searched_trained_and_evaluated(tmp_path, image_cache, studies_folder, nas):
    root = write_glyphs(tmp_path / "letters", 12)
    found = json.loads(nas("search", "--dataset", str(root), "--image-size", "16", *SMALL, "--json"))
    name = found["dataset"]
    assert name.startswith("letters-")
    assert found["classes"] == sorted(LETTERS)
    assert found["target"] is None
    assert found["counts"]["unaccounted"] == 0
    run = json.loads(nas("train-best", "--epochs", "1", "--seeds", "1", "--backend", "torch", "--json"))
    assert run["dataset"] == name
    assert run["classes"] == sorted(LETTERS)
    assert run["target_held"] is None
    scored = json.loads(nas("evaluate", "--backend", "torch", "--json", "-q"))
    assert (scored["dataset"], scored["count"], scored["agrees"], scored["same_images"]) == (name, 20, True, True)
    root.rename(tmp_path / "elsewhere")  # the name is enough to evaluate, and the cache
    again = json.loads(nas("evaluate", "--backend", "torch", "--json", "-q"))
    assert again["correct"] == scored["correct"]


@pytest.mark.slow
def test_many_images_take_seconds(tmp_path, image_cache):
    """20,000 images of 32 x 32; a hundred thousand take a minute at the most on two quiet cores."""
    for label in LETTERS:
        (tmp_path / "many" / label).mkdir(parents=True)
        for number in range(2000):
            content = io.BytesIO()
            Image.frombytes("RGB", (32, 32), os.urandom(3072)).save(content, "JPEG")
            (Path(tmp_path) / "many" / label / f"{number}.jpg").write_bytes(content.getvalue())
    (first, _), (again, loaded) = seconds(tmp_path / "many")
    print(f"first {first:.1f} s, again {again:.2f} s and {loaded:.2f} s to load", file=sys.stderr)
    assert first < 60
    assert again + loaded < 2
