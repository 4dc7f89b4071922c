"""The order of the rows, and which rank gets which: plain arithmetic on row counts, no row is touched.

An epoch is one sequence of all rows: the row groups in an order drawn from (seed, epoch), gathered into pools of
bounded size in each of which the rows are permuted; or the rows as they lie in the files. There are two ways to share
it among ranks. By intervals, each rank has one run of the sequence (row groups at a border are cut, so that ranks
differ by at most one row whatever the sizes of the files) and makes pools of its own. In step, the ranks go through
the sequence together and are dealt a batch each in turn. Threads appear nowhere in this, so their number cannot change
the order.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from recsys.errors import DataError
from recsys.streaming.parquet import RowGroup

# Two draws must not share a random stream; numpy ignores trailing zeros of a seed, so the mark stands first.
_GROUP_DRAW, _ROW_DRAW = 1, 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of one row group, in the group's own order."""

    group: RowGroup
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Turns:
    """The part of a sequence of `rows` rows that one rank gets when every step deals a batch to each rank in turn.

    Steps are those of `count_batches`; what the last one has is divided evenly, earlier rows to lower ranks.
    """

    rank: int
    world_size: int
    batch_size: int
    rows: int

    def before(self, position: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return how many of the first `position` rows are the rank's.

        >>> Turns(rank=1, world_size=2, batch_size=2, rows=7).before([2, 3, 4, 5, 6, 7]).tolist()
        [0, 1, 2, 2, 3, 4]
        """
        last_step = (count_batches(self.rows, self.world_size, self.batch_size) - 1) * self.world_size * self.batch_size
        start, stop = _borders(self.rows - last_step, self.world_size)[self.rank : self.rank + 2]
        within, beyond = np.minimum(position, last_step), np.maximum(np.subtract(position, last_step), 0)
        steps, into = np.divmod(within, self.world_size * self.batch_size)
        dealt = steps * self.batch_size + np.clip(into - self.rank * self.batch_size, 0, self.batch_size)
        return np.asarray(dealt + np.clip(beyond - start, 0, stop - start), np.int64)


@dataclass(frozen=True, slots=True)
class Dealt:
    """What one rank gets of places [start, stop) of a pool's order, which begin at `position` of the sequence dealt."""

    turns: Turns
    start: int
    stop: int
    position: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        first, last = self.turns.before([self.position, self.position + self.stop - self.start])
        return int(last - first)

    def places(self) -> npt.NDArray[np.int64]:
        """Return the places in the pool's order, ascending."""
        taken = np.diff(self.turns.before(np.arange(self.position, self.position + self.stop - self.start + 1)))
        return self.start + np.flatnonzero(taken)


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows that are in memory together and leave in an order drawn from `draw`; None keeps the order of the pieces.

    Attributes:
        dealt: the rank's part of them, where ranks share a pool; None where all rows are the rank's.
    """

    pieces: tuple[Piece, ...]
    draw: tuple[int, ...] | None
    dealt: Dealt | None = None

    @property
    def rows(self) -> int:
        """Number of rows that leave the pool."""
        return count_rows(self.pieces) if self.dealt is None else self.dealt.rows

    def order(self) -> npt.NDArray[np.int64] | None:
        """Return the row numbers (into the joined pieces) in the order in which they leave, or None for 0, 1, 2, ..."""
        drawn = None if self.draw is None else _permutation(self.draw, count_rows(self.pieces))
        if self.dealt is None:
            return drawn
        places = self.dealt.places()
        return places if drawn is None else drawn[places]


@dataclass(frozen=True, slots=True)
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

    def consumed_of(self, rows: int) -> list[int]:
        """Return how many rows each rank consumed, of `rows` rows that all of them had at the start of the stint."""
        borders = _borders(rows, self.world_size)
        if rows == 0:
            return [0] * self.world_size
        batches = count_batches(rows, self.world_size, self.batch_size)
        shares = [stop - start for start, stop in pairwise(borders)]
        return [sum(batch_sizes(share, batches, self.batch_size)[: self.batches]) for share in shares]


_Interval = TypeVar("_Interval", Piece, Stretch)


@dataclass(frozen=True)
class EpochOrder:
    """The order of a split's rows in any epoch.

    Attributes:
        shuffle: False keeps the rows as they lie in the files.
        buffer_rows: most rows in a pool; a row group with more is a pool of its own.
        in_step: share the rows among ranks in step, and not by intervals. The rows of a step are then the same
            whatever the number of ranks, as long as all of them together take as many; every rank decodes every pool.
    """

    groups: tuple[RowGroup, ...]
    seed: int
    shuffle: bool
    buffer_rows: int
    in_step: bool = False

    def streams(self, epoch: int, world_size: int, batch_size: int, past: Sequence[Stint]) -> list[list[Stretch]]:
        """Return what each rank still has to read of an epoch.

        Args:
            past: what earlier runs consumed of this epoch, perhaps on other numbers of ranks. What they left is
                divided anew, each row once.
        """
        pieces = self._sequence(epoch)
        if self.in_step:
            left = skip_rows(self._pools(pieces, epoch, 0), _consumed(count_rows(pieces), past))
            return [_deal(left, rank, world_size, batch_size) for rank in range(world_size)]
        world_sizes = [*(stint.world_size for stint in past), world_size]
        borders = _borders(count_rows(pieces), world_sizes[0])
        shares = _cut(pieces, borders)
        streams = [self._pools(share, epoch, first) for share, first in zip(shares, borders, strict=False)]
        for stint, next_world_size in zip(past, world_sizes[1:], strict=True):
            consumed = stint.consumed_of(sum(map(count_rows, streams)))
            parts = [skip_rows(stream, rows) for stream, rows in zip(streams, consumed, strict=True)]
            left = [stretch for part in parts for stretch in part]
            streams = _cut(left, _borders(count_rows(left), next_world_size))
        return streams

    def _sequence(self, epoch: int) -> list[Piece]:
        # The parts of a huge row group stay together in their order, in which alone they can be read.
        firsts = [place for place, group in enumerate(self.groups) if not group.first]
        runs = list(pairwise([*firsts, len(self.groups)]))
        places: Iterable[int] = range(len(runs))
        if self.shuffle:
            places = np.random.default_rng([_GROUP_DRAW, self.seed, epoch]).permutation(len(runs))
        return [Piece(group, 0, group.rows) for place in places for group in self.groups[slice(*runs[place])]]

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


def skip_rows(stream: Sequence[_Interval], rows: int) -> list[_Interval]:
    """Return the stream without its first `rows` rows; pools that are wholly skipped are never decoded."""
    return _cut(stream, [rows, max(rows, count_rows(stream))])[0]


def _permutation(draw: tuple[int, ...], rows: int) -> npt.NDArray[np.int64]:
    # PyTorch draws it in a third of the time that numpy takes, which would be a tenth of the whole shuffle.
    seed = int(np.random.SeedSequence(draw).generate_state(1, np.uint64)[0])
    drawn: npt.NDArray[np.int64] = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).numpy()
    return drawn


def _consumed(rows: int, past: Sequence[Stint]) -> int:
    """How many of `rows` rows some stints consumed, one after the other, where ranks go in step."""
    left = rows
    for stint in past:
        left -= sum(stint.consumed_of(left))
    return rows - left


def _deal(stream: Sequence[Stretch], rank: int, world_size: int, batch_size: int) -> list[Stretch]:
    """A rank's part of what all ranks read in step; pools of which it gets nothing are left out."""
    if not stream:
        return []
    borders = list(accumulate((stretch.stop - stretch.start for stretch in stream), initial=0))
    turns = Turns(rank, world_size, batch_size, borders[-1])
    counts = np.diff(turns.before(borders)).tolist()
    return [
        Stretch(replace(stretch.pool, dealt=Dealt(turns, stretch.start, stretch.stop, position)), 0, rows)
        for stretch, position, rows in zip(stream, borders[:-1], counts, strict=True)
        if rows
    ]


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


def _borders(rows: int, world_size: int) -> list[int]:
    """Where the ranks' intervals begin, and the end: they differ by at most one row."""
    return [rows * rank // world_size for rank in range(world_size + 1)]


def _cut(intervals: Sequence[_Interval], borders: Sequence[int]) -> list[list[_Interval]]:
    """Cut the intervals, joined end to end, at ascending borders; what lies outside the first and last is left out."""
    ends = list(accumulate(interval.stop - interval.start for interval in intervals))
    parts = []
    for start, stop in pairwise(borders):
        first, last = bisect_right(ends, start), bisect_left(ends, stop)
        part = list(intervals[first : last + 1]) if start < stop else []
        if part:
            # The end first: where one interval has both cuts, the other still counts from where it began.
            part[-1] = replace(part[-1], stop=part[-1].stop - (ends[last] - stop))
            part[0] = replace(part[0], start=intervals[first].start + start - (ends[first - 1] if first else 0))
        parts.append(part)
    return parts
