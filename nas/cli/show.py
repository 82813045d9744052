"""`nas show`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import DataDir, Storage, StudyArgument, StudyName, one_study, require_one
from nas.errors import StorageError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from nas.report import Findings
    from nas.study import StudyStore


def show(
    study: StudyArgument = None,
    named: StudyName = None,
    storage: Storage = None,
    top: Annotated[int, typer.Option(min=1, help="Number of best trials.")] = 10,
    as_csv: Annotated[bool, typer.Option("--csv", help="All trials as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All trials as JSON.")] = False,
    data_dir: DataDir = None,
    images: Annotated[
        bool, typer.Option("--images", help="Read the validation images too, for the confusion matrix: seconds.")
    ] = False,
) -> None:
    """Read a study: the best trials, the front, finalists with their intervals, the full run, what is misread."""
    require_one(csv=as_csv, json=as_json, images=images)
    from nas.report import make_console, recipe_table
    from nas.study import Runs, StudyStore, frame, latest_study, studies_dir, study_names, without_winner

    study = one_study(study, named)
    name = study or ("" if storage else latest_study())
    store = StudyStore.open(name, storage, read_only=True)
    table = frame(store)
    if as_csv:
        print(table.to_csv(index=False), end="")
        return
    if as_json:
        print(table.to_json(orient="records", indent=1))
        return
    console = make_console(stdout=True)
    if study is None and storage is None:
        console.print(f"Studies in {studies_dir()}, the latest last: {', '.join(study_names())}\n", markup=False)
    if not store.is_ours:
        _show_foreign(store, table, console, top)
        return
    if notice := store.attrs.get("notice"):
        console.print(f"{notice}\n", style="yellow", markup=False)
    if "architecture" in store.attrs["settings"]:
        from nas.searches import standing

        console.print(recipe_table(standing(store), top=top))
        return
    _show_search(store, table, console, top)
    found = _show_drawings(store, console, data_dir, images=images)
    if found.reason is None and Runs().at_work(store.attrs):
        console.print(f"\nits search is still running: nas watch {shlex.quote(name)}", style="yellow", markup=False)
    elif found.reason is None and study is None and storage is None:
        console.print(f"\n{without_winner(name)}", style="yellow", markup=False)


def _show_search(store: StudyStore, table: pd.DataFrame, console: Console, top: int) -> None:
    from nas.report import epochs_text, trial_table
    from nas.searches import pareto_front

    complete = table[table["state"] == "COMPLETE"].sort_values(["loss", "num_params"])
    if complete.empty:
        console.print(f"{store.name}: no brief trial is complete yet\n", markup=False)
        return
    epochs = epochs_text(store.attrs["settings"]["recipe.epochs"])
    denominators = f"validation accuracy in percent, {epochs}, seed as recorded, n = 1"
    console.print(trial_table(complete.head(top), title=f"{store.name}: best trials by loss, {denominators}"))
    console.print()
    points = pareto_front(complete.index, lambda row: (complete["num_params"][row], -complete["loss"][row]))
    console.print(trial_table(complete.loc[points], title="Pareto front: no smaller one had a loss as low"))
    console.print()


def _show_drawings(store: StudyStore, console: Console, data_dir: Path | None, *, images: bool) -> Findings:
    """Show the drawings of a search, its finalists and full run; what needs images where it is wanted: seconds."""
    from nas.cli.options import sign_of_life
    from nas.report import confusion_view, findings_of, study_view

    found = findings_of(store, data_dir=data_dir)
    console.print(*study_view(found), sep="\n")
    if found.reason is not None or images:
        with sign_of_life(quiet=False) if images else contextlib.nullcontext():
            view = confusion_view(found, images=images)
        console.print(view)
    for line in found.damaged[1:]:
        print(f"error: {line}", file=sys.stderr)
    if found.damaged:
        raise StorageError(found.damaged[0])
    return found


def _show_foreign(store: StudyStore, table: pd.DataFrame, console: Console, top: int) -> None:
    """Show a study that another program made, as far as its trials go; nothing is written to it."""
    import pandas as pd
    from rich.text import Text

    from nas.report import plain, titled

    console.print(
        f"'{store.name}' was not made by this version of nas: its trials, as far as they go\n",
        style="yellow",
        markup=False,
    )
    complete = table[table["state"] == "COMPLETE"]
    single = len(store.study.directions) == 1
    if single:
        complete = complete.sort_values("value", ascending=store.study.direction.name == "MINIMIZE")
    parameters = [column for column in table.columns if column.startswith("params_")]
    view = plain(("trial", "value", *(name.removeprefix("params_") for name in parameters)), right=("trial", "value"))
    for _, row in complete.head(top).iterrows():
        value = "" if pd.isna(row["value"]) else f"{row['value']:.6g}"
        view.add_row(str(row["number"]), value, *(Text(str(row[name])) for name in parameters))
    console.print(titled(f"{len(table)} trials, {len(complete)} complete", view))
