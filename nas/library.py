"""The functions that a notebook or a script calls, with the defaults of the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from nas.architecture import Architecture
from nas.budget import Budget
from nas.data import (
    Dataset,
    FolderOptions,
    TrainingData,
    find_dataset,
    load_training_data,
    open_test,
    own_source,
    prepare_dataset,
)
from nas.errors import UsageError
from nas.export import (
    ExportedTarget,
    ExportSource,
    Provenance,
    export_targets,
    parse_targets,
    require_targets,
)
from nas.final import (
    OPENINGS,
    Evaluation,
    FullRun,
    FullRunPlan,
    evaluate_run,
    find_network,
    full_run,
    locate_run,
)
from nas.machine import cores, environment
from nas.report import ImageBar, LiveView, RunView, make_console
from nas.searches import RecipeSettings, Search, SearchResult, Settings, search_recipes
from nas.study import Deadline, Interrupts, StudyStore, study_folder
from nas.train import Backend, Recipe, choose_backend, choose_device
from nas.workers import ProcessPool, default_workers

Notify = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The device, the backend and the number of workers that trainings run on."""

    data_dir: Path | None = None
    """The folder of the data sets (default: NAS_DATA_DIR, else the user's cache)."""
    device: str = "auto"
    backend: Backend = "auto"
    workers: int | None = None
    """Parallel trainings (default: one per core, 4 on a GPU)."""
    images: FolderOptions = dataclasses.field(default_factory=FolderOptions)
    """How own images are read, where the data set is a folder of them."""
    quiet: bool = False
    notify: Notify = print
    """Called with what the user has to be told about the data."""

    def resolved(self) -> Machine:
        """Return the same with a device that is there. Raise `UsageError` where it is not."""
        return dataclasses.replace(self, device=choose_device(self.device))

    def provenance(self, training: TrainingData, dataset: Dataset) -> Provenance:
        """Return what a result states of its data and machine."""
        return Provenance.of(training, dataset, environment_of(self))


def search(
    budget: Budget | int | str,
    *,
    dataset: str | None = None,
    study: str | None = None,
    storage: str | None = None,
    machine: Machine | None = None,
    **settings: Any,
) -> SearchResult:
    """Find the best network under a budget; run the same call again to resume.

    `budget` is a `Budget`, a number of parameters, or the name of a track such as "8k". `dataset` is a name of the
    catalogue (default: the budget's, else MNIST), or the path of a folder with a folder of images for each class, which
    `machine.images` says how to read. `settings` are those of `Settings.for_budget`, such as `trials=100`
    or `teacher="none"`. Only training and validation images are used. Progress is shown unless `machine.quiet`.
    Raise `UsageError` for a value that breaks a rule, `InfeasibleError` where nothing meets the budget, `DataError` for
    images that are missing, `StorageError` for a database or folder that cannot be used.
    """
    machine = (machine or Machine()).resolved()
    deadline = Deadline.after(settings.get("timeout"))
    limits = as_budget(budget)
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
    view = LiveView(make_console(), quiet=machine.quiet)
    with view:
        view.working(f"loading {found.title}")
        training = load_training_data(found, data_dir=machine.data_dir)
        with view.paused():
            warn(training, machine)
        assert training.validation is not None
        provenance = machine.provenance(training, found)
        record = provenance.fields() | {"target": chosen.target, "num_validation": len(training.validation)}
        store = StudyStore.create(name, storage, chosen.identity(space, training.hash), record)
        with _pool(machine, training, training.validation, machine.workers or default_workers(machine.device)) as pool:
            return Search(store, space, chosen, pool, view).run(training, provenance, deadline=deadline)


