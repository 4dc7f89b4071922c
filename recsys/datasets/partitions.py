"""Staged rows into encoded partitions: one Parquet file per split and day, in time order, several days at a time.

A partition's bytes follow from its own rows and the contract alone: neither the order in which threads met the rows nor
the days that were worked on together can change a bit.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.datasets.database import stream
from recsys.datasets.finished_parts import FinishedPart, FinishedParts
from recsys.datasets.manifest import FileEntry, part_path
from recsys.datasets.row_encoder import TIME, RowEncoder
from recsys.datasets.source import DAY, SPLIT
from recsys.datasets.staging import StagedRows
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vocabulary import Vocabulary
from recsys.files import sha256_of_file
from recsys.progress import Progress

ROW_GROUP_ROWS = 100_000
# Small days are read together up to here, by one query; a day with more rows is read alone.
_ROWS_PER_PASS = 200_000
# Of rows with long lists fewer are read together, so that no more values than these are held.
_VALUES_PER_PASS = 20_000_000
# A day with more rows is sorted by the database, which may spill; up to here it is quicker in memory.
_MOST_ROWS_IN_MEMORY = 2_000_000
# Rows that are encoded and written at once: few enough to be still in the cache when they are written.
_ENCODED_ROWS = 100_000
_ROW_HASH = "recsys.row_hash"
# Values that hardly repeat inside a row group are smaller, and quicker to write and to read, without a dictionary.
_NEVER_REPEATED = (TIME, "true_probability")
_MOST_ROWS_OF_A_DICTIONARY = 50_000

_Order = npt.NDArray[np.int64]


def write_partitions(
    connection: Backend,
    staged: StagedRows,
    part_rows: Mapping[tuple[str, str], int],
    contract: FeatureContract,
    vocabularies: Mapping[str, Vocabulary],
    work: Path,
    threads: int,
    progress: Progress,
) -> Mapping[str, FinishedPart]:
    """Write the partitions below `work` that are not in its list of finished parts, and add each to the list.

    Args:
        part_rows: rows of every (split, day), in this order.
        threads: so many queries are worked on at a time.

    Returns:
        Every partition under its path.
    """
    finished = FinishedParts(work, contract.fingerprint)
    writer = _PassWriter(connection, contract, vocabularies, work, finished)
    left = {key: rows for key, rows in part_rows.items() if part_path(*key) not in finished.parts}
    total = sum(part_rows.values())
    done = total - sum(left.values())
    progress("encode", done, total)
    most = _rows_at_once(contract.schema, _ROWS_PER_PASS)
    # Rows mostly lie in time order already, and then need no sorting; several queries at a time use the cores.
    connection.raw_sql("SET preserve_insertion_order = true")
    with _pool(threads) as pool:
        # The queries are compiled here, as ibis is not made for several threads.
        waiting = {pool.submit(writer.write, one, writer.query(one, staged)): one.rows for one in _passes(left, most)}
        for written in as_completed(waiting):
            written.result()
            done += waiting[written]
            progress("encode", done, total)
    return finished.parts


@dataclass(frozen=True)
class _Pass:
    """Consecutive days of one split that are read by one query."""

    split: str
    days: tuple[str, ...]
    rows: int

    @property
    def is_large(self) -> bool:
        """Whether it is a day that the database has to sort, as it may not fit into memory."""
        return self.rows > _MOST_ROWS_IN_MEMORY


def _rows_at_once(schema: FeatureSchema, most: int) -> int:
    """How many rows are held at once: `most`, or fewer of long lists."""
    values = len(schema.features) + sum(feature.max_length for feature in schema.features)
    return max(1, min(most, _VALUES_PER_PASS // values))


def _passes(part_rows: Mapping[tuple[str, str], int], most: int) -> Iterator[_Pass]:
    """Yield passes of up to `most` rows; a day with more is one of its own."""
    split, days, rows = "", list[str](), 0
    for (next_split, day), count in part_rows.items():
        if days and (next_split != split or rows + count > most):
            yield _Pass(split, tuple(days), rows)
            days, rows = [], 0
        split, days, rows = next_split, [*days, day], rows + count
    if days:
        yield _Pass(split, tuple(days), rows)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="recsys-prepare")
    try:
        yield pool
    finally:
        # After a failure or Ctrl-C, what has begun is ended and the rest left.
        pool.shutdown(cancel_futures=True)


class _PassWriter:
    """Reads, encodes and writes passes, several at a time."""

    def __init__(
        self,
        connection: Backend,
        contract: FeatureContract,
        vocabularies: Mapping[str, Vocabulary],
        work: Path,
        finished: FinishedParts,
    ) -> None:
        self._connection, self._contract, self._vocabularies = connection, contract, vocabularies
        self._work, self._finished = work, finished
        schema = contract.schema
        self._encoded_rows = _rows_at_once(schema, _ENCODED_ROWS)
        self._order_columns = [schema.time, *(["query"] if "query" in contract.extras else [])]

    def query(self, wanted: _Pass, staged: StagedRows) -> str:
        """The pass's rows as SQL; in time order where they are too many to be sorted here."""
        first, last = (date.fromisoformat(day) for day in (wanted.days[0], wanted.days[-1]))
        rows = staged.of_days(wanted.split, first, last).drop(SPLIT)
        if wanted.is_large or not staged.keeps_order:
            # Ties of time are broken by the hash of the whole row: rows that it cannot tell apart are equal, so their
            # order leaves no trace.
            whole = ibis.struct({name: _as_text(rows[name]) for name in rows.columns})
            rows = rows.mutate(**{_ROW_HASH: whole.hash()})
        ordered = rows.order_by([*self._order_columns, _ROW_HASH]) if wanted.is_large else rows
        return str(self._connection.compile(ordered))

    def write(self, wanted: _Pass, query: str) -> None:
        """Write one partition after the other, noting each."""
        if len(wanted.days) == 1:
            self._write_day(wanted, query)
            return
        rows = pa.Table.from_batches(list(stream(self._connection, query, self._encoded_rows)))
        for day, rows_of_day in _by_day(rows):
            # Between the days of a pass may lie one that was finished before.
            if day in wanted.days:
                self._write_part(wanted.split, day, rows_of_day.to_batches(self._encoded_rows), _write_sorted)

    def _write_day(self, wanted: _Pass, query: str) -> None:
        # Written as they come, rows stay in the processor's cache from reading to writing. Few files are out of order,
        # and those are read again.
        rows = stream(self._connection, query, self._encoded_rows)
        try:
            self._write_part(wanted.split, wanted.days[0], rows, _write_in_order)
        except _OutOfOrderError:
            rows = stream(self._connection, query, self._encoded_rows)
            self._write_part(wanted.split, wanted.days[0], rows, _write_sorted)

    def _write_part(self, split: str, day: str, rows: Iterable[pa.RecordBatch], write: "_Write") -> None:
        encoder = RowEncoder(self._contract, self._vocabularies)
        path = self._work / part_path(split, day)
        with _part_file(path, encoder.arrow_schema, _with_dictionary(self._contract, encoder.arrow_schema)) as file:
            write(rows, encoder, self._order_columns, file)
        entry = FileEntry(sha256_of_file(path), path.stat().st_size, file.rows, encoder.profile)
        self._finished.add(FinishedPart(part_path(split, day), entry, dict(encoder.counts)))


