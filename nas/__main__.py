"""The entry of the command line; nothing heavy is imported before Ctrl-C is harmless."""

import signal


def main() -> None:
    """Run `nas`. Ctrl-C before the command itself begins ends the process without a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nas.cli import main as run

    run(on_command=lambda: signal.signal(signal.SIGINT, before))


if __name__ == "__main__":
    main()