def search_recipe(
    architecture: str | None = None, *, study: str | None = None, name: str | None = None,
    dataset: str | None = None, machine: Machine | None = None, epochs: int | None = None, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Find the best training recipe for one network (default: the latest study's winner); return best/reason.json.

    `settings` are those of `RecipeSettings`. Raise as `search` does.
    """
    if architecture is not None and study is not None:
        raise UsageError("study names the network by its winner: give it without an architecture")
    machine = (machine or Machine()).resolved()
    deadline = Deadline.after(settings.get("timeout"))
    plan, found = plan_full_run(study=study, architecture=architecture, dataset=dataset, machine=machine)
    recipe = Recipe(epochs=epochs or plan.recipe.epochs)
    given = {key: value for key, value in settings.items() if value is not None}
    chosen = RecipeSettings(
        architecture=plan.architecture, dataset=found.name, recipe=recipe, target=plan.target, **given
    )
    found = ready_dataset(found.name, machine)
    view = LiveView(make_console(), quiet=machine.quiet)
    with view:
        view.working(f"loading {found.title}")
        training = load_training_data(found, data_dir=machine.data_dir)
        with view.paused():
            warn(training, machine)
        assert training.validation is not None
        record = machine.provenance(training, found).fields()
        record |= {"target": plan.target, "num_validation": len(training.validation)}
        store = StudyStore.create(name or chosen.study_name, None, chosen.identity(training.hash), record)
        with _pool(machine, training, training.validation, machine.workers or default_workers(machine.device)) as pool:
            reason = search_recipes(store, chosen, pool, view, record, deadline=deadline)
    return reason | {"folder": str(study_folder(store.base) / "best")}


def train_best(
    study: str | None = None,
    *,
    machine: Machine | None = None,
    plan: FullRunPlan | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
) -> FullRun:
    """Train a study's winner (default: the latest's) on the whole training set and measure it on the test split.

    Nothing is chosen by what the test split shows; every opening of it is recorded. Finished seeds are stored and not
    trained twice. `plan`, if given, says what to train instead. Raise as `search` does.
    """
    machine = (machine or Machine()).resolved()
    if plan is None:
        plan, _ = plan_full_run(study=study, machine=machine)
        plan = plan.with_teacher(None)
    plan = plan.changed(seeds=seeds, epochs=epochs)
    found = ready_dataset(plan.dataset, machine)
    if not found.comparable:
        plan = dataclasses.replace(plan, target=None)
    training = load_training_data(found, data_dir=machine.data_dir, validation=None)
    warn(training, machine)
    purpose = f"full run of {plan.architecture}, seeds {', '.join(map(str, plan.seeds))}"
    test = open_test(found, data_dir=machine.data_dir, log=plan.base / OPENINGS, purpose=purpose)
    count = min(_useful_workers(plan, machine), machine.workers or default_workers(machine.device))
    threads = max(1, cores() // count) if machine.device == "cpu" else 1  # plain torch's: kernels have one
    with (
        Interrupts() as interrupts,
        _pool(machine, training, test, count, threads) as pool,
        RunView(make_console(), plan.recipe.epochs, plan.seeds, quiet=machine.quiet) as view,
        interrupts.allowed(),
    ):
        return full_run(
            plan, training, test, pool, machine.provenance(training, found),
            opened=f"once for these seeds, recorded in {OPENINGS}", on_message=view,
        )  # fmt: skip


def evaluate(run: str | Path | None = None, *, machine: Machine | None = None) -> Evaluation:
    """Score the weights of a full run (default: the latest) on the test split again; the opening is recorded."""
    machine = (machine or Machine()).resolved()
    folder = locate_run(None if run is None else str(run))
    return evaluate_run(folder, data_dir=machine.data_dir, device=machine.device, backend=machine.backend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder of exports: what was exported, to which targets, and the images that each was checked on."""

    folder: Path
    source: Path
    """The folder of the network."""
    schedule: str
    num_params: int
    targets: tuple[ExportedTarget, ...]
    split: str
    images: int
    trained_on: bool
    """True if the network was trained on these images."""


def export_network(
    source: str | Path | None = None,
    *,
    to: str | tuple[str, ...],
    folder: Path,
    check: Literal["validation", "test"] = "validation",
    machine: Machine | None = None,
    on_target: Callable[[str], None] | None = None,
) -> Exported:
    """Write a trained network in the forms of `to` into a folder, each read back and checked, all or none of them.

    `source` is a study's name, a full run's folder or a record's cap (default: the latest full run, else the latest
    winner). `to` is "all" or some of onnx, torch, int8, c, script. They are checked on the validation images, or on the
    whole test split, an opening that is recorded. `on_target` is called with each target's name as it begins. Raise
    `UsageError` for a target that cannot be made, before anything is written, `StorageError` where a file does not pass
    its check, `DataError` for missing images.
    """
    machine = machine or Machine()
    targets = parse_targets(to if isinstance(to, str) else ",".join(to))
    if check not in ("validation", "test"):
        raise UsageError(f"exports are checked on validation or test images, not on '{check}'")
    found = find_network(None if source is None else str(source))
    require_targets(targets, found.dataset, found.recipe, folder)
    dataset = ready_dataset(found.dataset, machine)
    network = found.network
    if (network.architecture.input_shape, network.architecture.num_classes) != (
        dataset.input_shape, dataset.num_classes
    ):  # fmt: skip
        raise UsageError(f"'{network.architecture}' does not take the images and classes of {dataset.name}")
    training = load_training_data(dataset, data_dir=machine.data_dir)
    warn(training, machine)
    assert training.validation is not None
    images = training.validation
    if check == "test":
        purpose = f"check the exports of {network.architecture} to {', '.join(targets)}"
        images = open_test(dataset, data_dir=machine.data_dir, log=found.openings, purpose=purpose)
    origin = ExportSource(
        network=network, dataset=found.dataset, recipe=found.recipe, calibration=training.train.images, images=images,
        split=check, trained_on=found.whole and check == "validation",
    )  # fmt: skip
    made = export_targets(folder, origin, targets, on_target=on_target)
    return Exported(
        folder=Path(folder), source=found.folder, schedule=str(network.architecture),
        num_params=network.architecture.num_params, targets=tuple(made), split=check, images=len(images),
        trained_on=origin.trained_on,
    )  # fmt: skip


def plan_full_run(
    *, study: str | None = None, architecture: str | None = None, pick: int | None = None,
    reference: str | None = None, storage: str | None = None, dataset: str | None = None,
    machine: Machine | None = None,
) -> tuple[FullRunPlan, Dataset]:  # fmt: skip
    """Return what to train, of a winner, another trial, a record or a schedule, and its data set.

    Only a schedule without a data set looks for images: it is for MNIST, or for the subset of it where that is missing.
    Raise `UsageError` for choices that exclude each other.
    """
    from nas.study import latest_study

    machine = machine or Machine()
    if pick is not None and (architecture is not None or reference is not None):
        raise UsageError("--pick names a trial of a study: give it without --architecture and --reference")
    if reference is not None:
        given = {"--study": study, "--architecture": architecture, "--dataset": dataset}
        if clash := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"--reference names the network, its data set and its folder: give it without {' and '.join(clash)}"
            )
        plan = FullRunPlan.of_reference(reference)
    elif architecture is None:
        name = study or latest_study()
        plan = FullRunPlan.of_winner(name) if pick is None else FullRunPlan.of_trial(name, pick, storage)
    else:
        Architecture.parse(architecture)  # a bad string is refused before any data is looked for
        found = ready_dataset(None, machine) if dataset is None else dataset_named(dataset, machine)
        return FullRunPlan.of_schedule(architecture, found, study or "by-hand"), found
    found = dataset_named(dataset or plan.dataset, machine)
    network = plan.architecture
    if (network.input_shape, network.num_classes) != (found.input_shape, found.num_classes):
        raise UsageError(f"'{network}' does not take the images and classes of {found.name}: give another --dataset")
    return dataclasses.replace(plan, dataset=found.name), found


