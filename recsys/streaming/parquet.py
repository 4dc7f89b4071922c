"""Row groups of an encoded split: found and checked by their footers, read whole, needed columns only.

A row group is the unit of reading: decoding one whole costs a fifth less than decoding it in batches, and its rows
come out in one piece per column.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError, UsageError
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureKind
from recsys.files import fingerprint_of

SEGMENT, LABEL, WEIGHT = "segment", "label", "weight"
"""What encoded rows call these columns, whatever the schema calls the raw ones."""

_FEATURE_TYPES = {
    FeatureKind.DENSE: pa.float32(),
    FeatureKind.SPARSE: pa.int32(),
    FeatureKind.SPARSE_LIST: pa.list_(pa.int32()),
}
_EXTRA_TYPES = {
    "user_key": pa.int64(),
    "query": pa.int64(),
    "log_sampling_rate": pa.float32(),
    "is_new_to_user": pa.int8(),
    "true_probability": pa.float32(),
}
# Footers are small reads that mostly wait for the disk, so more threads than cores pay off.
_FOOTER_THREADS = 16
_PREPARE = "Prepare the data again with `recsys prepare`."


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file, with its number of rows; `index` counts from 0 inside the file."""

    path: Path
    index: int
    rows: int

    def __str__(self) -> str:
        return f"{self.path}, row group {self.index}"


def encoded_columns(contract: FeatureContract, extras: Sequence[str]) -> dict[str, pa.DataType]:
    """Return the columns that a batch needs and the type each has on disk.

    Raises:
        UsageError: an extra that the contract's data does not carry.
    """
    schema = contract.schema
    for name in extras:
        if name not in contract.extras:
            raise UsageError(
                f"The extra column `{name}` was asked for, but this data carries {list(contract.extras)}; leave it "
                "out, or prepare the data from a source that knows it."
            )
    return {
        **{feature.name: _FEATURE_TYPES[feature.kind] for feature in schema.features},
        SEGMENT: pa.int8(),
        LABEL: pa.float32(),
        **({WEIGHT: pa.float32()} if schema.weight else {}),
        **{name: _EXTRA_TYPES[name] for name in extras},
    }


def find_row_groups(
    encoded: Path, split: str, columns: Mapping[str, pa.DataType], days: Collection[str] = ()
) -> tuple[RowGroup, ...]:
    """Return the split's row groups in file order, which is time order; every footer is checked, no row is read.

    Numbers in file names count as numbers, so `part-10` follows `part-9`.

    Args:
        days: only these, as "2011-06-30"; all where empty.

    Raises:
        DataError: the split has no rows, a footer cannot be read, or a needed column is missing or of another type.
    """
    folder = encoded / f"split={split}"
    paths = sorted((path for path in folder.rglob("*.parquet") if path.name[0] not in "._"), key=_natural)
    paths = [path for path in paths if not days or path.parent.name.removeprefix("day=") in days]
    with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="recsys-footers") as threads:
        per_file = list(threads.map(partial(_row_groups_of, columns=columns), paths))
    groups = tuple(group for groups in per_file for group in groups)
    if not groups:
        raise DataError(
            f"0 rows for split `{split}`: {folder} "
            + (f"holds {len(paths)} Parquet files without rows. " if folder.is_dir() else "does not exist. ")
            + f"Expected at least one row. {_PREPARE}"
        )
    return groups


def layout_fingerprint(groups: Sequence[RowGroup], encoded: Path) -> str:
    """Name the split's files and how many rows each row group has: a position means the same rows only under it."""
    return fingerprint_of([[group.path.relative_to(encoded).as_posix(), group.index, group.rows] for group in groups])


def read_row_group(group: RowGroup, columns: Sequence[str]) -> dict[str, pa.Array]:
    """Decode the columns of one row group, page checksums verified; each array is in one piece and has no null.

    Raises:
        DataError: the bytes are damaged or a column has nulls; names file, row group and column.
    """
    try:
        table = _read(group, columns)
    except (OSError, pa.ArrowException) as error:
        column = _first_unreadable(group, columns)
        raise DataError(
            f"{group}, column `{column}`: cannot be decoded ({error}). The file is damaged or was cut short. {_PREPARE}"
        ) from error
    if table.num_rows != group.rows:
        raise DataError(
            f"{group}: {table.num_rows} rows, but {group.rows} when the run began: the file was replaced while it was "
            "being read. Start again once the data stands still."
        )
    return {name: _in_one_piece(group, name, table.column(name)) for name in columns}


def _row_groups_of(path: Path, columns: Mapping[str, pa.DataType]) -> list[RowGroup]:
    try:
        with pq.ParquetFile(path) as file:
            found, footer = file.schema_arrow, file.metadata
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: its footer cannot be read ({error}); expected a Parquet file. It is empty, damaged or was cut "
            f"short. {_PREPARE}"
        ) from error
    for name, expected in columns.items():
        position = found.get_field_index(name)
        if position < 0:
            raise DataError(
                f"{path}: the column `{name}` ({expected}) is missing; found {', '.join(found.names)}. {_PREPARE}"
            )
        if not _same_type(found.field(position).type, expected):
            raise DataError(
                f"{path}: the column `{name}` has type {found.field(position).type}; expected {expected}. {_PREPARE}"
            )
    rows = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    return [RowGroup(path, index, count) for index, count in enumerate(rows) if count]


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    # Writers name a list's inner field differently ("item", "element"); only its type matters.
    if pa.types.is_list(expected):
        return pa.types.is_list(found) and found.value_type == expected.value_type
    return bool(found == expected)


def _natural(path: Path) -> list[str | int]:
    # Split by a captured pattern, every second part is a run of digits.
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", path.as_posix()))]


def _read(group: RowGroup, columns: Sequence[str]) -> pa.Table:
    # No memory map: a file cut short under a map kills the process instead of raising. One thread: the callers run
    # several row groups at once, which costs less than several columns at once.
    with pq.ParquetFile(group.path, page_checksum_verification=True) as file:
        return file.read_row_group(group.index, columns=list(columns), use_threads=False)


def _first_unreadable(group: RowGroup, columns: Sequence[str]) -> str:
    for name in columns:
        try:
            _read(group, [name])
        except (OSError, pa.ArrowException):
            return name
    return ", ".join(columns)


def _in_one_piece(group: RowGroup, name: str, column: pa.ChunkedArray) -> pa.Array:
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    nulls = array.null_count + (array.values.null_count if pa.types.is_list(array.type) else 0)
    if nulls:
        raise DataError(
            f"{group}, column `{name}`: {nulls} nulls; expected none in encoded data, where the preparation fills or "
            f"refuses them. {_PREPARE}"
        )
    return array
