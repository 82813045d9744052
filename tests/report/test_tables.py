"""Tables at several widths: numbers side by side, schedules unbroken, the account adds up."""

from __future__ import annotations

import io

import pytest
import toys
from rich.console import Console

from nas.architecture import Architecture
from nas.budget import Budget
from nas.report import (
    account,
    brief_account,
    count_lines,
    duration,
    event_line,
    finalist_table,
    layer_table,
    plain,
    trial_table,
)
from nas.searches import read_reason
from nas.study import Event, load_study

WIDTHS = (60, 100, 160)


def lines(renderable, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def tiny(tmp_path_factory, monkeypatch):
    """The studies folder of a finished tiny search."""
    folder = toys.finished(tmp_path_factory)[0]
    monkeypatch.setenv("NAS_STUDIES", str(folder))
    return folder


@pytest.mark.parametrize("width", WIDTHS)
def test_finalists_at_any_width(tiny, width):
    reason = read_reason(tiny / "tiny" / "best")
    shown = lines(finalist_table(reason), width)
    winner = reason.finalists[0]
    (row,) = [line for line in shown if line.startswith("winner")]
    for number in (str(winner.trial), f"{winner.num_params:,}", f"{winner.mean:.3f}", f"{winner.sd:.3f}"):
        assert number in row.split()
    for finalist in reason.finalists:
        assert sum(finalist.schedule in line for line in shown) == 1  # whole, to be copied
    assert "validation" in " ".join(shown)
    assert max(map(len, shown)) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_trials_at_any_width(tiny, width):
    table = load_study("tiny")
    shown = lines(trial_table(table, title="all trials"), width)
    assert shown[0] == "all trials"
    for row in table.itertuples():
        assert sum(row.schedule in line for line in shown) == 1
        (line,) = [line for line in shown if f"{row.value:.2f}" in line and f"{row.loss:.4f}" in line]
        assert {f"{row.num_params:,}", f"{row.macs:,}", "complete"} <= set(line.split())


def test_the_account_adds_up():
    counts = {
        "generated": 1234, "over a cap": 1000, "illegal shape": 100, "duplicate": 80, "screened out": 20, "waiting": 0,
        "running": 2, "complete": 30, "pruned": 1, "fail": 1, "interrupted": 3,
        "tried again": 3, "unaccounted": 0, "shrunk to fit": 12,
    }  # fmt: skip
    assert account(counts) == (
        "generated 1,234 + 3 run again after an interruption = 1,000 over a cap + 100 illegal shape + 80 duplicate + "
        "20 screened out + 2 running + 30 complete + 1 pruned + 1 failed + 3 interrupted (12 shrunk to fit)"
    )
    assert brief_account(counts) == "generated 1,234: 1,200 discarded, 30 complete, 1 pruned, 1 failed, 3 interrupted"
    assert account({}) == ""


def test_counts_say_whether_a_network_fits():
    architecture = Architecture.parse("8vr 9vr 10vr M 12vr 16vr 20vr C G")
    assert "Fits: at most 7,568 parameters" in count_lines(architecture, Budget(max_params=7568))
    assert "Does not fit: at most 7,567 parameters" in count_lines(architecture, Budget(max_params=7567))
    assert "[-1, 8, 26, 26]" in "\n".join(lines(layer_table(architecture), 80))


def test_headers_and_cells_are_no_markup():
    table = plain(("a [b]", "n"), right=("n",))
    assert lines(table, 60)[0].split() == ["a", "[b]", "n"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3600, "1 h 0 min"), (90061, "25 h 1 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_forty_columns_have_fewer_of_the_table_and_whole_numbers(tiny):
    table = load_study("tiny")
    reason = read_reason(tiny / "tiny" / "best")
    winner = reason.finalists[0]
    for view in (trial_table(table, title="t"), finalist_table(reason)):
        shown = lines(view, 40)
        assert max(map(len, shown)) <= 40
        header = next(line for line in shown if "trial" in line and "params" in line)
        assert "params" in header.split()
    for row in table.itertuples():
        if row.state == "COMPLETE":
            assert any(f"{row.value:.2f} {row.loss:.4f}" in line for line in lines(trial_table(table, title="t"), 40))
    (row,) = [line for line in lines(finalist_table(reason), 40) if line.startswith("winner")]
    assert f"{winner.num_params:,} " in row
    assert f"{winner.mean:.3f} " in row


def test_a_narrow_terminal_has_the_network_below_its_numbers():
    event = Event(label="trial 12", accuracy=98.95, loss=0.0345, num_params=7987, text="8vr 9vr M G C")
    shown = lines(event_line(event, 40), 40)
    assert shown == ["trial 12              98.95 %  0.0345", "  7,987  8vr 9vr M G C"]
    assert "\n" not in event_line(event, 60).plain
    failed = Event(label="trial 7", state="failed", num_params=7000, text="8vr", note="the loss is nan")
    assert lines(event_line(failed, 40), 40) == ["trial 7      failed", "  7,000  the loss is nan  8vr"]
