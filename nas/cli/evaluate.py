"""`nas evaluate`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJson, Backend, DataDir, Device, Quiet, StudyName, make_machine, notify, one_study, plural

if TYPE_CHECKING:
    from nas.final import Evaluation

DISAGREES = 1


def evaluate(
    folder: Annotated[
        str | None,
        typer.Argument(help="A full run's folder, a study (its latest run), or a record's cap (default: the latest)."),
    ] = None,
    named: StudyName = None,
    against: Annotated[
        str | None,
        typer.Option(help="Another full run: which of the two is ahead, by a paired bootstrap over images and seeds."),
    ] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    backend: Backend = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score the weights of a full run on the test split again, in seconds, beside what the run states of them.

    Nothing is trained; the opening of the test split is recorded. Exits with 1 where they do not agree. With --against
    the weights of every seed of both runs are scored instead, and the difference has an interval.
    """
    folder, against = one_study(folder, named), one_study(against, None)  # before torch is imported: seconds
    machine = make_machine(data_dir, device, backend, None, quiet).resolved()
    from nas.final import (
        TOLERANCE,
        compare_runs,
        comparison_summary,
        evaluate_run,
        evaluation_summary,
        locate_run,
    )
    from nas.library import environment_of
    from nas.report import make_console

    options = {"data_dir": machine.data_dir, "device": machine.device, "backend": machine.backend}
    found = locate_run(folder)
    other = None if against is None else locate_run(against)
    if not quiet:
        weights = "the weights in" if other is None else f"the weights of every seed in {other} and"
        make_console().print(f"scoring {weights} {found} on the test split", soft_wrap=True, markup=False)
    if other is not None:
        comparison = compare_runs((found, other), **options)
        if comparison.dataset.notice:
            notify(comparison.dataset.notice)
        _print_comparison(comparison_summary(comparison, environment_of(machine)), as_json=as_json)
        return
    result = evaluate_run(found, **options)
    if result.dataset.notice:
        notify(result.dataset.notice)
    _print_evaluation(result, evaluation_summary(result, environment_of(machine)), as_json=as_json)
    if not result.agrees:
        images = "" if result.same_images is not False else "; the test images are not those of that run"
        print(
            f"error: {result.correct} correct test images, not the {result.stated} that result.json states, which is "
            f"more than {TOLERANCE} apart{images}: compare another --backend, or run its command again",
            file=sys.stderr,
        )
        raise typer.Exit(DISAGREES)


def _print_evaluation(result: Evaluation, fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(fields, indent=1))
        return
    from nas.report import recall_text

    verdict = "agrees" if result.agrees else "DISAGREES"
    by_class = "" if result.class_counts is None else (
        f"balanced     {fields['balanced_accuracy']:.2f}%, the mean recall of the classes, which differ in size\n"
        f"{recall_text(result.dataset.classes, result.recalls, result.class_counts)}\n"
    )  # fmt: skip
    images = {True: "the same test images", False: "other test images", None: "its test images are not on record"}
    print(
        f"{fields['schedule']}\n"
        f"{fields['num_params']:,} parameters, {result.dataset.title}, {result.device}, {result.backend}, "
        f"torch {fields['torch']}\n"
        f"weights of seed {result.seed} (the middle one of {plural(len(result.run.result.seeds), 'seed')}) "
        f"after {plural(result.run.result.epochs, 'epoch')}\n"
        f"test split   {result.correct}/{result.count} ({result.accuracy:.2f}%)  loss {result.loss:.4f}\n"
        f"{by_class}"
        f"result.json  {result.stated}/{result.count} ({result.stated_accuracy:.2f}%)  last epoch of seed {result.seed}"
        f"; {images[result.same_images]}\n"
        f"{verdict}: the numbers of correct images differ by {abs(result.correct - result.stated)}, "
        f"at most {fields['tolerance']} for the same weights"
    )


def _print_comparison(fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(fields, indent=1))
        return
    print(
        f"{fields['count']:,} test images, the weights after the last epoch; accuracy in percent, mean ± sd over seeds"
    )
    for run in fields["runs"]:
        sd = "" if run["sd"] is None else f" ± {run['sd']:.3f}"
        print(f"{run['accuracy']:.3f}{sd} (n = {run['seeds']})  {run['num_params']:>7,}  {run['schedule']}")
    ahead, last = ("first", "second") if fields["difference"] > 0 else ("second", "first")
    verdict = f"the {ahead} is ahead of the {last}" if fields["told_apart"] else "not told apart"
    print(
        f"difference {fields['difference']:+.3f} points, 95 % {fields['low']:+.3f} to {fields['high']:+.3f} "
        f"({fields['resamples']:,} resamples of images and seeds): {verdict}"
    )
