"""`nas train-best`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import (
    TARGET_MISSED,
    AsJson,
    Augment,
    Backend,
    ClassWeights,
    Cluster,
    DataDir,
    DatasetName,
    Device,
    Mirror,
    NoReport,
    OwnImages,
    Quiet,
    RequireTarget,
    Storage,
    StudyArgument,
    StudyName,
    Target,
    Teacher,
    TensorBoardFolder,
    Workers,
    make_augmentation,
    make_images,
    make_machine,
    one_study,
    own_images,
    plural,
)
from nas.cli.report import write_quietly
from nas.errors import UsageError

if TYPE_CHECKING:
    from nas.data import Dataset
    from nas.final import FullRun, FullRunPlan
    from nas.train import Recipe


@own_images
def train_best(
    study: StudyArgument = None,
    named: StudyName = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs (default: the budget's, else the data set's; MNIST 15).")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds: 0, 1, ... (default: one, or the record's).")
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Train this schedule instead of a study's winner.")] = None,
    pick: Annotated[
        int | None, typer.Option(min=0, help="Train this trial of the study, such as a point of its front.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Train a committed record again by its cap, such as 8k: studies/records/8000.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json, such as nas tune writes, instead of the winner's.")
    ] = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    images: OwnImages = make_images,
    mirror: Mirror = None,
    augment: Augment = None,
    class_weights: ClassWeights = None,
    dropout: Annotated[
        float | None,
        typer.Option(metavar="0..0.9", help="Drop inputs of the classifier in training, on plain torch (default: 0)."),
    ] = None,
    storage: Storage = None,
    teacher: Teacher = None,
    target: Target = None,
    workers: Workers = None,
    cluster: Cluster = None,
    device: Device = "auto",
    backend: Backend = "auto",
    require_target: RequireTarget = False,
    no_report: NoReport = False,
    tensorboard: TensorBoardFolder = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the winner of a study on the whole training set and measure it on the test split, epoch by epoch.

    Nothing is chosen by what the test split shows; every opening of it is recorded. Finished seeds are stored, and not
    trained twice; one that is killed goes on after its last epoch.
    """
    if recipe is not None and reference is not None:
        raise UsageError("--reference names the recipe too: give it without --recipe")
    study = one_study(study, named)
    if architecture is None and reference is None and storage is None:  # before torch is imported: seconds
        from nas.study import latest_study, require_winner

        require_winner(study or latest_study())
    machine = make_machine(
        data_dir, device, backend, workers, quiet or as_json, images=images(), cluster=cluster
    ).resolved()
    from nas.library import plan_full_run
    from nas.library import train_best as train

    read = None if recipe is None else _read_recipe(recipe)
    plan, found = plan_full_run(
        study=study, architecture=architecture, pick=pick, reference=reference, storage=storage, dataset=dataset,
        machine=machine,
    )  # fmt: skip
    plan = plan.changed(recipe=read, epochs=epochs, seeds=seeds, target=target).with_teacher(teacher)
    plan = plan.with_augmentation(make_augmentation(mirror, augment), found)
    plan = plan.with_recipe(class_weights=class_weights, dropout=dropout)
    if not as_json:
        _print_plan(plan, found, machine.device)
    run = train(machine=machine, plan=plan, tensorboard=tensorboard)
    from_study = architecture is None and reference is None
    if not no_report and ((plan.base / "study.db").is_file() or (storage is not None and from_study)):
        write_quietly(plan.base.name, storage, data_dir)
    _print_run(run, as_json=as_json)
    if require_target and not run.result.target_held:
        raise typer.Exit(TARGET_MISSED)


def _read_recipe(path: Path) -> Recipe:
    """Return the recipe of a JSON file. Raise `UsageError` where it is none."""
    from nas.train import Recipe

    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--recipe {path} cannot be read ({cause}): give a recipe.json that nas wrote") from error
    if not isinstance(fields, dict):
        raise UsageError(f"--recipe {path} holds no recipe but {str(fields)[:40]!r}: give a recipe.json that nas wrote")
    return Recipe.from_dict(fields)


def _print_plan(plan: FullRunPlan, found: Dataset, device: str) -> None:
    from nas.teachers import describe_teacher
    from nas.train import augmentation_text

    chosen = plan.architecture
    print(
        f"{chosen}\n{chosen.num_params:,} parameters, {chosen.macs:,} MACs, {found.title}, {device}\n"
        f"{plural(plan.recipe.epochs, 'epoch')}, augmentation {augmentation_text(plan.recipe)}",
        flush=True,
    )
    if plan.recipe.teacher is not None:
        print(
            f"distilling from {describe_teacher(plan.recipe.teacher, found)}, trained first if not stored; --teacher "
            "none turns it off",
            flush=True,
        )


def _print_run(run: FullRun, *, as_json: bool) -> None:
    from nas.report import make_console, run_table

    result = run.result
    if as_json:
        print(json.dumps({**dataclasses.asdict(result), "folder": str(run.folder)}, indent=1))
        return
    console = make_console(stdout=True)
    console.print()
    console.print(run_table(run))
    if result.reference is not None:
        _print_reference(run)
    print(f"\nfiles   {run.folder}")


def _print_reference(run: FullRun) -> None:
    """Print the record's last-5 accuracy beside that of its reproduction."""
    result, record = dataclasses.asdict(run.result), dict(run.result.reference or {})
    print(f"\nTest accuracy in percent, last-5, beside {record['name']}")
    for title, each in (("here", result), ("committed", record)):
        sd = "" if each["last5_sd"] is None else f" ± {each['last5_sd']:.3f}"
        print(
            f"{title:<9}  {each['last5_mean']:.3f}{sd} (n = {len(each['seeds'])}), {plural(each['epochs'], 'epoch')}, "
            f"{each['device']}, torch {each['torch']}"
        )
    if result["data_hash"] != record["data_hash"]:
        print("The training images are not those of the record.")
