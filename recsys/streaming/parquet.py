"""Row groups of Parquet files: found and checked by their footers, read whole, needed columns only.

A row group is the unit of reading: decoding one whole costs a fifth less than decoding it in batches, and its rows
come out in one piece per column. Only a huge one is read in parts, each of which then counts as a row group.
"""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError, UsageError
from recsys.features.contract import FeatureContract
from recsys.features.encoding import encoded_types
from recsys.features.schema import EXTRA_TYPES
from recsys.files import fingerprint_of
from recsys.streaming.row_groups import OpenRowGroup, PartReader, RowGroup, parts_of
from recsys.streaming.storage import Folder

# Footers are small reads that mostly wait for a network, so more threads than cores pay off; a disk is faster than the
# threads, each of which keeps memory of its own that grows with the number of files.
_FOOTER_THREADS, _LOCAL_FOOTER_THREADS = 32, 8
# Files to a thread at a time: with a task each, a hundred thousand files would cost more in tasks than in footers.
_FILES_A_TASK = 64
_LAYOUTS_KEPT = 16
# Under this key Arrow's writers note the types that Parquet has no word for.
_ARROW_NOTES = b"ARROW:schema"
_MISSING_VECTOR = "Expected all lists to be of size"
_PREPARE = "Prepare the data again with `recsys prepare`."


@dataclass(frozen=True)
class Fetched:
    """The bytes of one row group's columns as a file of its own, and the footer by which to decode them."""

    file: pa.NativeFile
    footer: pq.FileMetaData


class _Read(Protocol):
    def __call__(self, names: Sequence[str], without_notes: bool = False) -> pa.Table: ...


SchemaCheck = Callable[[PurePath, pa.Schema], None]
"""Raises DataError where a file's columns are not those that are to be read; names the file and the column."""


def encoded_columns(contract: FeatureContract, extras: Sequence[str]) -> dict[str, pa.DataType]:
    """Return the columns that a batch needs and the type each has on disk.

    Raises:
        UsageError: an extra that the contract's data does not carry.
    """
    for name in extras:
        if name not in contract.extras:
            raise UsageError(
                f"The extra column `{name}` was asked for, but this data carries {list(contract.extras)}; leave it "
                "out, or prepare the data from a source that knows it."
            )
    return encoded_types(contract.schema) | {name: pa.type_for_alias(EXTRA_TYPES[name]) for name in extras}


def row_groups_of_split(
    folder: Folder, split: str, paths: Sequence[str], days: Collection[str], check: SchemaCheck
) -> tuple[RowGroup, ...]:
    """Return the row groups of a split's files that lie in the folder of one of the days (`day=2011-06-30`).

    Many threads read the footers, of which only the numbers of rows stay in memory.

    Raises:
        DataError: no rows, a footer that cannot be read, or a file that `check` refuses.
    """
    if days:
        paths = [path for path in paths if folder.partitions(path).get("day") in days]
    tasks = [paths[first : first + _FILES_A_TASK] for first in range(0, len(paths), _FILES_A_TASK)]
    reader = _FooterReader(folder, check)
    workers = _LOCAL_FOOTER_THREADS if folder.is_local else _FOOTER_THREADS
    with ThreadPoolExecutor(workers, thread_name_prefix="recsys-footers") as threads:
        groups = tuple(group for found in threads.map(reader.row_groups, tasks) for group in found)
    if not groups:
        raise DataError(
            f"0 rows for split `{split}`: {folder.shown} holds {len(paths)} Parquet files of it"
            f"{' and these days' if days else ''}, none with rows; expected at least one row. {_PREPARE}"
        )
    return groups


def require_columns(path: PurePath, found: pa.Schema, columns: Mapping[str, pa.DataType]) -> None:
    """Refuse a file of encoded rows in which a needed column is missing or has another type.

    Raises:
        DataError: names the file, the column, and what is expected.
    """
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


def layout_fingerprint(groups: Sequence[RowGroup], root: PurePath) -> str:
    """Name the split's files and how many rows each row group has: a position means the same rows only under it."""
    return fingerprint_of([[group.path.relative_to(root).as_posix(), group.index, group.rows] for group in groups])


