"""The store: what a study is, what it refuses, and that every claim is one write."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from importlib.metadata import version

import killing
import numpy as np
import optuna
import pytest
import toys
from clock import Clock
from killing import Killed, kill_at, writes_of
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from nas.errors import StorageError, UsageError
from nas.study import STALE_SECONDS, StudyStore, load_study, study_folder
from nas.study.identity import recorded, require_same
from nas.study.ownership import Staleness, owner_name, process_token

DISTRIBUTIONS = {"x": IntDistribution(0, 9)}


def identity():
    return toys.settings().identity(toys.space(), "hash")


@pytest.fixture
def store():
    return toys.open_study()


# --- what a resumed study must share ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_params", 499), ("max_macs", 10**6), ("dataset", "mnist"), ("data_hash", "other"), ("space", "slots-0"),
        ("finalist_epochs", 9), ("recipe.epochs", 4), ("recipe.peak_lr", 0.01), ("pareto", True),
    ],
)  # fmt: skip
def test_a_setting_that_differs_is_named(key, value):
    assert key in identity() or key == "pareto"
    StudyStore.create("toy", None, identity(), {})
    StudyStore.create("toy", None, identity(), {})
    with pytest.raises(
        UsageError,
        match=f"'toy' was made otherwise: .*{value}, the study has .* another --study"
        if value is not True
        else "--pareto",
    ):
        StudyStore.create("toy", None, identity() | {key: value}, {})


def test_a_study_killed_while_it_was_made_is_made_whole():
    record, made = {"dataset": "synthetic", "torch": "2.x"}, 0
    for write in range(60):
        lived = kill_at(write, lambda write=write: StudyStore.create(f"toy-{write}", None, identity(), record))
        store = StudyStore.create(f"toy-{write}", None, identity(), record)
        assert store.attrs == {
            **record,
            "settings": {"format": 2, "nas": version("nas"), **json.loads(json.dumps(identity()))},
        }
        assert store.is_ours
        made += 1
        if lived:
            break
    assert 4 < made < 60


def test_a_study_of_an_older_format_is_refused_in_one_line():
    old = optuna.create_study(study_name="toy", storage=_url("toy"), direction="maximize")
    old.set_user_attr("settings", {"max_params": 500})
    before = _content("toy")
    with pytest.raises(UsageError, match=r"is of another version of nas \(format 1, not 2\): give another") as caught:
        toys.open_study()
    assert "\n" not in str(caught.value)
    assert not StudyStore.open("toy").is_ours
    assert _content("toy") == before


def _url(name):
    study_folder(name).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{study_folder(name) / 'study.db'}"


def _content(name):
    study = optuna.load_study(study_name=name, storage=_url(name))
    return study.user_attrs, study.directions, study.trials, (study_folder(name) / "study.db").read_bytes()


@pytest.mark.parametrize(
    ("directions", "trials", "attrs"),
    [
        (["maximize"], 2, {}), (["minimize"], 0, {}), (["minimize"], 2, {}), (["maximize", "maximize"], 0, {}),
        (["maximize", "minimize"], 2, {}), (["maximize"], 0, {"settings": "mine"}),
        (["maximize"], 2, {"settings": ["mine"], "owner": 1}),
    ],
)  # fmt: skip
def test_a_study_of_another_origin_is_refused_and_left_untouched(directions, trials, attrs):
    foreign = optuna.create_study(study_name="toy", storage=_url("toy"), directions=directions)
    for key, value in attrs.items():
        foreign.set_user_attr(key, value)
    for x in range(trials):
        trial = foreign.ask(DISTRIBUTIONS)
        trial.set_user_attr("seed", "a word")
        trial.set_user_attr("loss", {"of": x})
        foreign.tell(trial, [x] * len(directions))
    before = _content("toy")
    with pytest.raises(UsageError, match="was not made by nas, and is left untouched"):
        toys.open_study()
    opened = StudyStore.open("toy")
    assert not opened.is_ours
    table = load_study("toy")  # has what its trials have
    assert list(table["number"]) == list(range(trials))
    assert table["value"].notna().sum() == (trials if len(directions) == 1 else 0)
    assert _content("toy") == before


def test_a_study_beside_a_foreign_one_shares_its_database(store):
    optuna.create_study(study_name="other", storage=_url("toy"))
    assert toys.open_study().attrs == store.attrs
    with pytest.raises(StorageError, match=r"no study 'third' in .* \(toy, other\)"):
        StudyStore.open("third", _url("toy"))


def test_two_processes_make_a_study_at_once(store, monkeypatch):
    """One has read that there are no settings yet; meanwhile the other writes them, and its first trial."""
    attrs, writing = StudyStore.attrs, StudyStore.set_attr
    late = [True]

    def first(self):
        if late and self.name == "late":
            late.clear()
            StudyStore.create("late", None, identity(), {"a": 1}).enqueue({"x": 1}, DISTRIBUTIONS, {})
            return {}
        return attrs.fget(self)

    monkeypatch.setattr(StudyStore, "attrs", property(first))
    made = StudyStore.create("late", None, identity(), {"a": 1})
    assert made.is_ours
    assert len(made.refresh()) == 1
    assert StudyStore.set_attr is writing


# --- an ordinary Optuna study -----------------------------------------------------------------------------------------


def test_it_is_an_ordinary_optuna_study(store):
    """Read with no module of ours: by another process, from the plain URL."""
    toys.run(toys.Pool(), store=store, trials=4)
    script = (
        "import optuna, sys; s = optuna.load_study(study_name='toy', storage=sys.argv[1]); t = s.best_trial; "
        "f = optuna.load_study(study_name='toy/finalists', storage=sys.argv[1]); "
        "print(len(s.trials), t.number, t.user_attrs['num_params'], len(t.params), len(f.trials), "
        "len(t.intermediate_values), any(m.split('.')[0] == 'nas' for m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", script, _url("toy")], capture_output=True, text=True, check=True).stdout
    best = store.study.best_trial
    expected = [4, best.number, best.user_attrs["num_params"], len(toys.space().distributions), 4, 3, False]
    assert out.split() == [str(value) for value in expected]


def test_trials_enqueued_by_hand_are_left_alone(store):
    store.study.enqueue_trial({"depth": 3})
    events = []
    toys.run(toys.Pool(), store=store, trials=3, view=lambda progress, event: events.append(event))
    assert [trial.state for trial in store.refresh().trials()] == [TrialState.WAITING, *3 * [TrialState.COMPLETE]]
    assert (store.counts()["waiting"], store.counts()["unaccounted"]) == (0, 0)
    assert any(event and "no points of the space: 1 enqueued with Optuna" in event.note for event in events)


@pytest.mark.filterwarnings("ignore:.*gamma.*:FutureWarning")
def test_a_sampler_sees_every_trial_that_is_finished(store):
    """Optuna remembers in a study the trials of its first draw, until the next is made by `Study.ask`."""
    for number in range(3):
        assert len(store.study.get_trials(deepcopy=False)) == number
        store.finish(store.claim({"x": number}, DISTRIBUTIONS, {}), TrialState.COMPLETE, 1.0, loss=0.1, num_params=1)
        sampler = optuna.samplers.TPESampler(n_startup_trials=0, seed=0, constant_liar=False)
        sampler.sample_relative(store.study, optuna.trial.create_trial(state=TrialState.RUNNING), DISTRIBUTIONS)
    drawn = []
    sampler = optuna.samplers.TPESampler(n_startup_trials=0, seed=0, constant_liar=False, gamma=drawn.append)
    with contextlib.suppress(TypeError):
        sampler.sample_relative(store.study, optuna.trial.create_trial(state=TrialState.RUNNING), DISTRIBUTIONS)
    assert drawn == [3]


# --- writes -----------------------------------------------------------------------------------------------------------


def test_a_claim_is_one_write_with_everything_in_it(store):
    params = toys.space().random(np.random.default_rng(0))
    claimed = []
    made = writes_of(lambda: claimed.append(store.claim(params, toys.space().distributions, {"schedule": "8 G C"})))
    assert made == 1
    (trial,) = toys.open_study().refresh().running()
    assert (trial.number, trial.params) == (0, params)
    assert trial.user_attrs == {"schedule": "8 G C", "owner": process_token(), "heartbeat": 0}
    assert trial.datetime_start is not None
    with pytest.raises(Killed):
        _killed_once(lambda: store.claim(params, toys.space().distributions, {}))
    assert len(toys.open_study().refresh()) == 1  # not half of it


def _killed_once(go):
    def act():
        raise Killed

    with killing.watched(act):
        go()


def test_how_often_a_brief_trial_is_written(store, monkeypatch):
    """Once for the claim and once at its end, while it is quick; a search's four phases and its heartbeat."""
    monkeypatch.setattr(StudyStore, "write_epochs", lambda self: None)  # by the second, see below
    before = writes_of(lambda: toys.run(toys.Pool(), store=store, trials=1, finalists=1, finalist_seeds=1))
    made = writes_of(lambda: toys.run(toys.Pool(), store=store, trials=9, finalists=1, finalist_seeds=1))
    finalists = sum(trial.number > 0 for trial in store.finalists().refresh().trials())
    assert made == 5 + 2 * 8 + 2 * finalists
    assert {len(trial.intermediate_values) for trial in store.refresh().trials()} == {3}
    assert before > 0
    assert writes_of(lambda: store.enqueue({"x": 1}, DISTRIBUTIONS, {})) == 1
    store.refresh()
    assert writes_of(store.claim_waiting) == 1  # its state, its owner and the beat


