"""The search's laws, on a pool that trains nothing: what is asked, counted, kept, resumed and chosen."""

from __future__ import annotations

import itertools
import json
import math
import random
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import toys
from optuna.trial import TrialState
from safetensors.torch import load_file
from scipy import stats

from nas import report, sampler, search
from nas import study as studies
from nas.architecture import KNOWN, Architecture, Conv
from nas.errors import InfeasibleError, NasError, StorageError, UsageError
from nas.space import DISCARDS, SearchSpace
from nas.train import Recipe


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    with toys.quick_folder() as quick:
        monkeypatch.setenv("NAS_STUDIES", str(quick / "studies"))
        yield quick


def trials(study, *states):
    return study.get_trials(deepcopy=False, states=states or None)


def schedules(study, *states):
    return [trial.user_attrs["schedule"] for trial in trials(study, *states)]


def check_laws(study, total, cap=toys.CAP):
    """What holds for every study that came to its end, however often it was killed on the way."""
    counts = studies.counts(study)
    states = [state.name.lower() for state in TrialState]
    assert counts["generated"] == sum(counts[key] for key in (*DISCARDS, *states))
    assert counts["running"] == 0
    assert search.finished(study) == total
    ended = [trial for trial in trials(study) if trial.state.is_finished() and not trial.user_attrs.get("interrupted")]
    texts = [trial.user_attrs["schedule"] for trial in ended]
    assert len(texts) == len(set(texts)), "an architecture was trained twice"
    for trial in ended:
        architecture = Architecture.parse(trial.user_attrs["schedule"])
        assert architecture.num_params == trial.user_attrs["num_params"] <= cap
        assert architecture == toys.space(cap).decode(trial.params)
    for trial in trials(study):
        if trial.params:
            assert trial.distributions == toys.space(cap).distributions
        if trial.state == TrialState.PRUNED:
            assert trial.intermediate_values, "pruned without training"
        if trial.state == TrialState.FAIL:
            assert trial.user_attrs["reason"]
    second = studies.finalists(study)
    assert not trials(second, TrialState.RUNNING, TrialState.WAITING)
    pairs = [tuple(sorted(trial.params.items())) for trial in trials(second, TrialState.COMPLETE)]
    assert len(pairs) == len(set(pairs)), "a finalist's seed was trained twice"


# --- law 2 and 3: counts, draws ---------------------------------------------------------------------------------------


def test_every_draw_is_accounted_for(monkeypatch):
    drawn = []
    draw = SearchSpace.random
    monkeypatch.setattr(SearchSpace, "random", lambda self, rng, share=None: drawn.append(1) or draw(self, rng))
    study = toys.open_study()
    outcome = toys.run(toys.Pool(2), study=study, trials=9)
    assert (
        outcome.counts["generated"]
        == len(drawn)
        == outcome.counts["complete"] + sum(outcome.counts[reason] for reason in DISCARDS)
    )
    assert sum(outcome.counts[reason] for reason in DISCARDS) > 0
    toys.run(toys.Pool(2), study=study, trials=16)  # TPE draws from here on
    check_laws(study, 16)


def test_the_total_counts_and_a_finished_study_trains_nothing():
    pool = toys.Pool()
    study = toys.open_study()
    first = toys.run(pool, study=study, trials=4)
    assert len(pool.trained) == 4 + 2 * 2
    assert search.finished(study) == 4
    again = toys.Pool()
    second = toys.run(again, study=toys.open_study(), trials=4)
    assert again.trained == []
    assert (second.finalists, second.counts) == (first.finalists, first.counts)
    more = toys.Pool()
    toys.run(more, study=study, trials=7)
    brief = [schedule for schedule, _, epochs in more.trained if epochs == 3]
    assert len(brief) == 3
    assert not {schedule for schedule, _, epochs in pool.trained if epochs == 3} & set(brief)
    check_laws(study, 7)


def test_draws_depend_on_seed_and_trial_number_alone():
    """Five trials at once, or three and then two more, by different numbers of workers: the same schedules."""
    whole, halves, other = toys.open_study("whole"), toys.open_study("halves"), toys.open_study("other")
    toys.run(toys.Pool(3), study=whole, trials=5)
    toys.run(toys.Pool(1), study=halves, trials=3)
    toys.run(toys.Pool(2), study=halves, trials=5)
    toys.run(toys.Pool(1), study=other, trials=5, seed=1)
    assert schedules(whole) == schedules(halves)
    assert not set(schedules(whole)) & set(schedules(other))


def test_ranges_are_fixed_and_pruned_trials_trained():
    study = toys.open_study()
    pool = toys.Pool(2)
    toys.run(pool, study=study, trials=24)
    check_laws(study, 24)
    pruned = trials(study, TrialState.PRUNED)
    assert pruned
    assert {trial.number for trial in pruned} == set(pool.stopped)
    # Pruned because it was below the median of its epoch, as Optuna defines it.
    for trial in pruned:
        last = max(trial.intermediate_values)
        assert last < 3
        complete = [other.intermediate_values[last] for other in trials(study, TrialState.COMPLETE)]
        assert trial.intermediate_values[last] < max(complete)


@pytest.mark.parametrize("pareto", [False, True])
def test_nothing_is_pruned_before_a_third_of_its_epochs(pareto):
    chosen = {"recipe": Recipe(epochs=9), "trials": 24, "pareto": pareto, "finalists": 1, "finalist_seeds": 1}
    study = toys.open_study(chosen=toys.settings(**chosen))
    toys.run(toys.Pool(2), study=study, **chosen)
    lengths = {max(trial.intermediate_values) for trial in trials(study, TrialState.PRUNED)}
    assert min(lengths) == 3


