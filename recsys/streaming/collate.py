"""Columns in memory -> a batch, by whole-column copies: no loop over rows, and ids never pass through a float.

A KeyedJaggedTensor is feature-major: its values are the columns' slices end to end, so one call joins all ids of a
batch. Each value is copied once, from the decoded (or shuffled) column to its place in the batch.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.features.encoding import LABEL, SEGMENT, WEIGHT
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.streaming.column_views import ListView, numbers
from recsys.streaming.memory import PinnedMemory, ReusedMemory
from recsys.streaming.packed import PackedBatch
from recsys.streaming.pools import Rows


class Collator:
    """Makes batches of one schema, from any thread.

    Args:
        extras: the columns that go into `Batch.extra`.
        memory: what the tensors are built in.
        ships: whether batches go to another device, and so keep the narrow integers of the columns. Otherwise these
            are widened while they are copied, which costs no pass of its own.
    """

    def __init__(
        self, schema: FeatureSchema, extras: Sequence[str], memory: ReusedMemory | PinnedMemory, ships: bool
    ) -> None:
        self._dense = [feature.name for feature in schema.dense]
        self._sparse = [feature.name for feature in schema.sparse]
        self._lists = [i for i, feature in enumerate(schema.sparse) if feature.kind is FeatureKind.SPARSE_LIST]
        self._leaders = {feature.name: feature.beside for feature in schema.dense_lists}
        self._num_segments = len(schema.segments)
        self._is_weighted = schema.weight is not None
        self._extras = tuple(extras)
        self._memory = memory
        self._ships = ships

    def packed(self, parts: Sequence[Rows]) -> PackedBatch:
        """Join the parts into one batch of as many rows as they have together; it shares no memory with them."""
        rows = sum(map(len, parts))
        # Feature after feature, as the columns come: written row after row, numbers would cost more than twice as much.
        dense = self._memory.empty("dense", [len(self._dense), rows], torch.float32)
        _join((column for name in self._dense for column in _slices(parts, name)), dense)
        by_key = [_slices(parts, name) for name in self._sparse]
        flat = [[column.flat if isinstance(column, ListView) else column for column in columns] for columns in by_key]
        ids_by_key = [sum(map(len, columns)) for columns in flat]
        ids = self._memory.empty("ids", [sum(ids_by_key)], torch.int32 if self._ships else torch.int64)
        _join((column for columns in flat for column in columns), ids)
        list_lengths = self._memory.empty("list lengths", [len(self._lists), rows], torch.int32)
        _join((column.lengths for place in self._lists for column in by_key[place]), list_lengths)
        segment = self._column(parts, SEGMENT, None if self._ships else torch.int64)
        return PackedBatch(
            keys=self._sparse,
            lists=self._lists,
            dense=dense,
            ids=ids,
            ids_by_key=ids_by_key,
            list_lengths=list_lengths,
            segment=segment,
            segment_counts=tuple(np.bincount(segment.numpy(), minlength=self._num_segments).tolist()),
            label=self._column(parts, LABEL),
            weight=self._column(parts, WEIGHT) if self._is_weighted else None,
            extra={name: self._column(parts, name) for name in self._extras},
            dense_lists={name: self._numbers(parts, name) for name in self._leaders},
            leaders=self._leaders,
        )

    def _numbers(self, parts: Sequence[Rows], name: str) -> Tensor:
        """(elements,) those of a dense list, row after row."""
        flat = [column.flat for column in _slices(parts, name)]
        values = self._memory.empty(name, [sum(map(len, flat))], torch.float32)
        _join(flat, values)
        return values

    def _column(self, parts: Sequence[Rows], name: str, dtype: torch.dtype | None = None) -> Tensor:
        """(B,) one column, of its own type unless told otherwise."""
        own = torch.from_numpy(np.empty(0, numbers(parts[0].columns, name).dtype)).dtype
        column = self._memory.empty(name, [sum(map(len, parts))], dtype or own)
        _join(_slices(parts, name), column)
        return column


def _slices(parts: Sequence[Rows], name: str) -> list[Any]:
    """One column of each part: arrays, or all of them `ListView`."""
    return [rows.columns[name][rows.start : rows.stop] for rows in parts]


def _join(columns: Iterable[npt.NDArray[Any]], target: Tensor) -> None:
    """Copy the columns end to end into a tensor that has just as many values."""
    if arrays := list(columns):
        np.concatenate(arrays, out=target.numpy().reshape(-1))
