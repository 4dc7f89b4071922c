"""The order of the rows, and which rank gets which: plain arithmetic on row counts, no row is touched.

An epoch is one sequence of all rows: the row groups in an order drawn from (seed, epoch), or in file order. The
sequence is cut into one interval of rows per rank; row groups at a border are cut too, so intervals differ by at most
one row whatever the sizes of the files. Each rank gathers its row groups into pools of bounded size and permutes the
rows inside each pool. Threads appear nowhere in this, so their number cannot change the order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.streaming.parquet import RowGroup

# Two draws must not share a random stream; numpy ignores trailing zeros of a seed, so the mark stands first.
_GROUP_DRAW, _ROW_DRAW = 1, 2


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of one row group, in the group's own order."""

    group: RowGroup
    start: int
    stop: int


@dataclass(frozen=True)
class Pool:
    """Rows that are in memory together and leave in an order drawn from `draw`; None keeps the order of the pieces."""

    pieces: tuple[Piece, ...]
    draw: tuple[int, ...] | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return count_rows(self.pieces)

    def order(self) -> npt.NDArray[np.int64] | None:
        """Return the row numbers (into the joined pieces) in the order in which they leave, or None for 0, 1, 2, ..."""
        return None if self.draw is None else np.random.default_rng(self.draw).permutation(self.rows)


@dataclass(frozen=True)
class Stretch:
    """Rows [start, stop) of a pool, counted in the order in which they leave it."""

    pool: Pool
    start: int
    stop: int


@dataclass(frozen=True)
class Stint:
    """What a run consumed of an epoch before it was stopped: so many batches of that size on each of its ranks."""

    world_size: int
    batch_size: int
    batches: int


_Interval = TypeVar("_Interval", Piece, Stretch)


@dataclass(frozen=True)
class EpochOrder:
    """The order of a split's rows in any epoch.

    Attributes:
        buffer_rows: most rows in a pool; a row group with more is a pool of its own.
    """

    groups: tuple[RowGroup, ...]
    seed: int
    shuffle: bool
    buffer_rows: int

    def streams(self, epoch: int, world_size: int, past: Sequence[Stint]) -> list[list[Stretch]]:
        """Return what each rank still has to read of an epoch.

        Args:
            past: what earlier runs consumed of this epoch, perhaps on other numbers of ranks. What they left is
                divided anew, each row once.
        """
        world_sizes = [*(stint.world_size for stint in past), world_size]
        streams = self._fresh_streams(epoch, world_sizes[0])
        for stint, next_world_size in zip(past, world_sizes[1:], strict=True):
            left = [stretch for stream in streams for stretch in _without_consumed(stream, streams, stint)]
            streams = [_cut(left, *_share(left, rank, next_world_size)) for rank in range(next_world_size)]
        return streams

    def _fresh_streams(self, epoch: int, world_size: int) -> list[list[Stretch]]:
        places: Iterable[int] = range(len(self.groups))
        if self.shuffle:
            places = np.random.default_rng([_GROUP_DRAW, self.seed, epoch]).permutation(len(self.groups))
        pieces = [Piece(self.groups[place], 0, self.groups[place].rows) for place in places]
        shares = [_share(pieces, rank, world_size) for rank in range(world_size)]
        return [self._pools(_cut(pieces, *share), epoch, share[0]) for share in shares]

    def _pools(self, pieces: list[Piece], epoch: int, first_row: int) -> list[Stretch]:
        if not self.shuffle:
            return [Stretch(Pool((piece,), None), 0, piece.stop - piece.start) for piece in pieces]
        stretches = []
        for members in _gather(pieces, self.buffer_rows):
            pool = Pool(tuple(members), (_ROW_DRAW, self.seed, epoch, first_row))
            stretches.append(Stretch(pool, 0, pool.rows))
            first_row += pool.rows
        return stretches


def count_rows(intervals: Iterable[Piece] | Iterable[Stretch]) -> int:
    """Sum of the intervals' rows."""
    return sum(interval.stop - interval.start for interval in intervals)


def count_batches(rows: int, world_size: int, batch_size: int) -> int:
    """Return how many batches every rank makes of `rows` rows in all.

    A last step that has less than one row for each rank is not made: its rows join the batches before, so that a
    rank's last batch may have `batch_size` + 1 rows (never on a single rank). Otherwise the last batch has 1 to
    `batch_size` rows.

    >>> [count_batches(rows, world_size=2, batch_size=4) for rows in (8, 9, 10, 16)]
    [1, 1, 2, 2]

    Raises:
        DataError: fewer rows than ranks.
    """
    if rows < world_size:
        raise DataError(
            f"{rows} rows cannot be shared among {world_size} ranks: each needs at least one. Use at most {rows} "
            "processes, or more data."
        )
    full, left = divmod(rows, world_size * batch_size)
    return full + (left >= world_size)


def batch_sizes(rows: int, batches: int, batch_size: int) -> list[int]:
    """Return the sizes of a rank's batches: full ones, then what is left (see `count_batches`)."""
    return [batch_size] * (batches - 1) + [rows - (batches - 1) * batch_size]


def skip_rows(stream: Sequence[Stretch], rows: int) -> list[Stretch]:
    """Return the stream without its first `rows` rows; pools that are wholly skipped are never decoded."""
    return _cut(stream, rows, count_rows(stream))


def _without_consumed(stream: list[Stretch], streams: list[list[Stretch]], stint: Stint) -> list[Stretch]:
    total = sum(map(count_rows, streams))
    if total == 0:
        return []
    sizes = batch_sizes(count_rows(stream), count_batches(total, stint.world_size, stint.batch_size), stint.batch_size)
    return skip_rows(stream, sum(sizes[: stint.batches]))


def _gather(pieces: Sequence[Piece], most_rows: int) -> list[list[Piece]]:
    """Neighbours together, as many as stay within `most_rows`; a piece with more is alone."""
    gathered: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        rows = piece.stop - piece.start
        if rows > room:
            gathered.append([])
            room = most_rows
        gathered[-1].append(piece)
        room -= rows
    return gathered


def _share(intervals: Sequence[Piece] | Sequence[Stretch], rank: int, world_size: int) -> tuple[int, int]:
    rows = count_rows(intervals)
    return rows * rank // world_size, rows * (rank + 1) // world_size


def _cut(intervals: Sequence[_Interval], start: int, stop: int) -> list[_Interval]:
    """Rows [start, stop) of the intervals joined end to end."""
    kept: list[_Interval] = []
    position = 0
    for interval in intervals:
        first = max(interval.start, interval.start + start - position)
        last = min(interval.stop, interval.start + stop - position)
        if first < last:
            kept.append(replace(interval, start=first, stop=last))
        position += interval.stop - interval.start
    return kept