def test_no_pruner_prunes_nothing_and_random_draws_never_learn():
    study = toys.open_study()
    toys.run(toys.Pool(2), study=study, trials=13, pruner="none", sampler="random")
    assert not trials(study, TrialState.PRUNED)
    space, seen = toys.space(), set()
    for trial in trials(study):
        rng = np.random.default_rng((0, trial.number))
        params, _, _ = space.propose(lambda _, rng=rng: space.random(rng), seen)
        assert params == trial.params
        seen.add(trial.user_attrs["schedule"])


def test_evolution_climbs_where_chance_does_not():
    """On a score that counts padded separable blocks, mutants of the leaders have more of them than random points."""
    space, means = toys.space(8000), {}
    for kind in ("evolution", "random"):
        study = optuna.create_study(direction="maximize")
        study.sampler = search.Proposer(space, seed=0, sampler=kind)
        for _ in range(60):
            trial, architecture = search.ask(study, space)
            convs = [block for block in architecture.blocks if isinstance(block, Conv)]
            score = sum(block.separable and block.padded for block in convs)
            trial.set_user_attr("loss", -score)
            study.tell(trial, score)
        means[kind] = np.mean([trial.value for trial in trials(study)[-20:]])
    assert means["evolution"] > means["random"] + 1


def test_a_guided_search_trains_the_mutants_foretold_best_and_counts_the_others():
    """Where the loss falls with depth and separable blocks, its last trials are ahead of plain evolution's."""
    space, means = toys.space(8000), {}
    for kind in ("evolution", "guided"):
        study = optuna.create_study(direction="maximize")
        study.sampler = search.Proposer(space, seed=0, sampler=kind)
        for _ in range(40):
            trial, architecture = search.ask(study, space)
            convs = [block for block in architecture.blocks if isinstance(block, Conv)]
            loss = 0.1 / (1 + sum(block.separable for block in convs))
            trial.set_user_attr("loss", loss)
            trial.report(100 - 100 * loss, 1)
            study.tell(trial, 100 - 100 * loss)
        means[kind] = np.mean([trial.user_attrs["loss"] for trial in trials(study)[-20:]])
        outranked = [trial.user_attrs["discards"].get("outranked", 0) for trial in trials(study)]
        startup = sampler.STARTUP_TRIALS
        learning = [0] * startup + [(kind == "guided") * (sampler.MUTANTS - 1)] * (40 - startup)
        assert outranked == learning
    assert means["guided"] < means["evolution"]


@pytest.mark.parametrize("sampler", ["evolution", "guided", "tpe"])
def test_a_sampler_draws_from_seed_and_study_alone(sampler):
    drawn = []
    for name in ("one", "other"):
        study = toys.open_study(name)
        toys.run(toys.Pool(), study=study, trials=16, sampler=sampler, pruner="none")
        drawn.append(schedules(study))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 16


def test_known_designs_come_first_and_the_best_of_them_is_a_finalist():
    cap = 8000
    poor = {Architecture.parse(known.text) for known in KNOWN}

    def score(architecture, seed, epoch):
        return toys.luck(architecture, seed, epoch) - 45 * (architecture in poor)

    space = SearchSpace(budget=toys.settings(cap).budget)
    for count in (1, 3):
        chosen = toys.settings(cap, trials=len(space.known()) + 2, finalists=count, finalist_seeds=1)
        study = studies.create(f"known-{count}", None, chosen.shared(space, "hash"), {})
        record = {"dataset": "synthetic", "target": 99.4}
        outcome = search.run(study, space, chosen, toys.Pool(score=score), lambda *_: None, record)
        first = [trial.user_attrs.get("known") for trial in trials(study)][: len(space.known())]
        assert first == [name for name, _ in space.known()][: len(first)]
        assert len(space.known()) >= 3
        complete = trials(study, TrialState.COMPLETE)
        best_known = max((t for t in complete if t.user_attrs.get("known")), key=lambda t: t.value)
        raced = {finalist.trial for finalist in outcome.finalists}
        assert raced >= {study.best_trial.number, best_known.number}
        assert len(raced) == max(2, count)
    study = studies.create("unknown", None, chosen.shared(space, "hash"), {})
    search.run(study, space, toys.settings(cap, known=False, trials=1), toys.Pool(), lambda *_: None, record)
    assert not any(trial.user_attrs.get("known") for trial in trials(study))


def test_a_space_that_is_used_up_goes_on_to_its_finalists(monkeypatch):
    """Six points, and no more: stands for the few schedules under a tiny cap."""
    space, rng, tries = toys.space(), np.random.default_rng(0), 10
    points = list(itertools.islice((p for _ in range(200) if not space.check(p := space.random(rng), ())[1]), 6))
    propose = SearchSpace.propose
    monkeypatch.setattr(SearchSpace, "propose", lambda *args: propose(*args, tries=tries))
    monkeypatch.setattr(SearchSpace, "random", lambda self, rng, share=None: points[rng.integers(len(points))])
    study = toys.open_study()
    lines = []

    def view(progress, line):
        lines.append(line or "")

    outcome = toys.run(toys.Pool(), study=study, trials=500, view=view)
    assert len(outcome.finalists) == 2
    assert not outcome.cut
    assert any("no new schedule" in line for line in lines)
    check_laws(study, len(points))
    vain = trials(study)[-1]  # its proposals are accounted for as well
    assert "no new schedule" in vain.user_attrs["reason"]
    assert sum(vain.user_attrs["discards"].values()) == 21 * tries


