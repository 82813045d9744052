"""The command line: parse, call, print. The one place where errors become exit codes.

Nothing heavy is imported until a command needs it: `nas --help` must answer at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nas import budget as budgets
from nas.architecture import Architecture
from nas.budget import Budget, brief_epochs_of
from nas.errors import NasError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from nas.data import Dataset, TrainingData
    from nas.run import Evaluation, FullRun, Plan
    from nas.search import Outcome, Settings
    from nas.space import SearchSpace
    from nas.train import Recipe

TARGET_MISSED, DISAGREES, INTERRUPTED = 1, 1, 130
PIPE_WIDTH = 240

Backend = Literal["auto", "kernels", "torch"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: nas search --max-params 8000",
)

MaxParams = Annotated[int | None, typer.Option("--max-params", help="At most this many learnable parameters.")]
MaxMacs = Annotated[int | None, typer.Option("--max-macs", help="At most this many multiply-accumulates an image.")]
BudgetFile = Annotated[str | None, typer.Option("--budget", help="A track such as 8k, or a .toml file.")]
DatasetName = Annotated[
    str | None,
    typer.Option("--dataset", help="mnist, fashion-mnist, kmnist, emnist-digits, cifar10, mnist-5k or synthetic."),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where data sets lie; else NAS_DATA_DIR, else the user cache.")
]
Seed = Annotated[int, typer.Option(help="Seed of every draw.", min=0, max=2**31 - 1)]
StudyName = Annotated[str | None, typer.Option("--study", help="A study by name; the latest unless said.")]
Storage = Annotated[
    str | None, typer.Option("--storage", help="An Optuna storage URL instead of studies/NAME/study.db.")
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", help="A larger network to learn from as well: auto, none, or its schedule.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Trainings at once; one a core on a CPU, 4 on a GPU.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda; auto is cuda where there is one.")]
BackendName = Annotated[Backend, typer.Option("--backend", help="Kernels are for a CPU alone.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
RequireTarget = Annotated[bool, typer.Option("--require-target", help="Exit with 1 when the target is not met.")]


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"nas {version('nas')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Neural architecture search for small image networks under a hard parameter budget."""


