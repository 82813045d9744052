"""The race of the finalists: which seeds are due, who is dropped, who wins, and what is exported of it."""

from __future__ import annotations

import math
import zlib
from collections import Counter

import pytest
import toys
from laws import check_laws, trials
from laws import finalist as made
from optuna.trial import TrialState
from safetensors.torch import load_file
from scipy import stats

from nas.errors import NasError, StorageError, UsageError
from nas.files import read_json
from nas.searches import Finalists, front, pooled_sd, read_reason, similar_size, within_one_standard_error
from nas.searches.finalists import finalist_weights
from nas.searches.reason import verdict_of
from nas.searches.selection import wilson_interval
from nas.study import study_folder
from nas.study.ownership import process_token


def test_the_winner_has_the_best_mean_and_need_not_be_the_best_trial():
    def score(architecture, seed, epoch):
        accuracy = toys.luck(architecture, 0, epoch)
        return accuracy if seed == 0 else 150 - accuracy  # as finalists, the order is turned round

    store = toys.open_study()
    result = toys.run(toys.Pool(score=score), store=store)
    assert result.finalists[0].trial != store.refresh().complete[0].number
    means = [finalist.mean for finalist in result.finalists]
    assert means == sorted(means, reverse=True)
    assert (result.folder / "architecture.txt").read_text().strip() == result.finalists[0].schedule
    reason = read_reason(result.folder)
    assert reason == result.reason
    assert reason.split == "validation, a part of the training set for each seed"
    assert (reason.sampler, reason.pruner, reason.seed) == ("guided", "median", 0)
    assert [row.trial for row in reason.finalists] == [finalist.trial for finalist in result.finalists]
    assert reason.finalists[0].seeds == (1, 2)
    assert reason.accuracy == result.finalists[0].mean
    store.refresh()
    assert reason.counts == store.counts()


def test_a_search_states_what_its_trainings_took():
    """Those of all of its runs, pruned ones and finalists among them."""
    store = toys.open_study()
    for total in (3, 6):
        result = toys.run(toys.Pool(), store=store, trials=total)
    spent = [trial.user_attrs["seconds"] for trial in (*trials(store), *trials(store.finalists()))]
    assert result.reason.trainings == len(spent) > 8
    assert result.reason.training_seconds == pytest.approx(sum(spent), abs=0.1)


def test_a_finalist_that_fails_is_not_tried_again():
    best = [""]

    def score(architecture, seed, epoch):
        if seed > 0 and str(architecture) == best[0]:
            raise NasError("the loss is nan")
        return toys.luck(architecture, seed, epoch)

    store = toys.open_study("first")
    toys.run(toys.Pool(score=score), store=store, finalist_seeds=1)
    best[0] = store.refresh().complete[0].user_attrs["schedule"]
    store, pool, again = toys.open_study(), toys.Pool(score=score), toys.Pool(score=score)
    result = toys.run(pool, store=store)
    assert best[0] not in [finalist.schedule for finalist in result.finalists]
    assert sum(schedule == best[0] and seed > 0 for schedule, seed, _ in pool.trained) == 1
    toys.run(again, store=store)
    assert again.trained == []


def test_a_finalists_seed_is_claimed_once():
    store = toys.open_study()
    toys.run(toys.Pool(), store=store)
    (candidate,) = store.refresh().complete[:1]
    race = Finalists(store, [candidate], toys.settings(), {})
    race.store.refresh()
    claimed = race._claim(candidate.number, 77)
    assert claimed.params == {"candidate": candidate.number, "seed": 77}
    assert claimed.attrs["owner"] == process_token()
    assert {"schedule", "num_params", "macs"} <= claimed.attrs.keys()
    assert race._claim(candidate.number, 77) is None
    race.store.finish(claimed, TrialState.FAIL, interrupted=True, reason="cut")
    assert race._claim(candidate.number, 77) is not None
    # Two that read at once: the later of both claims yields.
    late, seen = Finalists(store, [candidate], toys.settings(), {}), []
    holder = late._holder
    late._holder = lambda params: seen.append(params) or (holder(params) if len(seen) > 1 else None)
    assert late._claim(candidate.number, 77) is None
    (*_, yielded) = trials(late.store, TrialState.FAIL)
    assert yielded.user_attrs["reason"] == "another process claimed this seed first"


