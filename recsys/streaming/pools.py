"""Work done a bounded way ahead of its consumer: decoding row groups, shuffling pools, building batches of them.

Nothing here waits on a full queue: the consumer starts one more piece of work with each result that it receives. So
the work stops when the consumer does, and a closed generator leaves no thread behind.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

from recsys.streaming.column_views import ColumnView, gathered, view_of
from recsys.streaming.row_groups import RowGroup
from recsys.streaming.shuffle import GroupSlice, PoolSlice

_Item = TypeVar("_Item")
_END = object()


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of some columns that are in memory, in the order in which they go into batches."""

    columns: Mapping[str, ColumnView]
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def detached(self) -> "Rows":
        """Return the same rows; copied, where they are only a part of what they keep in memory."""
        whole = len(next(iter(self.columns.values())))
        if len(self) == whole:
            return self
        columns = {name: column[self.start : self.stop].copy() for name, column in self.columns.items()}
        return Rows(columns, 0, len(self))


class PoolReader:
    """Decodes and shuffles the pools of a stream ahead of need, and yields them one by one.

    Args:
        read: decodes one row group into arrays without nulls, by column.
        executor: runs the decoding and the shuffling.
        rows_ahead: row groups are begun while the rows of those begun and not yet in a pool stay within this; at
            least one is always begun.
        release: called when the next pool is asked for; returns once nothing reads the last one any more.
        together: the column in which rows agree that stay side by side; empty where each goes its own way.
    """

    def __init__(
        self,
        read: Callable[[RowGroup], dict[str, pa.Array]],
        executor: Executor,
        rows_ahead: int,
        release: Callable[[], None],
        together: str = "",
    ) -> None:
        self._read = read
        self._executor = executor
        self._rows_ahead = rows_ahead
        self._release, self._together = release, together
        self.peak_rows = 0

    def pools(self, stream: Sequence[PoolSlice]) -> Generator[Rows, None, None]:
        """Yield the stream's pools in order. A pool is freed when the next one is asked for."""
        todo = deque(group_slice for pool_slice in stream for group_slice in pool_slice.pool.slices)
        begun: deque[tuple[int, Future[dict[str, pa.Array]]]] = deque()
        rows_begun = 0

        def begin(rows_elsewhere: int, required: bool) -> None:
            nonlocal rows_begun
            while todo and ((required and not begun) or rows_begun + todo[0].group.rows <= self._rows_ahead):
                group_slice = todo.popleft()
                # A row group is decoded whole, even where a rank gets only a slice of it.
                begun.append((group_slice.group.rows, self._executor.submit(self._decode, group_slice)))
                rows_begun += group_slice.group.rows
            self.peak_rows = max(self.peak_rows, rows_begun + rows_elsewhere)

        for pool_slice in stream:
            sources, source_rows = [], 0
            for _ in pool_slice.pool.slices:
                begin(0, required=True)
                rows, decoded = begun.popleft()
                sources.append(decoded.result())
                source_rows += rows
            # Deleted, here and below, so that the arrays are freed before more rows are decoded.
            del decoded
            shuffling = self._shuffled(sources, pool_slice.pool.order(self._blocks(sources)))
            # Behind the columns that are being shuffled, so that no thread is idle until the last of them is.
            rows_begun -= source_rows
            begin(max(source_rows, pool_slice.pool.rows), required=False)
            columns = dict(shuffling)
            del shuffling
            yield Rows(columns, pool_slice.start, pool_slice.stop)
            del columns
            self._release()

    def _decode(self, rows: GroupSlice) -> dict[str, pa.Array]:
        arrays = self._read(rows.group)
        if rows.stop - rows.start == rows.group.rows:
            return arrays
        return {name: array.slice(rows.start, rows.stop - rows.start) for name, array in arrays.items()}

    def _blocks(self, sources: list[dict[str, pa.Array]]) -> npt.NDArray[np.int64] | None:
        """Where the rows that stay side by side begin, the first of all rows included; None where none stay."""
        if not self._together:
            return None
        values = np.concatenate([source[self._together].to_numpy() for source in sources])
        return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))

    def _shuffled(
        self, sources: list[dict[str, pa.Array]], order: npt.NDArray[np.int64] | None
    ) -> Iterable[tuple[str, ColumnView]]:
        """The columns in the order in which their rows leave the pool; begun at once, and waited for one by one."""
        if order is None:
            return [(name, view_of(array)) for name, array in sources.pop().items()]
        # Narrow places are read faster: a pool has far fewer than 2^32 rows.
        places = pa.array(order.astype(np.uint32))

        def column(name: str) -> ColumnView:
            # Each source column is freed as soon as it is copied: a pool is never in memory twice.
            arrays = [source.pop(name) for source in sources]
            joined = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
            del arrays
            return gathered(joined, places)

        names = list(sources[0])
        return zip(names, self._executor.map(column, names), strict=True)