def environment_of(machine: Machine) -> dict[str, Any]:
    """Return versions and hardware for the record, the GPU's name included."""
    import torch

    gpu = torch.cuda.get_device_name(machine.device) if machine.device.startswith("cuda") else None
    return environment(machine.device, gpu)


def as_budget(budget: Budget | int | str) -> Budget:
    """Return the budget of a number of parameters or of a track's name."""
    from nas.budget import read_budget

    if isinstance(budget, Budget):
        return budget
    return Budget(max_params=budget) if isinstance(budget, int) else read_budget(budget)


def ready_dataset(name: str | None, machine: Machine) -> Dataset:
    """Return the data set, there and ready; its notice, if any, is passed on."""
    with ImageBar(make_console(), quiet=machine.quiet) as bar:
        found = prepare_dataset(name, data_dir=machine.data_dir, options=machine.images, progress=bar)
    if found.notice:
        machine.notify(found.notice)
    return found


def warn(training: TrainingData, machine: Machine) -> None:
    """Pass on what is wrong with the training images."""
    if training.warning:
        machine.notify(f"warning: {training.warning}")


def dataset_named(name: str | None, machine: Machine | None = None) -> Dataset:
    """Return what is known of a data set, without looking for its files; own images are read, as the files tell all."""
    if name is not None and own_source(name) is not None:
        return ready_dataset(name, machine or Machine())
    return find_dataset(name or "mnist")


def _pool(machine: Machine, training: TrainingData, evaluation: Any, count: int, threads: int = 1) -> ProcessPool:
    return ProcessPool(count, training, evaluation, device=machine.device, backend=machine.backend, threads=threads)


def _useful_workers(plan: FullRunPlan, machine: Machine) -> int:
    """Return how many workers a full run has use for: one for each seed, or one for each epoch of teacher logits.

    A lone seed on plain torch and a CPU is better off with all cores for itself.
    """
    single = choose_backend(machine.device, machine.backend)[0] == "torch" and machine.device == "cpu"
    logits = 0 if plan.recipe.teacher is None or single else plan.recipe.epochs
    return max(len(plan.seeds), logits)