class _OutOfOrderError(Exception):
    """Rows did not arrive in the order in which they are to be written."""


def _as_text(values: ir.Value) -> ir.Value:
    """Text as it is written: the hash of an ENUM would depend on which other values there are."""
    # Of another type by name alone, as ibis takes an ENUM for text and leaves out a cast to the same.
    text = dt.String(nullable=False)
    if values.type().is_string():
        return values.cast(text)
    is_list = values.type().is_array() and values.type().value_type.is_string()
    return values.cast(dt.Array(text)) if is_list else values


def _by_day(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    numbers = rows[DAY].cast(pa.int32()).to_numpy()
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        day = rows[DAY][int(order[start])].as_py().isoformat()
        yield day, rows.take(order[start:end])


_Write = Callable[[Iterable[pa.RecordBatch], RowEncoder, list[str], "_PartFile"], None]


def _write_in_order(rows: Iterable[pa.RecordBatch], encoder: RowEncoder, by: list[str], file: "_PartFile") -> None:
    last: list[npt.NDArray[np.int64]] | None = None
    for batch in rows:
        keys = _keys(batch, by)
        joined = [np.concatenate([end, key]) for end, key in zip(last, keys, strict=True)] if last else keys
        if not np.array_equal(sorted_order(joined), np.arange(len(joined[0]))):
            raise _OutOfOrderError
        file.write(pa.Table.from_batches([encoder.encode(batch)]))
        last = [key[-1:] for key in keys]


def _write_sorted(rows: Iterable[pa.RecordBatch], encoder: RowEncoder, by: list[str], file: "_PartFile") -> None:
    keys, encoded = list[list[npt.NDArray[np.int64]]](), list[pa.RecordBatch]()
    for batch in rows:
        keys.append(_keys(batch, by))
        encoded.append(encoder.encode(batch))
    order = sorted_order([np.concatenate(key) for key in zip(*keys, strict=True)])
    table = pa.Table.from_batches(encoded).combine_chunks()
    for start in range(0, len(order), ROW_GROUP_ROWS):
        file.write(table.take(order[start : start + ROW_GROUP_ROWS]))


def _keys(batch: pa.RecordBatch, by: list[str]) -> list[npt.NDArray[np.int64]]:
    columns = [batch[name] for name in (*by, _ROW_HASH) if name in batch.schema.names]
    numbers = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in columns]
    return [column.to_numpy(zero_copy_only=False) for column in numbers]