@app.command(epilog="Example: nas search --max-params 8000 --trials 100")
def search(
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    budget: BudgetFile = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Finished trials in total, a resumed study's included: 50; for a front 100."),
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Limit for everything: 90s, 20m, 2h.")] = None,
    workers: Workers = None,
    seed: Seed = 0,
    study: Annotated[str | None, typer.Option("--study", help="Its name; from data set and caps unless said.")] = None,
    storage: Storage = None,
    sampler: Annotated[
        Literal["guided", "evolution", "tpe", "random"], typer.Option(help="What proposes schedules.")
    ] = "guided",
    pruner: Annotated[Literal["median", "none"], typer.Option(help="What stops brief trials.")] = "median",
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="The front of accuracy against parameters under the cap, not its end alone."),
    ] = False,
    known: Annotated[bool, typer.Option("--known/--no-known", help="Try the published designs that fit first.")] = True,
    brief_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a brief trial; else 3, more under 6,000 parameters.")
    ] = None,
    finalists: Annotated[
        int | None, typer.Option(min=1, help="Leaders to train again, fewer with each seed: 5; of a front, all of 10.")
    ] = None,
    finalist_seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of the last two: 4; of all points of a front: 2.")
    ] = None,
    finalist_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a finalist; else 6, more under 6,000 parameters.")
    ] = None,
    teacher: Teacher = None,
    target: Annotated[float | None, typer.Option(help="Accuracy in percent to reach.")] = None,
    device: Device = "auto",
    backend: BackendName = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and ten proposals; train nothing.")] = False,
    require_target: RequireTarget = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the best network under a budget: brief trials, pruned; finalists over several seeds; the winner's files.

    Run the same command again to resume. Only training and validation images are used.
    """
    began = time.monotonic()
    limits = _budget(max_params, max_macs, budget, dataset=dataset, target=target, brief_epochs=brief_epochs)
    seconds = None if timeout is None else _seconds(timeout)

    from nas import data, report
    from nas import search as searching
    from nas import study as studies
    from nas import teacher as teachers
    from nas.space import SearchSpace
    from nas.train import Recipe, choose_device
    from nas.workers import Pool, default_count

    console = _console()
    device = choose_device(device)
    found = _dataset(limits.dataset, data_dir, console)
    factor = found.epoch_factor if budget is None else 1
    brief = brief_epochs_of(limits.max_params)
    limits = dataclasses.replace(limits, full_epochs=limits.full_epochs * factor)
    space = SearchSpace(budget=limits, input_shape=found.input_shape, num_classes=found.num_classes)
    space.require_feasible()
    chosen = teachers.choose(teacher, num_params=limits.max_params or 0, dataset=found)
    settings = searching.Settings(
        budget=limits, dataset=found.name, recipe=Recipe(epochs=limits.brief_epochs or brief * factor, teacher=chosen),
        finalist_epochs=finalist_epochs or 2 * brief * factor,
        trials=trials or (searching.FRONT_TRIALS if pareto else searching.Settings.trials),
        finalists=finalists or (searching.POINTS if pareto else searching.Settings.finalists),
        finalist_seeds=finalist_seeds or (searching.POINT_SEEDS if pareto else searching.Settings.finalist_seeds),
        seed=seed, sampler=sampler, pruner=pruner, known=known, pareto=pareto, timeout=seconds,
    )  # fmt: skip
    name = study or f"{found.name}-{limits.name}{'-pareto' * pareto}"
    count = workers or default_count(device)
    if dry_run:
        _dry_run(space, settings, name, count, device)
        return
    training = data.training_data(found, data_dir=data_dir)
    assert training.validation is not None
    _warn(training, console)
    record = _record(found, training, device) | {
        "max_params": limits.max_params, "max_macs": limits.max_macs, "target": limits.target,
        "num_validation": len(training.validation),
    }  # fmt: skip
    opened = studies.create(name, storage, settings.shared(space, training.hash), record)
    with (
        Pool(count, training, training.validation, device=device, backend=backend) as pool,
        report.LiveView(console, quiet=quiet) as view,
    ):
        outcome = searching.run(opened, space, settings, pool, view, record, training=training, began=began)
    _say_outcome(outcome, name, storage, found, as_json=as_json, quiet=quiet)
    best = outcome.reason["finalists"][0]["mean"] if outcome.finalists else outcome.reason["best_brief_trial"]["value"]
    if require_target and not (found.comparable and best >= limits.target):
        raise typer.Exit(TARGET_MISSED)


@app.command(epilog="Example: nas tune --architecture '8vr 9vr 10vr M 12vr 16vr 20vr C G' --timeout 2h")
def tune(
    architecture: Annotated[str | None, typer.Option(help="The network; a study's winner unless said.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Whose winner; the latest study's unless said.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Recipes in total, those of a resumed study included.")] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of a recipe that is not behind; the same for all.")] = 4,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every training; 15 unless said.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Limit for everything: 90s, 20m, 2h.")] = None,
    workers: Workers = None,
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Its study; from data set and network unless said.")] = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    backend: BackendName = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the best training recipe for one network: batch, rate, decay, average and augmentation, over several seeds.

    Run the same command again to resume. Only training and validation images are used, and the default recipe stays
    unless another is better beyond chance.
    """
    began = time.monotonic()
    limit = None if timeout is None else _seconds(timeout)
    if architecture is not None and study is not None:
        raise UsageError("--study names the network by its winner: give it without --architecture")

    from nas import data, report
    from nas import study as studies
    from nas import tune as tuning
    from nas.train import Recipe, choose_device
    from nas.workers import Pool, default_count

    console = _console()
    device = choose_device(device)
    plan, found = _plan(study, architecture, None, None, dataset, data_dir, console)
    settings = tuning.Settings(
        architecture=plan.architecture, dataset=found.name,
        recipe=Recipe(epochs=epochs or Budget.full_epochs * found.epoch_factor),
        trials=trials, num_seeds=seeds, seed=seed, timeout=limit, target=plan.target,
    )  # fmt: skip
    chosen = plan.architecture
    name = name or f"tune-{found.name}-{chosen.num_params}-{studies.digest(str(chosen))}"
    training = data.training_data(found, data_dir=data_dir)
    assert training.validation is not None
    _warn(training, console)
    record = _record(found, training, device) | {"target": plan.target, "num_validation": len(training.validation)}
    opened = studies.create(name, None, settings.shared(training.hash), record)
    count = workers or default_count(device)
    with (
        Pool(count, training, training.validation, device=device, backend=backend) as pool,
        report.LiveView(console, quiet=quiet) as view,
    ):
        reason = tuning.run(opened, settings, pool, view, record, began=began)
    folder = studies.folder(name) / "best"
    if as_json:
        print(json.dumps({**reason, "folder": str(folder)}, indent=1))
        return
    out = _console(stdout=True)
    out.print(report.recipes(reason))
    cut = "; the time limit cut it short: run it again to go on" if reason["cut"] else ""
    out.print(
        f"{report.duration(time.monotonic() - began)}{cut}\n\nrecipe  {folder / 'recipe.json'}\n"
        f"next    nas train-best --study {name} --seeds 3\n"
        f"        nas train-best --architecture SCHEDULE --recipe {folder / 'recipe.json'}",
        soft_wrap=True,
    )


