"""What is proposed: by chance, by guided evolution, by TPE; from the seed and the trials alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import toys
from laws import check_laws, schedules, trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.architecture import Architecture, Conv
from nas.searches import DrawContext, Proposer
from nas.searches.samplers import (
    CANDIDATES_PER_TRIAL,
    STARTUP_TRIALS,
    evolution_sampler,
    random_sampler,
    screen,
)
from nas.space import SCREENED_OUT
from nas.study import TrialTable

SPACE = toys.space(8000)


def told(table: TrialTable, proposal, loss: float, state=TrialState.COMPLETE) -> FrozenTrial:
    """Add a proposal to a table as a trial of one epoch with that loss."""
    architecture = proposal.architecture
    trial = create_trial(
        params=proposal.params, distributions=SPACE.distributions, state=state, value=100 - 100 * loss,
        intermediate_values={1: 100 - 100 * loss},
        user_attrs={
            "loss": loss, "schedule": str(architecture), "num_params": architecture.num_params,
            "macs": architecture.macs, "discards": dict(proposal.discards),
            "generated": sum(proposal.discards.values()) + 1,
        },
    )  # fmt: skip
    trial.number = len(table)
    table.add(trial)
    return trial


def separable(architecture: Architecture) -> int:
    return sum(block.separable and block.padded for block in architecture.blocks if isinstance(block, Conv))


def evolved(sampler, count, loss_of, *, start=STARTUP_TRIALS):
    """The trials of a search by one sampler, which learns after some random ones."""
    table = TrialTable()
    for number in range(count):
        context = DrawContext(space=SPACE, table=table, rng=np.random.default_rng((0, number)), share=None)
        draw = (random_sampler if number < start else sampler)(context)
        proposal = SPACE.propose(draw, table.seen())
        told(table, proposal, loss_of(proposal.architecture))
    return table.trials()


def test_evolution_climbs_where_chance_does_not():
    """On a score that counts padded separable blocks, mutants of the leaders have more of them than random points."""
    means = {}
    for sampler in (evolution_sampler, random_sampler):
        made = evolved(sampler, 60, lambda architecture: 0.5 / (1 + separable(architecture)))
        means[sampler] = np.mean([separable(Architecture.parse(t.user_attrs["schedule"])) for t in made[-20:]])
    assert means[evolution_sampler] > means[random_sampler] + 1


def test_a_guided_search_trains_the_mutants_predicted_best_and_counts_the_others():
    """Where the loss falls with separable blocks, its last trials are ahead of plain evolution's."""

    def loss_of(architecture):
        return 0.1 / (1 + sum(block.separable for block in architecture.blocks if isinstance(block, Conv)))

    plain = evolved(evolution_sampler, 40, loss_of)
    table, propose = TrialTable(), Proposer(space=SPACE, seed=0)
    for _ in range(40):
        proposal = propose(table)
        told(table, proposal, loss_of(proposal.architecture))
    guided = table.trials()
    mean = [np.mean([trial.user_attrs["loss"] for trial in made[-20:]]) for made in (guided, plain)]
    assert mean[0] < mean[1]
    screened = [trial.user_attrs["discards"].get(SCREENED_OUT, 0) for trial in guided]
    assert screened == [0] * STARTUP_TRIALS + [CANDIDATES_PER_TRIAL - 1] * (40 - STARTUP_TRIALS)
    assert table.counts()["unaccounted"] == 0


def test_screening_accounts_for_every_candidate_and_takes_the_lowest():
    rng = np.random.default_rng(0)
    context = DrawContext(space=SPACE, table=TrialTable(), rng=rng, share=None)
    first = SPACE.propose(context.random, set())
    drawn = []

    def predict(proposal):
        drawn.append(proposal)
        return proposal.architecture.num_params

    found = screen(SPACE, context.random, {}, first, predict)
    assert len(drawn) == CANDIDATES_PER_TRIAL == len({str(each.architecture) for each in drawn})
    assert found.architecture.num_params == min(each.architecture.num_params for each in drawn)
    expected = sum(sum(each.discards.values()) for each in drawn) + CANDIDATES_PER_TRIAL - 1
    assert sum(found.discards.values()) == expected


@pytest.mark.parametrize("sampler", ["guided", "tpe"])
def test_a_sampler_draws_from_seed_and_study_alone(sampler):
    drawn = []
    for name in ("one", "other"):
        store = toys.open_study(name)
        toys.run(toys.Pool(), store=store, trials=19, sampler=sampler, pruner="none", finalists=1, finalist_seeds=1)
        drawn.append(schedules(store))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 19
    check_laws(store, 19)


def test_no_pruner_prunes_nothing_and_random_draws_never_learn():
    store = toys.open_study()
    toys.run(toys.Pool(2), store=store, trials=13, pruner="none", sampler="random")
    assert not trials(store, TrialState.PRUNED)
    space, seen = toys.space(), set()
    for trial in trials(store):
        rng = np.random.default_rng((0, trial.number))
        proposal = space.propose(lambda _, rng=rng: space.random(rng), seen)
        assert proposal.params == trial.params
        assert dict(proposal.discards) == trial.user_attrs["discards"]
        seen.add(trial.user_attrs["schedule"])


# --- Optuna's TPE -----------------------------------------------------------------------------------------------------


def test_tpe_learns_from_every_trial_of_a_running_search():
    """Late proposals have more of what scores than early ones: it does not stay with the trials of its first draw."""
    store = toys.open_study(chosen=toys.settings(8000))

    def score(architecture, seed, epoch):
        return 50 + 5 * separable(architecture) + epoch

    toys.run(
        toys.Pool(score=score), store=store, cap=8000, trials=44, sampler="tpe", pruner="none", published=False,
        finalists=1, finalist_seeds=1,
    )  # fmt: skip
    counts = [separable(Architecture.parse(schedule)) for schedule in schedules(store)]
    assert np.mean(counts[-14:]) > np.mean(counts[:STARTUP_TRIALS]) + 1


# --- a front ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["guided", "tpe", "random"])
def test_proposals_for_a_front_are_of_every_size(sampler):
    table, sizes = TrialTable(), []
    propose = Proposer(space=SPACE, seed=0, name=sampler, pareto=True)
    for _ in range(30):
        proposal = propose(table)
        sizes.append(proposal.architecture.num_params)
        told(table, proposal, 1 / math.log(sizes[-1]))
    assert sum(size < 2000 for size in sizes) >= 5
    assert sum(size > 4000 for size in sizes) >= 5
