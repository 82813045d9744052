"""The application and its one error boundary: known failures become a line and an exit code, bugs keep a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.dashboard import dashboard
from nas.cli.data import data
from nas.cli.evaluate import evaluate
from nas.cli.export import export
from nas.cli.help import Command
from nas.cli.inspect import count, space
from nas.cli.interrupts import INTERRUPTED, resume_line
from nas.cli.plot import plot
from nas.cli.predict import predict
from nas.cli.report import report
from nas.cli.search import search
from nas.cli.show import show
from nas.cli.study import study
from nas.cli.train_best import train_best
from nas.cli.tune import tune
from nas.cli.watch import watch
from nas.errors import NasError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: nas search --max-params 8000",
)
EXAMPLES: tuple[tuple[Callable[..., None], str], ...] = (
    (search, "nas search --max-params 8000 --trials 100"),
    (train_best, "nas train-best --seeds 3"),
    (show, "nas show --top 5"),
    (watch, "nas watch mnist-8000-params"),
    (report, "nas report mnist-8000-params"),
    (plot, "nas plot parameters -o front.svg"),
    (evaluate, "nas evaluate studies/records/8000"),
    (export, "nas export 8000 --to onnx,int8,c -o exported"),
    (predict, "nas predict scans/ --network 8000 --csv"),
    (count, "nas count '8vr 9vr 10vr M 12vr 16vr 20vr C G' --max-params 8000"),
    (space, "nas space --max-params 8000 --samples 100000"),
    (tune, "nas tune --architecture '8vr 9vr 10vr M 12vr 16vr 20vr C G' --timeout 2h"),
    (dashboard, "nas dashboard --study mnist-8000-params"),
)
"""The commands in the order of the help, each with the example that its own help ends with."""

for _command, _example in EXAMPLES:
    app.command(_command.__name__.replace("_", "-"), cls=Command, epilog=f"Example: {_example}")(_command)
app.add_typer(study, name="study")
app.add_typer(data, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"nas {version('nas')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Neural architecture search for small image networks under a hard parameter budget."""
    if context.obj is not None:
        context.obj()


def main(arguments: Sequence[str] | None = None, *, on_command: Callable[[], object] | None = None) -> None:
    """Run the command line; `on_command` is called when the command is about to begin."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows "?" and not a traceback
    try:
        app(args=list(arguments) if arguments is not None else None, standalone_mode=True, obj=on_command)
        sys.stdout.flush()
    except NasError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        raise SystemExit(_closed_output(error)) from None
    except SystemExit as left:  # typer turns Ctrl-C into this code
        if left.code != INTERRUPTED:
            raise
        raise SystemExit(_interrupted(left, arguments)) from None


def _interrupted(left: SystemExit, arguments: Sequence[str] | None) -> int:
    """Print how to go on, and return the exit code of the signal."""
    error: BaseException | None = left
    code = INTERRUPTED
    while error is not None:  # what came first knows the signal
        code = getattr(error, "exit_code", code)
        error = error.__context__
    print(resume_line(arguments), file=sys.stderr)
    return code


def _closed_output(error: OSError) -> int:
    """Return the exit code where standard output is gone or full; any other error is a bug and is raised again."""
    import errno

    if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EBADF) or error.filename is not None:
        raise error
    with contextlib.suppress(OSError):  # nothing more can be written there: keep Python's own flush at exit quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno != errno.EPIPE:
        print(
            f"error: standard output cannot be written ({error.strerror}): free the disk, or name another",
            file=sys.stderr,
        )
    return 1
