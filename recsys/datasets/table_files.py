"""The files of a table source: found by pattern, each once, with the columns that their folders name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.files import files_below, folder_columns, is_leftover, sha256_of_file
from recsys.progress import Progress

FILE_SPLIT = f"{OWN_PREFIX}file_split"
"""The column of a table's rows of the split that their file belongs to; null where a rule assigns splits."""
ROW_HASH = f"{OWN_PREFIX}raw_row_hash"
"""The column of a table's rows with a number that rows of equal values share."""

PARQUET_SUFFIX = ".parquet"
TSV_SUFFIXES = (".tsv", ".tsv.gz")
CSV_SUFFIXES = (".csv", ".csv.gz", *TSV_SUFFIXES)


@dataclass(frozen=True, eq=False)
class TableFile:
    """One file of rows.

    Attributes:
        name: its path below the raw folder.
        split: the split that the declaration gives its rows; empty where a rule says the split.
        folders: the columns that its folders below the raw folder name, with their values (None: no value).
    """

    path: Path
    name: str
    split: str
    sha256: str
    folders: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def is_csv(self) -> bool:
        """Whether it is text, whose columns have no types."""
        return not self.path.name.lower().endswith(PARQUET_SUFFIX)


def find_files(
    raw: Path,
    patterns: Mapping[str, Sequence[str]],
    progress: Progress,
    digest: Callable[[Path], str] = sha256_of_file,
) -> list[TableFile]:
    """Return the files below `raw` that the patterns of each split name, every file once; links are followed.

    A pattern that is the name of a file means that file. Otherwise `*`, `?` and `[...]` stand for parts of a name, `**`
    for any folders, and what writers leave behind is left alone (`recsys.files.is_leftover`).

    Args:
        digest: of a file's bytes; who has read them before need not read them again.

    Raises:
        DataError: a pattern names no file; a file or its copy is named for two splits, or lies there twice; a file is
            empty or of no form that is read here.
    """
    found: dict[Path, tuple[str, str]] = {}
    below = files_below(raw) if raw.is_dir() else []
    first_names: dict[Path, str] = {}
    for split, pattern in ((split, pattern) for split, several in patterns.items() for pattern in several):
        for path in _matches(raw, below, pattern):
            # By the file behind all links: a name that leads to a file of another split leads to the same rows.
            real = path.resolve()
            others, first = found.setdefault(real, (split, pattern))
            first_names.setdefault(real, path.relative_to(raw).as_posix())
            if others != split:
                raise DataError(
                    f"{path} is named twice in `table.files`: by {first!r} for {others} and by {pattern!r} for "
                    f"{split}, so its rows would stand in both splits. Name each file for one split, by patterns that "
                    "do not meet; put the files of a split into a folder of its own, for instance."
                )
    files = []
    for number, (real, (split, _)) in enumerate(found.items()):
        progress("checking files", number, len(found))
        path = raw / first_names[real]
        _require_readable(path)
        name = path.relative_to(raw)
        files.append(TableFile(path, name.as_posix(), split, digest(path), folder_columns(name)))
    return files


def require_different_files(files: Sequence[TableFile], rows: Mapping[Path, int]) -> None:
    """Refuse a copy of a file: its rows would count twice, or stand in two splits.

    Args:
        rows: of each file; those without any may be equal.
    """
    known: dict[tuple[object, ...], TableFile] = {}
    for file in files:
        if not rows[file.path]:
            continue
        first = known.setdefault((file.sha256, *sorted(file.folders.items(), key=str)), file)
        if first is not file:
            where = f"in {first.split} and in {file.split}" if first.split != file.split else "twice"
            raise DataError(
                f"{first.path} and {file.path} hold the same bytes ({rows[file.path]} rows), so each row would stand "
                f"{where}. Take one of them away, or out of `table.files`."
            )


def shown_files(files: Sequence[TableFile]) -> str:
    """Names for a message: the first few, and how many there are."""
    few = ", ".join(str(file.path) for file in files[:3])
    return few if len(files) <= 3 else f"{few}, ... ({len(files)} files)"


def _matches(raw: Path, below: Sequence[str], pattern: str) -> Iterator[Path]:
    if (raw / pattern).is_file():
        return iter([raw / pattern])
    parts = PurePosixPath(pattern).parts
    names = [name for name in below if _fits(name.split("/"), parts)]
    if not names:
        there = ", ".join(sorted(path.name for path in raw.iterdir())[:10]) if raw.is_dir() else "no such folder"
        hint = f" It is a folder; name its files: {pattern}/*.parquet." if (raw / pattern).is_dir() else ""
        raise DataError(
            f"{raw / pattern}: no such file (the folder {raw} holds: {there or 'nothing'}).{hint} Expected the files "
            "that the schema's `table.files` names: set `data.raw` to their folder. Names that begin with `.` or `_` "
            "are left alone unless the pattern begins so too."
        )
    return (raw / name for name in names)


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a pattern, one by one, `**` standing for any number of folders."""
    if not pattern or not names:
        return not pattern and not names
    name, wanted = names[0], pattern[0]
    # As in a shell, a hidden name must be asked for.
    is_left = is_leftover(name) and not is_leftover(wanted)
    if wanted == "**":
        return _fits(names, pattern[1:] or ("*",)) or (len(names) > 1 and not is_left and _fits(names[1:], pattern))
    return not is_left and fnmatchcase(name, wanted) and _fits(names[1:], pattern[1:])


def _require_readable(path: Path) -> None:
    if not str(path).isprintable() and any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        raise DataError(f"{str(path)!r}: this name is not UTF-8; rename the file or folder.")
    if not path.exists():
        raise DataError(f"{path} is a link that leads nowhere. Fetch the file behind it, or remove the link.")
    if not path.name.lower().endswith((PARQUET_SUFFIX, *CSV_SUFFIXES)):
        raise DataError(f"{path} has an unknown form; expected {PARQUET_SUFFIX}, {', '.join(CSV_SUFFIXES)}.")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty (0 bytes); expected rows. Write it again, or take it out of `table.files`.")