@app.command("train-best", epilog="Example: nas train-best --seeds 3")
def train_best(
    study: StudyName = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="15 unless the study's budget says otherwise.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds: 0, 1, ...; one, or those of the reference, unless said.")
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Train this schedule instead of a study's winner.")] = None,
    pick: Annotated[
        int | None, typer.Option(min=0, help="Train this trial of the study, such as a point of its front.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Train a committed winner again, such as 8k: studies/reference-8000.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json, such as nas tune leaves, instead of the winner's.")
    ] = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    teacher: Teacher = None,
    target: Annotated[float | None, typer.Option(help="Accuracy in percent to hold; 99.4 for mnist.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    backend: BackendName = "auto",
    require_target: RequireTarget = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the winner of a study on the whole training set and measure it on the test split, epoch by epoch.

    Nothing is chosen by what the test split shows; every opening of it is recorded. Finished seeds are kept, and not
    trained twice.
    """
    from nas import data, report
    from nas import run as running
    from nas.train import choose_backend, choose_device, cores
    from nas.workers import Pool, default_count

    console = _console()
    device = choose_device(device)
    if recipe is not None and reference is not None:
        raise UsageError("--reference names the recipe too: give it without --recipe")
    read = None if recipe is None else _read_recipe(recipe)
    plan, found = _plan(study, architecture, pick, reference, dataset, data_dir, console)
    plan = _changed(plan, recipe=read, epochs=epochs, seeds=seeds, target=target)
    plan = running.with_teacher(plan, teacher)
    chosen = plan.architecture
    training = data.training_data(found, data_dir=data_dir, validation=None)
    _warn(training, console)
    log = plan.base / running.OPENINGS
    purpose = f"full run of {chosen}, seeds {', '.join(map(str, plan.seeds))}"
    test = data.open_test(found, data_dir=data_dir, log=log, purpose=purpose)
    record = _record(found, training, device) | {"opened": f"once for these seeds, recorded in {log.name}"}
    if plan.reference is not None:
        record["reference"] = plan.reference
    count = min(_at_once(plan, choose_backend(device, backend)[0], device), workers or default_count(device))
    threads = max(1, cores() // count) if device == "cpu" else 1  # plain torch's: kernels have one
    if not as_json:
        print(f"{chosen}\n{chosen.num_params:,} parameters, {chosen.macs:,} MACs, {found.title}, {device}", flush=True)
        if plan.recipe.teacher is not None:
            print(
                f"learns from {plan.recipe.teacher} as well, trained first where it is not kept (--teacher none: not)"
            )
    with (
        Pool(count, training, test, device=device, backend=backend, threads=threads) as pool,
        report.RunView(console, plan.recipe.epochs, plan.seeds, quiet=quiet or as_json) as view,
    ):
        result = running.full_run(
            chosen, plan.recipe, plan.seeds, training, test, base=plan.base, pool=pool,
            target=plan.target if found.comparable else None, record=record, heard=view,
        )  # fmt: skip
    _say_run(result, running.summary(result, record), as_json=as_json)
    if require_target and not result.held:
        raise typer.Exit(TARGET_MISSED)


@app.command(epilog="Example: nas evaluate studies/reference-8000")
def evaluate(
    folder: Annotated[
        str | None,
        typer.Argument(help="A full run's folder, or a study or its folder for the latest of it; the latest of all."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Another full run: which of the two is ahead, by a paired bootstrap over images and seeds."),
    ] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    backend: BackendName = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score the weights of a full run on the test split again, in seconds, beside what the run says of them.

    Nothing is trained; the opening of the test split is recorded. Leaves with 1 when they do not agree. With --against
    the weights of every seed of both runs are scored instead, and the difference has an interval.
    """
    from nas import compare as comparing
    from nas import run as running
    from nas import study as studies
    from nas.train import choose_device

    console = _console()
    device = choose_device(device)
    found = running.find(folder)
    other = None if against is None else running.find(against)
    if not quiet:
        weights = "the weights in" if other is None else f"the weights of every seed in {other} and"
        console.print(f"scoring {weights} {found} on the test split", soft_wrap=True)
    if other is not None:
        comparison = comparing.compare((found, other), data_dir=data_dir, device=device, backend=backend)
        _notice(comparison.dataset, console)
        _say_comparison(comparing.comparison_summary(comparison, studies.environment(device)), as_json=as_json)
        return
    result = running.evaluate(found, data_dir=data_dir, device=device, backend=backend)
    _notice(result.dataset, console)
    _say_evaluation(result, running.evaluation_summary(result, studies.environment(device)), as_json=as_json)
    if not result.agrees:
        images = "" if result.same_images is not False else "; the test images are not those of that run"
        print(
            f"error: {result.correct} correct test images, not the {result.stated} that result.json states, which is "
            f"more than {running.TOLERANCE} apart{images}: compare another --backend, or run its command again",
            file=sys.stderr,
        )
        raise typer.Exit(DISAGREES)


@app.command(epilog="Example: nas show --top 5")
def show(
    study: StudyName = None,
    storage: Storage = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the best trials.")] = 10,
    as_csv: Annotated[bool, typer.Option("--csv", help="All trials as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All trials as JSON.")] = False,
) -> None:
    """Read a study: the studies there are, the best trials, the Pareto front of accuracy against parameters."""
    from nas import report
    from nas import study as studies

    opened = studies.open_study(study or studies.latest(), storage)
    table = studies.frame(opened)
    if as_csv:
        print(table.to_csv(index=False), end="")
        return
    if as_json:
        print(table.to_json(orient="records", indent=1))
        return
    console = _console(stdout=True)
    if study is None and storage is None:
        console.print(
            f"[bold]Studies[/bold] in {studies.studies_dir()}, the latest last: {', '.join(studies.names())}\n"
        )
    if notice := opened.user_attrs.get("notice"):
        console.print(f"[yellow]{notice}[/yellow]\n")
    if "architecture" in opened.user_attrs.get(studies.SETTINGS, {}):
        from nas.tune import standing

        console.print(report.recipes(standing(opened), top=top))
        return
    complete = table[table["state"] == "COMPLETE"].sort_values(["loss", "num_params"])
    denominators = f"validation accuracy in percent, {_epochs_of(opened)} epochs, seed as recorded, n = 1"
    console.print(report.trials(complete.head(top), title=f"{opened.study_name}: best trials by loss, {denominators}"))
    console.print()
    console.print(report.trials(studies.pareto_front(table), title="Pareto front: none smaller had a loss as low"))
    console.print()
    console.print(report.account(studies.counts(opened)))
    winner = studies.folder(opened.study_name) / "best" / "reason.json"
    if winner.is_file():
        reason = json.loads(winner.read_text(encoding="utf-8"))
        console.print()
        console.print(report.finalists(reason))


@app.command(epilog="Example: nas count '8vr 9vr 10vr M 12vr 16vr 20vr C G' --max-params 8000")
def count(
    schedule: Annotated[str, typer.Argument(help="The architecture, in one line.")],
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    budget: BudgetFile = None,
    as_json: AsJson = False,
) -> None:
    """Count a network without building it: layers, shapes, parameters, MACs, activation memory, and whether it fits.

    A block is a width such as 8 with marks around it: s before it makes it separable; after it, in this order, kN is
    the kernel, /N the stride, v valid, b bias, n no norm, r conv-ReLU-norm, + residual. M is a max-pool, G the global
    pool, C or Cb the classifier. A cap is inclusive.
    """
    architecture = Architecture.parse(schedule)
    limits = None
    if max_params is not None or max_macs is not None or budget is not None:
        limits = _budget(max_params, max_macs, budget)
    if as_json:
        fields: dict[str, Any] = {
            "schedule": str(architecture), "num_params": architecture.num_params, "macs": architecture.macs,
            "peak_activations": architecture.peak_activations, "activations": architecture.activations,
            "fits": None if limits is None else limits.admits(architecture.num_params, architecture.macs),
            "layers": [layer._asdict() for layer in architecture.layers],
        }  # fmt: skip
        print(json.dumps(fields, indent=1))
        return
    from nas import report

    console = _console(stdout=True)
    console.print(report.layers(architecture))
    console.print(report.counts(architecture, limits), highlight=False)


@app.command(epilog="Example: nas space --max-params 8000 --samples 100000")
def space(
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    budget: BudgetFile = None,
    dataset: DatasetName = None,
    samples: Annotated[int, typer.Option(min=1, help="Schedules to draw.")] = 10_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """What the search space holds under a budget, without training: shares over the cap, counts, depths, examples."""
    limits = _budget(max_params, max_macs, budget, dataset=dataset)
    from nas import report
    from nas.data import named
    from nas.space import SearchSpace, survey

    found = named(limits.dataset or "mnist")
    searched = SearchSpace(budget=limits, input_shape=found.input_shape, num_classes=found.num_classes)
    searched.require_feasible()
    result = survey(searched, samples=samples, seed=seed)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    report.space(_console(stdout=True), limits, result)


@app.command(epilog="Example: nas dashboard --study mnist-8000-params")
def dashboard(
    study: StudyName = None,
    storage: Storage = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
) -> None:
    """Open the study in optuna-dashboard, on the loopback address."""
    from nas import study as studies

    name = study or studies.latest()
    opened = studies.open_study(name, storage)
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise UsageError("nas dashboard needs optuna-dashboard: pip install 'nas[dashboard]'") from None
    _console().print(f"{name} on http://127.0.0.1:{port}/ (Ctrl-C ends it)")
    run_server(opened._storage, host="127.0.0.1", port=port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; known failures become one line and an exit code, bugs keep their traceback."""
    try:
        app(args=list(arguments) if arguments is not None else None, standalone_mode=True)
    except NasError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except SystemExit as left:  # typer turns Ctrl-C into this code
        if left.code != INTERRUPTED:
            raise
        command = shlex.join(["nas", *(sys.argv[1:] if arguments is None else arguments)])
        print(f"interrupted; nothing finished is lost. To resume: {command}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _budget(max_params: int | None, max_macs: int | None, name: str | None, **overrides: Any) -> Budget:
    """The caps of the command line over those of a budget file."""
    fields = {"max_params": max_params, "max_macs": max_macs, **overrides}
    if name is not None:
        return budgets.read(name, **fields)
    return Budget(**{key: value for key, value in fields.items() if value is not None})


def _seconds(text: str) -> float:
    """`90`, `90s`, `20m` or `2h` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"--timeout is a time such as 90s, 20m or 2h, not '{text}'")
    return seconds


def _console(*, stdout: bool = False) -> Console:
    """Standard error unless said: standard output is for data. Where it is no terminal, lines are not folded."""
    from rich.console import Console

    terminal = (sys.stdout if stdout else sys.stderr).isatty()
    return Console(stderr=not stdout, highlight=False, width=None if terminal else PIPE_WIDTH)


def _at_once(plan: Plan, backend_name: str, device: str) -> int:
    """How many workers a full run can have use of: one a seed, or as many as its teacher has answers to give.

    A lone seed on plain torch and a CPU is better off with all cores for itself.
    """
    single = backend_name == "torch" and device == "cpu"
    answers = 0 if plan.recipe.teacher is None or single else plan.recipe.epochs
    return max(len(plan.seeds), answers)


def _dataset(name: str | None, data_dir: Path | None, console: Console) -> Dataset:
    """The data set, there and ready; its notice, if any, is said where the user looks."""
    from nas import data

    found = data.resolve(name, data_dir=data_dir)
    _notice(found, console)
    return found


def _notice(found: Dataset, console: Console) -> None:
    if found.notice:
        from rich.panel import Panel

        console.print(Panel(found.notice, style="yellow", width=min(console.width, 100)))


def _plan(
    study: str | None,
    architecture: str | None,
    pick: int | None,
    reference: str | None,
    dataset: str | None,
    data_dir: Path | None,
    console: Console,
) -> tuple[Plan, Dataset]:
    """What to train, of a winner, another trial, a reference or a schedule, and its data set, there and ready."""
    from nas import run as running
    from nas import study as studies

    if pick is not None and (architecture is not None or reference is not None):
        raise UsageError("--pick names a trial of a study: give it without --architecture and --reference")
    if reference is not None:
        given = {"--study": study, "--architecture": architecture, "--dataset": dataset}
        if clash := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"--reference names the network, its data set and its folder: give it without {' and '.join(clash)}"
            )
        plan = running.reference_plan(reference)
    elif architecture is None:
        name = study or studies.latest()
        plan = running.winner_plan(name) if pick is None else running.trial_plan(name, pick)
    else:
        Architecture.parse(architecture)  # a bad string is said before any data is looked for
        found = _dataset(dataset, data_dir, console)
        return running.schedule_plan(architecture, found, study or "by-hand"), found
    found = _dataset(dataset or plan.dataset, data_dir, console)
    return plan, found


def _read_recipe(path: Path) -> Recipe:
    """The recipe of a JSON file; raises `UsageError` where it is none."""
    from nas.train import Recipe

    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--recipe {path} cannot be read ({cause}): give a recipe.json that nas wrote") from error
    if not isinstance(fields, dict):
        raise UsageError(f"--recipe {path} holds no recipe but {str(fields)[:40]!r}: give a recipe.json that nas wrote")
    return Recipe.from_dict(fields)


def _changed(plan: Plan, *, recipe: Recipe | None, epochs: int | None, seeds: int | None, target: float | None) -> Plan:
    """The plan with what the command line says otherwise."""
    if recipe is not None:
        plan = dataclasses.replace(plan, recipe=recipe)
    if epochs is not None:
        plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, epochs=epochs))
    if seeds is not None:
        plan = dataclasses.replace(plan, seeds=tuple(range(seeds)))
    return plan if target is None else dataclasses.replace(plan, target=target)


