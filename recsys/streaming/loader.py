"""The stream of batches that training and evaluation read.

Row groups are decoded in background threads, gathered into pools and shuffled; batches are cut from them, built in
other threads and sent to the device. Each stage is a bounded number of rows ahead of the next, so that memory depends
on the settings and on the largest row group and not on the data.
"""

import time
import weakref
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recsys.errors import DataError, UsageError
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.streaming.collate import Collator
from recsys.streaming.device import DeviceCopy, Preparation, SentBatch, one_ahead
from recsys.streaming.dropping import without_dropped
from recsys.streaming.pools import (
    Builder,
    PoolReader,
    Rows,
    background,
    builders,
    in_batches,
    most_rows_in_memory,
    prefetched,
    rows_ahead,
)
from recsys.streaming.rows import RawRows, open_rows
from recsys.streaming.shuffle import (
    ConsumedBatches,
    EpochOrder,
    PoolSlice,
    batch_sizes,
    count_batches,
    count_rows,
    skip_rows,
)

# Built and sent ahead of the step, besides one in each building thread: enough to ride out a slow step or a slow pool,
# and a few megabytes each.
_BATCHES_AHEAD = 3
# Being cut, waiting to be taken, and the last two of a step loop that lets go of one as it takes the next.
_BATCHES_IN_HAND = 4
# What the runs so far consumed of the epoch; checkpoints that exist hold it under this key.
_PAST = "stints"


