"""Columns in memory -> `Batch`, by whole-column copies: no loop over rows, and ids never pass through a float.

A KeyedJaggedTensor is feature-major: its values are the columns' slices end to end. Each value is copied once, from
the decoded (or shuffled) column to its place in the batch, where int32 widens to int64.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.features.encoding import LABEL, SEGMENT, WEIGHT
from recsys.features.schema import FeatureSchema
from recsys.streaming.column_views import ColumnView, ListView, numbers
from recsys.streaming.memory import PinnedMemory, ReusedMemory
from recsys.streaming.pools import Rows


class Collator:
    """Makes batches of one schema.

    Args:
        extras: the columns that go into `Batch.extra`.
        memory: what the tensors are built in.
    """

    def __init__(self, schema: FeatureSchema, extras: Sequence[str], memory: ReusedMemory | PinnedMemory) -> None:
        self._dense = [feature.name for feature in schema.dense]
        self._sparse = [feature.name for feature in schema.sparse]
        self._num_segments = len(schema.segments)
        self._is_weighted = schema.weight is not None
        self._extras = tuple(extras)
        self._memory = memory

    def batch(self, parts: Sequence[Rows]) -> Batch:
        """Join the parts into one batch; its tensors share no memory with them.

        Returns:
            As many rows as the parts have together: dense (B, F of dense features), the others (B,), sparse as a
            KeyedJaggedTensor with the keys in the schema's order.
        """
        segment = self._column(parts, SEGMENT, torch.int64)
        return Batch(
            dense=self._dense_matrix(parts),
            sparse=self._jagged(parts),
            segment=segment,
            label=self._column(parts, LABEL, torch.float32),
            weight=self._column(parts, WEIGHT, torch.float32) if self._is_weighted else self._ones(parts),
            extra=self._extra(parts),
            segment_counts=tuple(np.bincount(segment.numpy(), minlength=self._num_segments).tolist()),
        )

    def _dense_matrix(self, parts: Sequence[Rows]) -> Tensor:
        # Feature after feature, as the columns come; seen as (B, F) it is transposed, which no matrix product minds.
        # Written row after row it would cost more than twice as much.
        matrix = self._memory.empty("dense", [len(self._dense), _count(parts)], torch.float32)
        for target, name in zip(matrix.numpy(), self._dense, strict=True):
            np.concatenate(_slices(parts, name), out=target)
        return matrix.t()

    def _jagged(self, parts: Sequence[Rows]) -> KeyedJaggedTensor:
        """All sparse features; feature f of row b has its number of ids at `lengths[f * B + b]`."""
        B = _count(parts)
        slices = [_slices(parts, name) for name in self._sparse]
        by_key = [[column.flat if isinstance(column, ListView) else column for column in columns] for columns in slices]
        ids = [sum(map(len, flat)) for flat in by_key]
        values = self._memory.empty("values", [sum(ids)], torch.int64)
        np.concatenate([column for flat in by_key for column in flat], out=values.numpy())
        lengths = self._memory.empty("lengths", [len(self._sparse), B], torch.int32)
        for target, columns in zip(lengths.numpy(), slices, strict=True):
            np.concatenate([_lengths(column) for column in columns], out=target)
        # The ids of each feature are counted here, or every look-up would wait for the device to add up its lengths.
        return KeyedJaggedTensor(
            keys=self._sparse, values=values, lengths=lengths.view(-1), stride=B, length_per_key=ids
        )

    def _extra(self, parts: Sequence[Rows]) -> Mapping[str, Tensor]:
        types = {
            name: torch.from_numpy(np.empty(0, numbers(parts[0].columns, name).dtype)).dtype for name in self._extras
        }
        return {name: self._column(parts, name, dtype) for name, dtype in types.items()}

    def _column(self, parts: Sequence[Rows], name: str, dtype: torch.dtype) -> Tensor:
        column = self._memory.empty(name, [_count(parts)], dtype)
        np.concatenate(_slices(parts, name), out=column.numpy())
        return column

    def _ones(self, parts: Sequence[Rows]) -> Tensor:
        return self._memory.empty(WEIGHT, [_count(parts)], torch.float32).fill_(1)


def _count(parts: Sequence[Rows]) -> int:
    return sum(map(len, parts))


def _slices(parts: Sequence[Rows], name: str) -> list[Any]:
    """One column of each part: arrays, or all of them `ListView`."""
    return [rows.columns[name][rows.start : rows.stop] for rows in parts]


def _lengths(column: ColumnView) -> npt.NDArray[np.int32]:
    return column.lengths if isinstance(column, ListView) else np.ones(len(column), np.int32)