def test_epochs_of_all_trials_are_one_write_in_a_second(store):
    store.clock = clock = Clock()
    trials = [store.claim({"x": x}, DISTRIBUTIONS, {}) for x in range(3)]

    def stored():
        return [trial.intermediate_values for trial in toys.open_study().refresh().trials()]

    def epoch(number):
        for trial in trials:
            store.report(trial, number, 50.0 + number)
        store.write_epochs()

    assert writes_of(lambda: epoch(1)) == 1
    assert stored() == 3 * [{1: 51.0}]
    clock.now += 0.9
    assert writes_of(lambda: epoch(2)) == 0
    clock.now += 0.2
    assert writes_of(store.write_epochs) == 1
    assert stored() == 3 * [{1: 51.0, 2: 52.0}]
    clock.now += 2
    assert writes_of(store.write_epochs) == 0  # there is nothing
    store.report(trials[0], 3, 53.0)
    store.finish(trials[0], TrialState.COMPLETE, 53.0, loss=0.1, num_params=1)
    assert stored() == [{1: 51.0, 2: 52.0, 3: 53.0}, *2 * [{1: 51.0, 2: 52.0}]]


def test_giving_up_and_heartbeats_are_one_write_each(store):
    trials = [store.claim({"x": x}, DISTRIBUTIONS, {}) for x in range(3)]
    assert writes_of(lambda: store.heartbeat(trials)) == 1
    assert [trial.user_attrs["heartbeat"] for trial in toys.open_study().refresh().trials()] == [1, 1, 1]
    assert writes_of(lambda: store.fail_interrupted(trials[0], "a reason", again=True)) == 1