# --- law 5: killed, cut, failed ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may catch it, and no write gets through after it."""


WRITES = (
    "create_new_trial", "set_trial_state_values", "set_trial_user_attr", "set_trial_param",
    "set_trial_intermediate_value", "set_study_user_attr", "create_new_study",
)  # fmt: skip


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def kill_at(write, dead_pid, monkeypatch, go):
    """Run `go` as a process that dies before its n-th write to the database; whether it lived to its end."""
    storage = optuna.storages.RDBStorage
    count = itertools.count()

    def dying(original):
        def method(*args, **kwargs):
            if next(count) >= write:
                raise Killed
            return original(*args, **kwargs)

        return method

    with monkeypatch.context() as patch:
        patch.setattr(studies, "owner", lambda: f"{socket.gethostname()}:{dead_pid}")
        for name in WRITES:
            patch.setattr(storage, name, dying(getattr(storage, name)))
        try:
            go()
        except Killed:
            return False
    return True


@pytest.mark.parametrize("damage", [None, "", "[1, 2]", "{}"])
def test_the_record_is_of_what_trained_last(damage):
    toys.run(toys.Pool(), command="the first")
    path = studies.folder("toy") / "best" / "reason.json"
    if damage is not None:
        path.write_text(damage)
    outcome = toys.run(toys.Pool(), command="a look")
    assert outcome.reason["command"] == ("the first" if damage is None else "a look")
    assert json.loads(path.read_text())["command"] == outcome.reason["command"]
    assert toys.run(toys.Pool(), command="more", trials=6).reason["command"] == "more"


def test_a_record_cut_before_its_export_is_of_who_exports(monkeypatch):
    toys.run(toys.Pool(), command="the first")

    def full(*_args, **_kwargs):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(search, "export_winner", full)
        with pytest.raises(StorageError, match="the disk is full"):
            toys.run(toys.Pool(), command="cut", trials=6)
    again = toys.Pool()
    assert toys.run(again, command="goes on", trials=6).reason["command"] == "goes on"
    assert again.trained == []


@pytest.mark.parametrize("seed", range(5))
def test_killed_before_any_write_and_run_again(seed, dead_pid, monkeypatch):
    rng = random.Random(seed)
    complete: dict[str, dict[int, float]] = {"toy": {}, "toy/finalists": {}}
    pools = []

    def go():
        pools.append(toys.Pool(2))
        toys.run(pools[-1], study=toys.open_study(), trials=5)

    for _ in range(4):
        alive = kill_at(rng.randrange(8, 160), dead_pid, monkeypatch, go)
        if alive:
            break
        for name, kept in complete.items():  # what is finished stays as it is
            known = {summary.study_name for summary in optuna.get_all_study_summaries(studies.database("toy"))}
            if name not in known:
                continue
            loaded = optuna.load_study(study_name=name, storage=studies.database("toy"))
            now = {trial.number: trial.value for trial in trials(loaded, TrialState.COMPLETE)}
            assert now.items() >= kept.items()
            complete[name] = now
    outcome = toys.run(pool := toys.Pool(2), study=toys.open_study(), trials=5)
    study = toys.open_study()
    check_laws(study, 5)
    assert len(outcome.finalists) == 2
    assert all(len(finalist.scores) == 2 for finalist in outcome.finalists)
    # Every schedule that was claimed and cut off is tried again, and nothing that ended is.
    cut = {trial.user_attrs.get("schedule") for trial in trials(study) if trial.user_attrs.get("interrupted")} - {None}
    waiting = set(schedules(study, TrialState.WAITING))
    assert cut <= set(schedules(study, TrialState.COMPLETE, TrialState.PRUNED)) | waiting
    assert not {schedule for schedule, _, epochs in pool.trained if epochs == 3} & {
        trial.user_attrs["schedule"] for trial in trials(study) if trial.number in complete["toy"]
    }


def test_ctrl_c_fails_what_runs_and_enqueues_it_again():
    class Interrupting(toys.Pool):
        def messages(self, timeout):
            if len(self.trained) == 3:
                raise KeyboardInterrupt
            yield from super().messages(timeout)

    study = toys.open_study()
    with pytest.raises(KeyboardInterrupt):
        toys.run(Interrupting(1), study=study)
    (cut,) = trials(study, TrialState.FAIL)
    assert cut.user_attrs["reason"] == "interrupted"
    assert search.finished(study) == 2
    assert schedules(study, TrialState.WAITING) == [cut.user_attrs["schedule"]]
    toys.run(toys.Pool(1), study=study)
    check_laws(study, 4)
    assert schedules(study, TrialState.COMPLETE)[2] == cut.user_attrs["schedule"]


def test_a_failure_of_its_own_is_a_finished_trial_with_its_reason():
    calls = []

    def score(architecture, seed, epoch):
        calls.append(seed)
        if len(calls) == 4:  # the second trial, in its first epoch
            raise NasError("the loss is nan in epoch 1")
        return toys.luck(architecture, seed, epoch)

    study = toys.open_study()
    outcome = toys.run(toys.Pool(score=score), study=study)
    (failed,) = trials(study, TrialState.FAIL)
    assert failed.number == 1
    assert failed.user_attrs["reason"] == "the loss is nan in epoch 1"
    assert outcome.counts["fail"] == 1
    check_laws(study, 4)