def sorted_order(keys: list[npt.NDArray[np.int64]]) -> _Order:
    """Return the order that sorts rows by the keys, the first key being the most important one.

    Rows mostly arrive nearly sorted by the first key, with few ties: its sort is then almost free, and the other keys
    are only looked at where it leaves ties.

    Rows that are equal in all keys keep their order.

    >>> sorted_order([np.array([3, 1, 3, 1]), np.array([0, 9, -1, 5])]).tolist()
    [3, 1, 2, 0]
    """
    order = np.argsort(keys[0], kind="stable")
    ranked = keys[0][order]
    is_like_next = ranked[1:] == ranked[:-1]
    is_tied = np.append(is_like_next, False) | np.insert(is_like_next, 0, False)
    tied = order[is_tied]
    order[is_tied] = tied[np.lexsort([key[tied] for key in reversed(keys)])]
    return order


class _PartFile:
    """One partition's file under its temporary name; takes rows in order and groups them by `ROW_GROUP_ROWS`."""

    def __init__(self, path: Path, schema: pa.Schema, with_dictionary: list[str]) -> None:
        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=with_dictionary, write_page_checksum=True
        )

    def write(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        self._waiting.append(rows)
        if sum(table.num_rows for table in self._waiting) >= ROW_GROUP_ROWS:
            waiting = pa.concat_tables(self._waiting)
            whole = len(waiting) - len(waiting) % ROW_GROUP_ROWS
            self._writer.write_table(waiting.slice(0, whole), row_group_size=ROW_GROUP_ROWS)
            self._waiting = [waiting.slice(whole)]

    def close(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=ROW_GROUP_ROWS)
        self._writer.close()


def _with_dictionary(contract: FeatureContract, schema: pa.Schema) -> list[str]:
    """Columns to be written as a dictionary; a list's ids repeat however many there are, as each row has several."""
    schema_of_rows = contract.schema
    many = {
        feature.name
        for feature in schema_of_rows.sparse
        if feature.kind is FeatureKind.SPARSE and contract.table_rows[feature.table] > _MOST_ROWS_OF_A_DICTIONARY
    }
    if schema_of_rows.user in many:
        many.add("user_key")
    return [name for name in schema.names if name not in {*_NEVER_REPEATED, *many}]


@contextmanager
def _part_file(path: Path, schema: pa.Schema, with_dictionary: list[str]) -> Iterator[_PartFile]:
    """Yield a file that takes the name `path` once it is whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    file = _PartFile(unfinished, schema, with_dictionary)
    try:
        yield file
    finally:
        file.close()
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(unfinished, path)
