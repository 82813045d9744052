"""`nas study`: the studies there are, renamed, copied, deleted."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from typing import Annotated

import typer

from nas.cli.help import Command
from nas.cli.options import AsJson, Quiet

DECLINED = 1

study = typer.Typer(no_args_is_help=True, help="List, rename, copy or delete studies.")

Old = Annotated[str, typer.Argument(metavar="OLD", help="The study's name.", show_default=False)]
New = Annotated[str, typer.Argument(metavar="NEW", help="A name that is not taken.", show_default=False)]


@study.command("list", cls=Command, epilog="Example: nas study list")
def list_(as_json: AsJson = False) -> None:
    """List the studies, the latest last: trials, data set, size, last write, and whether one is worked in."""
    from nas.report import STUDY_COLUMNS, make_console, studies_table, study_rows
    from nas.study import list_studies, studies_dir

    found = list_studies()
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
    elif found and sys.stdout.isatty():
        make_console(stdout=True).print(studies_table(found))
    elif found:  # for cut and awk, without padding
        print("\n".join("\t".join(row).rstrip() for row in (STUDY_COLUMNS, *study_rows(found))))
    else:
        print(f"no study in {studies_dir()}")


@study.command(cls=Command, epilog="Example: nas study rename mnist-8000-params first-try")
def rename(old: Old, new: New, quiet: Quiet = False) -> None:
    """Rename a study: its folder, its database's study and its winner's record; refused while it is worked in."""
    from nas.study import rename_study

    folder = rename_study(old, new)
    _renew_report(new)
    if not quiet:
        print(f"{old} is now {folder}")


@study.command(cls=Command, epilog="Example: nas study copy mnist-8000-params before-the-long-search")
def copy(old: Old, new: New, quiet: Quiet = False) -> None:
    """Copy a study with its weights, winner and full runs; it appears whole or not at all."""
    from nas.study import copy_study

    folder = copy_study(old, new)
    _renew_report(new)
    if not quiet:
        print(f"{old} is copied to {folder}; to go on with it: give its search --study {shlex.quote(new)}")


@study.command(cls=Command, epilog="Example: nas study delete first-try")
def delete(
    name: Old,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quiet: Quiet = False,
) -> None:
    """Delete a study with its weights, winner and full runs, for good; asks before it does."""
    from nas.errors import UsageError
    from nas.study import delete_study, require_idle, study_folder

    require_idle(name)  # before the question
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"there is no terminal to ask on: give --yes to delete {study_folder(name)}")
        if not typer.confirm(f"Delete {study_folder(name)} with its trials, weights and full runs?", err=True):
            raise typer.Exit(DECLINED)
    delete_study(name)
    if not quiet:
        print(f"{name} is deleted")


def _renew_report(name: str) -> None:
    """Write a study's page again, which has its name in it."""
    from nas.cli.report import write_quietly
    from nas.report import REPORT
    from nas.study import study_folder

    if (study_folder(name) / REPORT).is_file():
        write_quietly(name, None, None)
