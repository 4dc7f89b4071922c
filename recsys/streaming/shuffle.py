"""The order of the rows, and which rank gets which: plain arithmetic on row counts, no row is touched.

An epoch is one sequence of all rows: the row groups in an order drawn from (seed, epoch), gathered into pools of
bounded size in each of which the rows are permuted; or the rows as they lie in the files. There are two ways to share
it among ranks. By intervals, each rank has one interval of the sequence (row groups at a border are cut, so that ranks
differ by at most one row whatever the sizes of the files) and makes pools of its own. In step, the ranks go through
the sequence together and get a batch each, round robin. The number of threads appears nowhere in this, so it cannot
change the order.
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
from recsys.streaming.row_groups import RowGroup

# Two draws must not share a random stream; numpy ignores trailing zeros of a seed, so the mark stands first.
_GROUP_DRAW, _ROW_DRAW = 1, 2


@dataclass(frozen=True, slots=True)
class GroupSlice:
    """Rows [start, stop) of one row group, in the group's own order."""

    group: RowGroup
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """What one rank gets of a sequence of `rows` rows when every step gives a batch to each rank in turn.

    Steps are those of `count_batches`; what the last one has is divided evenly, earlier rows to lower ranks.
    """

    rank: int
    world_size: int
    batch_size: int
    rows: int

    def before(self, position: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return how many of the first `position` rows are the rank's; of the shape of `position`.

        >>> RoundRobin(rank=1, world_size=2, batch_size=2, rows=7).before([2, 3, 4, 5, 6, 7]).tolist()
        [0, 1, 2, 2, 3, 4]
        """
        last_step = (count_batches(self.rows, self.world_size, self.batch_size) - 1) * self.world_size * self.batch_size
        start, stop = _borders(self.rows - last_step, self.world_size)[self.rank : self.rank + 2]
        within, beyond = np.minimum(position, last_step), np.maximum(np.subtract(position, last_step), 0)
        steps, into = np.divmod(within, self.world_size * self.batch_size)
        # Whole steps give a batch each; of the step that is cut by `position`, the rank has what lies in its batch.
        of_steps = steps * self.batch_size + np.clip(into - self.rank * self.batch_size, 0, self.batch_size)
        return np.asarray(of_steps + np.clip(beyond - start, 0, stop - start), np.int64)


@dataclass(frozen=True, slots=True)
class PoolShare:
    """What one rank gets of places [start, stop) of a pool's order, which begin at row `position` of the sequence."""

    turns: RoundRobin
    start: int
    stop: int
    position: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        first, last = self.turns.before([self.position, self.position + self.stop - self.start])
        return int(last - first)

    def places(self) -> npt.NDArray[np.int64]:
        """Return (rows,) the places in the pool's order, ascending."""
        is_own = np.diff(self.turns.before(np.arange(self.position, self.position + self.stop - self.start + 1)))
        return self.start + np.flatnonzero(is_own)


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows that are in memory together and leave in an order drawn from `draw`; None keeps the order of the slices.

    Attributes:
        share: the rank's part of them, where ranks share a pool; None where all rows are the rank's.
    """

    slices: tuple[GroupSlice, ...]
    draw: tuple[int, ...] | None
    share: PoolShare | None = None

    @property
    def rows(self) -> int:
        """Number of rows that leave the pool."""
        return count_rows(self.slices) if self.share is None else self.share.rows

    def order(self, blocks: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64] | None:
        """Return (rows,) row numbers into the joined slices, in the order in which they leave; None for 0, 1, 2, ...

        Args:
            blocks: rising row numbers at which blocks begin, 0 the first, whose rows leave side by side and in their
                own order; None: each row is its own.
        """
        drawn = None
        if self.draw is not None:
            rows = count_rows(self.slices)
            drawn = _permutation(self.draw, rows) if blocks is None else _of_blocks(self.draw, rows, blocks)
        if self.share is None:
            return drawn
        places = self.share.places()
        return places if drawn is None else drawn[places]


@dataclass(frozen=True, slots=True)
class PoolSlice:
    """Rows [start, stop) of a pool, counted in the order in which they leave it."""

    pool: Pool
    start: int
    stop: int


@dataclass(frozen=True)
class ConsumedBatches:
    """What a run consumed of an epoch before it was stopped: so many batches of that size on each of its ranks."""

    world_size: int
    batch_size: int
    batches: int

    def rows_by_rank(self, rows: int) -> list[int]:
        """Return how many rows each rank consumed, of `rows` rows that all of them had when the run began."""
        if rows == 0:
            return [0] * self.world_size
        batches = count_batches(rows, self.world_size, self.batch_size)
        shares = [stop - start for start, stop in pairwise(_borders(rows, self.world_size))]
        return [sum(batch_sizes(share, batches, self.batch_size)[: self.batches]) for share in shares]


_Slice = TypeVar("_Slice", GroupSlice, PoolSlice)


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

    def streams(
        self, epoch: int, world_size: int, batch_size: int, past: Sequence[ConsumedBatches]
    ) -> list[list[PoolSlice]]:
        """Return what each rank still has to read of an epoch.

        Args:
            past: what earlier runs consumed of this epoch, perhaps on other numbers of ranks. What they left is
                divided anew, each row once.
        """
        sequence = self._sequence(epoch)
        if self.in_step:
            left = skip_rows(self._pools(sequence, epoch, 0), _consumed(count_rows(sequence), past))
            return [_round_robin(left, rank, world_size, batch_size) for rank in range(world_size)]
        world_sizes = [*(run.world_size for run in past), world_size]
        borders = _borders(count_rows(sequence), world_sizes[0])
        # A rank's pools begin at its border and are drawn by it: the same pools on every later resumption.
        streams = [
            self._pools(share, epoch, first) for share, first in zip(_cut(sequence, borders), borders, strict=False)
        ]
        for run, next_world_size in zip(past, world_sizes[1:], strict=True):
            consumed = run.rows_by_rank(sum(map(count_rows, streams)))
            left = [
                pool_slice
                for stream, rows in zip(streams, consumed, strict=True)
                for pool_slice in skip_rows(stream, rows)
            ]
            streams = _cut(left, _borders(count_rows(left), next_world_size))
        return streams

    def _sequence(self, epoch: int) -> list[GroupSlice]:
        # A whole row group, or the first part of a huge one, begins a run: the parts of a row group stay together in
        # their order, in which alone they can be read.
        firsts = [place for place, group in enumerate(self.groups) if not group.first]
        runs = list(pairwise([*firsts, len(self.groups)]))
        places: Iterable[int] = range(len(runs))
        if self.shuffle:
            places = np.random.default_rng([_GROUP_DRAW, self.seed, epoch]).permutation(len(runs))
        return [GroupSlice(group, 0, group.rows) for place in places for group in self.groups[slice(*runs[place])]]

    def _pools(self, slices: list[GroupSlice], epoch: int, first_row: int) -> list[PoolSlice]:
        if not self.shuffle:
            return [PoolSlice(Pool((one,), None), 0, one.stop - one.start) for one in slices]
        pools = []
        for members in _gather(slices, self.buffer_rows):
            # By the pool's first row in the sequence: no two pools of an epoch are drawn alike.
            pool = Pool(tuple(members), (_ROW_DRAW, self.seed, epoch, first_row))
            pools.append(PoolSlice(pool, 0, pool.rows))
            first_row += pool.rows
        return pools


def count_rows(slices: Iterable[GroupSlice] | Iterable[PoolSlice]) -> int:
    """Sum of the slices' rows."""
    return sum(one.stop - one.start for one in slices)


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
    # One step more only if each rank gets a row of it: a rank without one would leave the others waiting for ever.
    return full + (left >= world_size)


def batch_sizes(rows: int, batches: int, batch_size: int) -> list[int]:
    """Return the sizes of a rank's batches: full ones, then what is left (see `count_batches`)."""
    return [batch_size] * (batches - 1) + [rows - (batches - 1) * batch_size]


def skip_rows(stream: Sequence[_Slice], rows: int) -> list[_Slice]:
    """Return the stream without its first `rows` rows; pools that are wholly skipped are never decoded."""
    return _cut(stream, [rows, max(rows, count_rows(stream))])[0]


def _permutation(draw: tuple[int, ...], rows: int) -> npt.NDArray[np.int64]:
    # PyTorch draws it in a third of the time that numpy takes, which would be a tenth of the whole shuffle.
    seed = int(np.random.SeedSequence(draw).generate_state(1, np.uint64)[0])
    drawn: npt.NDArray[np.int64] = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).numpy()
    return drawn


