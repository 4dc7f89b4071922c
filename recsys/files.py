"""Files that are whole or absent, and the digests that tell two of them apart.

Everything written for a later reader goes through this file: work happens under a temporary name beside the final one,
is flushed to the disk, and only then takes the final name in one rename.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from safetensors import SafetensorError

from recsys.errors import CannotWriteError, RecsysError, UsageError
from recsys.machine_faults import unwritable_reason

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""How a folder's name says that its rows have no value."""

_READ_BYTES = 1 << 20
# Hidden names and those with `_` in front (`_temporary/`, `_SUCCESS`, `.ipynb_checkpoints/`), and unfinished files.
_LEFTOVER = re.compile(r"(^|/)[._]|\.(crc|partial|tmp)$")
# From <fcntl.h> and <linux/fs.h>.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, the same text for equal values.

    >>> canonical_json({"b": 1, "a": [1, 2]})
    '{"a":[1,2],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint_of(value: Any) -> str:
    """Return 16 hexadecimal digits that name a JSON-able value.

    >>> fingerprint_of({"a": 1}) == fingerprint_of({"a": 2})
    False
    """
    # Names of files may hold bytes that are no text.
    return hashlib.sha256(canonical_json(value).encode(errors="surrogateescape")).hexdigest()[:16]


def home_expanded(path: str, what: str) -> str:
    """Return a path with the home folder in place of a `~` at its beginning, which a shell leaves in `key=~/data`.

    Args:
        what: what the path was given for, for the message.

    Raises:
        UsageError: the home folder is not known.
    """
    expanded = os.path.expanduser(path)
    if expanded == path and path.partition("/")[0] == "~":
        raise UsageError(
            f"{what} is {path}, and there is no home folder to put for `~`: HOME is not set. Give the whole path, or "
            f"./{path} for a folder that is named so."
        )
    return expanded


def sha256_of_file(path: Path) -> str:
    """Return "sha256:" and the hexadecimal digest of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def is_leftover(name: str) -> bool:
    """Whether a path below a folder of rows is what writers and tools leave there, and no rows.

    >>> [is_leftover(name) for name in ("day=1/part-0.parquet", "_temporary/0/part-0.parquet", "part-0.parquet.crc")]
    [False, True, True]
    """
    return _LEFTOVER.search(name) is not None


def folder_columns(name: PurePath) -> dict[str, str | None]:
    """Return the columns that the folders of a path name, as `day=2011-06-30` does; None for `HIVE_NULL`.

    >>> folder_columns(PurePath("country=a%2Fb/day=__HIVE_DEFAULT_PARTITION__/part-0.parquet"))
    {'country': 'a/b', 'day': None}
    """
    named = (part.split("=", 1) for part in name.parent.parts if part.find("=") > 0)
    return {unquote(column): None if value == HIVE_NULL else unquote(value) for column, value in named}


def files_below(folder: Path) -> list[str]:
    """Return the names, relative to a folder, of all below it that are no folders, in their order.

    Links are followed, but into no folder that they lie in. A link that leads nowhere is among the names.

    Raises:
        OSError: a folder cannot be listed.
    """

    def walk(place: str, name: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        status = os.stat(place)
        if (here := (status.st_dev, status.st_ino)) in above:
            return
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from walk(entry.path, f"{name}{entry.name}/", above | {here})
                else:
                    yield f"{name}{entry.name}"

    return sorted(walk(str(folder), "", frozenset()))


def ensure_writable(folder: Path) -> None:
    """Create `folder` where it is absent and prove by a probe file that it can be written.

    Raises:
        CannotWriteError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CannotWriteError(
            f"Cannot write to {folder}: {error.strerror}. Choose another output folder or mend its permissions."
        ) from error


