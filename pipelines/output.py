"""Standard output and error as they may be: closed, full, a pipe that nobody reads any more, of another encoding."""

import io
import os
import sys
from contextlib import suppress


def make_safe() -> None:
    """Let every character be printed, and nothing that is opened later take the place of a closed stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Closed by who started us (`>&-`): the next file that is opened would get its number, and what a library
            # prints would land in it.
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An encoding without the characters of a table, or of a user's name, is no reason to stop.
            stream.reconfigure(errors="backslashreplace")


def fault(probe: str = "") -> OSError | None:
    """Write out what waits; return why standard output cannot be written, after which it is given up.

    Args:
        probe: a text to try it with, where nothing may be waiting.
    """
    try:
        sys.stdout.write(probe)
        sys.stdout.flush()
    except OSError as error:
        # Python would try once more at exit, and complain.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def print_error(message: str) -> None:
    """Print a line to standard error, if there is one."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
