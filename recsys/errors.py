"""Failures that a user can mend, each with the exit code that a scheduler sees.

The codes follow `sysexits.h` where it has one. A message says what was found, where, what was expected and what to do.
"""

import difflib
import re
from collections.abc import Iterable


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


def similar_name(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` was most likely meant to be: other case, blanks for `_`, a letter more or less.

    >>> similar_name("item_id", ["price", "Item ID"])
    'Item ID'
    >>> similar_name("item_id", ["price", "user"]) is None
    True
    """
    plain = {re.sub(r"[\W_]", "", other).lower(): other for other in names}
    close = difflib.get_close_matches(re.sub(r"[\W_]", "", name).lower(), plain, n=1, cutoff=0.65)
    return plain[close[0]] if close else None


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """What to put behind an unknown name: " (did you mean `price`?)", or nothing where no name is like it."""
    close = similar_name(name, [other for other in names if other != name]) if isinstance(name, str) else None
    return f" (did you mean `{close}`?)" if close else ""
