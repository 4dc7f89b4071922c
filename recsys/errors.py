"""Failures that a user can mend, each with the exit code that a scheduler sees.

The codes follow `sysexits.h` where it has one. A message says what was found, where, what was expected and what to do.
"""


class RecsysError(Exception):
    """A failure with a message for the user; anything else that is raised counts as our bug (exit code 70)."""

    exit_code = 70


class UsageError(RecsysError):
    """A command line, configuration or schema that cannot mean anything."""

    exit_code = 2


class DataError(RecsysError):
    """Input data that breaks its declared contract."""

    exit_code = 65


class ServiceError(RecsysError):
    """A service that the command needs (a download, a tracking server to read from) did not answer."""

    exit_code = 69


class TrainingError(RecsysError):
    """Training cannot go on: it diverged, or a proof about it failed."""

    exit_code = 70


class CannotWriteError(RecsysError):
    """An output location that cannot be written."""

    exit_code = 73


class BusyError(RecsysError):
    """Another process holds what this one needs."""

    exit_code = 75
