"""`nas watch`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from nas.cli.options import Storage, StudyArgument, StudyName, one_study
from nas.errors import UsageError


def watch(
    study: StudyArgument = None,
    named: StudyName = None,
    storage: Storage = None,
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Follow a search that runs elsewhere on the same storage, until it ends; Ctrl-C leaves it alone.

    The study is only read: teachers, and what is trained within an epoch, are not in it.
    """
    study = one_study(study, named)
    from nas.report import LiveView, Watcher, make_console
    from nas.study import StudyStore, latest_study

    store = StudyStore.open(study or ("" if storage else latest_study()), storage, read_only=True)
    if not store.is_ours or "architecture" in store.attrs["settings"]:
        raise UsageError(f"'{store.name}' is no search of this version of nas: nas show lists its trials")
    console = make_console()
    try:
        with LiveView(console, quiet=False) as view:
            watcher = Watcher(store, view)
            while (end := watcher.look()) is None:
                time.sleep(every)
    except KeyboardInterrupt:
        print(f"left {store.name}: its search goes on")
        return
    print(f"{store.name}: {end}")
