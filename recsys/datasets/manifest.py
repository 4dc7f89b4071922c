"""What an encoded folder says about itself: its files with their digests, its rows per split and day, its history."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import DataError
from recsys.files import sha256_of_file

MANIFEST_NAME, CONTRACT_NAME, VOCABULARY_FOLDER = "manifest.json", "contract.json", "vocabulary"
FINISHED_PARTS_NAME = "finished_parts.jsonl"
"""Stands in a folder only as long as its preparation is unfinished."""


@dataclass(frozen=True)
class FileEntry:
    """One file: its digest ("sha256:..."), its size, and what a Parquet part holds (nothing of other files).

    Attributes:
        profile: what was counted in the part's rows: see `RowEncoder.profile`.
    """

    sha256: str
    bytes: int
    rows: int = 0
    profile: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The receipt of one preparation.

    Attributes:
        contract: fingerprint of the feature contract.
        files: path relative to the folder -> what the file must be.
        splits: split -> UTC day ("2011-06-30") -> rows, in the order of the days.
        source: what the source said about itself: files, dates, sampling.
        counts: rows and values that were dropped, filled or mended on the way, by a readable name.
    """

    contract: str
    files: dict[str, FileEntry]
    splits: dict[str, dict[str, int]]
    source: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text that `from_json` reads back, indented for human readers."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> "Manifest":
        """Read `to_json`'s text.

        Raises:
            DataError: the text is torn or holds something else; names `where`.
        """
        try:
            document = json.loads(text)
            files = {path: FileEntry(**entry) for path, entry in document.pop("files").items()}
            return cls(files=files, **document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} is no manifest ({type(error).__name__}: {error}). Expected what `recsys prepare` writes; "
                "prepare the data again."
            ) from error


def describe_files(root: Path, known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Return the entry of every file of data below `root`, in the order of their paths.

    Args:
        known: entries by path relative to `root`; only other files are read.
    """
    own = {root / MANIFEST_NAME, root / FINISHED_PARTS_NAME}
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path not in own)
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {
        name: known.get(name) or FileEntry(sha256_of_file(path), path.stat().st_size) for name, path in names.items()
    }


def part_path(split: str, day: str) -> str:
    """Where the rows of one split and day lie, relative to the encoded folder."""
    return f"split={split}/day={day}/part-0.parquet"


def rows_by_split(part_rows: dict[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Turn rows by (split, day) into rows by split, then by day."""
    splits: dict[str, dict[str, int]] = defaultdict(dict)
    for (split, day), rows in sorted(part_rows.items()):
        splits[split][day] = rows
    return dict(splits)