def test_a_finalist_that_fails_is_not_tried_again():
    def score(architecture, seed, epoch):
        if seed > 0 and str(architecture) == best[0]:
            raise NasError("the loss is nan")
        return toys.luck(architecture, seed, epoch)

    best = [""]
    study = toys.open_study()
    toys.run(toys.Pool(score=score), study=study, finalist_seeds=1)
    best[0] = study.best_trial.user_attrs["schedule"]
    study = toys.open_study("again")
    pool = toys.Pool(score=score)
    outcome = toys.run(pool, study=study)
    assert best[0] not in [finalist.schedule for finalist in outcome.finalists]
    assert sum(schedule == best[0] and seed > 0 for schedule, seed, _ in pool.trained) == 1
    again = toys.Pool(score=score)
    toys.run(again, study=study)
    assert again.trained == []


class Slow(toys.Pool):
    """An epoch takes a twentieth of a second."""

    def messages(self, timeout):
        time.sleep(0.05)
        yield from super().messages(timeout)


def test_time_limit_in_the_brief_trials():
    study = toys.open_study()

    class Stalls(toys.Pool):
        def messages(self, timeout):
            if len(self.trained) > 3 and not self.restarts:  # the fourth job and the one beside it never end
                time.sleep(0.05)
                return
            yield from super().messages(timeout)

    pool = Stalls(2)
    began = time.monotonic()
    outcome = toys.run(pool, study=study, trials=10_000, timeout=6.0, pruner="none")
    assert time.monotonic() - began < 12
    assert outcome.cut
    cut = trials(study, TrialState.FAIL)
    assert len(cut) == 2
    assert all(trial.user_attrs["reason"] == "cut by the time limit" for trial in cut)
    assert pool.restarts == 1
    assert outcome.finalists
    assert (outcome.folder / "weights.safetensors").is_file()
    done = search.finished(study)
    toys.run(toys.Pool(2), study=study, trials=done + 3, pruner="none")
    check_laws(study, done + 3)
    assert {trial.user_attrs["schedule"] for trial in cut} <= set(schedules(study, TrialState.COMPLETE))


def test_time_limit_before_any_finalist_exports_the_best_brief_trial():
    def score(architecture, seed, epoch):
        return 90.0  # all alike: of equals, the one with fewer parameters leads

    study = toys.open_study()

    class Stuck(toys.Pool):
        def messages(self, timeout):
            if self.trained[-1][1] > 0:  # a finalist's seed
                time.sleep(0.1)
                return
            yield from super().messages(timeout)

    outcome = toys.run(Stuck(score=score), study=study, trials=4, timeout=4.0)
    assert outcome.cut
    assert outcome.finalists == ()
    leader = min(trials(study, TrialState.COMPLETE), key=lambda trial: trial.user_attrs["num_params"])
    assert outcome.reason["best_brief_trial"]["trial"] == leader.number
    assert "stands in" in outcome.reason["verdict"]
    assert (outcome.folder / "architecture.txt").read_text().strip() == leader.user_attrs["schedule"]
    (weights,) = (outcome.folder.parent / "weights").iterdir()
    assert weights.name == f"brief-{leader.number}-seed0.safetensors"
    (cut,) = trials(studies.finalists(study))
    assert cut.state == TrialState.FAIL
    assert cut.user_attrs["reason"] == "cut by the time limit"
    later = toys.run(toys.Pool(score=score), study=study, trials=4)
    assert len(later.finalists) == 2
    assert not later.cut
    check_laws(study, 4)


def test_a_space_with_nothing_to_propose_says_why(monkeypatch):
    propose = SearchSpace.propose
    monkeypatch.setattr(SearchSpace, "propose", lambda *args: propose(*args, tries=1))
    study = toys.open_study(chosen=toys.settings(54))
    with pytest.raises(InfeasibleError, match="no new schedule of at most 54 parameters"):
        toys.run(toys.Pool(), study=study, cap=54)
    (failed,) = trials(study)
    assert failed.state == TrialState.FAIL
    assert sum(failed.user_attrs["discards"].values()) == 21


def test_nothing_complete_is_infeasible_and_says_so():
    def score(architecture, seed, epoch):
        raise NasError("the loss is nan")

    with pytest.raises(InfeasibleError, match="no trial of the study 'toy' completed"):
        toys.run(toys.Pool(score=score))


# --- two parents ------------------------------------------------------------------------------------------------------


def test_two_parents_at_once_share_a_study(folder):
    """In a space with few schedules, where both soon draw the same: none is trained twice, and the total is exact."""
    url = f"sqlite:///{folder / 'shared.db'}"
    cap, total = 250, 16

    def slow(architecture, seed, epoch):  # without it, one may have had them all before the other has begun
        time.sleep(0.05)
        return toys.luck(architecture, seed, epoch)

    pools, errors = [toys.Pool(2, score=slow), toys.Pool(2, score=slow)], []

    def parent(pool):
        try:
            toys.run(pool, study=toys.open_study("shared", url, toys.settings(cap)), cap=cap, trials=total)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=parent, args=(pool,)) for pool in pools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    study = toys.open_study("shared", url, toys.settings(cap))
    check_laws(study, total, cap)
    jobs = Counter(job for pool in pools for job in pool.trained)
    assert max(jobs.values()) == 1
    assert all(pool.trained for pool in pools)


