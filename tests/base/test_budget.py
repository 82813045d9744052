"""The caps and rules of a track, and the files they are read from."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.budget import (
    BUDGETS,
    MAX_DIGITS,
    MAX_EPOCHS,
    Budget,
    default_brief_epochs,
    find_board,
    last_epochs,
    parse_count,
    parse_duration,
    read_budget,
)
from nas.errors import UsageError

DEVICES = {"m0": ("stm32f030", 12_288, 3072), "m4": ("stm32g431", 32_768, 16_384)}
CAPS = {"1k": 1000, "2k": 2000, "4k": 4000, "6k": 6000, "8k": 8000, "10k": 10000}


def refusal(name: str, **overrides) -> str:
    """The one line with which a budget is refused."""
    with pytest.raises(UsageError) as caught:
        read_budget(name, **overrides)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def toml(tmp_path):
    """Writes a budget file and gives its path."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


# Files


OTHERS = {"fashion-8k": ("fashion-mnist", 8000, 93.0), "cifar10-11k": ("cifar10", 11_400, 86.49)}


@pytest.mark.parametrize("name", OTHERS)
def test_a_track_of_another_data_set_has_its_own_target(name):
    budget, (dataset, cap, target) = read_budget(name), OTHERS[name]
    assert (budget.dataset, budget.max_params, budget.target) == (dataset, cap, target)
    assert budget.full_epochs > 15


def test_a_target_and_epochs_belong_to_the_data_set_that_a_budget_names():
    other = Budget(max_params=8000, dataset="fashion-mnist")
    assert read_budget("8k", dataset="fashion-mnist") == read_budget("8k").on("fashion-mnist") == other
    assert read_budget("8k", dataset="fashion-mnist", target=90).target == 90
    for same in ("MNIST", "mnist", None):
        assert read_budget("8k").on(same).target == 99.4
        assert read_budget("8k", dataset=same).target == 99.4
    assert Budget(max_params=10, target=50).on("cifar10").target == 50


@pytest.mark.parametrize("path", [BUDGETS / f"{name}.toml" for name in (*CAPS, *DEVICES)], ids=lambda path: path.stem)
def test_a_shipped_budget_reads_by_name_and_by_path(path):
    budget = read_budget(path.stem)
    assert read_budget(str(path)) == budget
    if path.stem in DEVICES:
        name, flash, ram = DEVICES[path.stem]
        board = find_board(name)
        assert budget == Budget(max_flash=flash, max_ram=ram, dataset="mnist")
        assert budget.max_flash < board.flash  # a part of the board is left to the program
        assert budget.max_ram < board.ram
        return
    cap = CAPS[path.stem]
    brief_epochs = default_brief_epochs(cap)
    assert budget == Budget(max_params=cap, dataset="mnist", brief_epochs=brief_epochs, full_epochs=15, target=99.4)


def test_every_track_ships():
    assert {path.stem for path in BUDGETS.glob("*.toml")} == {*CAPS, *DEVICES, *OTHERS}


def test_what_is_given_overrides_the_file(toml):
    path = toml("max_params = 500\ndataset = 'kmnist'\n")
    assert read_budget(path, max_params=600, max_macs=None, target=98) == Budget(
        max_params=600, dataset="kmnist", target=98
    )
    assert read_budget(path, max_macs=70_000).name == "500-params-70000-macs"
    assert read_budget(toml("brief_epochs = 2\n"), max_params=100) == Budget(max_params=100, brief_epochs=2)


@pytest.mark.parametrize("name", ["7k", "8K", "", "no/such/place.toml", "8k.json", "x" * 5000, "8k\x00", "8k\x00.toml"])
def test_a_missing_file_is_refused(name):
    assert "budget" in refusal(name)


def test_an_unknown_name_lists_the_shipped_ones():
    assert "give one of 1k, 2k, 4k, 6k, 8k, m0, m4, 10k, fashion-8k, cifar10-11k, or the path" in refusal("7k")


def test_a_directory_is_refused(tmp_path):
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert str(folder) in refusal(str(folder))


@pytest.mark.parametrize(
    "content",
    ["max_params = ", "= 3", "{}", "max_params: 8000", "max_params = 1\nmax_params = 2", b"\xff\xfe\x00", b"\x00",
     f"max_params = {'9' * 5000}", f"max_params = {'[' * 100_000}", "max_params = 0x", "max_params = 08000"],
    ids=lambda content: repr(content)[:30],
)  # fmt: skip
def test_a_file_that_is_no_toml_is_refused(toml, content):
    path = toml(content)
    assert f"cannot read the budget {path}" in refusal(path)


@pytest.mark.parametrize("wrong", ["max_param = 8000", "MAX_PARAMS = 1", "[budget]\nmax_params = 8000", '"" = 1'])
def test_an_unknown_key_is_refused(toml, wrong):
    line = refusal(toml(f"max_macs = 5\n{wrong}"))
    assert "unknown key" in line
    assert "max_params, max_macs, max_flash, max_ram, dataset, brief_epochs, full_epochs, target" in line


