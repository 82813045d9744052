"""The surrogate of a search: its features of a schedule, and that it learns from trials what there is to learn."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
import toys
from optuna.trial import TrialState
from scipy import stats

from nas.architecture import Architecture
from nas.searches import GaussianProcess, features, fit_loss_predictor
from nas.searches.samplers import STARTUP_TRIALS
from nas.space import Proposal
from nas.study import TrialTable


def test_features_of_the_starting_network():
    known = features("8vr 9vr 10vr M 12vr 16vr 20vr C G")
    logs = [math.log(each) for each in (7568, 1063112)]
    # field: three 3x3 on the pixels, the pool, three on every second one; the classifier is 1x1, the last map 5x5
    logs_too = [math.log(each) for each in (1 + 3 * 2 + 1 + 3 * 2 * 2, 2, 5, 8, 8, 20)]
    early = (48672 + 373248 + 392040) / 1063112
    assert known == pytest.approx((*logs, 6, *logs_too, 0, early))


def test_a_process_predicts_a_smooth_function_and_noise_not_at_all():
    rng = np.random.default_rng(0)
    points, others = rng.normal(size=(60, 4)), rng.normal(size=(40, 4))

    def smooth(each):
        return np.sin(each[:, 0]) + each[:, 1] * each[:, 2]

    process = GaussianProcess(points, smooth(points) + 0.05 * rng.normal(size=60))
    assert stats.spearmanr([process(each) for each in others], smooth(others)).statistic > 0.9
    noise = GaussianProcess(points, rng.normal(size=60))
    assert abs(stats.spearmanr([noise(each) for each in others], smooth(others)).statistic) < 0.5


def test_leave_one_out_residuals_are_those_of_a_process_fitted_without():
    rng = np.random.default_rng(1)
    points, values = rng.normal(size=(12, 2)), rng.normal(size=12)
    process = GaussianProcess(points, values)
    scaled, aims = (points - process.low) / process.scale, (values - process.mean) / process.sd
    for out in range(12):
        rest = [number for number in range(12) if number != out]
        kernel = np.exp(-((scaled[:, None] - scaled[None]) ** 2).sum(2) / (2 * process.length**2))
        weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + process.noise * np.eye(11), aims[rest])
        assert process.loo_residuals[out] == pytest.approx(process.sd * (aims[out] - kernel[out, rest] @ weights))


def trial(number, architecture, space, accuracies, loss, state):
    made = optuna.trial.create_trial(
        params=space.encode(architecture), distributions=space.distributions, state=state,
        value=accuracies[-1], intermediate_values=dict(enumerate(accuracies, 1)),
        user_attrs={"loss": loss, "schedule": str(architecture), "num_params": architecture.num_params},
    )  # fmt: skip
    made.number = number
    return made


def table_of(trials):
    table = TrialTable()
    for each in trials:
        table.add(each)
    return table


def drawn(space, count):
    rng, found = np.random.default_rng(0), {}
    while len(found) < count:
        architecture = space.check(space.random(rng), ())
        if isinstance(architecture, Architecture):
            found[str(architecture)] = architecture
    return list(found.values())


def test_the_predictor_learns_depth_from_complete_and_pruned_trials_alike():
    """Of 60 networks whose loss halves with every two blocks, half are stopped after the first of three epochs."""
    space = toys.space(8000)
    trials, true = [], []
    for number, architecture in enumerate(drawn(space, 90)):
        loss = 0.1 * 2 ** (-architecture.depth / 2)
        errors = [400 * loss, 200 * loss, 100 * loss]
        accuracies, pruned = [100 - error for error in errors], number % 2 == 1
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        seen = accuracies[:1] if pruned else accuracies
        trials.append(trial(number, architecture, space, seen, 3 * loss if pruned else loss, state))
        true.append(math.log(loss))
    assert fit_loss_predictor(table_of(trials[: STARTUP_TRIALS - 1])) is None
    assert fit_loss_predictor(table_of(trials[1:60:2])) is None  # nothing is complete
    predict = fit_loss_predictor(table_of(trials[:60]))
    assert predict is not None
    predicted = [predict(proposal(space, each)) for each in trials[60:]]
    assert stats.spearmanr(predicted, true[60:]).statistic > 0.9
    assert np.mean(predicted) == pytest.approx(np.mean(true[60:]), abs=0.1)


def proposal(space, trial):
    architecture = space.decode(trial.params)
    return Proposal(params=trial.params, architecture=architecture, discards={}, shrunk=False)