def _of_blocks(draw: tuple[int, ...], rows: int, blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The blocks in an order that is drawn, row by row: for blocks at 0, 2 and 3 of four rows perhaps 2, 3, 0, 1."""
    drawn = _permutation(draw, len(blocks))
    lengths = np.diff(blocks, append=rows)[drawn]
    # Each block is a run of row numbers: it begins at its own first, behind the rows of the blocks drawn before.
    return np.arange(rows) + np.repeat(blocks[drawn] - (np.cumsum(lengths) - lengths), lengths)


def _consumed(rows: int, past: Sequence[ConsumedBatches]) -> int:
    """How many of `rows` rows some runs consumed, one after the other, where ranks go in step."""
    left = rows
    for run in past:
        left -= sum(run.rows_by_rank(left))
    return rows - left


def _round_robin(stream: Sequence[PoolSlice], rank: int, world_size: int, batch_size: int) -> list[PoolSlice]:
    """A rank's part of what all ranks read in step; pools of which it gets nothing are left out."""
    if not stream:
        return []
    borders = list(accumulate((one.stop - one.start for one in stream), initial=0))
    turns = RoundRobin(rank, world_size, batch_size, borders[-1])
    counts = np.diff(turns.before(borders)).tolist()
    return [
        PoolSlice(replace(one.pool, share=PoolShare(turns, one.start, one.stop, position)), 0, rows)
        for one, position, rows in zip(stream, borders[:-1], counts, strict=True)
        if rows
    ]


def _gather(slices: Sequence[GroupSlice], most_rows: int) -> list[list[GroupSlice]]:
    """Neighbours together, as many as stay within `most_rows`; a slice with more is alone."""
    gathered: list[list[GroupSlice]] = []
    room = 0
    for one in slices:
        rows = one.stop - one.start
        if rows > room:
            gathered.append([])
            room = most_rows
        gathered[-1].append(one)
        room -= rows
    return gathered


def _borders(rows: int, world_size: int) -> list[int]:
    """Where the ranks' intervals begin, and the end: they differ by at most one row."""
    return [rows * rank // world_size for rank in range(world_size + 1)]


def _cut(slices: Sequence[_Slice], borders: Sequence[int]) -> list[list[_Slice]]:
    """Cut the slices, joined end to end, at ascending borders; what lies outside the first and last is left out."""
    ends = list(accumulate(one.stop - one.start for one in slices))
    parts = []
    for start, stop in pairwise(borders):
        first, last = bisect_right(ends, start), bisect_left(ends, stop)
        part = list(slices[first : last + 1]) if start < stop else []
        if part:
            # The end first: where one slice has both cuts, the other still counts from where it began.
            part[-1] = replace(part[-1], stop=part[-1].stop - (ends[last] - stop))
            part[0] = replace(part[0], start=slices[first].start + start - (ends[first - 1] if first else 0))
        parts.append(part)
    return parts
