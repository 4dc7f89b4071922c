"""What stands in a folder of Parquet files, by their footers and page headers: rows, row groups, sizes, columns.

Any Parquet will do: rows of one's own, hive partitions, a single file, or what `recsys prepare` made. Every footer is
read; column statistics come from row groups spread over all files where there are too many to read all of them.
"""

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.files import files_below, is_leftover
from recsys.progress import Progress, silent
from recsys.streaming.pages import Pages, read_pages

# Footers are small reads that mostly wait for the disk, so more threads than cores pay off.
_FOOTER_THREADS = 16
_MOST_FILES_WITH_STATISTICS, _MOST_GROUPS_WITH_STATISTICS = 200, 2000
# Beside the rows of an encoded folder, and no rows.
_CONTRACT, _VOCABULARY = "contract.json", "vocabulary"
_LONGEST_TEXT = 20


@dataclass(frozen=True)
class Group:
    """One row group of one file; `index` counts from 0 inside the file."""

    path: Path
    index: int
    rows: int


@dataclass(frozen=True)
class File:
    """One Parquet file, by its footer.

    Attributes:
        partitions: what the folders above it say, as `day` from `day=2011-01-01`.
        groups: those with rows.
        schema: the columns and their types as text; files of one schema can be read together.
    """

    path: Path
    bytes: int
    partitions: Mapping[str, str]
    groups: tuple[Group, ...]
    schema: str
    created_by: str

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True)
class Column:
    """One column (of nested ones, one leaf), over the row groups whose statistics were read.

    Attributes:
        path: in the file's schema, as `tags.list.element`.
        physical: what the file stores: INT32, INT64, FLOAT, DOUBLE, BYTE_ARRAY, ...
        type: what it stands for, by Arrow's name.
        codecs: each with its number of row groups.
        encodings: of the sampled row group's data pages.
        bytes_per_row, decoded_bytes_per_row: compressed, and after decompression alone (dictionaries still stand).
        is_nested: whether it lies in lists or structures.
        nulls: rows without a value; of lists and structures also those that are empty or lie in a null. None, like
            `minimum` and `maximum`, where some footer does not tell.
        dictionary_values: entries of the sampled row group's dictionary; None where it has none.
        is_dictionary_whole: whether every value of that row group stands in it.
        in_order: whether the row groups follow each other in this column without overlap.
    """

    path: str
    physical: str
    type: str
    codecs: Mapping[str, int]
    encodings: tuple[str, ...]
    bytes_per_row: float
    decoded_bytes_per_row: float
    is_nested: bool
    nulls: int | None
    minimum: Any
    maximum: Any
    dictionary_values: int | None
    is_dictionary_whole: bool
    has_checksums: bool
    in_order: bool

    @property
    def codec(self) -> str:
        """The codec of most of its row groups."""
        return max(self.codecs, key=self.codecs.__getitem__)


@dataclass(frozen=True)
class Inspection:
    """The facts about one path.

    Attributes:
        files: those of the schema that has most rows, in natural order of their paths.
        other_files: all others, with another schema.
        sampled: the row group whose page headers were read: of middle size.
        groups_with_statistics: how many row groups the columns' figures are taken from.
    """

    path: Path
    files: tuple[File, ...]
    other_files: tuple[File, ...]
    columns: tuple[Column, ...]
    sampled: Group
    groups_with_statistics: int

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every row group, file after file."""
        return tuple(group for file in self.files for group in file.groups)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(file.rows for file in self.files)

    @property
    def middle_group_rows(self) -> int:
        """The median of the row groups' sizes."""
        return statistics.median_low(group.rows for group in self.groups)

    @property
    def partitions(self) -> dict[str, tuple[str, ...]]:
        """The hive partitions' keys and their values, sorted."""
        found: dict[str, set[str]] = {}
        for file in self.files:
            for key, value in file.partitions.items():
                found.setdefault(key, set()).add(value)
        return {key: tuple(sorted(values)) for key, values in found.items()}


def inspect_parquet(path: Path, progress: Progress = silent) -> Inspection:
    """Read the footers under a folder, or of one file.

    Raises:
        DataError: there is no Parquet file, none with rows, or a footer cannot be read; names the file.
    """
    paths = _parquet_files(path)
    files = []
    with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="recsys-footers") as threads:
        for file in threads.map(partial(_file, root=path), paths):
            files.append(file)
            progress("read footers", len(files), len(paths))
    rows_of_schema: Counter[str] = Counter()
    for file in files:
        rows_of_schema[file.schema] += file.rows
    schema, rows = rows_of_schema.most_common(1)[0]
    if not rows:
        raise DataError(f"{path}: {len(files)} Parquet files, all without rows; expected at least one row.")
    chosen = tuple(file for file in files if file.schema == schema)
    groups = _spread([file for file in chosen if file.rows], _MOST_FILES_WITH_STATISTICS)
    footers = [(group, footer) for file in groups for group, footer in _footers(file)]
    footers = _spread(footers, _MOST_GROUPS_WITH_STATISTICS)
    middle = statistics.median_low(group.rows for group, _ in footers)
    of_middle_size = [(group, footer) for group, footer in footers if group.rows == middle]
    sampled, footer = of_middle_size[len(of_middle_size) // 2]
    return Inspection(
        path=path,
        files=chosen,
        other_files=tuple(file for file in files if file.schema != schema),
        columns=tuple(_columns([footer for _, footer in footers], _types(sampled), read_pages(sampled.path, footer))),
        sampled=sampled,
        groups_with_statistics=len(footers),
    )


def text_of(value: Any) -> str:
    """Return a value in few letters."""
    if isinstance(value, float):
        return f"{value + 0.0:.6g}"  # Parquet writes a least value of 0 as -0
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    text = f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist; expected a Parquet file or a folder of them.")
    names = files_below(path)
    paths = [path / name for name in names if _is_of_rows(name, path)]
    if not paths:
        kinds = Counter(Path(name).suffix or Path(name).name for name in names)
        held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3)) or "no file"
        raise DataError(f"{path} holds no Parquet file (*.parquet); found {held}.")
    return sorted(paths, key=_natural)