def read_row_group(
    group: RowGroup,
    columns: Sequence[str],
    fetched: Fetched | None = None,
    as_dictionaries: Sequence[str] = (),
    parts: PartReader | None = None,
) -> dict[str, pa.Array]:
    """Decode the columns of one row group, each as one array, page checksums verified where the pages have them.

    Args:
        fetched: its bytes where they are in memory already; read from `group.path` otherwise.
        as_dictionaries: leaves of text that come out as dictionaries, as they mostly lie in the file.
        parts: what reads parts of huge row groups in the order of a plan; without it every part is read from the
            beginning of its row group.

    Raises:
        DataError: the bytes are damaged; names file, row group and column.
    """

    reading: dict[str, Any] = {"read_dictionary": list(as_dictionaries), "page_checksum_verification": True}

    def read(names: Sequence[str], without_notes: bool = False) -> pa.Table:
        # No memory map: a file cut short under a map kills the process instead of raising. One thread: the callers run
        # several row groups at once, and gather and build batches beside them.
        footer = None if fetched is None else fetched.footer
        if without_notes:
            footer = _without_notes(footer or pq.read_metadata(group.path))
        if group.first is not None:
            part = OpenRowGroup(group.path, group.index, names, group.rows, metadata=footer, **reading)
            with closing(part):
                return part.rows(group.first, group.rows)
        with pq.ParquetFile(group.path if fetched is None else fetched.file, metadata=footer, **reading) as file:
            return file.read_row_group(group.index, columns=list(names), use_threads=False)

    try:
        try:
            table = read(columns) if parts is None or group.first is None else parts.read(group, columns, **reading)
        except pa.ArrowInvalid as error:
            if _MISSING_VECTOR not in str(error):
                raise
            table = _read_with_missing_vectors(read, columns)
    except (OSError, pa.ArrowException) as error:
        column = _first_unreadable(read, columns)
        raise DataError(
            f"{group}, column `{column}`: cannot be decoded ({error}). The file is damaged or was cut short. {_PREPARE}"
        ) from error
    if table.num_rows != group.rows:
        raise DataError(
            f"{group}: {table.num_rows} rows, but {group.rows} when the run began: the file was replaced while it was "
            "being read. Start again once the data no longer changes."
        )
    return {name: as_one_array(table.column(name)) for name in columns}


def as_one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column's values as one array; copied only where they come in several."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _read_with_missing_vectors(read: _Read, columns: Sequence[str]) -> pa.Table:
    """Read columns of which some hold vectors of fixed size with missing ones among them.

    Arrow refuses those (25.0), though it writes them: their fixed size is known only from what its writer noted
    in the footer, so these columns are read as lists, by a footer in which the note cannot be found.
    """
    arrays = {}
    for name in columns:
        try:
            arrays[name] = read([name]).column(name)
        except pa.ArrowInvalid as error:
            if _MISSING_VECTOR not in str(error):
                raise
            arrays[name] = read([name], without_notes=True).column(name)
    return pa.table(arrays)


def _without_notes(footer: pq.FileMetaData) -> pq.FileMetaData:
    buffer = io.BytesIO()
    footer.write_metadata_file(buffer)
    return pq.read_metadata(pa.BufferReader(buffer.getvalue().replace(_ARROW_NOTES, _ARROW_NOTES.lower())))


class _FooterReader:
    """Reads footers and checks every layout of columns that it meets once: files of one writer share theirs.

    Columns that folders name belong to the layout.
    """

    def __init__(self, folder: Folder, check: SchemaCheck) -> None:
        self._folder, self._check = folder, check
        self._folders: dict[PurePath, PurePath] = {}
        self._checked: list[tuple[pq.ParquetSchema, tuple[object, ...]]] = []

    def row_groups(self, paths: Sequence[str]) -> list[RowGroup]:
        return [group for path in paths for group in self._row_groups_of(type(self._folder.root)(path))]

    def _row_groups_of(self, path: PurePath) -> list[RowGroup]:
        try:
            # By the path where there is one: on a local disk that costs a third less than an open file.
            with pq.ParquetFile(path if self._folder.is_local else self._folder.open(path)) as file:
                footer = file.metadata
                # What Arrow's writer noted beside the columns tells a vector of fixed size from a list.
                noted = ((footer.metadata or {}).get(_ARROW_NOTES, b""), *self._folder.partitions(path))
                known = any(noted == notes and footer.schema.equals(schema) for schema, notes in self._checked)
                if not known:
                    self._check(path, file.schema_arrow)
                    self._checked = [*self._checked[-_LAYOUTS_KEPT:], (footer.schema, noted)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: its footer cannot be read ({error}); expected a Parquet file. It is empty, damaged or was "
                f"cut short. {_PREPARE}"
            ) from error
        rows = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
        parent = self._folders.setdefault(path.parent, path.parent)
        return [
            RowGroup(parent, path.name, index, part, first)
            for index, count in enumerate(rows)
            # A remote row group is fetched whole, so reading it in parts would fetch it again and again.
            for first, part in (parts_of(count) if self._folder.is_local else [(None, count)])
            if part
        ]


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    # Writers name a list's inner field differently ("item", "element"); only its type matters.
    if pa.types.is_list(expected):
        return pa.types.is_list(found) and found.value_type == expected.value_type
    return bool(found == expected)


def _first_unreadable(read: _Read, columns: Sequence[str]) -> str:
    for name in columns:
        try:
            read([name])
        except (OSError, pa.ArrowException):
            return name
    return ", ".join(columns)