@pytest.mark.parametrize("gap", [0.0, 5.0])
def test_of_a_tie_the_smallest_wins(gap):
    """Each finalist is two points luckier with one of its seeds: the difference of two means nothing."""
    store, sizes = toys.open_study(), []

    def score(architecture, seed, epoch):
        sizes.append(architecture.num_params)
        lucky = (seed + len(set(sizes[: sizes.index(architecture.num_params)]))) % 2
        return 60 + 2 * lucky + gap * (architecture.num_params == max(sizes))

    result = toys.run(toys.Pool(score=score), store=store, pruner="none", finalists=4)
    raced = [each.num_params for each in result.finalists if len(each.scores) == 2]
    assert len(set(raced)) > 1
    assert raced[0] == (max(raced) if gap else min(raced))
    assert ("the fewest parameters of a tie" in result.reason.verdict) == (not gap)
    assert (result.folder / "architecture.txt").read_text().strip() == result.finalists[0].schedule


def test_of_a_tie_the_verdict_says_who_has_the_best_mean():
    ahead = [made(1, 400, 97.0, 90.0), made(2, 500, 80.0, 96.0)]
    behind = [made(1, 400, 80.0, 96.0), made(2, 500, 97.0, 90.0)]
    tie = "the fewest parameters of a tie"
    assert verdict_of(ahead) == f"{tie}, and its best mean: trial 2 is within one standard error"
    assert verdict_of(behind) == f"{tie}: within one standard error of the best mean, as is trial 2"


def test_a_winner_is_not_lost_to_later_candidates():
    """With more trials other candidates lead, but what a finalist has won is its own."""
    store = toys.open_study()
    first = toys.run(toys.Pool(score=lambda architecture, seed, epoch: 60.0 if seed == 0 else 95.0), store=store)
    bold = toys.Pool(score=lambda architecture, seed, epoch: 90.0 if seed == 0 else 70.0)
    second = toys.run(bold, store=store, trials=8)
    assert second.finalists[0].trial == first.finalists[0].trial
    assert len(second.finalists) == 4
    check_laws(store, 8)


def test_the_weights_exported_are_those_of_the_middle_seed():
    offsets, changes = {1: 3.0, 2: 1.0, 3: 2.0}, {"finalists": 1, "finalist_seeds": 3}

    def score(architecture, seed, epoch):
        return toys.luck(architecture, 0, epoch) + offsets.get(seed, 0)

    store = toys.open_study()
    result = toys.run(toys.Pool(score=score), store=store, **changes)
    assert result.reason.weights_seed == 3
    winner = result.finalists[0].trial
    ours = load_file(result.folder / "weights.safetensors")
    stored = load_file(finalist_weights("toy", winner, 3))
    assert ours.keys() == stored.keys()
    assert all(ours[key].equal(stored[key]) for key in ours)
    # A process elsewhere trained the middle seed: another one of its own stands in; without any there is none.
    finalist_weights("toy", winner, 3).unlink()
    assert toys.run(toys.Pool(), store=store, **changes).reason.weights_seed == 2
    for path in (study_folder("toy") / "weights").glob("finalist-*"):
        path.unlink()
    with pytest.raises(StorageError, match="weights of the winner"):
        toys.run(toys.Pool(), store=store, **changes)


@pytest.mark.parametrize("damage", [None, "", "{}"])
def test_the_record_is_of_what_trained_last(damage):
    toys.run(toys.Pool(), command="the first")
    path = study_folder("toy") / "best" / "reason.json"
    if damage is not None:
        path.write_text(damage)
    result = toys.run(toys.Pool(), command="a look")
    assert result.reason.command == ("the first" if damage is None else "a look")
    assert read_json(path)["command"] == result.reason.command
    if damage is None:
        assert toys.run(toys.Pool(), command="more", trials=6).reason.command == "more"


def test_a_record_cut_before_its_export_is_of_who_exports(monkeypatch):
    toys.run(toys.Pool(), command="the first")

    def full(*_args, **_kwargs):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("nas.searches.winner.write_winner", full)
        with pytest.raises(StorageError, match="the disk is full"):
            toys.run(toys.Pool(), command="cut", trials=6)
    again = toys.Pool()
    assert toys.run(again, command="goes on", trials=6).reason.command == "goes on"
    assert again.trained == []


def test_clearly_worse_finalists_get_no_more_seeds():
    order: dict[str, int] = {}

    def score(architecture, seed, epoch):
        return 60.0 + order.setdefault(str(architecture), len(order) % 2) * 30 + seed / 100

    result = toys.run(toys.Pool(score=score), trials=2, finalist_seeds=5)
    assert [len(finalist.scores) for finalist in result.finalists] == [2, 2]