def _is_of_rows(name: str, root: Path) -> bool:
    is_vocabulary = name.startswith(f"{_VOCABULARY}/") and (root / _CONTRACT).is_file()
    return name.endswith(".parquet") and not is_leftover(name) and not is_vocabulary


def _natural(path: Path) -> list[str | int]:
    # Split by a captured pattern, every second part is a run of digits.
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", path.as_posix()))]


def _file(path: Path, root: Path) -> File:
    try:
        with pq.ParquetFile(path) as file:
            footer, schema = file.metadata, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: its footer cannot be read ({error}); expected a Parquet file. It is empty, damaged, encrypted or "
            "was cut short: remove it, or write it again."
        ) from error
    rows = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    folders = path.parent.relative_to(root).parts if root.is_dir() else ()
    return File(
        path=path,
        bytes=path.stat().st_size,
        partitions=dict(folder.split("=", 1) for folder in folders if "=" in folder),
        groups=tuple(Group(path, index, count) for index, count in enumerate(rows) if count),
        schema=schema.remove_metadata().to_string(show_field_metadata=False),
        created_by=footer.created_by,
    )


def _footers(file: File) -> Iterator[tuple[Group, pq.RowGroupMetaData]]:
    footer = pq.read_metadata(file.path)
    for group in file.groups:
        yield group, footer.row_group(group.index)


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def _types(group: Group) -> dict[str, str]:
    """Arrow's type of each leaf, by its path in the file's schema."""
    with pq.ParquetFile(group.path) as file:
        leaves = [leaf for field in file.schema_arrow for leaf in _leaves(field.type)]
        paths = [file.schema.column(position).path for position in range(len(file.schema))]
    return dict(zip(paths, leaves, strict=True))


def _leaves(kind: pa.DataType) -> list[str]:
    if pa.types.is_dictionary(kind):
        return _leaves(kind.value_type)
    if not kind.num_fields:
        return [str(kind)]
    return [leaf for place in range(kind.num_fields) for leaf in _leaves(kind.field(place).type)]


def _columns(
    groups: Sequence[pq.RowGroupMetaData], types: Mapping[str, str], pages: Mapping[str, Pages]
) -> Iterator[Column]:
    rows = sum(group.num_rows for group in groups)
    for position, path in enumerate(types):
        chunks = [group.column(position) for group in groups]
        # A row group without any value has no bounds, and needs none.
        bounds = [_bounds(chunk, types[path]) for chunk in chunks if _nulls(chunk) != chunk.num_values]
        known = [bound for bound in bounds if bound is not None]
        is_known = 0 < len(known) == len(bounds)
        of_pages = pages[path]
        yield Column(
            path=path,
            physical=chunks[0].physical_type,
            type=types[path],
            codecs=Counter(chunk.compression for chunk in chunks),
            encodings=of_pages.encodings,
            bytes_per_row=sum(chunk.total_compressed_size for chunk in chunks) / rows,
            decoded_bytes_per_row=sum(chunk.total_uncompressed_size for chunk in chunks) / rows,
            is_nested="." in path,
            nulls=_sum_if_known([_nulls(chunk) for chunk in chunks]),
            minimum=min(low for low, _ in known) if is_known else None,
            maximum=max(high for _, high in known) if is_known else None,
            dictionary_values=of_pages.dictionary_values,
            is_dictionary_whole=of_pages.is_dictionary_whole,
            has_checksums=of_pages.has_checksums,
            in_order=is_known and len(known) > 1 and _follow_each_other(known),
        )


def _bounds(chunk: pq.ColumnChunkMetaData, kind: str) -> tuple[Any, Any] | None:
    if kind == "halffloat":  # given as two bytes, which are in another order than the numbers
        return None
    found = _statistic(chunk, lambda statistics: statistics.has_min_max and (statistics.min, statistics.max))
    # NaN bounds are no bounds: nothing compares with them.
    return found if found and found[0] == found[0] and found[1] == found[1] else None


def _nulls(chunk: pq.ColumnChunkMetaData) -> int | None:
    return _statistic(chunk, lambda statistics: statistics.null_count if statistics.has_null_count else None)


def _statistic(chunk: pq.ColumnChunkMetaData, read: Callable[[Any], Any]) -> Any:
    try:
        return read(chunk.statistics) if chunk.is_stats_set else None
    except (pa.ArrowException, ValueError, OverflowError):  # of a type that Python has no value for, as year 10000
        return None


def _sum_if_known(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _follow_each_other(bounds: Sequence[tuple[Any, Any]]) -> bool:
    """Whether every row group begins at or above where the one before it ended, and they are not all one value."""
    return bounds[0][0] != bounds[-1][1] and all(before[1] <= after[0] for before, after in itertools.pairwise(bounds))
