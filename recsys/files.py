"""Files that are whole or absent, and the digests that tell two of them apart.

Everything written for a later reader goes through this file: work happens under a temporary name beside the final one,
is flushed to the disk, and only then takes the final name in one rename.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.errors import CannotWriteError

_READ_BYTES = 1 << 20


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
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def sha256_of_file(path: Path) -> str:
    """Return "sha256:" and the hexadecimal digest of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


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
def published_directory(final: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` on success and vanishes on failure.

    A folder that already stands at `final` is replaced whole, and only after the new one is complete.

    Raises:
        CannotWriteError: the parent folder cannot be written; said before any work is done.
    """
    final = final.absolute()
    ensure_writable(final.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
    try:
        yield work
        # mkdtemp makes private folders; what is published should be as readable as any other folder.
        work.chmod(0o755)
        _flush_tree(work)
        _replace_directory(work, final)
    except OSError as error:
        raise CannotWriteError(f"Cannot write {final}: {error.strerror or error}. Nothing was left behind.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` under a temporary name, flush it to the disk, then give it its final name.

    Raises:
        CannotWriteError: the folder cannot be written or the disk is full; a file that stood at `path` is untouched.
    """
    ensure_writable(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise CannotWriteError(f"Cannot write {path}: {error.strerror}.") from error
    _flush_folder(path.parent)


def _replace_directory(work: Path, final: Path) -> None:
    if not final.exists():
        os.rename(work, final)
    else:
        # A folder cannot be renamed over a full one, so the old one steps aside for the moment between two renames.
        aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".replaced", dir=final.parent))
        os.rename(final, aside / final.name)
        os.rename(work, final)
        shutil.rmtree(aside, ignore_errors=True)
    _flush_folder(final.parent)


def _flush_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            with open(Path(folder, name), "rb") as stream:
                os.fsync(stream.fileno())
        _flush_folder(Path(folder))


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
