"""`nas count` with devices: what the C code takes, and an exit code where a named limit is not met."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import toys

from nas.architecture import Architecture
from nas.budget import read_boards
from nas.footprint import footprint

TEXT = "8vr 9vr 10vr M 12vr 16vr 20vr C G"


@pytest.fixture(scope="module")
def counted():
    return footprint(Architecture.parse(TEXT))


def test_parts_and_a_verdict_for_every_board(counted):
    code, out, err = toys.nas("count", TEXT, "--board", "all")
    assert (code, err) == (0, "")
    assert f"Flash: {counted.flash:,} bytes  ({counted.weights:,} weights" in out
    assert f"RAM: {counted.ram:,} bytes with the input image, {counted.ram - 784:,} without" in out
    for board in read_boards().values():
        assert board.title in out
    assert "fits" in out
    assert "bytes of RAM too many" in out


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (["--board", "pico"], 0),
        (["--board", "STM32F030"], 1),
        (["--max-flash", "64k"], 0),
        (["--max-flash", "64kk"], 2),
        (["--max-ram", "1.5k"], 2),
        (["--max-flash", "64KiB", "--max-ram", "4k"], 1),
        (["--max-ram", "1"], 1),
        (["--board", "pico", "--max-params", "7000"], 1),
        (["--board", "commodore"], 2),
        (["--max-ram", "much"], 2),
    ],
)
def test_a_named_limit_decides_the_exit_code(limits, code):
    assert toys.nas("count", TEXT, *limits)[0] == code


def test_a_limit_is_inclusive(counted):
    for flash, ram, code in ((0, 0, 0), (1, 0, 1), (0, 1, 1)):
        limits = ["--max-flash", str(counted.flash - flash), "--max-ram", str(counted.ram - ram)]
        assert toys.nas("count", TEXT, *limits)[0] == code


def test_json_holds_the_same(counted):
    code, out, _ = toys.nas("count", TEXT, "--board", "pico", "--json")
    assert code == 0
    fields = json.loads(out)
    assert fields["fits"] is True
    assert fields["folded_params"] == 7493
    assert fields["deployment"]["ram"] == counted.ram
    assert [limit["fits"] for limit in fields["deployment"]["limits"]] == [True]
    assert "deployment" not in json.loads(toys.nas("count", TEXT, "--json")[1])


def test_float_code_is_larger(counted):
    fields = json.loads(toys.nas("count", TEXT, "--float", "--json")[1])
    assert fields["deployment"]["weights"] > 3 * counted.weights
    assert len(fields["deployment"]["limits"]) == len(read_boards())


def test_a_count_without_a_device_does_not_wait_for_torch():
    script = (
        f"import sys\nfrom nas.cli import main\ntry: main(['count', '{TEXT}'])\n"
        "except SystemExit as left: assert not left.code\n"
        "print(*{'torch', 'numba', 'optuna', 'pandas', 'PIL'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "Folded for deployment: 7,493" in done.stdout
    assert done.stderr.strip() == ""


def test_a_budget_of_a_device_is_a_verdict(counted):
    code, out, _ = toys.nas("count", TEXT, "--budget", "m4")
    assert code == 0
    assert "Fits: at most 32,768 bytes of flash and at most 16,384 bytes of RAM" in out
    code, out, _ = toys.nas("count", TEXT, "--budget", "m0")
    assert code == 1
    assert "Does not fit: at most 12,288 bytes of flash and at most 3,072 bytes of RAM" in out
    assert f"{counted.ram - 3072:,} bytes of RAM too many" in out


def test_a_plan_shows_the_caps_on_memory():
    code, out, err = toys.nas("search", "--max-flash", "8k", "--max-ram", "4KiB", "--dataset", "mnist", "--dry-run")
    assert code == 0, err
    assert "at most 8,192 bytes of flash and at most 4,096 bytes of RAM" in out
    assert "bytes of RAM" in out
    proposals = [line for line in out.splitlines() if line.startswith("drawn")]
    sizes = [re.search(r"([\d,]+) bytes of flash, ([\d,]+) of RAM", line) for line in proposals]
    assert len(proposals) == 10
    assert all(int(size[1].replace(",", "")) <= 8192 and int(size[2].replace(",", "")) <= 4096 for size in sizes)


def test_a_board_is_a_cap(counted):
    code, out, _ = toys.nas("search", "--board", "stm32f030", "--max-ram", "3k", "--dataset", "mnist", "--dry-run")
    assert code == 0
    assert "at most 16,384 bytes of flash and at most 3,072 bytes of RAM" in out
    assert toys.nas("search", "--board", "c64", "--dry-run")[0] == 2


def test_a_budget_that_is_named_as_a_board_is_called_so():
    code, _, err = toys.nas("count", TEXT, "--board", "m4")
    assert code == 2
    assert "no board 'm4' ('m4' is a budget: --budget m4): give one of nano-33-ble" in err


def test_the_cap_of_a_record_is_its_network(monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(Path(__file__).parents[2] / "studies"))
    code, out, _ = toys.nas("count", "1000", "--json")
    assert (code, json.loads(out)["num_params"]) == (0, 996)
    code, _, err = toys.nas("count", "1001")
    assert (code, err.count("\n")) == (2, 1)
    assert "one global pool G and one classifier C: '1001' does not" in err
