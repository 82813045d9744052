"""`nas count` and `nas space`: tables, JSON, caps as people type them, and exit codes for a course's check."""

from __future__ import annotations

import json
import re

import pytest
import toys

from nas.architecture import Architecture

TEXT = "8vr 9vr 10vr M 12vr 16vr 20vr C G"


def test_count_prints_a_table_or_json():
    code, out, err = toys.nas("count", TEXT, "--max-params", "8000")
    assert (code, err) == (0, "")
    assert "Conv2d-1" in out
    assert "[-1, 8, 26, 26]" in out
    assert "7,568" in out
    assert "Fits: at most 8,000 parameters" in out
    fields = json.loads(toys.nas("count", TEXT, "--json")[1])
    assert fields["num_params"] == sum(layer["num_params"] for layer in fields["layers"]) == 7568
    assert fields["macs"] == Architecture.parse(TEXT).macs
    assert fields["fits"] is None


@pytest.mark.parametrize(
    ("cap", "fits"), [("7568", True), ("7567", False), ("8k", True), ("8,000", True), ("7.5k", False), ("8K", True)]
)
def test_a_cap_that_is_not_met_leaves_with_1(cap, fits):
    """A cap is inclusive; the table is printed all the same."""
    code, out, err = toys.nas("count", TEXT, "--max-params", cap)
    assert (code, err) == (0 if fits else 1, "")
    assert ("Fits: " in out) == fits
    assert ("Does not fit: " in out) != fits
    code, out, _ = toys.nas("count", TEXT, "--max-params", cap, "--json")
    assert (code, json.loads(out)["fits"]) == (0 if fits else 1, fits)


def test_caps_of_both_kinds_and_of_a_track():
    macs = Architecture.parse(TEXT).macs
    assert toys.nas("count", TEXT, "--max-macs", str(macs))[0] == 0
    assert toys.nas("count", TEXT, "--max-params", "8k", "--max-macs", str(macs - 1))[0] == 1
    assert toys.nas("count", TEXT, "--budget", "8k")[0] == 0


def test_space_shows_what_the_space_holds():
    code, out, err = toys.nas("space", "--max-params", "2000", "--samples", "300")
    assert (code, err) == (0, "")
    assert "300 schedules drawn" in out
    fields = json.loads(toys.nas("space", "--max-params", "2000", "--samples", "300", "--json")[1])
    assert fields["samples"] == 300
    assert sum(fields["shares"].values()) == pytest.approx(1)
    assert all(count <= 2000 for _, count in fields["examples"])


def test_space_shows_what_a_budget_file_narrows(tmp_path):
    path = tmp_path / "narrow.toml"
    path.write_text('max_params = 3000\n[space]\nblocks = ["inverted"]\ndepth = [4, 5]\nexpansions = [2]\n')
    code, out, err = toys.nas("space", "--budget", str(path), "--samples", "50")
    assert (code, err) == (0, "")
    assert "blocks inverted depth 4-5" in out
    assert "their MACs: " in out
    fields = json.loads(toys.nas("space", "--budget", str(path), "--samples", "50", "--json")[1])
    assert fields["macs"] == sorted(fields["macs"])
    assert all("x2" in text and 4 <= Architecture.parse(text).depth <= 6 for text, _ in fields["examples"])
    path.write_text("max_params = 3000\n[space]\nblock = ['inverted']\n")
    code, out, err = toys.nas("space", "--budget", str(path))
    assert (code, out) == (2, "")
    assert "unknown key 'block' in [space]" in err
    assert len(err.splitlines()) == 1


def test_the_smallest_count_of_an_impossible_cap_is_possible():
    _, _, err = toys.nas("space", "--max-params", "5")
    smallest = int(re.search(r"the smallest has ([\d,]+)", err)[1].replace(",", ""))
    assert toys.nas("space", "--max-params", str(smallest), "--samples", "10")[0] == 0
    assert toys.nas("space", "--max-params", str(smallest - 1), "--samples", "10")[0] == 3