# --- giving up --------------------------------------------------------------------------------------------------------


def test_trials_of_a_dead_owner_and_silent_ones_are_stale(store, dead_owner):
    clock = Clock()
    store.staleness = Staleness(clock=clock)
    ours, dead, silent, beating = (store.claim({"x": x}, DISTRIBUTIONS, {}) for x in range(4))
    store.annotate(dead, owner=dead_owner)
    for each in (silent, beating):
        store.annotate(each, owner="elsewhere/boot/pid:[1]/7/1/token")
    store.refresh()
    mine = {ours.number: ours}
    assert [trial.number for trial in store.stale(mine)] == [dead.number]
    clock.now += STALE_SECONDS - 1
    store.heartbeat([beating])
    store.refresh()
    left = {trial.number: seconds for trial, seconds in store.foreign(mine)}
    assert left == {dead.number: 0, silent.number: 1, beating.number: STALE_SECONDS}
    clock.now += 1
    assert [trial.number for trial in store.stale(mine)] == [dead.number, silent.number]
    assert owner_name(store.table.open[silent.number].user_attrs) == "elsewhere (pid 7)"


def test_what_is_given_up_is_tried_again_with_what_it_has(store):
    attrs = {"schedule": "8 G C", "num_params": 9, "scores": [1.0], "default": True, "generated": 3, "discards": {}}
    claimed = store.claim({"x": 5}, DISTRIBUTIONS, attrs)
    store.report(claimed, 1, 50.0)
    store.fail_interrupted(claimed, "a reason", again=True)
    store.fail_interrupted(claimed, "by another process, a moment later", again=True)
    failed, waiting = store.refresh().trials()
    assert (failed.state, failed.user_attrs["reason"], failed.user_attrs["interrupted"]) == (
        TrialState.FAIL, "a reason; enqueued again", True,
    )  # fmt: skip
    carried = {"schedule": "8 G C", "num_params": 9, "scores": [1.0], "default": True, "again_after": 0}
    assert (waiting.state, waiting.params, waiting.user_attrs) == (TrialState.WAITING, {"x": 5}, carried)
    again = store.claim_waiting()
    assert again is not None
    assert (again.number, again.params, again.values) == (1, {"x": 5}, {})
    assert again.attrs == carried | {"owner": process_token(), "heartbeat": 0}
    assert store.claim_waiting() is None


