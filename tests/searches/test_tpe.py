"""TPE learns from every trial so far: in a search by `--sampler tpe`, and in a recipe study."""

from __future__ import annotations

import numpy as np
import toys
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas.architecture import Architecture
from nas.searches import Proposer, RecipeSettings, RecipeTrials
from nas.searches.recipes import DISTRIBUTIONS
from nas.searches.samplers import STARTUP_TRIALS
from nas.study import StudyStore
from nas.train import Recipe


def store() -> StudyStore:
    storage = InMemoryStorage()
    storage.create_new_study([StudyDirection.MAXIMIZE], "toy")
    return StudyStore("toy", storage, None)


def test_a_search_by_tpe_learns_from_each_new_trial():
    """Without learning, every proposal would be the random one that the seed and the number give."""
    space, study = toys.space(), store()
    proposer, chance = (Proposer(space=space, seed=0, name=name) for name in ("tpe", "random"))
    differ = []
    for number in range(STARTUP_TRIALS + 8):
        table = study.refresh()
        proposal = proposer(table)
        if number >= STARTUP_TRIALS:
            differ.append(proposal.architecture != chance(table).architecture)
        attrs = {"schedule": str(proposal.architecture), "num_params": proposal.architecture.num_params}
        trial = study.claim(proposal.params, space.distributions, attrs)
        study.finish(trial, TrialState.COMPLETE, 90.0 + proposal.architecture.depth, loss=0.1)
    assert all(differ)
    assert len(study.refresh().as_study().trials) == STARTUP_TRIALS + 8


def test_a_recipe_study_moves_towards_what_scores():
    """Scores grow with the augmentation alone: draws of TPE lie above the middle of its range in the end."""
    settings = RecipeSettings(
        architecture=Architecture.parse("4 M 4 G C"), dataset="synthetic", recipe=Recipe(epochs=2), trials=60
    )
    phase, drawn = RecipeTrials(store(), settings), []
    for _ in range(40):
        claimed, _, _ = phase.next()
        drawn.append(claimed.params["augmentation"])
        phase.store.finish(claimed, TrialState.COMPLETE, 90 + drawn[-1])
    ranges = DISTRIBUTIONS["augmentation"]
    assert np.median(drawn[-10:]) > ranges.low + 0.75 * (ranges.high - ranges.low)
