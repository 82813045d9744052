"""`nas search`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nas.budget import CAPS, default_brief_epochs
from nas.cli.options import (
    TARGET_MISSED,
    AsJson,
    Augment,
    Backend,
    BudgetFile,
    ClassWeights,
    Cluster,
    DataDir,
    DatasetName,
    Device,
    MaxFlash,
    MaxMacs,
    MaxParams,
    MaxRam,
    Mirror,
    OwnImages,
    Quiet,
    RequireTarget,
    Seed,
    Storage,
    Target,
    Teacher,
    TensorBoardFolder,
    Timeout,
    Workers,
    make_augmentation,
    make_budget,
    make_images,
    make_machine,
    own_images,
    plural,
    require_one,
)
from nas.cli.report import write_quietly

if TYPE_CHECKING:
    from nas.budget import Budget
    from nas.library import Machine
    from nas.searches import SearchResult


@own_images
def search(
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    max_flash: MaxFlash = None,
    max_ram: MaxRam = None,
    board: Annotated[str | None, typer.Option(help="The flash and RAM of a board are caps, such as stm32f030.")] = None,
    budget: BudgetFile = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    images: OwnImages = make_images,
    mirror: Mirror = None,
    augment: Augment = None,
    class_weights: ClassWeights = None,
    metric: Annotated[
        Literal["accuracy", "balanced-accuracy"],
        typer.Option(
            metavar="WORD",
            help="What is compared on validation: accuracy, or balanced-accuracy, the mean recall of the classes.",
        ),
    ] = "accuracy",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Finished trials in total, resumed included (default: 50; front 100)."),
    ] = None,
    timeout: Timeout = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop the brief trials after this many without a new best one.")
    ] = None,
    workers: Workers = None,
    cluster: Cluster = None,
    seed: Seed = 0,
    study: Annotated[
        str | None, typer.Option("--study", help="Study name (default: made of the data set and the caps).")
    ] = None,
    storage: Storage = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="Folder or s3://BUCKET/PREFIX for weights, which all machines of a study reach."),
    ] = None,
    sampler: Annotated[Literal["guided", "tpe", "random"], typer.Option(help="What proposes schedules.")] = "guided",
    pruner: Annotated[Literal["median", "none"], typer.Option(help="What stops brief trials.")] = "median",
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Search the whole front of accuracy against parameters under the cap.")
    ] = False,
    no_published: Annotated[
        bool,
        typer.Option("--no-published", help="Leave out the published and regular designs, which come first otherwise."),
    ] = False,
    brief_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a brief trial (default: 3, more under 6,000 parameters).")
    ] = None,
    finalists: Annotated[
        int | None, typer.Option(min=1, help="Leaders to train again, fewer with each seed (default: 4; front 10).")
    ] = None,
    finalist_seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of the last finalists (default: 3; every point of a front 2).")
    ] = None,
    finalist_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a finalist (default: 6, more under 6,000 parameters).")
    ] = None,
    teacher: Teacher = None,
    target: Target = None,
    device: Device = "auto",
    backend: Backend = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and ten proposals; train nothing.")] = False,
    require_target: RequireTarget = False,
    report: Annotated[
        bool | None,
        typer.Option("--report/--no-report", help="Keep report.html fresh, or write none (default: at the end)."),
    ] = None,
    tensorboard: TensorBoardFolder = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the best network under a budget: brief trials, pruned; finalists over several seeds; the winner's files.

    Run the same command again to resume. Only training and validation images are used.
    """
    limits = make_budget(
        max_params, max_macs, budget, max_flash=max_flash, max_ram=max_ram, board=board, dataset=dataset, target=target,
        brief_epochs=brief_epochs,
    )  # fmt: skip
    if dry_run:
        require_one(dry_run=True, json=as_json, report=bool(report))
    _require_resumable(  # before torch is imported: seconds
        limits, study, storage,
        {"pareto": pareto or None, "metric": None if metric == "accuracy" else metric,
         "finalist_epochs": finalist_epochs, "recipe.class_weights": class_weights or None, "recipe.teacher": teacher},
    )  # fmt: skip
    settings: dict[str, Any] = {
        "trials": trials, "timeout": timeout, "patience": patience, "seed": seed, "sampler": sampler, "pruner": pruner,
        "pareto": pareto, "published": not no_published, "finalists": finalists, "finalist_seeds": finalist_seeds,
        "finalist_epochs": finalist_epochs, "teacher": teacher, "augmentation": make_augmentation(mirror, augment),
        "class_weights": class_weights, "metric": metric,
    }  # fmt: skip
    machine = make_machine(data_dir, device, backend, workers, quiet, images=images(), cluster=cluster)
    if dry_run:
        _dry_run(limits, study, storage, machine, settings)
        return
    from nas.library import search as find

    result = find(
        limits, study=study, storage=storage, artifacts=artifacts, machine=machine, report=bool(report),
        tensorboard=tensorboard, **settings,
    )  # fmt: skip
    if report is not False:
        write_quietly(result.reason.study, storage, data_dir)
    _print_result(result, storage, as_json=as_json, quiet=quiet)
    wanted = result.reason.target
    if require_target and not (wanted is not None and result.reason.accuracy >= wanted):
        raise typer.Exit(TARGET_MISSED)