def _dry_run(space: SearchSpace, settings: Settings, name: str, workers: int, device: str) -> None:
    """What a search would do, and its first ten proposals."""
    import numpy as np

    from nas.space import DISCARDS

    recipe = settings.recipe
    print(
        f"study {name}: {settings.budget} on {settings.dataset}, {workers} workers on {device}\n"
        f"{settings.trials} brief trials of {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"{settings.sampler} sampler, {settings.pruner} pruner, "
        f"{'no teacher' if recipe.teacher is None else 'learning from ' + recipe.teacher}\n"
        f"{settings.finalists} finalists of {settings.finalist_epochs} epochs, {settings.finalist_seeds} seeds, "
        f"{'all points of the front' if settings.pareto else 'each seed for the better three fifths of the last'}\n"
        f"space {space.key}; smallest {space.smallest()[0]:,} parameters"
    )
    seen: set[str] = set()
    discards = dict.fromkeys(DISCARDS, 0)
    points = [("known", params) for _, params in space.known()] if settings.known else []
    rng = np.random.default_rng(settings.seed)
    for _ in range(10):
        share = space.random_share(rng) if settings.pareto else None
        params, found, _ = space.propose(lambda _, share=share: space.random(rng, share), seen)  # type: ignore[misc]
        discards = {reason: count + found[reason] for reason, count in discards.items()}
        points.append(("drawn", params))
        seen.add(str(space.decode(params)))
    for kind, params in points:
        architecture = space.decode(params)
        print(f"{kind}  {architecture.num_params:>7,}  {architecture.macs:>11,} MACs  {architecture}")
    print("discarded: " + ", ".join(f"{count} {reason}" for reason, count in discards.items()))
    print("dry run: nothing was trained, no study was made")


