"""`nas dashboard`."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer

from nas.cli.options import Storage, StudyName
from nas.errors import UsageError


def dashboard(
    study: StudyName = None,
    storage: Storage = None,
    host: Annotated[str, typer.Option(help="Address to listen on; whoever reaches it sees all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Open the study in optuna-dashboard."""
    from nas.report import make_console
    from nas.study import StudyStore, latest_study

    store = StudyStore.open(study or ("" if storage else latest_study()), storage)
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise UsageError("nas dashboard needs optuna-dashboard: pip install 'nas[dashboard]'") from None
    console = make_console()
    if not _is_loopback(host):
        console.print(
            f"warning: {host} is not loopback: whoever reaches it sees and can change the study", style="yellow"
        )
    console.print(f"{store.name} on http://{host}:{port}/ (Ctrl-C ends it)", markup=False)
    try:
        run_server(store.storage, host=host, port=port)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}): give another --port or --host"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
