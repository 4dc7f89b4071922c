"""What the machine refused, as distinct from what the code did wrong: a full or closed disk, a file, memory.

Every library reports such a refusal in a form of its own: Python and Arrow by the error's number, safetensors and
DuckDB by the system's words in a text, SQLite in its own words. Here each form is known, once.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from recsys.errors import BusyError, CannotWriteError, DataError, RecsysError, UsageError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NUMBER = re.compile(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]")
_UNWRITABLE_WORDS = {
    **{os.strerror(code): os.strerror(code) for code in _UNWRITABLE},
    "database or disk is full": "the disk is full",  # SQLite
    "disk I/O error": "SQLite's write was refused (disk I/O error)",
    "attempt to write a readonly database": "SQLite's file is read-only",
    "max_temp_directory_size": "no space is left for DuckDB to spill to",
    "No usable temporary directory found": "no temporary folder can be written (TMPDIR, /tmp, /var/tmp)",
}
_NO_MEMORY_WORDS = (
    "can't allocate memory",
    "Unable to allocate",
    "malloc of size",
    "bad allocation",
    "array is too big",
)
_NO_DATABASE_WORDS = ("file is not a database", "database disk image is malformed")
_LOST_PROCESS_WORDS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Socket closed",
    "Application timeout caused pair closure",
    "NCCL error",
    "ncclRemoteError",
    "Watchdog caught collective operation timeout",
)
_PACKAGE = Path(__file__).resolve().parent


def machine_fault(error: BaseException) -> RecsysError | None:
    """Return the failure as a user can mend it where the machine is at fault; None where it is another's."""
    for each in _chain(error):
        if reason := _unwritable(each):
            return CannotWriteError(
                f"Cannot write{_place(each)}: {reason}. Free some space there, or choose another place; what was "
                "finished before is kept."
            )
        if "database is locked" in str(each):
            return BusyError(
                "The run store is locked by another process, which writes to it. Wait until it ends, and repeat."
            )
        if any(words in str(each) for words in _NO_DATABASE_WORDS):
            return DataError(
                f"The run store is damaged, or is no SQLite file ({str(each).splitlines()[0]}). Put back a copy, or "
                "move it away: a new one is made with the next run."
            )
        if _is_out_of_memory(each):
            return UsageError(
                f"The machine has too little memory for this configuration ({str(each).splitlines()[0]}). Lower the "
                "batch sizes, the widths or `training.shuffle_buffer_rows`."
            )
        if isinstance(each, OSError) and (found := _of_a_file(each)):
            return found
    return None


def is_lost_process(error: BaseException) -> bool:
    """Whether another process of the run went, or did not answer in time, as gloo and NCCL say it."""
    return any(
        isinstance(each, RuntimeError) and any(words in str(each) for words in _LOST_PROCESS_WORDS)
        for each in _chain(error)
    )


def unwritable_reason(error: BaseException) -> str | None:
    """Return why something could not be written, where `error` or its cause says that the disk is full or closed."""
    return next((reason for each in _chain(error) if (reason := _unwritable(each))), None)


def _unwritable(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return os.strerror(error.errno)
    text = str(error)
    numbers = [int(first or second) for first, second in _NUMBER.findall(text)]
    if known := [code for code in numbers if code in _UNWRITABLE]:
        return os.strerror(known[0])
    return next((reason for words, reason in _UNWRITABLE_WORDS.items() if words in text), None)


def _of_a_file(error: OSError) -> RecsysError | None:
    """A file or folder that is not there, is something else than was expected, or may not be read or written."""
    if error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(_PACKAGE):
        return None
    path = os.fsdecode(error.filename)
    what = f"{path}: {error.strerror}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return CannotWriteError(f"Cannot open {what}. Raise the limit (`ulimit -n`), and repeat.")
    if error.errno in (errno.EACCES, errno.EPERM):
        if os.path.exists(path) and not os.access(path, os.R_OK):
            return DataError(f"Cannot read {what}. Mend its permissions, or name another.")
        return CannotWriteError(f"Cannot write {what}. Mend its permissions, or name another.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO):
        return DataError(f"Cannot use {what}. Correct the path, or make what should stand there again.")
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ValueError) and any(words in str(error) for words in _NO_MEMORY_WORDS)
    )


def _place(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return f" {os.fsdecode(name)}" if isinstance(name, str | bytes) else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or while handling."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