def _say_outcome(
    outcome: Outcome, name: str, storage: str | None, found: Dataset, *, as_json: bool, quiet: bool
) -> None:
    """Where everything is, and what to type next."""
    from nas import report
    from nas import study as studies

    if as_json:
        print(json.dumps({**outcome.reason, "seconds": outcome.seconds, "folder": str(outcome.folder)}, indent=1))
        return
    console = _console(stdout=True)
    console.print(report.finalists(outcome.reason))
    console.print(f"\n{report.account(outcome.counts)}")
    cut = "; the time limit cut it short: run it again to go on" if outcome.cut else ""
    console.print(f"{report.duration(outcome.seconds)}{cut}\n{report.cost(outcome.reason)}")
    if not found.comparable:
        console.print(f"No verdict on the target: {found.title} is not full MNIST.", style="yellow")
    if quiet:
        return
    pick = f"        nas train-best --study {name} --pick TRIAL\n" if "front" in outcome.reason else ""
    at = f" --storage {shlex.quote(studies.redact(storage))}" if storage else ""
    console.print(
        f"\nstudy   {studies.redact(storage) if storage else studies.folder(name) / studies.DATABASE}\n"
        f"winner  {outcome.folder}\n\n"
        f"next    nas train-best --study {name} --seeds 3\n{pick}"
        f"        nas show --study {name}{at}\n"
        f"        nas dashboard --study {name}{at}",
        soft_wrap=True,
    )