def test_a_schedule_held_by_another_process_is_yielded():
    study, space = toys.open_study(), toys.space()
    study.sampler = search.Proposer(space, seed=0, sampler="random")
    first, architecture = search.ask(study, space)
    # What a process that had read the study a moment earlier would have enqueued.
    study.enqueue_trial(first.params, user_attrs={"enqueued": "again"})
    assert search.ask(study, space) is None
    (yielded,) = trials(study, TrialState.FAIL)
    assert yielded.user_attrs["reason"] == "another process claimed the schedule as trial 0"
    assert search.finished(study) == 0
    assert yielded.user_attrs["schedule"] == str(architecture)


def test_a_finalists_seed_is_claimed_once():
    study = toys.open_study()
    toys.run(toys.Pool(), study=study)
    second = studies.finalists(study)
    (candidate,) = search.ranked(study)[:1]
    trial = search._claim(second, candidate, 77)
    assert trial is not None
    assert trial.params == {"candidate": candidate.number, "seed": 77}
    assert trial.user_attrs["owner"] == studies.owner()
    assert search._claim(second, candidate, 77) is None
    second.tell(trial, state=TrialState.FAIL)
    assert search._claim(second, candidate, 77) is not None


def test_a_trial_given_up_by_another_process_ends_in_one_line():
    study = toys.open_study()

    class Robbed(toys.Pool):
        def messages(self, timeout):
            (trial,) = trials(study, TrialState.RUNNING)
            study.tell(trial.number, state=TrialState.FAIL)
            yield from super().messages(timeout)

    with pytest.raises(StorageError, match="given up by another process"):
        toys.run(Robbed(), study=study)


def test_stale_trials_of_a_dead_owner_and_silent_ones_are_recovered(dead_pid):
    study, space = toys.open_study(), toys.space()
    study.sampler = search.Proposer(space, seed=0, sampler="random")
    asked = [search.ask(study, space)[0] for _ in range(4)]
    host = socket.gethostname()
    asked[0].set_user_attr("owner", f"{host}:{dead_pid}")
    asked[1].set_user_attr("stamp", "2020-01-01T00:00:00+00:00")
    asked[2].set_user_attr("stamp", "2020-01-01T00:00:00+00:00")
    lines = []
    progress = search.Progress(settings=toys.settings(), lines=[])
    search.recover(study, lambda _, line: lines.append(line), progress, ours=[2])
    assert [trial.number for trial in trials(study, TrialState.FAIL)] == [0, 1]
    assert [trial.number for trial in trials(study, TrialState.RUNNING)] == [2, 3]
    assert len(lines) == 2
    waiting = trials(study, TrialState.WAITING)
    assert [t.system_attrs["fixed_params"] for t in waiting] == [asked[0].params, asked[1].params]


# --- law 6: determinism -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "kernels"])
def test_the_same_seed_gives_the_same_search(backend, one_thread):
    if backend == "kernels":
        from nas import kernels

        if reason := kernels.unsuited():
            pytest.skip(reason)
    training = toys.part(toys.synthetic(), 260)
    outcomes = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        pool = toys.TrainingPool(training, training.validation, backend=backend)
        study = toys.open_study(name)
        outcome = toys.run(pool, study=study, seed=seed, trials=3, finalists=2, finalist_seeds=2)
        values = [(t.number, t.value, t.user_attrs["schedule"], t.intermediate_values) for t in trials(study)]
        outcomes.append((values, outcome.finalists, load_file(outcome.folder / "weights.safetensors")))
    (values, finalists, weights), (values2, finalists2, weights2), (values3, *_) = outcomes
    assert values == values2
    assert finalists == finalists2
    assert weights.keys() == weights2.keys()
    assert all(weights[key].equal(weights2[key]) for key in weights)
    assert [value[2] for value in values] != [value[2] for value in values3]


@pytest.fixture
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- who wins ---------------------------------------------------------------------------------------------------------


def test_the_winner_has_the_best_mean_and_need_not_be_the_best_trial():
    study = toys.open_study()

    def score(architecture, seed, epoch):
        accuracy = toys.luck(architecture, 0, epoch)
        return accuracy if seed == 0 else 150 - accuracy  # as finalists, the order is turned round

    outcome = toys.run(toys.Pool(score=score), study=study)
    assert outcome.finalists[0].trial != study.best_trial.number
    means = [finalist.mean for finalist in outcome.finalists]
    assert means == sorted(means, reverse=True)
    text = (outcome.folder / "architecture.txt").read_text().strip()
    assert text == outcome.finalists[0].schedule
    reason = json.loads((outcome.folder / "reason.json").read_text())
    assert reason["split"] == "validation, a part of the training set for each seed"
    assert (reason["sampler"], reason["pruner"], reason["seed"]) == ("guided", "median", 0)
    assert [row["trial"] for row in reason["finalists"]] == [finalist.trial for finalist in outcome.finalists]
    assert reason["finalists"][0]["seeds"] == [1, 2]
    assert reason["counts"] == outcome.counts


def test_a_search_says_what_its_trainings_took():
    """Those of all of its runs, pruned ones and finalists among them."""
    study = toys.open_study()
    for total in (3, 6):
        outcome = toys.run(toys.Pool(), study=study, trials=total)
    scores = [*trials(study), *trials(studies.finalists(study))]
    spent = [trial.user_attrs["seconds"] for trial in scores]
    assert outcome.reason["trainings"] == len(spent) > 8
    assert outcome.reason["training_seconds"] == pytest.approx(sum(spent), abs=0.1)
    assert "trainings took" in report.cost(outcome.reason)
    assert "teachers" not in report.cost(outcome.reason)
    taught = {**outcome.reason, "training_seconds": 3700.0, "teacher": {"trained": 2, "seconds": 75.0}}
    assert report.cost(taught).endswith("took 1 h 1 min, their 2 teachers 1 min 15 s of workers' time")


