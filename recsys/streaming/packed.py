"""A batch in the fewest bytes, as it travels to the device, and the `Batch` that is made of it there.

Ids are read as int32 and most features have one id in every row, so what `Batch` promises, int64 ids and a length for
every row of every feature, is more than twice as much as what has to be copied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.features.encoding import WEIGHT

Empty: TypeAlias = Callable[[str, Sequence[int], torch.dtype], Tensor]
"""Returns a tensor of that shape and type with arbitrary values; the name says what it is in the batch."""


@dataclass(frozen=True)
class PackedBatch:
    """B rows.

    Attributes:
        keys: the sparse features, in the schema's order.
        lists: which of them are lists, as places in `keys`; the others have one id in every row.
        dense: (F_dense, B) float32, feature after feature.
        ids: of all features, feature after feature; int32, or int64 where that costs no copy.
        ids_by_key: number of ids of each feature.
        list_lengths: (lists, B) int32 number of ids in each row.
        segment: (B,) int8 to int64.
        segment_counts: rows of each of the S segments.
        label: (B,) float32.
        weight: (B,) float32; None where every row weighs one.
        extra: each (B,).
        dense_lists: by name, (elements of all rows,) float32, as `Batch.lists`; and `leaders` as there.
    """

    keys: Sequence[str]
    lists: Sequence[int]
    dense: Tensor
    ids: Tensor
    ids_by_key: list[int]
    list_lengths: Tensor
    segment: Tensor
    segment_counts: tuple[int, ...]
    label: Tensor
    weight: Tensor | None
    extra: Mapping[str, Tensor]
    dense_lists: Mapping[str, Tensor]
    leaders: Mapping[str, str]

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the batch on `device`; the copy may still be under way on the current stream."""

        def there(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            dense=there(self.dense),
            ids=there(self.ids),
            list_lengths=there(self.list_lengths),
            segment=there(self.segment),
            label=there(self.label),
            weight=None if self.weight is None else there(self.weight),
            extra={name: there(column) for name, column in self.extra.items()},
            dense_lists={name: there(values) for name, values in self.dense_lists.items()},
        )

    def unpacked(self, empty: Empty) -> Batch:
        """Return the rows as the ranker sees them, without waiting for the device that they are on.

        Args:
            empty: makes what the packed form leaves out.
        """
        rows = len(self.label)
        lengths = empty("lengths", [len(self.keys), rows], torch.int32).fill_(1)
        for place, of_rows in zip(self.lists, self.list_lengths, strict=True):
            lengths[place] = of_rows
        return Batch(
            # Seen as (B, F) it is transposed, which no matrix product minds.
            dense=self.dense.t(),
            # With its ids by key, or every look-up would wait for the device to add up the lengths.
            sparse=KeyedJaggedTensor(
                keys=list(self.keys),
                values=self.ids.to(torch.int64),
                lengths=lengths.view(-1),
                stride=rows,
                length_per_key=self.ids_by_key,
            ),
            segment=self.segment.to(torch.int64),
            label=self.label,
            weight=empty(WEIGHT, [rows], torch.float32).fill_(1) if self.weight is None else self.weight,
            extra=self.extra,
            lists=self.dense_lists,
            leaders=self.leaders,
            segment_counts=self.segment_counts,
        )
