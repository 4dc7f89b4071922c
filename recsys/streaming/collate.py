"""Columns in memory -> `Batch`, by whole-column copies: no loop over rows, and ids never pass through a float.

A KeyedJaggedTensor is feature-major: its values are the columns' slices end to end. Each value is copied once, from
the decoded (or shuffled) column to its place in the batch, where int32 widens to int64.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.features.schema import FeatureSchema
from recsys.streaming.parquet import LABEL, SEGMENT, WEIGHT
from recsys.streaming.pools import Rows
from recsys.streaming.views import ListView, numbers


class Collator:
    """Makes batches of one schema.

    Args:
        extras: the columns that go into `Batch.extra`.
        pin: build in page-locked memory, from which a copy to a GPU can overlap with computing. PyTorch reuses such
            memory once the copy from it is done, so batches need no ring of buffers.
    """

    def __init__(self, schema: FeatureSchema, extras: Sequence[str], *, pin: bool) -> None:
        self._dense = [feature.name for feature in schema.dense]
        self._sparse = [feature.name for feature in schema.sparse]
        self._is_weighted = schema.weight is not None
        self._extras = tuple(extras)
        self._pin = pin

    def batch(self, parts: Sequence[Rows]) -> Batch:
        """Join the parts into one batch; its tensors share no memory with them."""
        label = self._column(parts, LABEL, torch.float32)
        weight = self._column(parts, WEIGHT, torch.float32) if self._is_weighted else None
        return Batch(
            dense=self._dense_matrix(parts),
            sparse=self._jagged(parts),
            segment=self._column(parts, SEGMENT, torch.int64),
            label=label,
            weight=torch.ones_like(label, pin_memory=self._pin) if weight is None else weight,
            extra=self._extra(parts),
        )

    def _dense_matrix(self, parts: Sequence[Rows]) -> Tensor:
        matrix = self._empty(sum(map(len, parts)), len(self._dense), dtype=torch.float32)
        target = matrix.numpy()
        for first, rows in _placed(parts):
            for position, name in enumerate(self._dense):
                target[first : first + len(rows), position] = rows.columns[name][rows.start : rows.stop]
        return matrix

    def _jagged(self, parts: Sequence[Rows]) -> KeyedJaggedTensor:
        """All sparse features; feature f of row b has its number of ids at `lengths[f * B + b]`."""
        B = sum(map(len, parts))
        slices = [[rows.columns[name][rows.start : rows.stop] for rows in parts] for name in self._sparse]
        flat = [column.flat if isinstance(column, ListView) else column for columns in slices for column in columns]
        values = self._empty(sum(map(len, flat)), dtype=torch.int64)
        target, position = values.numpy(), 0
        for ids in flat:
            target[position : position + len(ids)] = ids
            position += len(ids)
        lengths = self._empty(len(self._sparse) * B, dtype=torch.int32)
        counts = lengths.numpy()
        counts.fill(1)
        for feature, columns in enumerate(slices):
            for (first, rows), column in zip(_placed(parts), columns, strict=True):
                if isinstance(column, ListView):
                    counts[feature * B + first : feature * B + first + len(rows)] = column.lengths
        return KeyedJaggedTensor(keys=self._sparse, values=values, lengths=lengths, stride=B)

    def _extra(self, parts: Sequence[Rows]) -> Mapping[str, Tensor]:
        types = {
            name: torch.from_numpy(np.empty(0, numbers(parts[0].columns, name).dtype)).dtype for name in self._extras
        }
        return {name: self._column(parts, name, dtype) for name, dtype in types.items()}

    def _column(self, parts: Sequence[Rows], name: str, dtype: torch.dtype) -> Tensor:
        column = self._empty(sum(map(len, parts)), dtype=dtype)
        target = column.numpy()
        for first, rows in _placed(parts):
            target[first : first + len(rows)] = rows.columns[name][rows.start : rows.stop]
        return column

    def _empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        numbers_in_all = math.prod(shape)
        if self._pin or not numbers_in_all:
            return torch.empty(shape, dtype=dtype, pin_memory=self._pin)
        # Arrow's allocator keeps freed memory for the next batch; the C library gives blocks of this size back to the
        # system at once, and every new batch then pays for fresh pages (4 times the page faults, 5 % more CPU).
        return torch.frombuffer(pa.allocate_buffer(numbers_in_all * dtype.itemsize), dtype=dtype).view(shape)


def _placed(parts: Sequence[Rows]) -> list[tuple[int, Rows]]:
    """Each part with the position of its first row in the batch."""
    placed, first = [], 0
    for rows in parts:
        placed.append((first, rows))
        first += len(rows)
    return placed
