"""What a recipe study came to: statistics over its scores, and the recipe to use."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial
from recipe_toys import DEFAULT, Pool, as_dict, luck, open_study, run, settings
from scipy import stats

from nas.errors import InfeasibleError
from nas.searches import RecipeTrials, standing
from nas.searches.recipes import DISTRIBUTIONS, encode
from nas.study import ClaimedTrial, TrialTable


class Frozen:
    """A store that holds these trials, and nothing more."""

    name = "frozen"

    def __init__(self, *trials):
        self.table = TrialTable()
        for trial in trials:
            if trial.state.is_finished():
                self.table.add(trial)
            else:
                self.table.open[trial.number] = trial
        self.attrs = {"settings": settings().identity("hash")}

    def refresh(self):
        return self.table


def scored(number, scores, *, state=TrialState.COMPLETE, **attrs):
    fields = {"scores": list(scores), "seconds": 1.0, "recipe": as_dict(DEFAULT), "default": number == 0, **attrs}
    made = create_trial(
        state=state, value=float(np.mean(scores)) if state == TrialState.COMPLETE else None, user_attrs=fields,
        params=encode(DEFAULT), distributions=DISTRIBUTIONS,
    )  # fmt: skip
    made.number = number
    return made


def test_chance_alone_leaves_the_default():
    """A hundred studies of twelve equal recipes: the best is ahead of the default in most, and beyond chance in few."""
    rng, ahead, better = np.random.default_rng(0), 0, 0
    for _ in range(100):
        reason = standing(Frozen(*(scored(n, 99 + rng.normal(0, 0.05, 4)) for n in range(12))))
        ahead += max(row["difference"] or 0 for row in reason["recipes"]) > 0.03
        better += not next(row for row in reason["recipes"] if row["default"])["chosen"]
    assert ahead > 60
    assert better <= 5  # one-sided, at 2.5 % for all of them together
    reason = run(Pool(score=lambda recipe, seed: 99 + luck(recipe, seed) / 20), trials=6)
    assert [row["trial"] for row in reason["recipes"] if row["chosen"]] == [0]
    assert reason["verdict"].endswith("use the default")


def test_with_two_recipes_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    for n in (2, 3, 5):
        ours, theirs = (99 + rng.normal(0, 0.1, n) for _ in range(2))
        (row,) = [r for r in standing(Frozen(scored(0, ours), scored(1, theirs)))["recipes"] if r["trial"]]
        expected = stats.ttest_rel(theirs, ours).confidence_interval(0.95)
        assert row["interval"] == pytest.approx(tuple(expected))
        assert row["difference"] == pytest.approx(np.mean(theirs) - np.mean(ours))


def test_a_trial_behind_is_that_of_the_one_sided_paired_t_test():
    rng, verdicts = np.random.default_rng(0), set()

    def is_behind(*trials, number):
        phase = RecipeTrials(Frozen(*trials), settings())
        (one,) = [trial for trial in trials if trial.number == number]
        claimed = ClaimedTrial(trial_id=0, number=number, params={}, attrs={"scores": one.user_attrs["scores"]})
        return phase._is_behind(claimed)

    for _ in range(200):
        shared = rng.normal(0, 0.1, 3)
        best, other = 99 + shared + rng.normal(0, 0.03, 3), 98.9 + shared + rng.normal(0, 0.03, 3)
        best, other = (best, other) if best.mean() >= other.mean() else (other, best)
        rows = (
            scored(0, [*best, 50.0]),
            scored(1, other, state=TrialState.RUNNING),
        )  # seeds that only one has do not count
        expected = bool(stats.ttest_rel(best, other, alternative="greater").pvalue < 0.05)
        assert is_behind(*rows, number=1) == expected
        assert not is_behind(scored(0, best), rows[1], number=0)
        verdicts.add(expected)
    assert verdicts == {True, False}
    assert not is_behind(scored(0, [99.0]), scored(1, [9.0], state=TrialState.RUNNING), number=1)


def test_the_default_is_known_by_its_mark_whatever_its_number():
    cut = scored(0, [98.0], state=TrialState.FAIL, interrupted=True)
    rows = standing(Frozen(cut, scored(1, [99.0, 99.1], default=False), scored(2, [98.0, 98.1], default=True)))[
        "recipes"
    ]
    assert [(row["trial"], row["default"]) for row in rows] == [(1, False), (2, True)]
    assert rows[0]["difference"] == pytest.approx(1.0)
    alone = standing(Frozen(scored(3, [99.0, 99.1], default=False)))
    assert "nothing to compare" in alone["verdict"]
    assert [row["chosen"] for row in alone["recipes"]] == [False]


def test_nothing_that_ended_is_infeasible():
    with pytest.raises(InfeasibleError, match="no training of the study 'toy' ended well"):
        standing(open_study())
