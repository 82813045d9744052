"""The standing of the finalists, by what is in the study: read by reports too, which must not wait for torch."""

from __future__ import annotations

from optuna.trial import TrialState

from nas.searches.selection import Finalist, rank_finalists
from nas.study import TrialTable, rank


def scores_of(table: TrialTable) -> dict[int, dict[int, float]]:
    """Return the scores of what is complete: candidate -> seed -> score."""
    scores: dict[int, dict[int, float]] = {}
    for trial in table.trials(TrialState.COMPLETE):
        if trial.value is not None:
            scores.setdefault(trial.params["candidate"], {})[trial.params["seed"]] = trial.value
    return scores


def finalists_of(trials: TrialTable, finalists: TrialTable) -> tuple[Finalist, ...]:
    """Return the trials with at least one score as a finalist, the winner first.

    Finalists of earlier, shorter searches of the study are among them: what they won is theirs.
    """
    scores = scores_of(finalists)
    raced = [trials.finished[number] for number in scores if number in trials.finished]
    return rank_finalists(
        Finalist(
            trial=trial.number,
            schedule=trial.user_attrs["schedule"],
            num_params=trial.user_attrs["num_params"],
            macs=trial.user_attrs["macs"],
            brief=trial.value or 0.0,
            seeds=tuple(sorted(scores[trial.number])),
            scores=tuple(score for _, score in sorted(scores[trial.number].items())),
            published=trial.user_attrs.get("published"),
        )
        for trial in sorted(raced, key=rank)
    )
