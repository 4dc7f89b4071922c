"""Row groups, and the parts in which huge ones are decoded, from files that stay open in between.

A page of Parquet is found only behind the pages before it, so the parts of a row group come in their order. What is in
memory meanwhile is one page of each column and the part: neither the size of the row group nor of the file matters.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Of each column; without it Arrow reads a row group's columns whole, compressed, before it decodes a page.
_READ_BYTES = 1 << 17


# Rows of which a few fit into memory whatever their columns, and enough that decoding them costs no more than whole.
ROWS_OF_A_PART = 1 << 17


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of one file, or a part of a huge one, with its number of rows.

    Attributes:
        folder, name: where the file lies. Apart, since a path of its own would be most of what a small file's row group
            takes, and a hundred thousand of them are held for as long as the stream lives.
        index: from 0 inside the file.
        first: of a part: the row of the row group at which it begins.
    """

    folder: PurePath
    name: str
    index: int
    rows: int
    first: int | None = None

    @property
    def path(self) -> PurePath:
        """The file."""
        return self.folder / self.name

    def __str__(self) -> str:
        behind = f", rows from {self.first}" if self.first else ""
        return f"{self.path}, row group {self.index}{behind}"


def parts_of(rows: int) -> list[tuple[int | None, int]]:
    """Return (first row, rows) of each part in which a local row group of so many rows is read; (None, rows) if whole.

    >>> parts_of(300_000)
    [(0, 131072), (131072, 131072), (262144, 37856)]
    """
    if rows <= 2 * ROWS_OF_A_PART:
        return [(None, rows)]
    return [(first, min(ROWS_OF_A_PART, rows - first)) for first in range(0, rows, ROWS_OF_A_PART)]


class OpenRowGroup:
    """A row group of an open file, from which rows are taken in order."""

    def __init__(self, path: PurePath, index: int, columns: Sequence[str], rows: int, **reading: Any) -> None:
        """Open a file.

        Args:
            rows: about how many will be taken at a time.
            reading: how `pq.ParquetFile` shall read.
        """
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES, **reading)
        self._columns = list(columns)
        # By columns, since parts of one row group cannot be decoded at once.
        batches = self._file.iter_batches(rows, row_groups=[index], columns=self._columns, use_threads=True)
        self._batches: Iterator[pa.RecordBatch] = iter(batches)
        self._rest: pa.RecordBatch | None = None
        self.position = 0
        """The row of the row group that comes next."""

    def rows(self, first: int, rows: int) -> pa.Table:
        """Return rows [first, first + rows), or fewer where the row group ends; `first` must not lie behind."""
        while self.position < first and self._next(first - self.position) is not None:
            pass
        taken = []
        while rows and (batch := self._next(rows)) is not None:
            taken.append(batch)
            rows -= batch.num_rows
        return pa.Table.from_batches(taken).select(self._columns) if taken else pa.table({})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _next(self, most_rows: int) -> pa.RecordBatch | None:
        batch = self._rest if self._rest is not None else next(self._batches, None)
        if batch is None:
            return None
        taken = batch.slice(0, most_rows)
        self._rest = batch.slice(most_rows) if batch.num_rows > most_rows else None
        self.position += taken.num_rows
        return taken


class PartReader:
    """Reads parts from any number of threads, which must begin them in the order of a plan.

    One part is read at a time, its columns at once, and one row group is open: an open one keeps a page and a
    dictionary of every column, as much as a part itself.

    Args:
        plan: the row groups that will be asked for, parts and whole ones.
    """

    def __init__(self, plan: Iterable[RowGroup]) -> None:
        self._todo = deque(_place(part) for part in plan if part.first is not None)
        self._open: OpenRowGroup | None = None
        self._is_reading = False
        # Signals that a part is done, and the next one may begin.
        self._turn = threading.Condition()

    def read(self, part: RowGroup, columns: Sequence[str], **reading: Any) -> pa.Table:
        """Return a part, once those that come before it are done.

        Raises:
            OSError, pa.ArrowException: the file cannot be opened or decoded.
        """
        place = _place(part)
        path, index, first = place
        # The parts before it are all begun already, as the plan says, so this wait ends.
        with self._turn:
            self._turn.wait_for(lambda: not self._is_reading and self._todo[0] == place)
            # A plan may have the same part twice, as where the ranks whose border cut it are one again.
            self._is_reading = True
        try:
            # Only the thread whose turn it is touches the open file.
            if self._open is None or self._open.position > first:
                self.close()
                self._open = OpenRowGroup(path, index, columns, part.rows, **reading)
            return self._open.rows(first, part.rows)
        except (OSError, pa.ArrowException):
            self.close()
            raise
        finally:
            self._todo.popleft()
            if not self._todo or self._todo[0][:2] != (path, index):
                self.close()
            with self._turn:
                self._is_reading = False
                self._turn.notify_all()

    def close(self) -> None:
        """Close the open file; no thread may still be reading."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _place(part: RowGroup) -> tuple[PurePath, int, int]:
    return part.path, part.index, part.first or 0
