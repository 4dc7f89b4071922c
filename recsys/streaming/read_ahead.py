"""Row groups of a remote folder, brought into memory before they are decoded, so that no thread waits for a request.

A request over a network takes tens of milliseconds, in which a core decodes a hundred thousand rows. So the bytes of
the row groups that come next are fetched while earlier ones are decoded: only the needed columns', neighbouring ones
in one request, several row groups at once, within a bound on the rows whose bytes are in memory.
"""

import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.streaming.parquet import Fetched
from recsys.streaming.row_groups import RowGroup
from recsys.streaming.storage import Folder

# Of rows whose bytes, about 100 each, wait to be decoded: a quarter of a second of decoding on two cores, which hides
# three requests one after another (open, footer, columns) of 50 ms each and leaves room for slower ones.
_ROWS_AHEAD = 1 << 19
_GROUPS_AHEAD = 32
# Bytes between two ranges that cost less to read than a request of their own.
_HOLE_BYTES = 1 << 20
# The end of a file that is read for its footer; a longer one takes a second request.
_TAIL_BYTES = 1 << 16
_FOOTERS_KEPT = 64


ColumnsOf: TypeAlias = Callable[[PurePath], Sequence[str]]


class ReadAhead:
    """Fetches row groups in the order of a plan, ahead of the calls of `get`.

    Args:
        columns: the columns that are needed of a file.
    """

    def __init__(self, folder: Folder, columns: ColumnsOf, plan: Iterable[RowGroup]) -> None:
        self._folder, self._columns = folder, columns
        self._threads = ThreadPoolExecutor(_GROUPS_AHEAD, thread_name_prefix="recsys-fetch")
        self._todo = deque(plan)
        self._under_way: dict[RowGroup, deque[Future[Fetched]]] = {}
        self._groups_under_way = self._rows_under_way = 0
        self._lock = threading.Lock()
        self._footers: dict[PurePath, Future[pq.FileMetaData]] = {}
        self._begin_more()

    def get(self, group: RowGroup) -> Fetched:
        """Return a row group's bytes, waiting for them where they are still on their way.

        Raises:
            OSError, pa.ArrowException: a request failed, or the footer is damaged.
        """
        with self._lock:
            waiting = self._under_way.get(group)
            fetched = waiting.popleft() if waiting else None
            if fetched is not None:
                self._groups_under_way -= 1
                self._rows_under_way -= group.rows
            if not waiting:
                self._under_way.pop(group, None)
        # Not in the plan's order, as after an error: fetched at once.
        result = self._fetch(group) if fetched is None else fetched.result()
        self._begin_more()
        return result

    def close(self) -> None:
        """Fetch no more; requests under way are waited for."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _begin_more(self) -> None:
        with self._lock:
            # Two at least, however large: one is decoded while the next is fetched.
            while self._todo and (
                self._groups_under_way < 2
                or (self._groups_under_way < _GROUPS_AHEAD and self._rows_under_way + self._todo[0].rows <= _ROWS_AHEAD)
            ):
                group = self._todo.popleft()
                self._under_way.setdefault(group, deque()).append(self._threads.submit(self._fetch, group))
                self._groups_under_way += 1
                self._rows_under_way += group.rows

    def _fetch(self, group: RowGroup) -> Fetched:
        with self._folder.open(group.path) as file:
            footer = self._footer(group.path, file)
            ranges = joined_ranges(column_ranges(footer, group.index, self._columns(group.path)))
            parts = [(start, file.read_at(stop - start, start)) for start, stop in ranges]
            return Fetched(pa.PythonFile(_Parts(file.size(), parts), mode="r"), footer)

    def _footer(self, path: PurePath, file: pa.NativeFile) -> pq.FileMetaData:
        """The footer of a file, read once for the row groups that are fetched one after another."""
        # The first thread to ask reads it, outside the lock; the others wait for its future.
        with self._lock:
            known = self._footers.get(path)
            if known is None:
                promised = self._footers[path] = Future()
                while len(self._footers) > _FOOTERS_KEPT:
                    del self._footers[next(iter(self._footers))]
        if known is not None:
            return known.result()
        try:
            promised.set_result(read_footer(file))
        except BaseException as error:  # whoever waits for the footer gets the error too
            promised.set_exception(error)
        return promised.result()


def read_footer(file: pa.NativeFile) -> pq.FileMetaData:
    """Return a Parquet file's footer in one request, or two where it is long.

    Raises:
        OSError, pa.ArrowException: the request failed, or these bytes are no footer.
    """
    size = file.size()
    tail = file.read_at(min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES))
    # A Parquet file ends with its footer, the footer's length in four bytes, and the four letters PAR1.
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < needed <= size:
        tail = file.read_at(needed, size - needed)
    return pq.read_metadata(pa.BufferReader(tail))


def column_ranges(footer: pq.FileMetaData, index: int, columns: Sequence[str]) -> list[tuple[int, int]]:
    """Return the [start, stop) bytes of every needed column of a row group; a nested column has several."""
    wanted, beneath = set(columns), tuple(f"{name}." for name in columns)
    group = footer.row_group(index)
    ranges = []
    for place in range(group.num_columns):
        chunk = group.column(place)
        path = chunk.path_in_schema
        if path in wanted or path.startswith(beneath):
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            ranges.append((start, start + chunk.total_compressed_size))
    return ranges


def joined_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges with small holes between them.

    >>> joined_ranges([(0, 10), (5_000_000, 5_000_010), (12, 20)])
    [(0, 20), (5000000, 5000010)]
    """
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= _HOLE_BYTES:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined


class _Parts(io.RawIOBase):
    """A file of which only some parts are there; reading elsewhere is an error and never silence."""

    def __init__(self, size: int, parts: Sequence[tuple[int, bytes]]) -> None:
        self._size, self._parts, self._position = size, parts, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> memoryview:
        start, stop = self._position, self._position + size if size >= 0 else self._size
        for first, part in self._parts:
            if first <= start and stop <= first + len(part):
                self._position = stop
                return memoryview(part)[start - first : stop - first]
        raise OSError(f"bytes {start} to {stop} were not fetched: the footer does not fit the file")