def test_small_networks_have_longer_brief_trials():
    caps = (None, 10_000, 8000, 6000, 4000, 2000, 1000, 100)
    assert [default_brief_epochs(cap) for cap in caps] == [3, 3, 3, 3, 4, 6, 8, 8]


@pytest.mark.parametrize("value", ["0", "-1", "8000.0", "8e3", "true", '"8000"', "[8000]", "{}", "nan", "1979-05-27"])
@pytest.mark.parametrize("key", ["max_params", "max_macs", "brief_epochs", "full_epochs"])
def test_a_count_is_a_positive_whole_number(toml, key, value):
    other = "max_macs = 5" if key != "max_macs" else "max_params = 5"
    rule = "from 1 to 10,000" if "epochs" in key else "of 1 or more"
    assert f"{key} is a whole number {rule}, not " in refusal(toml(f"{other}\n{key} = {value}"))


@pytest.mark.parametrize("key", ["brief_epochs", "full_epochs"])
def test_epochs_have_the_bound_of_a_recipe(toml, key):
    assert getattr(read_budget(toml(f"max_params = 5\n{key} = {MAX_EPOCHS}")), key) == MAX_EPOCHS == 10_000
    line = refusal(toml(f"max_params = 5\n{key} = 10_001"))
    assert line == f"{key} is a whole number from 1 to 10,000, not 10001"


@pytest.mark.parametrize("key", ["max_params", "max_macs"])
@pytest.mark.parametrize("digits", [MAX_DIGITS + 1, 400, 4000, 4400])
def test_a_cap_of_very_many_digits_is_refused(toml, key, digits):
    line = refusal(toml("max_params = 5\nmax_macs = 5"), **{key: 10 ** (digits - 1)})
    assert line.startswith(f"{key} is a whole number of at most 30 digits, not one of some {digits:,}")
    if digits < 4300:  # of longer ones, which Python does not read, the line is that of any bad TOML
        assert refusal(toml(f"{key} = {10 ** (digits - 1)}")) == line
    with pytest.raises(UsageError, match="from 1 to 10,000"):
        Budget(max_params=5, full_epochs=10**digits)


def test_the_largest_cap_is_a_folders_name():
    largest = 10**MAX_DIGITS - 1
    budget = Budget(max_params=largest, max_macs=largest)
    assert budget.admits(largest, largest)
    assert len(budget.name) < 100


@pytest.mark.parametrize("broken", [{"target": "x" * 999}, {"dataset": ["a\nb"]}])
def test_values_of_other_types_are_refused_in_one_line(broken):
    with pytest.raises(UsageError) as caught:
        Budget(max_params=5, **broken)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("value", ["0", "-1", "100.1", "nan", "inf", "-inf", "true", '"99.4"', "[99.4]"])
def test_a_target_is_a_percentage(toml, value):
    assert "target is an accuracy in percent" in refusal(toml(f"max_params = 8000\ntarget = {value}"))


@pytest.mark.parametrize("value", ["1", "true", '""', "[]"])
def test_a_data_set_is_a_name(toml, value):
    assert "dataset is a name" in refusal(toml(f"max_params = 8000\ndataset = {value}"))


def test_a_cap_is_needed(toml):
    assert "a budget needs a cap" in refusal(toml("target = 99"))
    assert "a budget needs a cap" in refusal(toml(""))
    with pytest.raises(UsageError, match="--max-params N"):
        Budget()


# Caps


def test_a_cap_is_inclusive():
    assert Budget(max_params=8000).admits(8000, 10**9)
    assert not Budget(max_params=8000).admits(8001, 0)
    assert Budget(max_macs=8000).admits(10**9, 8000)
    assert not Budget(max_macs=8000).admits(0, 8001)
    assert Budget(max_params=10, max_macs=20).admits(10, 20)
    assert not Budget(max_params=10, max_macs=20).admits(11, 20)
    assert not Budget(max_params=10, max_macs=20).admits(10, 21)


cap = st.none() | st.integers(1, 2**80)


@given(max_params=cap, max_macs=cap, num_params=st.integers(0, 2**81), macs=st.integers(0, 2**81))
def test_what_is_admitted_uses_at_most_all_of_it(max_params, max_macs, num_params, macs):
    if max_params is None and max_macs is None:
        return
    budget = Budget(max_params=max_params, max_macs=max_macs)
    within = num_params <= (max_params or math.inf) and macs <= (max_macs or math.inf)
    assert budget.admits(num_params, macs) == within
    assert budget.share(num_params, macs) <= 1 if within else budget.share(num_params, macs) >= 1


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_giant_cap_is_exact_too(offset):
    assert Budget(max_params=2**60).admits(2**60 + offset, 0) == (offset <= 0)


