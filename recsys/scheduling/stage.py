"""Stages that are safe to start at any time, by anyone, any number of times.

A stage's key names everything that its output follows from: inputs, parameters, code. Output that carries a receipt
with the same key is up to date; anything else is made again beside it and takes its place whole. A lock that the
kernel frees when its holder dies keeps a second starter out, so a crash leaves nothing to clean up by hand.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.errors import DataError
from recsys.files import (
    files_below,
    fingerprint_of,
    published_directory,
    sha256_of_file,
    unfinished_path,
    write_text_atomically,
)
from recsys.locks import held_lock, this_process

RECEIPT_NAME = "receipt.json"


@dataclass(frozen=True)
class Stage:
    """What one piece of work depends on.

    >>> stage = Stage("prepare", inputs={"sales": "sha256:0a"}, parameters={"days": 90}, code_version="1")
    >>> stage.key == Stage("prepare", {"sales": "sha256:0b"}, {"days": 90}, "1").key
    False

    Attributes:
        inputs: a fingerprint of each input, as `input_fingerprint` makes them.
        parameters: JSON-able values that the output depends on.
        code_version: changes where the code that does the work changes.
    """

    name: str
    inputs: Mapping[str, str]
    parameters: Mapping[str, Any]
    code_version: str

    @property
    def key(self) -> str:
        """16 hexadecimal digits; equal where the output would be equal."""
        return fingerprint_of(asdict(self))


@dataclass(frozen=True)
class StageResult:
    """Where a stage's output stands, and whether this call made it or found it up to date."""

    path: Path
    key: str
    was_run: bool


def run_stage(stage: Stage, final: Path, work: Callable[[Path], None], *, is_resumable: bool = False) -> StageResult:
    """Make `final` by `work`, or find that it stands already.

    Args:
        final: the folder that holds the output and its receipt; one of another key is replaced whole.
        work: writes everything into the folder that it is given, which is empty unless the stage is resumable.
        is_resumable: whether `work` can go on from what a killed process of the same key had written.

    Raises:
        BusyError: another process works on `final`; names its pid, its host and since when.
        CannotWriteError: `final` cannot be written; said before any work is done.
    """
    if is_up_to_date(stage, final):
        return StageResult(final, stage.key, was_run=False)
    with held_lock(final.parent / f".{final.name}.lock", f"Stage `{stage.name}` for {final}"):
        # Whoever held the lock a moment ago may have done this very work.
        if is_up_to_date(stage, final):
            return StageResult(final, stage.key, was_run=False)
        resume_key = stage.key if is_resumable else ""
        _sweep_leftovers(final, resume_key)
        started = _now()
        with published_directory(final, resume_key) as folder:
            work(folder)
            receipt = {
                **asdict(stage),
                "key": stage.key,
                "files": _sizes(folder),
                "started": started,
                "finished": _now(),
                **this_process(),
            }
            write_text_atomically(folder / RECEIPT_NAME, json.dumps(receipt, indent=2, sort_keys=True) + "\n")
    return StageResult(final, stage.key, was_run=True)


def is_up_to_date(stage: Stage, final: Path) -> bool:
    """Whether `final` carries this stage's key and still holds every file of its receipt in full length."""
    try:
        receipt = json.loads((final / RECEIPT_NAME).read_text(encoding="utf-8"))
        return bool(receipt["key"] == stage.key) and all(
            (final / name).stat().st_size == size for name, size in receipt["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No receipt, a torn one, or a file gone: whatever stands there cannot be relied on, so it is made again.
        return False


def input_fingerprint(path: Path) -> str:
    """Return what names the bytes of a file, or of every file below a folder with their relative names.

    Raises:
        DataError: nothing stands at `path`.
    """
    if path.is_file():
        return sha256_of_file(path)
    if not path.is_dir():
        raise DataError(f"The input {path} is neither a file nor a folder. Correct the path, or make the input first.")
    return fingerprint_of({name: sha256_of_file(path / name) for name in _sizes(path)})


def _sizes(folder: Path) -> dict[str, int]:
    names = [name for name in files_below(folder) if (folder / name).is_file()]
    return {name: (folder / name).stat().st_size for name in names}


def _sweep_leftovers(final: Path, resume_key: str) -> None:
    # Only the lock's holder writes beside `final`, so what a killed holder left there belongs to nobody.
    for ending in ("partial", "replaced", "unfinished"):
        for leftover in final.parent.glob(f".{final.name}.*.{ending}"):
            if leftover.name != unfinished_path(final, resume_key).name:
                shutil.rmtree(leftover, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
