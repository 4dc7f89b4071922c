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

    Args:
        plan: the row groups that will be asked for, parts and whole ones.
    """

    def __init__(self, plan: Iterable[RowGroup]) -> None:
        self._todo: dict[tuple[PurePath, int], deque[int]] = {}
        for part in plan:
            if part.first is not None:
                self._todo.setdefault((part.path, part.index), deque()).append(part.first)
        self._open: dict[tuple[PurePath, int], OpenRowGroup] = {}
        # Signals that a part is done, and the next one of its row group may begin.
        self._turn = threading.Condition()

    def read(self, part: RowGroup, columns: Sequence[str], **reading: Any) -> pa.Table:
        """Return a part, once those that come before it in its row group are done.

        Raises:
            OSError, pa.ArrowException: the file cannot be opened or decoded.
        """
        group, first = (part.path, part.index), part.first or 0
        todo = self._todo[group]
        # The parts before it are all begun already, as the plan says, so this wait ends.
        with self._turn:
            self._turn.wait_for(lambda: todo[0] == first)
        try:
            # Only the thread whose turn it is touches the row group's open file.
            opened = self._open.get(group)
            if opened is None or opened.position > first:
                self._close(group)
                opened = self._open[group] = OpenRowGroup(*group, columns, part.rows, **reading)
            return opened.rows(first, part.rows)
        except (OSError, pa.ArrowException):
            self._close(group)
            raise
        finally:
            with self._turn:
                todo.popleft()
                if not todo:
                    self._close(group)
                self._turn.notify_all()

    def close(self) -> None:
        """Close all files; no thread may still be reading."""
        for group in list(self._open):
            self._close(group)

    def _close(self, group: tuple[PurePath, int]) -> None:
        opened = self._open.pop(group, None)
        if opened is not None:
            opened.close()