def _require_resumable(limits: Budget, study: str | None, storage: str | None, given: dict[str, Any]) -> None:
    """Raise `UsageError` where the study is there and was made otherwise, as far as that is known without the images.

    `given` are settings by their keys in a study's record; None where they are left to their defaults.
    """
    from nas.study import require_resumable

    dataset = limits.dataset or "mnist"
    if study is None and not dataset.replace("-", "").isalnum():  # own images: their name is that of their contents
        return
    known = dict(zip(CAPS, limits.caps, strict=True)) | {key: given[key] for key in ("pareto", "metric")}
    known |= {key: given[key] for key in ("finalist_epochs", "recipe.class_weights") if given[key] is not None}
    if given["recipe.teacher"] == "none":
        known["recipe.teacher"] = None
    if limits.brief_epochs is not None or (study is None and dataset == "mnist"):
        known["recipe.epochs"] = limits.brief_epochs or default_brief_epochs(limits.most_params)
    require_resumable(study or limits.study_name(dataset, pareto=bool(given["pareto"])), storage, known)


def _dry_run(
    limits: Budget, study: str | None, storage: str | None, machine: Machine, given: dict[str, Any]
) -> None:  # fmt: skip
    """Print what a search would do, and its first ten proposals; nothing is downloaded."""
    import numpy as np

    from nas.library import dataset_named
    from nas.searches import Settings
    from nas.space import DISCARDS
    from nas.study import trials_to_resume
    from nas.teachers import describe_teacher
    from nas.train import augmentation_text

    found, machine = dataset_named(limits.dataset, machine), machine.resolved()
    settings = Settings.for_budget(limits, found, **given)
    space, recipe = settings.space(found), settings.recipe
    workers, name = machine.count, study or settings.study_name
    resumed = trials_to_resume(name, storage, settings.identity(space, data_hash=""))
    standing = "" if resumed is None else f" (it is there, with {plural(resumed, 'trial')})"
    print(
        f"study {name}{standing}: {settings.budget} on {settings.dataset}, {plural(workers, 'worker')} on "
        f"{machine.device}\n"
        f"{plural(settings.trials, 'brief trial')} of {plural(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, "
        f"{settings.sampler} sampler, {settings.pruner} pruner, "
        f"{'no teacher' if recipe.teacher is None else 'distilling from ' + describe_teacher(recipe.teacher, found)}\n"
        f"augmentation {augmentation_text(recipe)}; full run {settings.full_epochs} epochs\n"
        f"{plural(settings.finalists, 'finalist')} of {plural(settings.finalist_epochs, 'epoch')}, "
        f"{plural(settings.finalist_seeds, 'seed')}, "
        f"{'all points of the front' if settings.pareto else 'the weaker half dropped after each'}\n"
        f"space {space.key}; smallest {space.smallest()[0]:,} parameters{_memory(space.smallest())}"
    )
    rng = np.random.default_rng(settings.seed)
    seen: set[str] = set()
    discards = dict.fromkeys(DISCARDS, 0)
    designs = [("published", space.published()), ("regular", space.regular())] if settings.published else []
    shown = [(origin, space.decode(params)) for origin, found in designs for _, params in found]
    for _ in range(10):
        share = space.random_share(rng) if settings.pareto else None
        proposal = space.propose(lambda _, share=share: space.random(rng, share), seen)  # type: ignore[misc]
        discards = {reason: count + proposal.discards.get(reason, 0) for reason, count in discards.items()}
        shown.append(("drawn", proposal.architecture))
        seen.add(str(proposal.architecture))
    for kind, architecture in shown:
        memory = _memory(space.counts(architecture))
        print(f"{kind:<9}  {architecture.num_params:>7,}  {architecture.macs:>11,} MACs{memory}  {architecture}")
    print("discarded: " + ", ".join(f"{count} {reason}" for reason, count in discards.items()))
    print("dry run: nothing was trained, no study was made")


def _memory(counts: Sequence[int]) -> str:
    """Return the bytes of flash and RAM of a schedule's counts, where they are capped."""
    return f", {counts[2]:,} bytes of flash, {counts[3]:,} of RAM" if len(counts) > 2 else ""


def _print_result(result: SearchResult, storage: str | None, *, as_json: bool, quiet: bool) -> None:
    """Print where everything is, and what to type next."""
    from nas.report import account, cost, duration, finalist_table, make_console

    if as_json:
        print(
            json.dumps(
                {**dataclasses.asdict(result.reason), "seconds": result.seconds, "folder": str(result.folder)}, indent=1
            )
        )
        return
    console = make_console(stdout=True)
    console.print(finalist_table(result.reason))
    console.print(f"\n{account(result.reason.counts)}", markup=False)
    cut = "; the time limit cut it short: run it again to go on" if result.cut else ""
    console.print(f"{duration(result.seconds)}{cut}\n{cost(result.reason)}")
    if result.reason.notice:
        console.print(f"No verdict on a target: {result.reason.notice}", style="yellow", markup=False)
    if quiet:
        return
    print(_next_steps(result, storage))


def _next_steps(result: SearchResult, storage: str | None) -> str:
    """Return the commands to type next, quoted for a shell."""
    from nas.machine import redact_url
    from nas.report import REPORT
    from nas.study import study_folder

    name = result.reason.study
    quoted = shlex.quote(name)
    pick = f"        nas train-best --study {quoted} --pick TRIAL\n" if result.reason.front is not None else ""
    at = f" --storage {shlex.quote(redact_url(storage))}" if storage else ""
    where = redact_url(storage) if storage else study_folder(name) / "study.db"
    page = study_folder(name) / REPORT
    report = f"report  {page}\n" if page.is_file() else ""
    return (
        f"\nstudy   {where}\n"
        f"winner  {result.folder}\n{report}\n"
        f"next    nas train-best --study {quoted} --seeds 3\n{pick}"
        f"        nas show --study {quoted}{at}\n"
        f"        nas dashboard --study {quoted}{at}"
    )