def finalist(trial, num_params, *scores):
    return search.Finalist(
        trial=trial, schedule="", num_params=num_params, macs=1, brief=99.0, seeds=tuple(range(len(scores))),
        scores=scores,
    )  # fmt: skip


def residuals(table):
    """Of the additive model of a full table of candidates and seeds: with its row and column means taken out."""
    return table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()


def test_tied_are_those_within_one_standard_error_of_the_best():
    scores = np.array([[99.40, 99.54], [99.43, 99.47], [99.31, 99.49]])
    best, near, far = (finalist(trial, 8000 - trial, *row) for trial, row in enumerate(scores))
    short = finalist(3, 5000, 99.9)
    error = math.sqrt((residuals(scores) ** 2).sum() / 2) * math.sqrt(2 / 2)
    assert best.mean - near.mean < error < best.mean - far.mean
    for order in ([best, near, far, short], [short, far, near, best]):
        assert [each.trial for each in search.tied(order)] == [0, 1]  # what came less far is no rival
    assert search.tied([finalist(0, 8000, 99.4), finalist(1, 7000, 99.3)]) == [finalist(0, 8000, 99.4)]
    assert len(search.tied([finalist(0, 8000, 99.4), finalist(1, 7000, 99.4)])) == 2


def test_chance_is_judged_by_networks_of_the_same_size():
    """Of a front on MNIST: two seeds of the smallest are 23 points apart, which says nothing of the largest."""
    tiny, small = finalist(0, 522, 95.64, 72.36), finalist(1, 593, 96.63, 95.69)
    large = [finalist(2, 6419, 99.29, 99.34), finalist(3, 7568, 99.277, 99.357), finalist(4, 7878, 99.43, 99.394)]
    assert search.tied([tiny, small, *large]) == search.tied(large)
    assert search.peers([tiny, small, *large], tiny) == [tiny, small]
    assert finalist(5, 800, 99.9, 90.1).interval(5.0, 3)[1] == 100


@pytest.mark.parametrize("gap", [0.0, 5.0])
def test_of_a_tie_the_smallest_wins(gap):
    """Each finalist is two points luckier with one of its seeds: the difference of two means nothing."""
    study, sizes = toys.open_study(), []

    def score(architecture, seed, epoch):
        sizes.append(architecture.num_params)
        lucky = (seed + len(set(sizes[: sizes.index(architecture.num_params)]))) % 2
        return 60 + 2 * lucky + gap * (architecture.num_params == max(sizes))

    outcome = toys.run(toys.Pool(score=score), study=study, pruner="none", finalists=4)
    raced = [each.num_params for each in outcome.finalists if len(each.scores) == 2]
    assert len(set(raced)) > 1
    assert raced[0] == (max(raced) if gap else min(raced))
    assert ("the fewest parameters of a tie" in outcome.reason["verdict"]) == (not gap)
    assert (outcome.folder / "architecture.txt").read_text().strip() == outcome.finalists[0].schedule


def test_a_winner_is_not_lost_to_later_candidates():
    """With more trials other candidates lead, but what a finalist has won it keeps."""
    study = toys.open_study()

    def modest(architecture, seed, epoch):
        return 60.0 if seed == 0 else 95.0

    first = toys.run(toys.Pool(score=modest), study=study)

    def bold(architecture, seed, epoch):
        return 90.0 if seed == 0 else 70.0

    second = toys.run(toys.Pool(score=bold), study=study, trials=8)
    assert second.finalists[0].trial == first.finalists[0].trial
    assert len(second.finalists) == 4
    check_laws(study, 8)


def test_the_weights_exported_are_those_of_the_middle_seed():
    study = toys.open_study()
    offsets = {1: 3.0, 2: 1.0, 3: 2.0}

    def score(architecture, seed, epoch):
        return toys.luck(architecture, 0, epoch) + offsets.get(seed, 0)

    outcome = toys.run(toys.Pool(score=score), study=study, finalists=1, finalist_seeds=3)
    assert outcome.reason["weights_seed"] == 3
    weights = outcome.folder.parent / "weights"
    winner = outcome.finalists[0].trial
    ours = load_file(outcome.folder / "weights.safetensors")
    kept = load_file(search.weights_path(weights, winner, 3, brief=False))
    assert all(ours[key].equal(kept[key]) for key in ours)
    # A process elsewhere trained the middle seed: another one of the winner's stands in; with none it is said.
    search.weights_path(weights, winner, 3).unlink()
    assert toys.run(toys.Pool(), study=study, finalists=1, finalist_seeds=3).reason["weights_seed"] == 2
    for path in weights.glob("finalist-*"):
        path.unlink()
    with pytest.raises(StorageError, match="weights of the winner"):
        toys.run(toys.Pool(), study=study, finalists=1, finalist_seeds=3)


def test_pooled_sd_is_that_of_the_residuals():
    scores = [[99.1, 99.3, 99.2], [98.0, 98.4], [97.0]]
    sd, degrees = search.pooled_sd(scores)
    residuals = np.concatenate([np.array(each) - np.mean(each) for each in scores])
    assert degrees == 3
    assert sd == pytest.approx(math.sqrt((residuals**2).sum() / 3))
    assert search.pooled_sd([[99.0], [98.0]]) == (None, 0)
    assert search.pooled_sd([]) == (None, 0)


