"""The sequences that a sequence tower is pre-trained on: gathered once, held in memory, and cut into batches.

Every user's newest training row alone: its list and its item hold what her earlier rows hold, up to the longest list of
the schema, and each of those rows would teach the same beginnings again, the more often the longer she has been here.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.features.vocabulary import UNKNOWN_ROW

Ints = npt.NDArray[np.int64]
# Rows that wait before the newest of each user are sought among them.
_ROWS_WAITING = 1 << 20


@dataclass(frozen=True)
class Jagged:
    """Lists end to end: values (total,), and how many each of n has, (n,)."""

    values: Ints
    lengths: Ints

    def take(self, rows: Ints) -> "Jagged":
        """Return the lists of the given rows, (n,), in their order."""
        lengths = self.lengths[rows]
        first = (np.cumsum(self.lengths) - self.lengths)[rows]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Jagged(self.values[np.repeat(first, lengths) + within], lengths)

    @classmethod
    def joined(cls, parts: Sequence["Jagged"]) -> "Jagged":
        """Return the lists of all parts."""
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts]))

    @classmethod
    def of(cls, lists: JaggedTensor) -> "Jagged":
        """Return a batch's lists as they lie on the host."""
        return cls(lists.values().cpu().numpy(), lists.lengths().cpu().numpy().astype(np.int64))


@dataclass(frozen=True)
class Gathered:
    """What a pass over positive rows found.

    Attributes:
        sequences: the items of each list that the row's own item was put behind.
        counts: (rows of the item's table,), how many positives each item has.
        attributes: by feature, what each row of the item's table has in it.
    """

    sequences: Jagged
    counts: Ints
    attributes: dict[str, Jagged]


def gather(
    batches: Iterable[Batch],
    *,
    user: str,
    events: str,
    item: str,
    attributes: Sequence[str],
    num_items: int,
    newest_only: bool,
) -> Gathered:
    """Read the positive rows of a split.

    Args:
        batches: in the order of the files, of which the last of a user's longest rows is her newest.
        user, events, item, attributes: the features of `Batch.sparse`.
        num_items: rows of the item's table.
        newest_only: whether each user's newest row alone is kept. Users who are unknown are one.
    """
    counts = np.zeros(num_items, dtype=np.int64)
    kept, waiting = _Rows.empty(), list[_Rows]()
    known = {name: _OfItems(num_items) for name in attributes}
    for batch in batches:
        rows = np.flatnonzero(batch.label.cpu().numpy() > 0)
        items = batch.sparse[item].values().cpu().numpy()
        counts += np.bincount(items[rows], minlength=num_items)
        waiting.append(_Rows.of(batch, rows, user, events, items))
        if newest_only and sum(len(each.users) for each in waiting) > _ROWS_WAITING:
            kept, waiting = _Rows.joined([kept, *waiting]).newest(), []
        for name, of_items in known.items():
            of_items.add(items, Jagged.of(batch.sparse[name]))
    every = _Rows.joined([kept, *waiting])
    sequences = (every.newest() if newest_only else every).sequences
    return Gathered(sequences, counts, {name: of_items.lists() for name, of_items in known.items()})


class _OfItems:
    """The lists that items had in the last rows that had them, positive or not; of the unknown row 0 an empty one."""

    def __init__(self, num_items: int) -> None:
        self._places = np.zeros(num_items, dtype=np.int64)
        self._parts = [Jagged(np.empty(0, np.int64), np.zeros(1, np.int64))]
        self._held = 1

    def add(self, items: Ints, lists: Jagged) -> None:
        """Note the lists of some rows, (B,) each."""
        distinct, from_end = np.unique(items[::-1], return_index=True)
        self._parts.append(lists.take(len(items) - 1 - from_end))
        self._places[distinct] = self._held + np.arange(len(distinct))
        self._held += len(distinct)
        if self._held > 2 * len(self._places) + _ROWS_WAITING:
            self._parts = [self.lists()]
            self._places, self._held = np.arange(len(self._places)), len(self._places)

    def lists(self) -> Jagged:
        """Return the list of every item, (items,)."""
        places = self._places.copy()
        empty = Jagged(np.empty(0, np.int64), np.zeros(1, np.int64))
        places[UNKNOWN_ROW] = self._held
        return Jagged.joined([*self._parts, empty]).take(places)


@dataclass(frozen=True)
class _Rows:
    """The users (n,) of some rows, and their sequences."""

    users: Ints
    sequences: Jagged

    @classmethod
    def empty(cls) -> "_Rows":
        return cls(np.empty(0, np.int64), Jagged(np.empty(0, np.int64), np.empty(0, np.int64)))

    @classmethod
    def of(cls, batch: Batch, rows: Ints, user: str, events: str, items: Ints) -> "_Rows":
        lists = Jagged.of(batch.sparse[events]).take(rows)
        ends = np.cumsum(lists.lengths)
        with_item = np.insert(lists.values, ends, items[rows])
        return cls(batch.sparse[user].values().cpu().numpy()[rows], Jagged(with_item, lists.lengths + 1))

    @classmethod
    def joined(cls, parts: Sequence["_Rows"]) -> "_Rows":
        return cls(np.concatenate([part.users for part in parts]), Jagged.joined([part.sequences for part in parts]))

    def newest(self) -> "_Rows":
        """The last of each user's longest rows."""
        order = np.lexsort((np.arange(len(self.users)), self.sequences.lengths, self.users))
        users = self.users[order]
        rows = order[np.append(users[1:] != users[:-1], True)[: len(users)]]
        return _Rows(self.users[rows], self.sequences.take(rows))