def test_each_seed_leaves_half_of_the_finalists_down_to_two():
    def score(architecture, seed, epoch):  # chance alone: none is clearly behind
        return 90 + zlib.crc32(f"{architecture} {seed}".encode()) % 1000 / 100

    pool = toys.Pool(2, score=score)
    result = toys.run(pool, trials=9, pruner="none", finalists=8, finalist_seeds=5)
    assert Counter(seed for _, seed, epochs in pool.trained if epochs == 2) == {1: 8, 2: 4, 3: 2, 4: 2, 5: 2}
    assert set(pool.folds) == {(seed, seed) for seed in range(6)}  # other images for each seed
    assert [len(finalist.scores) for finalist in result.finalists] == [5, 5, 2, 2, 1, 1, 1, 1]
    first = sorted(result.finalists, key=lambda finalist: -finalist.scores[0])
    assert {finalist.trial for finalist in result.finalists[:4]} == {finalist.trial for finalist in first[:4]}
    tie = within_one_standard_error(result.finalists)
    assert tie[0].mean == max(finalist.mean for finalist in result.finalists[:2])
    assert result.finalists[0].num_params == min(finalist.num_params for finalist in tie)
    assert result.finalists[0] in tie


# --- the front --------------------------------------------------------------------------------------------------------


def size_pays(architecture, seed, epoch):
    """The larger the better, with a tenth of a point of luck: every size has its place on the front."""
    return 90 + math.log(architecture.num_params) + toys.luck(architecture, seed, epoch) / 1000


def test_a_front_is_searched_pruned_and_raced_over_its_whole_length():
    changes = {"cap": 8000, "trials": 50, "pareto": True, "finalists": 5, "finalist_seeds": 2}
    store = toys.open_study("front", chosen=toys.settings(**changes))
    result = toys.run(toys.Pool(2, score=size_pays), store=store, **changes)
    check_laws(store, 50, 8000)
    complete = store.table.complete
    sizes = [trial.user_attrs["num_params"] for trial in store.table.learned]
    assert min(sizes) < 1500
    assert max(sizes) > 6000
    pruned = trials(store, TrialState.PRUNED)
    assert pruned
    for trial in pruned:  # by those of its size, never for being small
        size = trial.user_attrs["num_params"]
        peers = [
            other.intermediate_values[trial.last_step] for other in complete
            if size / 2 <= other.user_attrs["num_params"] <= size * 2
        ]  # fmt: skip
        assert trial.intermediate_values[trial.last_step] < max(peers)
    assert [len(finalist.scores) for finalist in result.finalists] == [2] * 5  # no rivals: none is dropped
    assert {finalist.trial for finalist in result.finalists} == {trial.number for trial in front(store.table, 5)}
    raced = [finalist.num_params for finalist in result.finalists]
    assert min(raced) == min(trial.user_attrs["num_params"] for trial in complete)
    assert raced[0] == max(raced)
    for row in result.reason.finalists:
        beside = [each.scores for each in result.finalists if similar_size(each.num_params, row.num_params)]
        sd, degrees = pooled_sd(beside)
        half = stats.t.ppf(0.975, degrees) * sd / math.sqrt(2)
        student = (row.mean - half, row.mean + half)
        alike = wilson_interval(row.mean, result.reason.num_validation)
        assert row.interval == pytest.approx(student if sd > 1e-9 else alike)
    by_number = {finalist.trial: finalist for finalist in result.finalists}
    points = [by_number[number] for number in result.reason.front]
    assert result.finalists[0] in points
    assert [f.num_params for f in points] == sorted(f.num_params for f in points)
    assert [f.mean for f in points] == sorted(f.mean for f in points)
    for finalist in result.finalists:
        others = [other for other in result.finalists if other is not finalist]
        dominated = any(o.num_params <= finalist.num_params and o.mean >= finalist.mean for o in others)
        assert dominated == (finalist not in points)
    with pytest.raises(UsageError, match="pareto"):
        toys.open_study("front", chosen=toys.settings(cap=8000))


def test_the_front_of_the_trials_is_that_of_its_definition_and_thinned_evenly():
    store = toys.open_study()
    toys.run(toys.Pool(), store=store, trials=12, pruner="none", sampler="random")
    table = store.refresh()
    whole = front(table, 100)
    counts = {trial.number: (trial.user_attrs["num_params"], trial.user_attrs["loss"]) for trial in table.complete}
    expected = {
        number for number, (size, loss) in counts.items()
        if not any((s < size and other <= loss) or (s == size and other < loss) for s, other in counts.values())
    }  # fmt: skip
    assert {trial.number for trial in whole} == expected
    assert whole[0] is table.complete[0]
    assert len(whole) >= 4
    assert whole[1].user_attrs["num_params"] == min(size for size, _ in counts.values())
    assert front(table, 2) == whole[:2]
    assert front(table, 1) == whole[:1]