@contextmanager
def published_directory(final: Path, resume_key: str = "") -> Iterator[Path]:
    """Yield an empty folder that becomes `final` on success and vanishes on failure.

    A folder that already stands at `final` is replaced whole, and only after the new one is complete.

    Args:
        resume_key: letters and digits that name all that the contents follow from. With such a key, a process that is
            killed or interrupted leaves its folder behind, and the next one with this key is given that folder with
            whatever is in it. The caller sees to it that one process at a time holds a key.

    Raises:
        CannotWriteError: the parent folder cannot be written, or something other than a folder stands at `final`,
            both said before any work is done; or the disk is full. Other failures of the work pass through.
    """
    final = final.resolve()
    ensure_writable(final.parent)
    if final.exists() and not final.is_dir():
        raise CannotWriteError(
            f"Cannot write the folder {final}: a file of that name stands there. Move it away first."
        )
    work = unfinished_path(final, resume_key) if resume_key else _unused_name(final, "partial")
    is_kept = False
    try:
        work.mkdir(exist_ok=bool(resume_key))
        yield work
        _flush_tree(work)
        _replace_directory(work, final)
    except Exception as error:
        if isinstance(error, RecsysError) or not (reason := _why_unwritten(error, work)):
            raise
        raise CannotWriteError(
            f"Cannot write {final}: {reason}. Nothing was left behind; mend that and repeat."
        ) from error
    except BaseException:
        # Ctrl-C and SIGTERM stop the work without finding a fault in it.
        is_kept = bool(resume_key)
        raise
    finally:
        if not is_kept:
            shutil.rmtree(work, ignore_errors=True)


def unfinished_path(final: Path, resume_key: str) -> Path:
    """Where `published_directory` works with such a key, and where work that was killed is to be found."""
    return final.with_name(f".{final.name}.{resume_key}.unfinished")


def clear_leftovers(*folders: Path) -> None:
    """Remove the unfinished files and folders of killed processes from folders that nobody else writes to now."""
    for folder in folders:
        for leftover in [*folder.glob(".*.partial"), *folder.glob(".*.replaced")]:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` under a temporary name, flush it to the disk, then give it its final name.

    Raises:
        CannotWriteError: the folder cannot be written or the disk is full; a file that stood at `path` is untouched.
    """
    ensure_writable(path.parent)
    work = _unused_name(path, "partial")
    try:
        with work.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(work, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise CannotWriteError(f"Cannot write {path}: {error.strerror}. What stood there is untouched.") from error
    finally:
        work.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it `path` is written by a library, whose word of a full or closed disk says neither where nor what.

    Raises:
        CannotWriteError: the disk is full or closed; other failures pass through.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, RecsysError) or not (reason := unwritable_reason(error)):
            raise
        raise CannotWriteError(f"Cannot write {path}: {reason}. Free some space, and repeat.") from error


def flush_file(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _unused_name(final: Path, ending: str) -> Path:
    # Beside the final name, as a rename works within one file system; not by `tempfile`, whose files nobody else reads.
    return final.with_name(f".{final.name}.{secrets.token_hex(6)}.{ending}")


def _why_unwritten(error: Exception, work: Path) -> str | None:
    # The work may also read files or talk to a server; a failure there must not be reported as one of the output.
    if reason := unwritable_reason(error):
        return reason
    if isinstance(error, SafetensorError) and (code := re.search(r"\(os error (\d+)\)", str(error))):
        # Its writer tells the operating system's reason in its text; without one, the tensors themselves are bad.
        return os.strerror(int(code[1]))
    if not isinstance(error, OSError):
        return None
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    is_of_the_work = any(Path(name).is_relative_to(work) for name in names)
    is_of_writing = is_of_the_work or error.errno in (errno.EIO, errno.ENAMETOOLONG)
    return (error.strerror or str(error)) if is_of_writing else None


def _replace_directory(work: Path, final: Path) -> None:
    if not final.exists():
        os.rename(work, final)
    elif _exchange(work, final):
        shutil.rmtree(work, ignore_errors=True)
    else:
        # No file system call swaps the two here, so the old one steps aside for the moment between two renames.
        aside = _unused_name(final, "replaced")
        os.rename(final, aside)
        os.rename(work, final)
        shutil.rmtree(aside, ignore_errors=True)
    _flush_folder(final.parent)


def _exchange(first: Path, second: Path) -> bool:
    # Linux swaps two names in one step, so that at no moment the final name is missing. False where it cannot.
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)


def _flush_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        # A link has no bytes of its own to flush, and what it points at may not exist.
        for name in (name for name in names if not Path(folder, name).is_symlink()):
            flush_file(Path(folder, name))
        _flush_folder(Path(folder))


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