def _say_run(result: FullRun, fields: dict[str, Any], *, as_json: bool) -> None:
    from nas import report

    if as_json:
        print(json.dumps({**fields, "folder": str(result.folder)}, indent=1))
        return
    console = _console(stdout=True)
    console.print()
    console.print(report.full_run(result))
    if "reference" in fields:
        _say_reference(fields, console)
    console.print(f"\nfiles   {result.folder}", soft_wrap=True)


def _say_reference(fields: dict[str, Any], console: Console) -> None:
    """The reference's last-5 accuracy beside the one of its reproduction."""
    kept = fields["reference"]
    console.print(f"\nTest accuracy in percent, last-5, beside {kept['name']}")
    for title, run in (("here", fields), ("committed", kept)):
        sd = "" if run["last5_sd"] is None else f" ± {run['last5_sd']:.3f}"
        console.print(
            f"{title:<9}  {run['last5_mean']:.3f}{sd} (n = {len(run['seeds'])}), {_count(run['epochs'], 'epoch')}, "
            f"{run['device']}, torch {run['torch']}"
        )
    if fields["data_hash"] != kept["data_hash"]:
        console.print("The training images are not those of the reference.", style="yellow")


def _say_evaluation(result: Evaluation, fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(fields, indent=1))
        return
    verdict = "agrees" if result.agrees else "DISAGREES"
    images = {True: "the same test images", False: "other test images", None: "its test images are not on record"}
    print(
        f"{fields['schedule']}\n"
        f"{fields['num_params']:,} parameters, {result.dataset.title}, {result.device}, {result.backend}, "
        f"torch {fields['torch']}\n"
        f"weights of seed {result.seed} (the middle one of {_count(len(result.run.result['seeds']), 'seed')}) "
        f"after {_count(result.epochs, 'epoch')}\n"
        f"test split   {result.correct}/{result.count} ({result.accuracy:.2f}%)  loss {result.loss:.4f}\n"
        f"result.json  {result.stated}/{result.count} ({result.stated_accuracy:.2f}%)  last epoch of seed {result.seed}"
        f"; {images[result.same_images]}\n"
        f"{verdict}: the numbers of correct images differ by {abs(result.correct - result.stated)}, "
        f"at most {fields['tolerance']} for the same weights"
    )