def test_paired_sd_is_that_of_the_additive_model():
    rng = np.random.default_rng(0)
    table = 99 + rng.normal(0, 0.05, (4, 3))
    rows = [dict(enumerate(row)) for row in table]
    expected = math.sqrt((residuals(table) ** 2).sum() / (3 * 2))
    assert search.paired_sd(rows) == (pytest.approx(expected), 6)
    # Harder images for all, with one seed, and better candidates change nothing; a single score explains itself.
    moved = [{seed: score - seed + number for seed, score in row.items()} for number, row in enumerate(rows)]
    assert search.paired_sd([*moved, {0: 10.0}, {7: 1.0}]) == (pytest.approx(expected), 6)
    assert search.paired_sd([{0: 99.0, 1: 98.0}]) == (None, 0)
    assert search.paired_sd([]) == (None, 0)


def test_behind_is_the_one_sided_paired_t_test():
    """With two candidates it is scipy's paired test at 5 %, one-sided."""
    rng = np.random.default_rng(0)
    verdicts = set()
    for _ in range(200):
        images = rng.normal(0, 0.3, int(rng.integers(2, 5)))
        a = images + 99 + rng.normal(0, 0.05, len(images))
        b = images + 99 - rng.uniform(0, 0.2) + rng.normal(0, 0.05, len(images))
        leader, other = (a, b) if np.mean(a) >= np.mean(b) else (b, a)
        expected = {1} if stats.ttest_rel(leader, other, alternative="greater").pvalue < 0.05 else set()
        assert search.behind({0: dict(enumerate(leader)), 1: dict(enumerate(other))}) == expected
        verdicts.add(bool(expected))
    assert verdicts == {True, False}
    clear = {1: 99.0, 2: 99.1, 3: 99.2}
    assert search.behind({0: clear, 1: {1: 10.0}}) == set()  # one score says nothing of its spread
    assert search.behind({0: clear, 1: {2: 10.0, 4: 11.0}}) == set()  # nor two of other seeds
    assert search.behind({0: clear, 1: {1: 10.0, 2: 11.0, 3: 10.0}}) == {1}
    assert search.behind({}) == set()


def test_interval_is_students():
    finalist = search.Finalist(
        trial=0, schedule="", num_params=1, macs=1, brief=99.0, seeds=(1, 2, 3), scores=(99.1, 99.2, 99.4)
    )
    low, high = finalist.interval(finalist.sd, 2)
    expected = stats.t.interval(0.95, 2, loc=np.mean(finalist.scores), scale=stats.sem(finalist.scores))
    assert (low, high) == pytest.approx(expected)
    assert finalist.interval(None, 0) is None
    assert finalist.sd == pytest.approx(np.std(finalist.scores, ddof=1))


def test_leaders_on_toy_numbers():
    def trial(number, score, num_params, known=None, state=TrialState.COMPLETE):
        attributes = {"num_params": num_params, "loss": 1 - score / 100} | ({"known": known} if known else {})
        return SimpleNamespace(number=number, user_attrs=attributes, state=state)

    held = [
        trial(0, 90.0, 400), trial(1, 95.0, 400), trial(2, 95.0, 300), trial(3, 70.0, 100, "old"),
        trial(4, 80.0, 100, "good"), trial(5, 99.0, 10, state=TrialState.PRUNED),
    ]  # fmt: skip
    study = SimpleNamespace(get_trials=lambda **_: held)
    assert [t.number for t in search.leaders(study, 4)] == [2, 1, 0, 4]
    assert [t.number for t in search.leaders(study, 3)] == [2, 1, 4]
    assert [t.number for t in search.leaders(study, 1)] == [2, 4]
    assert [t.number for t in search.leaders(study, 9)] == [2, 1, 0, 4, 3]


def test_clearly_worse_finalists_get_no_more_seeds():
    def score(architecture, seed, epoch):
        return 60.0 + (zlib_rank(architecture) * 30) + seed / 100

    order: dict[str, int] = {}

    def zlib_rank(architecture):
        return order.setdefault(str(architecture), len(order) % 2)

    study = toys.open_study()
    pool = toys.Pool(score=score)
    outcome = toys.run(pool, study=study, trials=2, finalist_seeds=5)
    assert [len(finalist.scores) for finalist in outcome.finalists] == [2, 2]


def test_each_seed_leaves_three_fifths_of_the_finalists_down_to_two():
    def score(architecture, seed, epoch):  # chance alone: none is clearly behind
        return 90 + zlib.crc32(f"{architecture} {seed}".encode()) % 1000 / 100

    study, pool = toys.open_study(), toys.Pool(2, score=score)
    outcome = toys.run(pool, study=study, trials=9, pruner="none", finalists=8, finalist_seeds=5)
    assert Counter(seed for _, seed, epochs in pool.trained if epochs == 2) == {1: 8, 2: 5, 3: 3, 4: 2, 5: 2}
    assert set(pool.folds) == {(seed, seed) for seed in range(6)}  # other images for each seed
    assert [len(finalist.scores) for finalist in outcome.finalists] == [5, 5, 3, 2, 2, 1, 1, 1]
    first = sorted(outcome.finalists, key=lambda finalist: -finalist.scores[0])
    assert {finalist.trial for finalist in outcome.finalists[:5]} == {finalist.trial for finalist in first[:5]}
    last = outcome.finalists[:2]
    tie = search.tied(outcome.finalists)
    assert tie[0].mean == max(finalist.mean for finalist in last)
    assert outcome.finalists[0].num_params == min(finalist.num_params for finalist in tie)
    assert outcome.finalists[0] in tie


# --- the front --------------------------------------------------------------------------------------------------------


