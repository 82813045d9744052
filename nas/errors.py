"""Known failures: each carries, in one line, the rule, the value that broke it and the next step.

The command line prints the line and leaves with `exit_code`; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping


class NasError(Exception):
    """A failure with a known cause; `str(error)` is one line for the user."""

    exit_code = 2


class UsageError(NasError, ValueError):
    """An option, a budget file or an architecture string that breaks a rule."""

    exit_code = 2


class InfeasibleError(NasError):
    """No architecture of the search space meets the budget, or no trial of a study finished.

    `discards` counts, by reason, the schedules that were generated and discarded before it: none of them is lost to the
    accounts.
    """

    exit_code = 3

    def __init__(self, message: str = "", *, discards: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.discards: Mapping[str, int] = dict(discards or {})


class DataError(NasError):
    """A data set that is missing, incomplete or not what it should be."""

    exit_code = 4


class StorageError(NasError):
    """A study database or an export that cannot be read or written."""

    exit_code = 4
