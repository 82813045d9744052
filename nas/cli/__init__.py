"""The command line: a file for each command; parse, call the library, print."""

from nas.cli.interrupts import take_interrupts
from nas.cli.main import app, main

__all__ = ["app", "main", "take_interrupts"]
