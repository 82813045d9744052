"""Watching a search from elsewhere: the same view, nothing written, and an end."""

from __future__ import annotations

import io
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
import toys
from clock import Clock
from rich.console import Console

from nas.errors import StorageError
from nas.report import LiveView, Watcher, screen
from nas.study import Interrupted, Progress, RunState, StudyStore, read_runs
from nas.study.run_state import RUN


def watcher(events, **options):
    store = StudyStore.open("toy", read_only=True)
    return Watcher(store, lambda progress, event: events.append(event) if event else None, **options)


def test_a_search_is_followed_from_trial_to_trial_to_its_end(folder):
    store, seen, events = toys.open_study(), [], []
    watch = watcher(events)

    def view(progress, event):
        if event is not None:  # of the search: it has just written
            end = watch.look()
            mine = watch.progress
            seen.append((end, mine.phase, mine.done, mine.total, mine.counts, mine.best, len(mine.results)))
            assert mine.counts == store.counts()
            assert mine.title == progress.title

    assert watch.look() == "no search is at work on this study"
    toys.run(toys.Pool(2), store=store, view=view, trials=6)
    assert {end for end, *_ in seen} == {None}
    assert {phase for _, phase, *_ in seen} == {"brief trials", "finalists"}
    brief = [(done, total) for _, phase, done, total, *_ in seen if phase == "brief trials"]
    assert brief[-1] == (6, 6)
    assert watch.look() == "the search has ended"
    assert len({event.label for event in events if event.label.startswith("trial")}) == 6
    assert {event.label.split()[0] for event in events} == {"trial", "finalist"}
    assert any(event.leads for event in events)
    fresh = watcher(later := [])
    assert fresh.look() == "the search has ended"
    assert later == []  # what ended before is no news
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(screen(watch.progress, 80))
    assert console.export_text().startswith("done, ")


def test_running_trials_have_their_epochs_and_a_sparkline(folder):
    store = toys.open_study()
    claimed = store.claim({}, {}, {"schedule": "4v M 6 G C", "num_params": 321})
    for epoch, value in ((1, 50.0), (2, 60.0)):
        store.report(claimed, epoch, value)
    store.write_epochs()
    watch = watcher([])
    watch.look()
    (line,) = watch.progress.lines
    assert (line.accuracy, line.history, line.step, line.steps) == (60.0, [50.0, 60.0], 2, 3)
    assert "4v M 6 G C" in line.text


@pytest.mark.parametrize(
    ("phase", "wanted"),
    [("teachers and their logits", "teachers and their logits: "), ("brief trials", "starting workers")],
)
def test_before_the_first_trial_a_pipe_is_told_at_once_what_goes_on(folder, phase, wanted):
    store = toys.open_study()
    state = RunState.of(Progress(title="", target=None, lines=[]), phase, 4)
    store.set_attr(RUN + state.owner, state.to_dict())
    console = Console(file=io.StringIO(), width=240)
    with LiveView(console, quiet=False) as view:
        watch = Watcher(StudyStore.open("toy", read_only=True), view)
        assert watch.look() is None
        watch.look()
        (line,) = console.file.getvalue().splitlines()
        assert line.startswith(wanted)
        claimed = store.claim({}, {}, {"schedule": "4v M 6 G C", "num_params": 321})
        watch.look()
        assert watch.progress.note == ""
        store.fail_interrupted(claimed, "test", again=False)
    assert len(console.file.getvalue().splitlines()) == 1


def test_a_killed_search_is_told_from_a_silent_one(folder, dead_owner):
    store, clock = toys.open_study(), Clock()
    trial = store.claim({}, {}, {"schedule": "4v M 6 G C", "num_params": 321})
    state = RunState(phase="brief trials", trials=4, stages=(), workers=1,
                     began="2026-01-01T00:00:00+00:00")  # fmt: skip
    store.set_attr(f"{RUN}one", state.to_dict())
    watch = watcher([], clock=clock)
    assert watch.look() is None
    clock.now += 300
    assert watch.look() is None  # its owner, this process, lives
    assert "nothing has been written for 5 min" in watch.progress.note
    store.heartbeat([trial])
    assert watch.look() is None
    assert watch.progress.note == ""
    store.set_attr(f"{RUN}one", state.to_dict() | {"owner": dead_owner})
    assert "killed" in watch.look()


def test_a_search_on_another_machine_is_gone_when_its_heartbeat_stands_still(folder):
    store, clock = toys.open_study(), Clock()
    state = RunState(phase="brief trials", trials=4, stages=(), workers=1, began="2026-01-01T00:00:00+00:00",
                     owner="far/boot/space/1/2/3")  # fmt: skip
    store.set_attr(f"{RUN}far", state.to_dict())
    watch = watcher([], clock=clock)
    assert watch.look() is None
    clock.now += 80
    store.set_attr(f"{RUN}far", state.to_dict() | {"heartbeat": 1})
    assert watch.look() is None
    clock.now += 80
    assert watch.look() is None
    clock.now += 80
    assert "killed" in watch.look()


