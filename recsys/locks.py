"""Locks between processes: files that the kernel frees when their holder dies, signed so that others know who it is."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recsys.errors import BusyError, CannotWriteError
from recsys.files import ensure_writable


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as it signed it."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def held_lock(path: Path, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file at `path`; it stays behind, empty, as removing it would let two processes hold two of them.

    Args:
        what: what the lock protects, for the message ("Stage `prepare` for runs/3").
        wait_seconds: how long to wait for another holder before giving up; -1: for as long as it takes.

    Raises:
        BusyError: another process holds it; the message starts with `what`.
        CannotWriteError: the lock file cannot be written.
    """
    ensure_writable(path.parent)
    # The library's way without the kernel's locks is a file that a killed holder leaves behind: better no lock at all.
    lock = FileLock(path, timeout=wait_seconds, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(
            f"{what} is being worked on by {_read_holder(path)}. Wait until it ends, or end it and start again; "
            "its lock is freed the moment it dies."
        ) from None
    except OSError as error:
        raise CannotWriteError(f"{what} needs the lock file {path}, which cannot be opened: {error}.") from error
    try:
        _sign(path, json.dumps(this_process() | {"since": datetime.now(UTC).isoformat(timespec="seconds")}))
        yield
    finally:
        _sign(path, "")
        lock.release()


def this_process() -> dict[str, Any]:
    """Return what names this process to others: its pid and its host."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _sign(path: Path, text: str) -> None:
    # On a full disk the lock holds all the same, and the work has its own message for that. Padded to one length and
    # written in one call, so that a reader never meets half of one holder and half of another.
    with suppress(OSError), path.open("r+b", buffering=0) as stream:
        stream.write(text.encode().ljust(256))


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock now, by its signature; None where nobody does, or nobody who is alive.

    The lock itself is not touched, so that asking keeps nobody out.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = Holder(**json.loads(path.read_text(encoding="utf-8")))
        if holder.host != socket.gethostname() or Path(f"/proc/{holder.pid}").exists():
            return holder
    return None


def _read_holder(path: Path) -> str:
    # A holder takes the lock first and signs it a moment later; until then the file still names a holder before it.
    for _ in range(20):
        if holder := holder_of(path):
            return str(holder)
        time.sleep(0.05)
    return "another process, which has not signed the lock"