class BatchStream:
    """Every row of a split once per epoch, as batches on a device.

    Iterating yields the rest of the current epoch and then moves `epoch` on. The order of rows depends on (seed,
    epoch) and the settings of the shuffle, never on the number of threads. With several ranks each reads one interval
    of the epoch's rows, or its turns of them; all make the same number of batches, and no row is left out or read
    twice: a rank's last batch has at least one row, and may have `batch_size` + 1 where the rows left over are fewer
    than the ranks.

    Only one iterator is alive at a time: a second one ends the first.

    Args:
        encoded: a folder as `recsys prepare` makes it, its URI ("s3://bucket/clicks/rows"), or raw rows.
        contract: the one in that folder; for raw rows, that of the data whose vocabularies encode them.
        seed: 0 or more.
        shuffle: False keeps the order of the files, which is the order of the days.
        shuffle_buffer_rows: most rows that are permuted together; a row group with more is permuted alone.
        decode_threads: so many decode row groups, and a quarter as many, at least one, build batches of them beside. 0
            does all work in the caller's thread, when it asks for a batch.
        extras: the extra columns that go into `Batch.extra`; no others are read.
        together: one of `extras`; rows that lie side by side in the files and agree in it stay side by side when they
            are shuffled, so that only the ends of batches and of row groups part them. Empty: rows are shuffled one by
            one.
        days: only these UTC days of the split, as "2011-06-30"; all of them where empty.
        in_step: share the rows among ranks step by step: the rows of a step are the same whatever the number of ranks,
            as long as all of them together take as many, and without a shuffle no rank is ahead of another in time.
            Every rank then decodes all rows; otherwise it decodes an interval of its own.

    Raises:
        DataError: before the first batch: no rows, fewer rows than ranks, a damaged footer, a missing or retyped
            column. While iterating: damaged data or a value that the contract rules out, with file, row group, column.
        UsageError: a setting that cannot mean anything, or an extra that the data does not carry.
    """

    def __init__(
        self,
        encoded: str | Path | RawRows,
        split: str,
        contract: FeatureContract,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        shuffle_buffer_rows: int,
        decode_threads: int,
        device: torch.device,
        extras: Sequence[str] = (),
        together: str = "",
        days: Collection[str] = (),
        rank: int = 0,
        world_size: int = 1,
        in_step: bool = False,
    ) -> None:
        _require_settings(batch_size, seed, shuffle_buffer_rows, decode_threads, rank, world_size)
        self._rows = open_rows(encoded, split, contract, extras, days)
        groups = self._rows.groups
        self._order = EpochOrder(groups, seed, shuffle, shuffle_buffer_rows, in_step)
        self._split, self._together = split, together
        self._batch_size = batch_size
        self._decode_threads = decode_threads
        self._rank = rank
        self._world_size = world_size
        self._batches_ahead = _BATCHES_AHEAD + builders(decode_threads)
        self._copy = DeviceCopy(device, self._batches_ahead + _BATCHES_IN_HAND)
        self._collator = Collator(contract.schema, extras, self._copy.memory, self._copy.ships)
        # Held weakly: a loop that is left early then ends its iterator, and its threads, at once.
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None
        self._past: tuple[ConsumedBatches, ...] = ()
        self._consumed = 0
        split_rows = sum(group.rows for group in groups)
        self.num_rows = split_rows * (rank + 1) // world_size - split_rows * rank // world_size
        """Rows that this rank reads in an epoch; ranks differ by at most one."""
        self.num_batches = count_batches(split_rows, world_size, batch_size)
        """Batches in an epoch, the same on every rank."""
        self.prepare: Preparation | None = None
        """Begins work on each batch, on the stream of its copy, before the batch in front of it is handed out.

        A batch is then held one ahead, in the caller's thread; it still counts as consumed only when it is handed out.
        """
        self.epoch = 0
        """The epoch that iterating yields, from 0."""
        self.wait_seconds = 0.0
        """How long callers have waited for a batch, over all epochs."""
        self.peak_rows = 0
        """Most rows that were decoded or being decoded at one time, over all epochs; never above `most_rows`."""

    @property
    def counts(self) -> dict[str, int]:
        """What the schema's policies corrected or dropped in the row groups read so far, each counted once; by name.

        Rows that were dropped are missing from their batch; `num_rows` counts them, as footers do.
        """
        return self._rows.counts

    @property
    def counts_by_group(self) -> dict[str, dict[str, int]]:
        """The same by row group: ranks read some of them in common, so that their counts do not add up."""
        return self._rows.counts_by_group

    @property
    def most_rows(self) -> int:
        """The bound on rows in memory, besides a few batches; the settings and the largest row group set it.

        One pool that is being read, the next one being gathered, one row group in each decoding thread, and the two row
        groups that the borders to other ranks cut. No row group counts for more than 2 x `ROWS_OF_A_PART` rows, since
        larger ones are read in parts; only behind a URI they are fetched, and so decoded, whole.
        """
        return most_rows_in_memory(*self._bounds, self._decode_threads)

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        batches = self._rest_of_epoch()
        self._running = weakref.ref(batches)
        return batches

    def close(self) -> None:
        """Stop background work and wait for its threads. Iterating again goes on behind the last batch consumed."""
        running = self._running() if self._running else None
        if running is not None:
            running.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last batch that the caller received, as JSON-able values.

        It is the same on every rank that has received the same number of batches.
        """
        current = ConsumedBatches(self._world_size, self._batch_size, self._consumed)
        return {**self._identity(), "epoch": self.epoch, _PAST: [asdict(run) for run in (*self._past, current)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned; batches already built are dropped.

        The numbers of ranks and threads and the batch size may differ from the run that saved it: the rows which that
        run left are divided anew. With the same number of ranks and batch size the batches are the same bit for bit.

        Raises:
            DataError: the state belongs to other data or another order, or fewer rows are left than there are ranks.
        """
        for name, expected in self._identity().items():
            if state.get(name) != expected:
                raise DataError(
                    f"The data position was saved with {name} {state.get(name)!r}, but this stream has {expected!r}: "
                    "the same position would stand for other rows. Resume with the data and settings of the first "
                    "run, or start a new run."
                )
        past = tuple(ConsumedBatches(**run) for run in state[_PAST])
        consumed = 0
        # The same ranks and batches go on counting; others begin behind what the last run consumed.
        if (past[-1].world_size, past[-1].batch_size) == (self._world_size, self._batch_size):
            past, consumed = past[:-1], past[-1].batches
        self.close()
        self.epoch, self._past, self._consumed = state["epoch"], past, consumed
        self._remaining()

    def _identity(self) -> dict[str, Any]:
        return {
            "split": self._split,
            "layout": self._rows.layout,
            "seed": self._order.seed,
            "shuffle": self._order.shuffle,
            "shuffle_buffer_rows": self._order.buffer_rows,
            "in_step": self._order.in_step,
            # Positions that were saved before rows could stay together do not say.
            "together": self._together or None,
        }

    def _rest_of_epoch(self) -> Generator[Batch, None, None]:
        begun = self._begun_batches(*self._remaining())
        with closing(prefetched(begun, self._batches_ahead) if self._decode_threads else begun) as batches:
            awaited = self._awaited(batches)
            for sent in awaited if self.prepare is None else one_ahead(awaited):
                # Counted before the caller has it: whoever saves the state while holding a batch has consumed it.
                self._consumed += 1
                yield self._copy.receive(sent)
        self.epoch, self._past, self._consumed = self.epoch + 1, (), 0

    def _awaited(self, batches: Iterator[Future[SentBatch]]) -> Iterator[SentBatch]:
        while True:
            began = time.perf_counter()
            building = next(batches, None)
            sent = None if building is None else building.result()
            self.wait_seconds += time.perf_counter() - began
            if sent is None:
                return
            yield sent if self.prepare is None else self._copy.begin(sent, self.prepare)

    def _remaining(self) -> tuple[list[PoolSlice], list[int]]:
        """This rank's rows of the epoch that are not consumed, and the sizes of their batches."""
        streams = self._order.streams(self.epoch, self._world_size, self._batch_size, self._past)
        stream = streams[self._rank]
        left = sum(map(count_rows, streams))
        if left == 0:
            return [], []
        sizes = batch_sizes(
            count_rows(stream), count_batches(left, self._world_size, self._batch_size), self._batch_size
        )
        return skip_rows(stream, sum(sizes[: self._consumed])), sizes[self._consumed :]

    def _begun_batches(self, stream: list[PoolSlice], sizes: list[int]) -> Generator[Future[SentBatch], None, None]:
        """The batches to come, in order, each in the hands of a building thread."""
        plan = (one.group for part in stream for one in part.pool.slices)
        threads = self._decode_threads
        with (
            self._rows.reading(plan) as read,
            background(threads, "recsys-decode") as decoding,
            background(builders(threads), "recsys-build") as building,
        ):
            builder = Builder(self._sent, building)
            # A pool of which batches are still being built is in memory, and so counts for the bound.
            ahead = rows_ahead(*self._bounds, threads)
            reader = PoolReader(read, decoding, ahead, release=builder.wait, together=self._together)
            with closing(reader.pools(stream)) as pools:
                # By `map`, not a generator, whose variables would keep a pool while the next one is made.
                try:
                    for batch in map(builder.begin, in_batches(pools, sizes)):
                        yield batch
                        self.peak_rows = max(self.peak_rows, reader.peak_rows)
                finally:
                    # The batches before the end, or before an error, still reach whoever takes them.
                    builder.wait()

    def _sent(self, parts: Sequence[Rows]) -> SentBatch:
        kept = without_dropped(parts) if self._rows.may_drop else parts
        return self._copy.send(self._collator.packed(kept))

    @property
    def _bounds(self) -> tuple[int, int]:
        """Rows of the largest row group, and of the largest pool."""
        largest = max(group.rows for group in self._order.groups)
        return largest, max(largest, self._order.buffer_rows) if self._order.shuffle else largest


def _require_settings(
    batch_size: int, seed: int, shuffle_buffer_rows: int, decode_threads: int, rank: int, world_size: int
) -> None:
    positive = {"batch_size": batch_size, "shuffle_buffer_rows": shuffle_buffer_rows, "world_size": world_size}
    others = {"seed": seed, "decode_threads": decode_threads, "rank": rank}
    for name, value in (positive | others).items():
        if value < (smallest := int(name in positive)):
            raise UsageError(f"{name} is {value}; expected {smallest} or more.")
    if rank >= world_size:
        raise UsageError(f"rank is {rank} of {world_size} processes; expected 0 to {world_size - 1}.")