def test_of_two_searches_each_is_told_of_the_other_once(folder):
    far = RunState(phase="brief trials", trials=4, stages=(), workers=1, began="2026-01-01T00:00:00+00:00",
                   owner="far/boot/space/17/2/3")  # fmt: skip
    store, notes = toys.open_study(), []
    store.set_attr(f"{RUN}far", far.to_dict())
    store.set_attr(f"{RUN}over", far.to_dict() | {"owner": "gone/boot/space/18/2/3", "phase": "ended"})
    toys.run(toys.Pool(), store=store, view=lambda _, event: notes.append(str(event)) if event else None)
    met = [note for note in notes if "another search" in note]
    assert met == ["another search is at work on this study, far (pid 17): the two share its trials"]
    assert watcher([]).look() is None  # that one goes on


def test_a_study_of_an_earlier_version_has_no_state(folder):
    toys.run(toys.Pool(), trials=3)
    store = StudyStore.open("toy")
    for key in store.attrs:
        if key.startswith(RUN):
            store.set_attr(key, {"phase": 7})
    watch = watcher([])
    assert watch.look() == "no search is at work on this study"
    assert watch.progress.phase == "finalists"
    assert watch.progress.done == 4  # two with two seeds


def test_an_interrupted_search_says_so(folder):
    def interrupt(progress, event):
        if event is not None and event.label == "trial 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toys.run(toys.Pool(), view=interrupt)
    assert "interrupted" in watcher([]).look()
    toys.run(toys.Pool(), store=toys.open_study())
    assert watcher([]).look() == "the search has ended"


def test_of_two_searches_the_one_that_came_to_the_end_counts(folder):
    """The second began later and was interrupted; the first went on to the study's end."""
    store = toys.open_study()
    toys.run(toys.Pool(), store=store)
    (mine,) = read_runs(store.attrs)
    later = {"owner": "far/boot/space/17/2/3", "phase": "interrupted", "began": mine.entered, "entered": mine.began}
    store.set_attr(f"{RUN}far", mine.to_dict() | later)
    assert read_runs(store.attrs)[-1].phase == "interrupted"
    assert watcher([]).look() == "the search has ended"
    store.set_attr(f"{RUN}far", mine.to_dict() | later | {"entered": "9999-01-01T00:00:00+00:00"})
    assert "interrupted" in watcher([]).look()


def test_a_training_that_was_interrupted_is_told_in_one_word(folder):
    store, events = toys.open_study(), []
    watch = watcher(events)
    watch.look()
    with pytest.raises(Interrupted):
        toys.run(toys.Pool(), store=store, view=lambda *_: interrupt(store))
    watch.look()
    assert [event.note for event in events] == ["trial 0: interrupted by SIGINT; enqueued again"]


def interrupt(store):
    if store.refresh().running():
        raise Interrupted(signal.SIGINT)


def test_reading_takes_no_lock_and_cannot_write(folder):
    store = toys.open_study()
    reading = StudyStore.open("toy", read_only=True)
    with pytest.raises(StorageError, match="readonly"):
        reading.set_attr("a", 1)
    path = folder / "toy" / "study.db"
    with sqlite3.connect(path, timeout=0) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert reading.refresh() is not None  # the writer's lock is no trouble
        writer.rollback()
    store.set_attr("a", 1)
    assert reading.attrs["a"] == 1


@pytest.mark.parametrize("trials", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_watchers_lose_nothing_of_a_search(folder, trials):
    """A watcher that reads many times a second, beside a search that writes all the time."""
    stop, failures, looks = threading.Event(), [], []

    def follow():
        watch = watcher([])
        while not stop.is_set():
            try:
                looks.append(watch.look())
                stop.wait(0.02)
            except Exception as error:
                failures.append(error)

    store = toys.open_study()
    thread = threading.Thread(target=follow)
    thread.start()
    try:
        toys.run(toys.Pool(2), store=store, trials=trials)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert len(looks) >= 3
    counts = store.refresh() and store.counts()
    assert (counts["complete"] + counts["pruned"], counts["fail"], counts["unaccounted"]) == (trials, 0, 0)


def test_the_command_ends_with_the_search_and_refuses_others(folder, monkeypatch):
    toys.run(toys.Pool(), trials=3)
    code, out, err = toys.nas("watch")
    assert (code, out) == (0, "toy: the search has ended\n"), err
    assert toys.nas("watch", "nowhere")[0] == 4
    StudyStore.create("recipes", None, {"architecture": "8 G C"}, {})
    code, _, err = toys.nas("watch", "recipes")
    assert code == 2
    assert "nas show lists its trials" in err

    def look(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Watcher, "look", look)
    code, out, err = toys.nas("watch", "toy")
    assert (code, out) == (0, "left toy: its search goes on\n")


def test_a_view_needs_no_torch(folder):
    code = "import sys; from nas.report import LiveView, Watcher; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "False"