def size_pays(architecture, seed, epoch):
    """The larger the better, with a tenth of a point of luck: every size has its place on the front."""
    return 90 + math.log(architecture.num_params) + toys.luck(architecture, seed, epoch) / 1000


def test_a_front_is_searched_pruned_and_raced_over_its_whole_length():
    changes = {"cap": 8000, "trials": 50, "pareto": True, "finalists": 5, "finalist_seeds": 2}
    study = toys.open_study("front", chosen=toys.settings(**changes))
    pool = toys.Pool(2, score=size_pays)
    outcome = toys.run(pool, study=study, **changes)
    check_laws(study, 50, 8000)
    sizes = [trial.user_attrs["num_params"] for trial in trials(study, TrialState.COMPLETE, TrialState.PRUNED)]
    assert min(sizes) < 1500
    assert max(sizes) > 6000
    pruned = trials(study, TrialState.PRUNED)
    assert pruned
    for trial in pruned:  # by those of its size, never for being small
        size = trial.user_attrs["num_params"]
        peers = [
            other.intermediate_values[trial.last_step]
            for other in trials(study, TrialState.COMPLETE)
            if size / 2 <= other.user_attrs["num_params"] <= size * 2
        ]
        assert trial.intermediate_values[trial.last_step] < max(peers)
    assert [len(finalist.scores) for finalist in outcome.finalists] == [2] * 5  # no rivals: none is dropped
    assert {finalist.trial for finalist in outcome.finalists} == {trial.number for trial in search.front(study, 5)}
    assert min(finalist.num_params for finalist in outcome.finalists) == min(
        trial.user_attrs["num_params"] for trial in trials(study, TrialState.COMPLETE)
    )
    largest = outcome.finalists[0].num_params
    assert largest == max(finalist.num_params for finalist in outcome.finalists)
    for row in outcome.reason["finalists"]:
        beside = [each.scores for each in outcome.finalists if search.alike(each.num_params, row["num_params"])]
        sd, degrees = search.pooled_sd(beside)
        half = stats.t.ppf(0.975, degrees) * sd / math.sqrt(2)
        assert row["interval"] == pytest.approx((row["mean"] - half, row["mean"] + half))
    by_number = {finalist.trial: finalist for finalist in outcome.finalists}
    front = [by_number[number] for number in outcome.reason["front"]]
    assert outcome.finalists[0] in front
    assert [f.num_params for f in front] == sorted(f.num_params for f in front)
    assert [f.mean for f in front] == sorted(f.mean for f in front)
    for finalist in outcome.finalists:
        others = [other for other in outcome.finalists if other is not finalist]
        dominated = any(o.num_params <= finalist.num_params and o.mean >= finalist.mean for o in others)
        assert dominated == (finalist not in front)
    with pytest.raises(UsageError, match="pareto"):
        toys.open_study("front", chosen=toys.settings(cap=8000))


def test_the_front_of_the_trials_is_that_of_the_table_and_thinned_evenly():
    study = toys.open_study()
    toys.run(toys.Pool(), study=study, trials=12, pruner="none", sampler="random")
    whole = search.front(study, 100)
    table = studies.pareto_front(studies.frame(study))
    assert sorted(trial.number for trial in whole) == sorted(table["number"])
    assert whole[0].user_attrs["loss"] == min(trial.user_attrs["loss"] for trial in whole)
    assert len(whole) >= 4
    assert whole[1].user_attrs["num_params"] == min(trial.user_attrs["num_params"] for trial in whole)
    assert search.front(study, 2) == whole[:2]
    assert search.front(study, 1) == whole[:1]
    by_size = sorted(whole, key=lambda trial: -trial.user_attrs["num_params"])
    for count in range(3, len(whole)):  # cut anywhere, what was trained is of the whole front
        gaps = np.diff(sorted(by_size.index(trial) for trial in whole[:count]))
        assert max(gaps) <= 2 * min(gaps) + 1


@pytest.mark.parametrize("sampler", ["evolution", "guided", "tpe", "random"])
def test_proposals_for_a_front_are_of_every_size(sampler):
    space, sizes = toys.space(8000), []
    study = optuna.create_study(direction="maximize")
    study.sampler = search.Proposer(space, seed=0, sampler=sampler, pareto=True)
    for _ in range(30):
        trial, architecture = search.ask(study, space)
        sizes.append(architecture.num_params)
        trial.set_user_attr("loss", 1 / architecture.num_params)
        study.tell(trial, math.log(architecture.num_params))
    assert sum(size < 2000 for size in sizes) >= 5
    assert sum(size > 4000 for size in sizes) >= 5


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_view_hears_the_counts_and_the_time_left():
    seen = []

    def view(progress, line):
        seen.append((progress.phase, progress.done, progress.total, progress.seconds_left, dict(progress.counts)))

    toys.run(Slow(1), view=view)
    assert {phase for phase, *_ in seen} == {"brief trials", "finalists"}
    assert max(done for phase, done, *_ in seen if phase == "finalists") == 4
    assert all(done <= total for _, done, total, _, _ in seen)
    assert any(left is not None and 0 <= left < 60 for *_, left, _ in seen)


def test_the_finalist_that_leads_is_shown():
    shown = []

    def view(progress, line):
        if line and line.startswith("finalist"):
            shown.append(progress.best)

    outcome = toys.run(toys.Pool(), view=view)
    winner = outcome.finalists[0]
    assert len(shown) == sum(len(finalist.scores) for finalist in outcome.finalists)
    assert shown[0] is not None
    assert shown[-1] == (winner.mean, winner.schedule, winner.num_params)
