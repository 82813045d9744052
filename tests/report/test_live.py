"""The live view at several widths: numbers stay, nothing is folded, the leader is marked, and pipes get plain lines."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types

import pytest
from clock import Clock
from rich.console import Console

from nas.report import LiveView, can_redraw, event_line, make_console, screen, sparkline, status
from nas.report.redraw import folded_rows
from nas.study import Event, Progress, Stage, WorkerLine

WIDTHS = (60, 100, 160)
SCHEDULE = "1x28x28: 8k5br s12k5/2br+ M 16vr s20k3br+ s24k3br+ G 32k1bn C10"
COUNTS = {
    "generated": 1234, "over a cap": 1000, "illegal shape": 100, "duplicate": 80, "screened out": 20, "waiting": 0,
    "running": 2, "complete": 30, "pruned": 2, "fail": 0, "interrupted": 3,
    "tried again": 3, "unaccounted": 0, "shrunk to fit": 12,
}  # fmt: skip


def rendered(renderable, width, **options):
    """The lines of a terminal of that width, without the blanks at their ends."""
    console = Console(record=True, width=width, force_terminal=True, file=io.StringIO(), legacy_windows=False)
    console.print(renderable, **options)
    return [line.rstrip() for line in console.export_text().splitlines()]


def progress(**changes):
    lines = [
        WorkerLine(text=SCHEDULE, num_params=7998, step=300, steps=700, accuracy=98.91, history=[97.0, 98.5, 98.91]),
        WorkerLine(),
    ]
    fields = {
        "title": "at most 8,000 parameters", "target": 99.4, "lines": lines, "phase": "brief trials", "done": 35,
        "total": 50, "counts": COUNTS, "best": (98.95, 0.0345, SCHEDULE, 7987), "seconds_left": 754.0,
        "clock": Clock(1000.0),
    }  # fmt: skip
    made = Progress(**(fields | changes))
    made.clock.now += 605
    return made


TRIAL = Event(label="trial 12", accuracy=98.95, loss=0.0345, num_params=7987, text=SCHEDULE, leads=True)


# --- the screen -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_the_screen_has_a_line_for_each_thing_at_any_width(width):
    for shown in (progress(), progress(note="starting workers"), progress(best=None, counts={}, seconds_left=None)):
        lines = rendered(screen(shown, width), width)
        assert max(map(len, lines)) <= width
        extra = bool(shown.note) + bool(shown.counts)
        assert len(lines) == 3 + extra + len(shown.lines)  # status, bar, best so far; nothing is folded


STAGES = [
    Stage(name="teachers and their logits", work=30.0, done=30.0), Stage(name="brief trials", work=50.0, done=35.0),
    Stage(name="finalists", work=20.0),
]  # fmt: skip
RESULTS = [(2000 + 150 * number, 97.0 + (number * 7 % 11) / 10) for number in range(35)]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_phases_are_one_bar_with_what_is_left_of_the_whole(width):
    lines = rendered(screen(progress(stages=STAGES), width), width)
    bar, names = lines[1:3]
    assert bar.split()[-1] == "65%"
    assert (bar.count("█"), bar.count("░")) == pytest.approx((0.65 * len(bar[:-5]), 0.35 * len(bar[:-5])), abs=4)
    assert "brief trials 35/50" in names
    assert "finalists" in names
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_best_so_far_and_the_front_are_drawn_where_there_is_room(width):
    shown = progress(results=RESULTS, max_params=8000)
    drawn = rendered(screen(shown, width, 40), width)
    assert max(map(len, drawn)) <= width
    text = "\n".join(drawn)
    assert "highest so far, percent" in text
    assert "front, percent" in text
    assert re.search("[\u2801-\u28ff]", text)
    assert "┊" in text  # the cap
    low = rendered(screen(shown, width, 18), width)
    assert len(low) <= 18
    assert "front, percent" not in "\n".join(low)


def test_ascii_terminals_get_ascii(monkeypatch):
    shown = progress(results=RESULTS, max_params=8000, stages=STAGES)
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    console = Console(file=file, width=80, force_terminal=True, legacy_windows=False)
    console.print(screen(shown, 80))
    file.flush()
    text = file.buffer.getvalue().decode()
    assert "#####" in text
    assert "_+#" in text  # a worker's accuracy
    assert text.count("?") <= 4  # where lines are cut
    monkeypatch.setenv("TERM", "linux")  # a console: its font has no braille
    assert not re.search("[\u2800-\u28ff]", "\n".join(rendered(screen(shown, 80), 80)))


def test_discards_have_a_rate_of_the_last_minute():
    shown = progress()
    assert shown.discards_per_second is None
    shown.count(COUNTS)
    assert shown.discards_per_second is None  # one look says nothing
    shown.clock.now += 10
    shown.count(COUNTS | {"screened out": 60})
    assert shown.discards_per_second == pytest.approx(4.0)
    assert "4.0" in "\n".join(rendered(screen(shown, 60), 60))
    for _ in range(100):  # nothing more is drawn
        shown.clock.now += 2
        shown.count(COUNTS | {"screened out": 60})
    assert shown.discards_per_second == 0
    assert len(shown._discards) < 40


@pytest.mark.parametrize("width", WIDTHS)
def test_the_numbers_of_the_screen_stay_in_a_narrow_terminal(width):
    text = "\n".join(rendered(screen(progress(), width), width))
    for number in ("35/50", "12 min 34 s left", "98.95 %", "0.0345", "7,987", "98.91 %", "7,998", "1,234"):
        assert number in text
    assert "target 99.4" in text
    assert "1x28x28: 8k5br" in text
    assert "10 min 5 s" in text


def test_a_screen_of_many_workers_is_aligned():
    lines = [WorkerLine(text=SCHEDULE, num_params=10**power, accuracy=9.5 * power, steps=2, step=1) for power in (1, 4)]
    for width in WIDTHS:
        *_, first, second = rendered(screen(progress(lines=lines), width), width)
        assert first.index("10 ") + 2 == second.index("10,000") + 6
        assert first.index("9.50 %") + 6 == second.index("38.00 %") + 7


def test_what_is_left_is_of_the_whole_run():
    stages = [Stage(name="brief trials", work=50.0), Stage(name="finalists", work=50.0)]
    shown = progress(stages=stages, seconds_left=None)
    shown.enter("brief trials")
    shown.await_workers()
    shown.advance(0.0, 50.0)
    shown.clock.now += 120  # the kernels are compiled
    shown.workers_answer()
    shown.clock.now += 100
    shown.advance(25.0, 25.0)
    assert shown.seconds_left == 300  # 100 s for a quarter of all
    assert "about 5 min 0 s left in all" in status(shown)
    assert "nearly done" in status(progress(seconds_left=0.4))
    assert shown.note == ""
    shown.await_workers()
    assert shown.note == ""  # they are there


def test_the_pace_of_teachers_tells_nothing_of_the_trials():
    stages = [Stage(name="teachers", work=10.0, paced=False), Stage(name="brief trials", work=50.0)]
    shown = progress(stages=stages, seconds_left=None)
    shown.enter("teachers")
    for done in (0.0, 5.0, 10.0):
        shown.clock.now += 10
        shown.advance(done, 10.0 - done)
        assert shown.seconds_left is None
    assert "left" not in status(shown)
    shown.enter("brief trials")
    shown.advance(0.0, 50.0)
    shown.clock.now += 60
    shown.advance(1.0, 49.0)
    assert shown.seconds_left == 60 * 49


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline([]) == sparkline([98.0]) == ""
    assert sparkline([90.0, 95.0, 97.0]) == "▁▆█"
    assert sparkline([97.0, 97.0]) == "▁▁"
    assert sparkline([90.0, 95.0, 97.0], plain=True) == "_+#"


# --- lines of trainings that ended ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_a_trial_is_one_line_with_its_numbers(width):
    (line,) = rendered(event_line(TRIAL, width), width, no_wrap=True, overflow="ellipsis", crop=True)
    assert len(line) <= width
    for number in ("trial 12", "best", "98.95 %", "0.0345", "7,987", "1x28x28: 8k"):
        assert number in line
    assert line.endswith("…") == (len(SCHEDULE) > width - line.index("1x28"))


def test_idle_workers_and_an_unknown_total_have_no_bar():
    """Without colours an empty bar looks like a full one."""
    lines = rendered(screen(progress(total=0, done=0), 60), 60)
    assert "0/0" not in "".join(lines)
    assert lines[-1].split() == ["2", "idle"]


def test_the_leader_is_marked_and_others_are_not():
    other = Event(label="trial 13", accuracy=99.0, loss=0.05, num_params=7000, text=SCHEDULE)
    assert "best" in event_line(TRIAL, 100).plain
    assert "best" not in event_line(other, 100).plain
    assert "bold" in str(event_line(TRIAL, 100).style)
    assert not event_line(other, 100).style


def test_lines_of_all_kinds_are_aligned():
    events = [
        TRIAL,
        Event(label="trial 113", state="pruned", accuracy=9.8, loss=2.3012, num_params=318, text=SCHEDULE),
        Event(label="finalist 12", accuracy=99.31, num_params=7987, text=f"seed 1  {SCHEDULE}"),
        Event(label="trial 7", state="failed", num_params=7000, text=SCHEDULE, note="the loss is nan"),
    ]
    for width in (*WIDTHS, None):
        lines = [event_line(event, width).plain for event in events]
        assert len({line.index(event.text) for line, event in zip(lines[:3], events, strict=False)}) == 1
        assert lines[3].index("the loss is nan") == lines[0].index(SCHEDULE)  # why, before what
    assert event_line(Event(note="trial 3 was interrupted"), 60).plain == "trial 3 was interrupted"


def test_markup_in_a_line_is_text():
    note = "waiting for trial 3 of [bold]host[/bold]"
    assert rendered(event_line(Event(note=note), 100), 100) == [note]


# --- where it is shown ------------------------------------------------------------------------------------------------


def terminal(monkeypatch, **options):
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Console(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False, **options)


def play(console, *, quiet=False):
    """What a short search writes."""
    with LiveView(console, quiet=quiet) as view:
        view.working("loading MNIST")
        view(progress(note="starting workers"), None)
        view(progress(note="starting workers"), None)
        view(progress(), TRIAL)
        view(progress(), Event(note="a remark"))
    return console.file.getvalue()


MOVES = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhl]")
COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def test_a_terminal_is_drawn_in_place(monkeypatch):
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = play(terminal(monkeypatch))
    assert MOVES.search(text)
    assert COLOURS.search(text)
    assert "loading MNIST" in text


@pytest.mark.parametrize(
    "environment", [{"JPY_PARENT_PID": "1"}, {"JPY_SESSION_NAME": "a.ipynb"}, {"TERM": "dumb"}, {"TERM": "unknown"}]
)
def test_a_notebook_and_a_dumb_terminal_get_plain_lines(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    console = terminal(monkeypatch)
    assert not can_redraw(console)
    text = play(console)
    assert not MOVES.search(text)
    assert "\r" not in text
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    assert lines[:2] == ["loading MNIST", "starting workers"]  # the note once
    assert lines[2].startswith("trial 12")
    assert lines[3:] == ["a remark"]


def test_no_color_leaves_no_colour(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False)
    text = play(console)
    assert not COLOURS.search(text)
    assert "98.95 %" in text


def test_a_terminal_that_becomes_narrower_keeps_no_folded_rest(monkeypatch):
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert folded_rows([0, 10, 11, 20, 21], 10) == 0 + 0 + 1 + 1 + 2
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=40, _environ={"TERM": "xterm"})
    view = LiveView(console, quiet=False)
    with view:
        view(progress(), None)
        view.live.refresh()
        lengths = list(view.live._lengths)
        before = console.file.getvalue()
        console.width = 60
        view.live.refresh()
        drawn = console.file.getvalue()[len(before) :]
    ups = drawn.count("\x1b[1A")
    assert max(lengths) > 60
    assert ups == len(lengths) - 1 + folded_rows(lengths, 60)


def test_a_notice_is_not_written_into_the_screen(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    console = terminal(monkeypatch)
    with LiveView(console, quiet=False) as view:
        view.working("loading MNIST")
        with view.paused():
            before = console.file.getvalue()
            console.file.write("NOTICE\n")
        view(progress(), None)
    assert before.endswith("\x1b[2K") or before.endswith("\x1b[?25h")  # the screen is cleared, the cursor is there
    assert "done, 10 min 5 s" in console.file.getvalue().partition("NOTICE")[2]


def test_a_pipe_gets_whole_lines_and_quiet_nothing(monkeypatch):
    console = Console(file=io.StringIO(), width=240)
    text = play(console)
    assert "\x1b" not in text
    assert SCHEDULE in text
    assert play(Console(file=io.StringIO(), width=240), quiet=True) == ""


def test_a_pipe_has_a_line_at_once_and_after_a_long_silence():
    console = Console(file=io.StringIO(), width=240)
    with LiveView(console, quiet=False) as view:
        view(progress(), None)
        view(progress(), None)
        assert console.file.getvalue().splitlines() == [status(progress())]
        view._written -= 61
        view(progress(), None)
        view(progress(), None)
    assert console.file.getvalue().splitlines() == [status(progress())] * 2


def test_consoles_do_not_fold_what_is_no_terminal(capsys):
    make_console(stdout=True).print("x" * 200)
    assert capsys.readouterr().out == "x" * 200 + "\n"


# --- notebooks --------------------------------------------------------------------------------------------------------


class Shell:
    """IPython, as far as a display needs it: what was drawn, and drawn again."""

    config = {"IPKernelApp": {}}  # noqa: RUF012

    def __init__(self):
        self.pages = []

    def display(self, page, display_id):
        assert display_id
        self.pages.append(page)
        return self

    update = HTML = None


def test_a_notebook_has_one_output_drawn_in_place(monkeypatch):
    shell, pages = Shell(), []
    shell.update = pages.append
    display = types.ModuleType("IPython.display")
    display.HTML, display.display = str, shell.display
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    console = Console(file=io.StringIO(), width=100)
    play(console)
    assert console.file.getvalue() == ""  # nothing beside the output
    assert len(shell.pages) == 1
    assert pages  # the last state, at the end
    last = pages[-1]
    for words in ("98.95 %", "trial 12", "a remark", "done, 10 min 5 s"):
        assert words in last
    for words in ("left", "nearly", "best so far"):
        assert words not in last
    hostile = Event(label="trial 1", text="<script>alert(1)</script>")
    with LiveView(console, quiet=False) as view:
        view(progress(), hostile)
    assert "<script>" not in pages[-1]
    assert "&lt;script&gt;" in pages[-1]
    with contextlib.suppress(KeyboardInterrupt), LiveView(console, quiet=False) as view:
        view(progress(), None)
        raise KeyboardInterrupt
    assert "interrupted, 10 min 5 s" in pages[-1]
    assert "left" not in pages[-1]
