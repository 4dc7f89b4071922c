"""One batch of rows as the ranker sees it, movable to a device as a whole."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor
from torchrec.streamable import Pipelineable

from recsys.features.column_names import SEGMENT_KEY


class BegunLookUp(Protocol):
    """A look-up of a batch's ids in a collection of tables, begun before the batch was handed out."""

    @property
    def ids(self) -> KeyedJaggedTensor:
        """The batch's, with which the collection is looked up."""
        ...

    def pooled(self) -> KeyedTensor:
        """Return what the collection gives for the ids, (B, sum of D), as it is now."""
        ...

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that `stream` uses what was made ahead, of any shape."""
        ...


LookUps = list[tuple[nn.Module, KeyedTensor]]
"""Collections of tables and what each gave for a batch, (B, sum of D), in the order of the look-ups."""


@dataclass
class Batch(Pipelineable):
    """B rows.

    Attributes:
        dense: (B, F_dense) float32, scaled, in the order of `FeatureSchema.dense`.
        sparse: one key per sparse or sparse-list feature, in the order of `FeatureSchema.sparse`; int64 ids, stride B.
        lists: per dense list of the schema, (elements of all rows,) float32, row after row; as many in a row as the
            list that it is beside has in `sparse`.
        segment: (B,) int64, each in [0, S).
        label: (B,) float32, each 0 or 1.
        weight: (B,) float32, ones where the schema declares no weight.
        extra: columns that only evaluation reads, each (B,); never an input of the model.
        leaders: dense list -> the feature of `sparse` that it is beside.
        segment_counts: rows of each of the S segments, known to the host without asking the device; None where whoever
            made the batch did not count, as for one that was picked out of another.
        ahead: the look-ups that were begun already, by collection of tables; of this batch object alone.
        looked_up: where it is a list, `look_up` adds to it each collection and what it gave; of this object alone.
    """

    dense: Tensor
    sparse: KeyedJaggedTensor
    segment: Tensor
    label: Tensor
    weight: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    lists: Mapping[str, Tensor] = field(default_factory=dict)
    leaders: Mapping[str, str] = field(default_factory=dict)
    segment_counts: tuple[int, ...] | None = None
    ahead: Mapping[nn.Module, BegunLookUp] = field(default_factory=dict)
    looked_up: LookUps | None = None

    def __len__(self) -> int:
        return self.label.shape[0]

    @cached_property
    def sparse_and_segment(self) -> KeyedJaggedTensor:
        """`sparse` with the segment as its last key, `SEGMENT_KEY`: one id a row. Joined once; nobody writes to it."""
        segment = KeyedJaggedTensor(
            keys=[SEGMENT_KEY],
            values=self.segment,
            # Lengths may be int32 or int64, and two collections of ids join only where they agree.
            lengths=torch.ones_like(self.segment, dtype=self.sparse.lengths().dtype),
            # Without it the joined ids would not know theirs, and the look-up would wait for the device to add them up.
            length_per_key=[len(self)],
        )
        return KeyedJaggedTensor.concat([self.sparse, segment])

    def look_up(self, tables: nn.Module, ids: KeyedJaggedTensor) -> KeyedTensor:
        """Return what a collection of tables gives for ids of this batch, (B, sum of D).

        Args:
            ids: `sparse` or `sparse_and_segment`.
        """
        begun = self.ahead.get(tables)
        pooled = begun.pooled() if begun is not None and begun.ids is ids else tables(ids)
        if self.looked_up is not None:
            self.looked_up.append((tables, pooled))
        return pooled

    def counts_by_segment(self, num_segments: int) -> tuple[int, ...]:
        """Return how many rows each of the S segments has; waits for the device where nobody counted on the host."""
        if self.segment_counts is not None:
            return self.segment_counts
        return tuple(torch.bincount(self.segment, minlength=num_segments).tolist())

    def take(self, rows: Tensor) -> "Batch":
        """Return the given rows as a batch of their own.

        Args:
            rows: (n,) int64 positions, in any order and as often as wanted.
        """
        # Lists that stand beside one list have their elements at the same places.
        leaders = dict.fromkeys(self.leaders[name] for name in self.lists)
        places = {leader: _places_of(self.sparse[leader].lengths(), rows) for leader in leaders}
        return Batch(
            dense=self.dense.index_select(0, rows),
            sparse=_taken(self.sparse, rows),
            segment=self.segment.index_select(0, rows),
            label=self.label.index_select(0, rows),
            weight=self.weight.index_select(0, rows),
            extra={name: column.index_select(0, rows) for name, column in self.extra.items()},
            lists={name: values.index_select(0, places[self.leaders[name]]) for name, values in self.lists.items()},
            leaders=self.leaders,
        )

    def with_ids_of(self, kept: Tensor, names: Collection[str]) -> "Batch":
        """Return the batch with some rows' ids of some features alone; waits for the device.

        All else is of length zero: sharded tables know the features by their places in the first batch that they were
        given, and exchange so many rows as before in every process.

        Args:
            kept: (B,) bool.
            names: of sparse features; lists beside others are left out.
        """
        sparse, keys = self.sparse, self.sparse.keys()
        lengths, nothing = sparse.lengths(), torch.zeros_like(kept)
        is_kept = torch.cat([kept if name in names else nothing for name in keys])  # (F B,)
        of_ids = is_kept.repeat_interleave(lengths, output_size=len(sparse.values()))
        weights = sparse.weights_or_none()
        ids = KeyedJaggedTensor(
            keys=keys,
            values=sparse.values()[of_ids],
            weights=None if weights is None else weights[of_ids],
            lengths=lengths * is_kept,
            stride=len(self),
        )
        lists = {}
        if self.lists:
            by_feature = dict(zip(keys, of_ids.split(sparse.length_per_key()), strict=True))
            lists = {
                name: values[by_feature[self.leaders[name]]]
                for name, values in self.lists.items()
                if self.leaders[name] in names
            }
        return replace(self, sparse=ids, lists=lists, ahead={})

    def with_ids(self, values: Tensor) -> "Batch":
        """Return the batch with these ids in the places of its own, without the look-ups that were begun of those.

        Args:
            values: as `sparse.values()`, (ids,) int64.
        """
        sparse = self.sparse
        ids = KeyedJaggedTensor(
            keys=sparse.keys(),
            values=values,
            weights=sparse.weights_or_none(),
            lengths=sparse.lengths(),
            offsets=sparse.offsets_or_none(),
            stride=sparse.stride(),
            length_per_key=sparse.length_per_key_or_none(),
        )
        return replace(self, sparse=ids, ahead={})

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Return the batch on `device`; with `non_blocking` the copy may still be under way on the current stream."""
        return self._mapped(lambda each: each.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, from which a copy to the device can overlap with computing."""
        return self._mapped(lambda each: each.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that `stream` uses these tensors, so that their memory is not handed out too early."""
        self.sparse.record_stream(stream)
        if "sparse_and_segment" in vars(self):  # joined already, which made new tensors
            self.sparse_and_segment.record_stream(stream)
        columns = (*self.extra.values(), *self.lists.values())
        for tensor in (self.dense, self.segment, self.label, self.weight, *columns):
            tensor.record_stream(stream)
        for begun in self.ahead.values():
            begun.record_stream(stream)

    def _mapped(self, change: Callable[[Any], Any]) -> "Batch":
        """The batch with a method of both tensors and jagged tensors called on each of its parts."""
        return Batch(
            dense=change(self.dense),
            sparse=change(self.sparse),
            segment=change(self.segment),
            label=change(self.label),
            weight=change(self.weight),
            extra={name: change(column) for name, column in self.extra.items()},
            lists={name: change(values) for name, values in self.lists.items()},
            leaders=self.leaders,
            segment_counts=self.segment_counts,
        )


def _taken(sparse: KeyedJaggedTensor, rows: Tensor) -> KeyedJaggedTensor:
    """The bags of the given rows, key by key."""
    shape = len(sparse.keys()), sparse.stride()
    lengths = sparse.lengths().view(shape).index_select(1, rows).flatten()
    first = sparse.offsets()[:-1].view(shape).index_select(1, rows).flatten()
    values = sparse.values().index_select(0, _places(first, lengths))
    return KeyedJaggedTensor(keys=sparse.keys(), values=values, lengths=lengths, stride=len(rows))


def _places_of(lengths: Tensor, rows: Tensor) -> Tensor:
    """The positions of the values of some rows' bags, of all bags' lengths (B,)."""
    first = lengths.cumsum(0) - lengths
    return _places(first.index_select(0, rows), lengths.index_select(0, rows))


def _places(first: Tensor, lengths: Tensor) -> Tensor:
    """The positions of all values of some bags, each of which begins at `first` (n,) and has `lengths` (n,) values."""
    # Every bag is a run of positions: its values go behind those of the bags before it.
    behind = lengths.cumsum(0, dtype=torch.int64) - lengths
    runs = torch.repeat_interleave(first - behind, lengths.long())
    return runs + torch.arange(len(runs), device=runs.device)