def in_batches(pools: Iterator[Rows], sizes: Sequence[int]) -> Iterator[list[Rows]]:
    """Cut the pools' rows into batches of the given sizes, which must sum to at most their rows.

    What is left of a pool goes into the next batch; of a large pool only that rest stays in memory.
    """
    rest = None
    for size in sizes:
        parts: list[Rows] = []
        missing = size
        while missing:
            rows = rest if rest is not None else next(pools)
            taken = min(missing, len(rows))
            parts.append(Rows(rows.columns, rows.start, rows.start + taken))
            missing -= taken
            rest = Rows(rows.columns, rows.start + taken, rows.stop) if taken < len(rows) else None
            if rest is not None and len(rest) < size:
                rest = rest.detached()
            del rows
        yield parts


def rows_ahead(largest_group: int, pool_rows: int, decode_threads: int) -> int:
    """Return how many rows may be begun and not yet in a pool: the next pool, and a row group in each thread."""
    return pool_rows + decode_threads * largest_group if decode_threads else 0


def most_rows_in_memory(largest_group: int, pool_rows: int, decode_threads: int) -> int:
    """Return the bound on rows in memory: the pool being read, those ahead, and two row groups cut by rank borders.

    Args:
        pool_rows: of the largest pool.
    """
    return pool_rows + rows_ahead(largest_group, pool_rows, decode_threads) + 2 * largest_group


class Builder(Generic[_Item]):
    """Builds batches in background threads, and knows when none of them is under way.

    Args:
        build: makes a batch of its parts, in any thread.
    """

    def __init__(self, build: Callable[[Sequence[Rows]], _Item], executor: Executor) -> None:
        self._build = build
        self._executor = executor
        self._under_way: list[Future[_Item]] = []

    def begin(self, parts: Sequence[Rows]) -> Future[_Item]:
        """Return the batch to come; its error, where it has one, is raised to whoever takes it."""
        # Those done are let go, since each holds its batch.
        self._under_way = [future for future in self._under_way if not future.done()]
        self._under_way.append(self._executor.submit(self._build, parts))
        return self._under_way[-1]

    def wait(self) -> None:
        """Return once every batch that was begun is built."""
        wait(self._under_way)
        self._under_way.clear()


def builders(decode_threads: int) -> int:
    """Return how many threads build batches beside those that decode, which have several times as much to do."""
    return -(-decode_threads // 4)


@contextmanager
def background(threads: int, name: str) -> Iterator[Executor]:
    """Yield what runs work in so many threads, or in the caller's own for 0. Begun work is waited for at the end."""
    executor = _background(threads, name) if threads else _Inline()
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def prefetched(items: Generator[_Item, None, None], depth: int) -> Generator[_Item, None, None]:
    """Yield the items of a generator that runs in a thread of its own, `depth` items ahead of the consumer.

    An error in the generator is raised here, after the items before it. Closing this one closes the generator.
    """
    executor = _background(1, "recsys-batches")
    try:
        pending: deque[Future[Any]] = deque(executor.submit(next, items, _END) for _ in range(depth))
        while (item := pending.popleft().result()) is not _END:
            pending.append(executor.submit(next, items, _END))
            yield cast(_Item, item)
    finally:
        # First wait for the item under way: a generator cannot be closed while it runs.
        executor.shutdown(wait=True, cancel_futures=True)
        items.close()


def _background(threads: int, name: str) -> ThreadPoolExecutor:
    """Threads on the caller's GPU, if it has one, in which torch's operations gather no further threads for themselves.

    They would: drawing a pool's order is long enough. OpenMP then counts more threads than cores, and from there on
    lets those of the training step sleep at every operation's end instead of waiting awake: a tenth of the step's time.
    A new thread's GPU is the machine's first: pinning memory there would claim some of another process's.
    """
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def keep_to_itself() -> None:
        if gpu is not None:
            torch.cuda.set_device(gpu)
        # PyTorch gives a new thread its number at the first question, and would undo the limit later.
        torch.get_num_threads()
        threadpool_limits(1, user_api="openmp")

    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=keep_to_itself)


class _Inline(Executor):
    """Runs work at once in the thread that submits it."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except BaseException as error:  # the future carries it to whoever asks for the result
            future.set_exception(error)
        return future
