"""Brief trials: propose a schedule, train it for a few epochs, prune it, remember the best one's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from nas.architecture import Architecture
from nas.errors import InfeasibleError
from nas.export import write_weights
from nas.searches.pruner import Pruner
from nas.searches.samplers import Propose, Proposer
from nas.searches.selection import pareto_front, spread_out
from nas.searches.settings import Settings
from nas.space import SearchSpace, commuted_head
from nas.study import ClaimedTrial, Event, Progress, StudyStore, TrialTable, rank, share_file, study_folder
from nas.train import Epoch, Run
from nas.workers import TrainJob

Logits = Mapping[int, Path]
"""The files of teacher logits, by seed."""


class BriefTrials:
    """The phase of brief trials, until `settings.trials` have finished."""

    name = "brief trials"
    again = True

    def __init__(
        self, store: StudyStore, space: SearchSpace, settings: Settings, logits: Logits, propose: Propose | None = None
    ) -> None:
        self.store, self.space, self.settings = store, space, settings
        self.logits = logits.get(settings.seed)
        ours = Proposer(space=space, seed=settings.seed, name=settings.sampler, pareto=settings.pareto)
        self.propose = propose or ours
        self.prune = Pruner(settings)
        self.exhausted: str | None = None  # why no new schedule can be found

    def enqueue_designs(self) -> None:
        """Enqueue the published designs that fit and regular ones, where the study does not hold them yet."""
        seen = self.store.refresh().seen()
        designs = [("published", design) for design in self.space.published()]
        designs += [("regular", design) for design in self.space.regular()]
        for origin, (name, params) in designs:
            architecture = self.space.decode(params)
            if str(architecture) not in seen:
                attrs = {**self._counts_of(architecture), origin: name, "generated": 1, "seed": self.settings.seed}
                self.store.enqueue(params, self.space.distributions, attrs)

    def next(self) -> tuple[ClaimedTrial, TrainJob, str] | None:
        """Claim the next schedule; None when the total is taken, or no new schedule is to be found."""
        while not self.exhausted:
            table = self.store.refresh()
            if table.taken >= self.settings.trials or self.stands_still(table):
                return None
            trial = self.store.claim_waiting() or self._draw(table)
            if trial is None:
                return None
            if self._yields(trial):
                continue
            architecture = Architecture.parse(trial.attrs["schedule"])
            job = TrainJob(
                key=trial.number, architecture=architecture, recipe=self.settings.recipe, seed=self.settings.seed,
                teacher_logits=self.logits,
            )  # fmt: skip
            return trial, job, str(architecture)
        return None

    @property
    def ended_early(self) -> str | None:
        """Why the phase ended before its total, for people; None where it did not."""
        if self.exhausted:
            return self.exhausted
        if self.store.table.ended < self.settings.trials and self.stands_still(self.store.table):
            return f"the last {self.settings.patience} trials brought no new best one: the brief trials end here"
        return None

    def stands_still(self, table: TrialTable) -> bool:
        """Tell whether the last `settings.patience` trials brought no new best one."""
        if self.settings.patience is None or not table.complete:
            return False
        return table.ended_after(table.complete[0].number) >= self.settings.patience

    def update(self, progress: Progress) -> bool:
        table = self.store.table
        progress.count(self.store.counts())
        if len(progress.results) != len(table.complete):
            progress.results = table.results()
        progress.done, progress.total = table.ended, max(self.settings.trials, table.ended)
        if table.complete:
            progress.best = _standing(table.complete[0])
        running = sum(line.step / line.steps for line in progress.lines)
        progress.advance(table.ended + running, max(0.0, self.settings.trials - table.ended - running))
        if self.exhausted or self.stands_still(table):
            return True
        return table.ended >= self.settings.trials

    def on_epoch(self, trial: ClaimedTrial, job: TrainJob, epoch: Epoch) -> bool:
        self.store.report(trial, epoch.number, epoch.by(self.settings.metric)[0])
        last = epoch.number == self.settings.recipe.epochs
        return not last and self.prune(trial, self.store.table)

    def on_run(self, trial: ClaimedTrial, job: TrainJob, run: Run) -> Event:
        accuracy, loss = run.epochs[-1].by(self.settings.metric)
        attrs = {"loss": loss, "seconds": round(run.seconds, 2)}
        label, size, text = f"trial {trial.number}", job.architecture.num_params, str(job.architecture)
        if run.stopped:
            self.store.finish(trial, TrialState.PRUNED, **attrs)
            return Event(label=label, state="pruned", accuracy=accuracy, loss=loss, num_params=size, text=text)
        # Weights first: a complete trial has them, whatever is killed when.
        path = brief_weights(self.store.base, trial.number)
        write_weights(path, run.state_dict)
        best = self.store.table.complete[:1]
        if not best or (loss, size, trial.number) < rank(best[0]):  # no other will stand in for the finalists
            share_file(self.store, path, trial)
        self.store.finish(trial, TrialState.COMPLETE, accuracy, **attrs)
        self.drop_weights()
        leads = self.store.table.complete[0].number == trial.number
        return Event(label=label, accuracy=accuracy, loss=loss, num_params=size, text=text, leads=leads)

    def on_failure(self, trial: ClaimedTrial, job: TrainJob, reason: str) -> Event:
        self.store.finish(trial, TrialState.FAIL, reason=reason)
        size, text = job.architecture.num_params, str(job.architecture)
        return Event(label=f"trial {trial.number}", state="failed", num_params=size, text=text, note=reason)

    def drop_weights(self) -> None:
        """Delete the weights of finished trials but the best, which is exported where no finalist was trained."""
        table = self.store.table
        for path in brief_weights(self.store.base, 0).parent.glob("brief-*.safetensors"):
            number = int(path.stem.rpartition("-")[2])
            if number in table.finished and number != table.complete[0].number:  # one in training may have its own
                path.unlink(missing_ok=True)

    def _draw(self, table: TrialTable) -> ClaimedTrial | None:
        try:
            proposal = self.propose(table)
        except InfeasibleError as error:
            self.store.add_discards(error.discards)
            if not table.complete and not table.running():
                raise
            self.exhausted = str(error)
            return None
        attrs = {
            **self._counts_of(proposal.architecture), "discards": dict(proposal.discards), "shrunk": proposal.shrunk,
            "generated": sum(proposal.discards.values()) + 1, "seed": self.settings.seed,
        }  # fmt: skip
        return self.store.claim(proposal.params, self.space.distributions, attrs)

    def _counts_of(self, architecture: Architecture) -> dict[str, str | int]:
        counts = zip(("num_params", "macs", "flash", "ram"), self.space.counts(architecture), strict=False)
        return {"schedule": str(architecture), **dict(counts)}

    def _yields(self, trial: ClaimedTrial) -> bool:
        same = (trial.attrs["schedule"], commuted_head(trial.attrs["schedule"]))
        return self.store.yields(trial, self.settings.trials, lambda table: table.of_schedules(*same))


def leaders(table: TrialTable, count: int) -> list[FrozenTrial]:
    """Return the best complete trials, the best published design among them: in the last place or a second one."""
    chosen = table.complete[:count]
    published = next((trial for trial in table.complete if trial.user_attrs.get("published")), None)
    if published is not None and published not in chosen:
        chosen = [*chosen[: max(1, count - 1)], published]
    return chosen


def front(table: TrialTable, count: int) -> list[FrozenTrial]:
    """Return the complete trials whose loss no smaller one matches; of more than `count`, evenly by their rank.

    The ends come first, the best before the smallest, and then the middles of what is between, so that those trained
    when a time limit comes are of the whole front.
    """
    points = pareto_front(table.complete, lambda trial: (trial.user_attrs["num_params"], -trial.user_attrs["loss"]))
    points.reverse()
    if len(points) > count:
        points = [points[round(place * (len(points) - 1) / max(1, count - 1))] for place in range(count)]
    return spread_out(points)


def brief_weights(study: str, trial: int) -> Path:
    """Return where the weights of a brief trial lie."""
    return study_folder(study) / "weights" / f"brief-{trial}.safetensors"


def _standing(trial: FrozenTrial) -> tuple[float, float | None, str, int]:
    attrs = trial.user_attrs
    return trial.value or 0.0, attrs["loss"], attrs["schedule"], attrs["num_params"]
