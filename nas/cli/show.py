"""`nas show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import Storage, StudyName

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from nas.study import StudyStore


def show(
    study: StudyName = None,
    storage: Storage = None,
    top: Annotated[int, typer.Option(min=1, help="Number of best trials.")] = 10,
    as_csv: Annotated[bool, typer.Option("--csv", help="All trials as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All trials as JSON.")] = False,
) -> None:
    """Read a study: the studies there are, the best trials, the Pareto front of accuracy against parameters."""
    from nas.report import make_console, recipe_table
    from nas.study import StudyStore, frame, latest_study, studies_dir, study_names

    name = study or ("" if storage else latest_study())
    store = StudyStore.open(name, storage)
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


def _show_search(store: StudyStore, table: pd.DataFrame, console: Console, top: int) -> None:
    from nas.report import account, finalist_table, trial_table
    from nas.searches import pareto_front, read_reason
    from nas.study import study_folder

    complete = table[table["state"] == "COMPLETE"].sort_values(["loss", "num_params"])
    epochs = store.attrs["settings"].get("recipe.epochs", "?")
    denominators = f"validation accuracy in percent, {epochs} epochs, seed as recorded, n = 1"
    console.print(trial_table(complete.head(top), title=f"{store.name}: best trials by loss, {denominators}"))
    console.print()
    points = pareto_front(complete.index, lambda row: (complete["num_params"][row], -complete["loss"][row]))
    console.print(trial_table(complete.loc[points], title="Pareto front: no smaller one had a loss as low"))
    console.print()
    store.refresh()
    console.print(account(store.counts()), markup=False)
    winner = study_folder(store.base) / "best"
    if (winner / "reason.json").is_file():
        console.print()
        console.print(finalist_table(read_reason(winner)))


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
