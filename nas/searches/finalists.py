"""The race of the finalists: the leaders are trained again, seed by seed, fewer each time.

Each seed has another validation split than the brief trials and the seeds before: 10,000 images have a luck of their
own, some 0.06 points between two networks, that no number of seeds on the same images takes away.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.budget import FINALIST_LAST_EPOCHS
from nas.export import write_weights
from nas.searches.brief import Logits
from nas.searches.finalist_scores import finalists_of, scores_of
from nas.searches.selection import behind
from nas.searches.settings import Settings
from nas.study import ClaimedTrial, Event, Progress, StudyStore, TrialTable, share_file, study_folder
from nas.train import Epoch, Run
from nas.workers import TrainJob

DISTRIBUTIONS = {"candidate": IntDistribution(0, 10**6), "seed": IntDistribution(0, 2**32)}


class Finalists:
    """The phase of the finalists. `store` is their own study; `trials` that of the brief trials."""

    name = "finalists"
    again = False  # what is due follows from what is scored

    def __init__(
        self, trials: StudyStore, candidates: Sequence[FrozenTrial], settings: Settings, logits: Logits
    ) -> None:
        self.trials, self.store, self.settings, self.logits = trials, trials.finalists(), settings, logits
        self.candidates = {trial.number: trial for trial in candidates}
        self.recipe = dataclasses.replace(settings.recipe, epochs=settings.finalist_epochs)
        self.planned = sum(settings.places(turn, len(candidates)) for turn in range(settings.finalist_seeds))

    def next(self) -> tuple[ClaimedTrial, TrainJob, str] | None:
        """Claim the next (candidate, seed) that is due and that nobody has."""
        for number, seed in self.due(self.store.refresh()):
            trial = self._claim(number, seed)
            if trial is None:
                continue
            architecture = Architecture.parse(self.candidates[number].user_attrs["schedule"])
            job = TrainJob(
                key=trial.number, architecture=architecture, recipe=self.recipe, seed=seed, fold=seed,
                teacher_logits=self.logits.get(seed),
            )  # fmt: skip
            return trial, job, f"seed {seed}  {architecture}"
        return None

    def update(self, progress: Progress) -> bool:
        table = self.store.table
        due, done = self.due(table), len(table.trials(TrialState.COMPLETE))
        progress.done, progress.total = done, max(self.planned, done + len(due))
        standing = finalists_of(self.trials.table, table)
        if standing:
            first = standing[0]
            progress.best = (first.mean, None, first.schedule, first.num_params)
        epochs = self.settings.finalist_epochs / self.settings.recipe.epochs
        running = sum(line.step / line.steps for line in progress.lines)
        progress.advance((done + running) * epochs, max(0.0, progress.total - done - running) * epochs)
        return not due

    def on_epoch(self, trial: ClaimedTrial, job: TrainJob, epoch: Epoch) -> bool:
        self.store.report(trial, epoch.number, epoch.by(self.settings.metric)[0])
        return False

    def on_run(self, trial: ClaimedTrial, job: TrainJob, run: Run) -> Event:
        candidate, score = trial.params["candidate"], run.last(FINALIST_LAST_EPOCHS, self.settings.metric)
        path = finalist_weights(self.store.base, candidate, job.seed)
        write_weights(path, run.state_dict)
        share_file(self.store, path, trial)
        self.store.finish(trial, TrialState.COMPLETE, score, seconds=round(run.seconds, 2))
        first = finalists_of(self.trials.table, self.store.table)[0]
        return Event(
            label=f"finalist {candidate}", accuracy=score, num_params=job.architecture.num_params,
            text=f"seed {job.seed}  {job.architecture}", leads=first.trial == candidate,
        )  # fmt: skip

    def on_failure(self, trial: ClaimedTrial, job: TrainJob, reason: str) -> Event:
        self.store.finish(trial, TrialState.FAIL, reason=reason)
        return Event(
            label=f"finalist {trial.params['candidate']}", state="failed", num_params=job.architecture.num_params,
            text=f"seed {job.seed}  {job.architecture}", note=reason,
        )  # fmt: skip

    def due(self, table: TrialTable) -> list[tuple[int, int]]:
        """Return the (candidate, seed) pairs to train next: a turn has one seed, for half of those of the last.

        A candidate that failed for a reason of its own, or is clearly behind, is not tried with more seeds.
        """
        scores = scores_of(table)
        failed = {
            trial.params["candidate"]
            for trial in table.finished.values()
            if trial.state == TrialState.FAIL and not trial.user_attrs.get("interrupted")
        }
        live = [number for number in self.candidates if number not in failed]
        first = self.settings.seed + 1  # the brief trials had the seed itself
        seeds = range(first, first + self.settings.finalist_seeds)
        for turn, seed in enumerate(seeds):
            missing = [(number, seed) for number in live if seed not in scores.get(number, {})]
            if missing:
                return missing
            if self.settings.pareto:  # the points of a front are no rivals
                continue
            so_far = {number: {each: scores[number][each] for each in seeds[: turn + 1]} for number in live}
            # A stable sort: of equals the better brief trial stays, as they come in that order.
            live = sorted(live, key=lambda number: -statistics.fmean(so_far[number].values()))
            live = live[: self.settings.places(turn + 1, len(self.candidates))]
            live = [number for number in live if number not in behind(so_far)]
            if len(live) == 1 < len(self.candidates):
                break  # clearly ahead
        return []

    def _claim(self, number: int, seed: int) -> ClaimedTrial | None:
        """Claim a finalist's seed; None when another trial of it is running or complete."""
        params = {"candidate": number, "seed": seed}
        if self._holder(params) is not None:
            return None
        attrs = {key: self.candidates[number].user_attrs[key] for key in ("schedule", "num_params", "macs")}
        trial = self.store.claim(params, DISTRIBUTIONS, {**attrs, "seed": seed})
        self.store.refresh()
        if self._holder(params) != trial.number:
            self.store.fail_interrupted(trial, "another process claimed this seed first", again=False)
            return None
        return trial

    def _holder(self, params: dict[str, int]) -> int | None:
        trials = self.store.table.trials(TrialState.RUNNING, TrialState.COMPLETE)
        return min((trial.number for trial in trials if trial.params == params), default=None)


def finalist_weights(study: str, candidate: int, seed: int) -> Path:
    """Return where the weights of a finalist's seed lie."""
    return study_folder(study) / "weights" / f"finalist-{candidate}-seed{seed}.safetensors"