def of_point(params):
    return lambda table: [trial for trial in table.trials() if trial.params == params]


@pytest.mark.parametrize("write", range(5))
def test_killed_while_giving_up_it_is_given_up_again(store, write, monkeypatch):
    """Of a point that is enqueued twice the second yields: none is lost. A journal has no batches."""
    monkeypatch.setattr("nas.study.store.batch", contextlib.nullcontext())
    claimed = store.claim({"x": 5}, DISTRIBUTIONS, {"schedule": "8 G C"})
    kill_at(write, lambda: store.fail_interrupted(claimed, "a reason", again=True))
    for trial in store.refresh().running():
        store.fail_interrupted(trial, "once more", again=True)
    failed, *waiting = store.refresh().trials()
    assert failed.state == TrialState.FAIL
    assert 1 <= len(waiting) <= 2
    fresh = [store.claim_waiting() for _ in waiting]
    yielded = [store.yields(each, 9, of_point({"x": 5})) for each in fresh]
    assert yielded == [False, True][: len(waiting)]


def test_a_trial_given_up_by_another_process_ends_in_one_line(store):
    class Robbed(toys.Pool):
        def messages(self, timeout):
            (trial,) = toys.open_study().refresh().running()
            store.fail_interrupted(trial, "its process was silent", again=False)
            yield from super().messages(timeout)

    with pytest.raises(StorageError, match="given up by another process") as caught:
        toys.run(Robbed(), store=store)
    assert "\n" not in str(caught.value)


def test_of_two_claims_of_one_point_the_later_yields(store):
    first, other, second = (store.claim({"x": x}, DISTRIBUTIONS, {}) for x in (1, 2, 1))
    assert [store.yields(each, 9, of_point(each.params)) for each in (first, other, second)] == [False, False, True]
    (yielded,) = store.refresh().trials(TrialState.FAIL)
    assert yielded.user_attrs["reason"] == "another process claimed its point as trial 0"
    assert store.table.taken == 2
    third = store.claim({"x": 3}, DISTRIBUTIONS, {})
    assert store.yields(third, 2, lambda table: [])  # the total is reached: left for a longer search
    assert [trial.params for trial in store.refresh().waiting()] == [{"x": 3}]


def test_a_teacher_is_named_as_it_is_given():
    known = recorded({"recipe.teacher": "12v"})
    with pytest.raises(UsageError, match="--teacher none, the study has 12v"):
        require_same("toy", known, {"recipe.teacher": None})
    with pytest.raises(UsageError, match="--teacher 12v, the study has none"):
        require_same("toy", {**known, "recipe.teacher": None}, {"recipe.teacher": "12v"})