@dataclass
class SequenceBatch(Batch):
    """T + M rows, each an item and its attributes: those of n sequences end to end, then M negatives for all of them.

    The label is 1 where an item is to be foretold from those before it in its sequence.

    Attributes:
        lengths: (n,) int64, items of each sequence.
        log_rate: (M,) float32, log of M times the probability by which each negative was drawn.
    """

    lengths: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    log_rate: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def num_negatives(self) -> int:
        """M."""
        return len(self.log_rate)


@dataclass
class SequenceStream:
    """Batches of sequences, one epoch after the other, in an order and with negatives that follow from the seed.

    Negatives are drawn on the host, beside what they bring: so the sizes of a batch are known without asking a device.

    Attributes:
        sequences: of all processes.
        rate: (rows of the item's table,), the probability by which an item is drawn as a negative.
        attributes: by feature, of each row of the item's table.
        most: the longest list of the schema: what a longer sequence begins with had others before it, and is not to be
            foretold.
        rank, world_size: this process, and how many share each batch's sequences, all with one order and negatives.
        only_last: whether the last item of each sequence alone is to be foretold; then the order and the negatives are
            the same in every epoch.
    """

    sequences: Jagged
    rate: npt.NDArray[np.float64]
    item: str
    attributes: Mapping[str, Jagged]
    most: int
    batch_size: int
    num_negatives: int
    only_last: bool
    seed: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    wait_seconds: float = 0.0

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.sequences.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[SequenceBatch]:
        draw = np.random.default_rng([self.seed, 0 if self.only_last else self.epoch])
        rows = np.arange(len(self.sequences.lengths))
        if not self.only_last:
            draw.shuffle(rows)
        borders = np.cumsum(self.rate)
        for start in range(0, len(rows), self.batch_size):
            began = time.perf_counter()
            batch = self._batch(rows[start : start + self.batch_size], borders, draw)
            self.wait_seconds += time.perf_counter() - began
            yield batch
        self.epoch += 1

    def _batch(self, rows: Ints, borders: npt.NDArray[np.float64], draw: np.random.Generator) -> SequenceBatch:
        own = rows[self.rank :: self.world_size]
        # Where there are fewer sequences than processes, one stands in that nothing is to be foretold of.
        sequences = self.sequences.take(own if len(own) else rows[:1])
        drawn = np.searchsorted(borders, draw.random(self.num_negatives) * borders[-1], side="right")
        negatives = np.minimum(drawn, len(borders) - 1)
        items = np.concatenate([sequences.values, negatives])
        label = np.zeros(len(items), dtype=np.float32)
        ends = np.cumsum(sequences.lengths)
        if self.only_last:
            label[ends - 1] = 1
        else:
            label[: len(sequences.values)] = 1
            label[(ends - sequences.lengths)[sequences.lengths > self.most]] = 0
        label[items == UNKNOWN_ROW] = 0
        label *= len(own) > 0
        sparse = rows_of_items(items, self.item, self.attributes)
        log_rate = np.log(self.num_negatives * self.rate[negatives])

        def sent(values: npt.NDArray) -> Tensor:
            return torch.from_numpy(values).to(self.device)

        return SequenceBatch(
            dense=sent(np.empty((len(items), 0), np.float32)),
            sparse=sparse.to(self.device),
            segment=sent(np.zeros(len(items), np.int64)),
            label=sent(label),
            weight=sent(np.ones(len(items), np.float32)),
            lengths=sent(sequences.lengths),
            log_rate=sent(log_rate.astype(np.float32)),
        )


def rows_of_items(items: Ints, item: str, attributes: Mapping[str, Jagged]) -> KeyedJaggedTensor:
    """Return items (B,) and their attributes as a batch has them, its lengths known to the host."""
    bags = {item: Jagged(items, np.ones_like(items))} | {name: each.take(items) for name, each in attributes.items()}
    return KeyedJaggedTensor(
        keys=list(bags),
        values=torch.from_numpy(np.concatenate([bag.values for bag in bags.values()])),
        lengths=torch.from_numpy(np.concatenate([bag.lengths for bag in bags.values()]).astype(np.int32)),
        stride=len(items),
        length_per_key=[len(bag.values) for bag in bags.values()],
    )


def negative_rate(counts: Ints, power: float) -> npt.NDArray[np.float64]:
    """Return the probability by which each item is drawn, (rows,): its count raised to a power; of the unknown row 0.

    A count is raised by one, since an item without positives is a candidate all the same.

    >>> negative_rate(np.array([9, 0, 3]), 0.5).round(3).tolist()
    [0.0, 0.333, 0.667]
    """
    raised = (counts + 1.0) ** power
    raised[UNKNOWN_ROW] = 0
    return raised / raised.sum()
