"""The entry of the command line; nothing heavy is imported before Ctrl-C is harmless."""

import signal


def main() -> None:
    """Run `nas`. Ctrl-C before the command itself begins ends the process without a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nas.cli import main as run
    from nas.cli import take_interrupts

    def begin() -> None:
        if before is signal.default_int_handler:
            take_interrupts()
        else:  # a job in the background ignores it
            signal.signal(signal.SIGINT, before)

    run(on_command=begin)


if __name__ == "__main__":
    main()
