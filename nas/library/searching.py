"""`nas.search` and the search of a recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from nas.budget import Budget
from nas.data import Dataset, Split, TrainingData, find_dataset, load_training_data, own_source
from nas.errors import UsageError
from nas.library.full_runs import plan_full_run
from nas.library.machine import Machine, as_budget, planned_dataset, ready_dataset, warn
from nas.library.pools import fitting, open_pool, recipe_logits
from nas.report import FreshReport, LiveView, TensorBoard, make_console
from nas.searches import (
    RecipeSettings,
    Search,
    SearchResult,
    SearchSettings,
    Settings,
    as_seconds,
    distilled_folds,
    search_recipes,
)
from nas.study import Deadline, Interrupts, StudyStore, in_use, study_folder, trials_to_resume, use_artifacts
from nas.teachers import choose_teacher
from nas.train import Recipe
from nas.values import checked


@checked
def search(
    budget: Budget | int | str,
    *,
    dataset: str | Path | None = None,
    study: str | None = None,
    storage: str | None = None,
    artifacts: str | None = None,
    machine: Machine | None = None,
    report: bool = False,
    tensorboard: Path | None = None,
    **settings: Unpack[SearchSettings],
) -> SearchResult:
    """Find the best network under a budget; run the same call again to resume.

    `budget` is a `Budget`, a number of parameters, or the name of a track such as "8k". `dataset` is a name of the
    catalogue (default: the budget's, else MNIST), or the path of a folder with a folder of images for each class, which
    `machine.images` says how to read. `study` is its name (default: made of the data set and the caps), `storage` a
    database of Optuna (default: study.db in the study's folder). `artifacts` is a folder or s3://BUCKET/PREFIX that all
    machines of a `storage` reach: weights are found there, wherever they were trained. `report` keeps the study's
    report.html fresh meanwhile, `tensorboard` is a folder for its event files. Only training and validation images are
    used. Progress is shown unless `machine.quiet`. `settings` and their defaults, which None stands for:

    trials            finished trials in total, those of a resumed study included (50; of a front 100)
    timeout           time limit for everything, in seconds or as a text such as "20m" (none)
    patience          stop the brief trials after this many without a new best one (never)
    seed              random seed (0)
    sampler           "guided", "tpe" or "random": what proposes schedules ("guided")
    pruner            "median" or "none": what stops brief trials ("median")
    published         try the published and regular designs first (True)
    pareto            search the whole front of accuracy against parameters under the cap (False)
    brief_epochs      epochs of a brief trial (the budget's, else 3, more under 6,000 parameters)
    finalists         leaders to train again, fewer with each seed (4; of a front 10)
    finalist_seeds    seeds of the last finalists (3; of every point of a front 2)
    finalist_epochs   epochs of a finalist (6, more under 6,000 parameters)
    full_epochs       epochs of the winner's full run (the budget's, else the data set's: 15 on MNIST)
    metric            "accuracy" or "balanced-accuracy": what is compared on validation ("accuracy")
    target            accuracy in percent that is to be reached (the budget's, else 99.4 on MNIST and none elsewhere)
    teacher           "auto", "none" or a schedule: the network to distill from ("auto" on MNIST, "none" elsewhere)
    augmentation      fields of the recipe that change the images, such as {"mirror": 0.5} (the data set's)
    class_weights     from 0 to 1: draw images of rare classes more often (0)
    recipe            a `Recipe` in the place of the one that all these make (none)

    Raise `UsageError` for a value that breaks a rule, `InfeasibleError` where nothing meets the budget, `DataError` for
    images that are missing, `StorageError` for a database or folder that cannot be used.
    """
    machine = (machine or Machine()).resolved()
    deadline = Deadline.after(as_seconds(settings.get("timeout")))
    dataset = f"folder:{dataset}" if isinstance(dataset, Path) else dataset
    limits = as_budget(budget).on(dataset)
    wanted = dataset or limits.dataset
    if study is not None:
        study_folder(study)  # refused before the images are read
    if wanted is None or own_source(wanted) is None:  # refused before a download
        known = find_dataset(wanted or "mnist")
        Settings.for_budget(limits, known, **settings).space(known)
    found = ready_dataset(wanted, machine)
    chosen = Settings.for_budget(limits, found, **settings)
    space = chosen.space(found)
    name = chosen.study_name if study is None else study
    trials_to_resume(
        name, storage, chosen.identity(space, data_hash="")
    )  # another study is refused before it is loaded
    board = None if tensorboard is None else TensorBoard(tensorboard / name)
    view = LiveView(make_console(), quiet=machine.quiet)
    with Interrupts() as interrupts, view:
        with interrupts.allowed():
            training, validation = _load(found, machine, view)
        provenance = machine.provenance(training, found)
        record = provenance.fields() | {"target": chosen.target, "num_validation": len(validation)}
        logits = 0 if chosen.recipe.teacher is None else sum(distilled_folds(chosen, training)[1].values())
        count = fitting(machine, training, logits, view=view)
        store = StudyStore.create(name, storage, chosen.identity(space, training.hash), record)
        use_artifacts(store, artifacts)
        with (
            in_use(study_folder(name)),
            FreshReport(name, storage, machine.data_dir) if report else contextlib.nullcontext(),
            contextlib.closing(board) if board else contextlib.nullcontext(),
            open_pool(machine, training, validation, count) as pool,
        ):
            search = Search(store, space, chosen, pool, view, observe=board.trial if board else None)
            return search.run(training, provenance, deadline=deadline)


@checked
def search_recipe(
    architecture: str | None = None, *, study: str | None = None, name: str | None = None,
    dataset: str | None = None, machine: Machine | None = None, epochs: int | None = None,
    augmentation: Mapping[str, float] | None = None, teacher: str | None = "none", **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Find the best training recipe for one network (default: the latest study's winner); return best/reason.json.

    `augmentation` holds fields of the default recipe, such as {"mirror": 0.5}; `teacher` is auto, none or a schedule,
    and all trials are then distilled from it; `settings` are those of `RecipeSettings`. Raise as `search` does.
    """
    if architecture is not None and study is not None:
        raise UsageError("study names the network by its winner: give it without an architecture")
    machine = (machine or Machine()).resolved()
    deadline = Deadline.after(as_seconds(settings.get("timeout")))
    plan, found = plan_full_run(study=study, architecture=architecture, dataset=dataset, machine=machine)
    recipe = Recipe.for_dataset(
        found, augmentation, epochs=epochs or found.full_epochs * found.epoch_factor,
        teacher=choose_teacher(teacher, num_params=plan.architecture.num_params, dataset=found),
    )  # fmt: skip
    given = {key: value for key, value in settings.items() if value is not None}
    chosen = RecipeSettings(
        architecture=plan.architecture, dataset=found.name, recipe=recipe, target=plan.target, **given
    )
    found = planned_dataset(found.name, machine)
    view = LiveView(make_console(), quiet=machine.quiet)
    with Interrupts() as interrupts, view:
        with interrupts.allowed():
            training, validation = _load(found, machine, view)
        record = machine.provenance(training, found).fields()
        record |= {"target": plan.target, "num_validation": len(validation)}
        count = fitting(machine, training, 0 if recipe.teacher is None else recipe.epochs, view=view)
        store = StudyStore.create(name or chosen.study_name, None, chosen.identity(training.hash), record)
        with (
            in_use(study_folder(store.base)),
            open_pool(machine, training, validation, count) as pool,
        ):
            logits = recipe_logits(recipe, training, pool, view)
            reason = search_recipes(store, chosen, pool, view, record, deadline=deadline, logits=logits)
    return reason | {"folder": str(study_folder(store.base) / "best")}


def _load(found: Dataset, machine: Machine, view: LiveView) -> tuple[TrainingData, Split]:
    """Return the training data and its validation images; what the user has to be told of them is told."""
    view.working(f"loading {found.title}")
    training = load_training_data(found, data_dir=machine.data_dir)
    with view.paused():
        warn(training, machine)
    assert training.validation is not None
    return training, training.validation
