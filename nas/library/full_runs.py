"""`nas.train_best`, its plan, and `nas.evaluate`."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from nas.architecture import Architecture
from nas.data import (
    Dataset,
    load_training_data,
    open_test,
)
from nas.errors import UsageError
from nas.final import (
    OPENINGS,
    Evaluation,
    FullRun,
    FullRunPlan,
    evaluate_run,
    full_run,
    locate_run,
)
from nas.library.machine import Machine, dataset_named, planned_dataset, ready_dataset, warn
from nas.library.pools import fitting, open_pool
from nas.report import RunView, TensorBoard, make_console
from nas.searches import bring_winner
from nas.study import Interrupts, in_use
from nas.train import choose_backend, require_dropout
from nas.values import Positive, checked


@checked
def train_best(
    study: str | None = None,
    *,
    machine: Machine | None = None,
    plan: FullRunPlan | None = None,
    seeds: Positive | None = None,
    epochs: Positive | None = None,
    tensorboard: Path | None = None,
) -> FullRun:
    """Train a study's winner (default: the latest's) on the whole training set and measure it on the test split.

    Nothing is chosen by what the test split shows; every opening of it is recorded. Finished seeds are stored and not
    trained twice. `plan`, if given, says what to train instead; `tensorboard` is a folder for event files. Raise as
    `search` does.
    """
    machine = (machine or Machine()).resolved()
    if plan is None:
        plan, _ = plan_full_run(study=study, machine=machine)
        plan = plan.with_teacher(None)
    plan = plan.changed(seeds=seeds, epochs=epochs)
    board = None if tensorboard is None else TensorBoard(tensorboard / plan.base.name)
    if plan.recipe.dropout and machine.backend == "auto":
        machine = dataclasses.replace(machine, backend="torch")
        machine.notify("the kernels know no dropout: plain torch trains, several times slower on a CPU")
    require_dropout(plan.recipe, machine.backend)
    found = planned_dataset(plan.dataset, machine)
    if not found.comparable:
        plan = dataclasses.replace(plan, target=None)
    training = load_training_data(found, data_dir=machine.data_dir, validation=None)
    warn(training, machine)
    logits_epochs = 0 if plan.recipe.teacher is None else plan.recipe.epochs
    count = fitting(machine, training, logits_epochs, most=useful_workers(plan, machine))
    purpose = f"full run of {plan.architecture}, seeds {', '.join(map(str, plan.seeds))}"
    test = open_test(found, data_dir=machine.data_dir, log=plan.base / OPENINGS, purpose=purpose)
    with (
        in_use(plan.base),
        Interrupts() as interrupts,
        open_pool(machine, training, test, count, all_cores=True) as pool,
        RunView(make_console(), plan.recipe.epochs, plan.seeds, quiet=machine.quiet) as view,
        contextlib.closing(board) if board else contextlib.nullcontext(),
        interrupts.allowed(),
    ):
        return full_run(
            plan, training, test, pool, machine.provenance(training, found),
            opened=f"for these seeds alone, each time recorded in {OPENINGS}",
            on_message=board.beside(view) if board else view,
        )  # fmt: skip


@checked
def evaluate(run: str | Path | None = None, *, machine: Machine | None = None) -> Evaluation:
    """Score the weights of a full run (default: the latest) on the test split again; the opening is recorded."""
    machine = (machine or Machine()).resolved()
    folder = locate_run(None if run is None else str(run))
    return evaluate_run(folder, data_dir=machine.data_dir, device=machine.device, backend=machine.backend)


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
        if storage is not None:
            bring_winner(name, storage)
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


def useful_workers(plan: FullRunPlan, machine: Machine) -> int:
    """Return how many workers a full run has use for: one for each seed, or one for each epoch of teacher logits.

    A lone seed on plain torch and a CPU is better off with all cores for itself.
    """
    single = choose_backend(machine.device, machine.backend)[0] == "torch" and machine.device == "cpu"
    logits = 0 if plan.recipe.teacher is None or single else plan.recipe.epochs
    return max(len(plan.seeds), logits)
