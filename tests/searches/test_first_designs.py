"""Designs that a search begins with: published ones, or regular ones in a space that is derived."""

from __future__ import annotations

import toys
from laws import check_account, trials

from nas.budget import Budget
from nas.designs import PUBLISHED_DESIGNS
from nas.searches import Search
from nas.space import SearchSpace
from nas.space_options import SpaceOptions


def test_regular_designs_come_first_in_a_derived_space():
    """And once: they are not enqueued again by a search that goes on."""
    space = SearchSpace(
        budget=Budget(max_params=900, space=SpaceOptions(depth=(4, 6))), input_shape=(1, 16, 16), num_classes=4
    )
    training, store = toys.synthetic(), toys.open_study("regular")
    for count in (2, 5):
        settings = toys.settings(900, trials=count, finalists=1, finalist_seeds=1)
        found = Search(store, space, settings, toys.Pool(), lambda *_: None)
        found.run(training, toys.provenance())
    names = [name for name, _ in space.regular()]
    assert [trial.user_attrs.get("regular") for trial in trials(store)] == [*names, None, None]
    check_account(store)


def test_published_designs_come_first_and_the_best_of_them_is_a_finalist():
    cap, poor = 8000, {design.text for design in PUBLISHED_DESIGNS}

    def score(architecture, seed, epoch):
        return toys.luck(architecture, seed, epoch) - 45 * (str(architecture) in poor)

    space, training = SearchSpace(budget=Budget(max_params=cap)), toys.synthetic()
    published = [name for name, _ in space.published()]
    assert len(published) >= 3

    def search(store, score, **changes):
        provenance = toys.provenance(classes=tuple("0123456789"))
        found = Search(store, space, toys.settings(cap, **changes), toys.Pool(score=score), lambda *_: None)
        return found.run(training, provenance)

    for count in (1, 3):
        store = toys.open_study(f"published-{count}")
        result = search(store, score, trials=len(published) + 2, finalists=count, finalist_seeds=1)
        assert [trial.user_attrs.get("published") for trial in trials(store)][: len(published)] == published
        complete = store.table.complete
        best = next(trial for trial in complete if trial.user_attrs.get("published"))
        raced = {finalist.trial for finalist in result.finalists}
        assert raced >= {complete[0].number, best.number}
        assert len(raced) == max(2, count)
        check_account(store)
    store = toys.open_study("none")
    search(store, score, published=False, trials=1)
    assert not any(trial.user_attrs.get("published") for trial in trials(store))