def _say_comparison(fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(fields, indent=1))
        return
    print(
        f"{fields['count']:,} test images, the weights after the last epoch; accuracy in percent, mean ± sd over seeds"
    )
    for run in fields["runs"]:
        sd = "" if run["sd"] is None else f" ± {run['sd']:.3f}"
        print(f"{run['accuracy']:.3f}{sd} (n = {run['seeds']})  {run['num_params']:>7,}  {run['schedule']}")
    ahead, behind = ("first", "second") if fields["difference"] > 0 else ("second", "first")
    verdict = f"the {ahead} is ahead of the {behind}" if fields["told_apart"] else "not told apart"
    print(
        f"difference {fields['difference']:+.3f} points, 95 % {fields['low']:+.3f} to {fields['high']:+.3f} "
        f"({fields['resamples']:,} resamples of images and seeds): {verdict}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _epochs_of(opened: Any) -> Any:
    return opened.user_attrs.get("settings", {}).get("recipe.epochs", "?")


def _warn(training: TrainingData, console: Console) -> None:
    if training.warning:
        console.print(f"warning: {training.warning}", style="yellow")


def _record(found: Dataset, training: TrainingData, device: str) -> dict[str, Any]:
    from nas import study as studies
    from nas.run import record_of

    return record_of(found, training, studies.environment(device))
