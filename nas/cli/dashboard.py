"""`nas dashboard`."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated

import typer

from nas.cli.options import DataDir, Storage, StudyArgument, StudyName, one_study
from nas.errors import NasError, UsageError


def dashboard(
    study: StudyArgument = None,
    named: StudyName = None,
    storage: Storage = None,
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Address to listen on; whoever reaches it sees all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Open the study in optuna-dashboard, with its answer as a note, and its report and drawings with the winner."""
    study = one_study(study, named)
    from nas.study import StudyStore, latest_study

    store = StudyStore.open(study or ("" if storage else latest_study()), storage)
    from nas.report import artifact_store, findings_of, make_console, publish

    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise UsageError("nas dashboard needs optuna-dashboard: pip install 'nas[dashboard]'") from None
    console = make_console()
    if store.is_ours and "architecture" not in store.attrs["settings"]:
        try:
            publish(findings_of(store, data_dir=data_dir), storage)
        except NasError as error:  # a study that cannot be written to is shown all the same
            console.print(f"warning: no note was written: {error}", style="yellow", markup=False)
    if not _is_loopback(host):
        console.print(
            f"warning: {host} is not loopback: whoever reaches it sees and can change the study", style="yellow"
        )
    _require_free(host, port)
    console.print(f"{store.name} on http://{host}:{port}/ (Ctrl-C ends it)", markup=False)
    run_server(store.storage, host=host, port=port, artifact_store=artifact_store(store))


def _require_free(host: str, port: int) -> None:
    """Raise `UsageError` where the server could not listen."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{host}:{port} cannot be listened on ({reason}): give another --port or --host") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