def test_a_budget_reads_well():
    both = Budget(max_params=8000, max_macs=500_000)
    assert (str(both), both.name) == ("at most 8,000 parameters and at most 500,000 MACs", "8000-params-500000-macs")
    assert Budget(max_macs=5000).name == "5000-macs"
    assert both.share(4000, 400_000) == 0.8


def test_a_budget_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget(max_params=1).max_params = 2  # type: ignore[misc]


# What people type


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8000", 8000), ("8,000", 8000), ("8_000", 8000), ("8k", 8000), ("8K", 8000), (" 8 k ", 8000), ("08000", 8000),
        ("1.5k", 1500), ("0.5M", 500_000), ("1,500k", 1_500_000), ("2G", 2 * 10**9), ("1,234,567", 1_234_567),
        ("1.234567M", 1_234_567), ("1", 1), ("0.001k", 1), ("9" * MAX_DIGITS, 10**MAX_DIGITS - 1),
        ("0" * 5000 + "7", 7),
    ],
)  # fmt: skip
def test_a_count_is_read_as_it_is_typed(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    ["", " ", "k", "0", "0k", "-8", "+8", "8.0", "8.000", "8.", ".5k", "80,00", "8,00", ",800", "8,000_000", "8kk",
     "8 000", "1e3", "nan", "inf", "0x10", "1.2345k", "0.0001k", "٨", "8٬000", "8k\n8k", "\x1b[31m", "x" * 5000],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_what_is_no_count_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_count(text, "--max-params")
    line = str(caught.value)
    assert line.startswith("--max-params is a whole number of 1 or more such as 8000, 8,000 or 8k, not '")
    assert line.isprintable()
    assert len(line) < 150


@pytest.mark.parametrize("text", ["1" + "0" * MAX_DIGITS, "9" * 4000, "9" * 5000, "1" * 28 + "k", "1" * 50 + ".5k"])
def test_a_count_of_very_many_digits_is_refused(text):
    with pytest.raises(UsageError, match=r"^a count is a whole number of at most 30 digits, not '") as caught:
        parse_count(text)
    assert len(str(caught.value)) < 150


@given(st.integers(1, 10**MAX_DIGITS - 1))
def test_every_count_is_read_back(count):
    for text in (str(count), f"{count:,}", f"{count:_}", f"{count // 1000}.{count % 1000:03}k"):
        assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("20m", 1200), ("20M", 1200), ("20min", 1200), ("2h", 7200), ("1h30m", 5400),
        ("1H 30M", 5400), ("1h30m15s", 5415), ("1d12h", 129_600), ("1.5h", 5400), (".5h", 1800), ("0.1", 0.1),
        (" 2 h ", 7200), ("1h0m", 3600), ("90m30s", 5430), ("3650d", 3650 * 86_400),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_it_is_typed(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)
    assert isinstance(parse_duration(text), float)


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "m", "0", "0h0m", "-5", "+5", "inf", "nan", "1e3", "soon", "30m1h", "1h1h", "1h30", "1:30",
     "5 parsecs", "٥m", "3651d", "9" * 400, "9" * 5000, "1,5h"],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_duration(text, "--timeout")
    assert str(caught.value).startswith("--timeout is a time such as 90s, 20m, 2h or 1h30m, not '")
    assert len(str(caught.value)) < 150


@given(st.text("0123456789.,_ kmgdhsin", max_size=12))
def test_the_readers_raise_nothing_but_usage_errors(text):
    for read, kind in ((parse_count, int), (parse_duration, float)):
        try:
            value = read(text)
        except UsageError:
            pass
        else:
            assert type(value) is kind
            assert value > 0


# Bytes of a device


def test_caps_on_memory_are_inclusive_and_named():
    budget = Budget(max_flash=16_384, max_ram=8192)
    assert budget.name == "16384-flash-8192-ram"
    assert str(budget) == "at most 16,384 bytes of flash and at most 8,192 bytes of RAM"
    assert budget.caps_memory
    assert budget.admits(10**9, 10**9, 16_384, 8192)
    assert not budget.admits(1, 1, 16_385, 8192)
    assert not budget.admits(1, 1, 16_384, 8193)
    assert budget.share(1, 1, 4096, 4096) == 0.5
    assert not Budget(max_params=1).caps_memory


def test_flash_bounds_the_parameters():
    assert Budget(max_flash=5000).most_params == 5000
    assert Budget(max_flash=5000, max_params=800).most_params == 800
    assert Budget(max_macs=5000).most_params is None


@pytest.mark.parametrize(
    "fields", [{"max_ram": 8192}, {"max_flash": 0}, {"max_flash": 1, "max_ram": -1}, {"max_ram": "8k"}]
)
def test_caps_on_memory_that_say_nothing_are_refused(fields):
    with pytest.raises(UsageError, match=r"max_flash|max_ram|a cap on RAM leaves"):
        Budget(**fields)


def test_the_accuracy_of_a_short_run_is_named_by_its_epochs():
    assert [last_epochs(epochs) for epochs in (1, 2, 5, 15)] == ["last-1", "last-2", "last-5", "last-5"]
