"""The exact gradient of a table's rows, from what its kernel looked up and the gradient at the kernel's output.

A row's gradient is the sum over all its lookups, each weighted as the pooling weighted it. Lookups are therefore sorted
by row and summed by segment before anything is squared: two lookups of one row with gradients a and b count as
|a + b|, and not as the root of |a|^2 + |b|^2.

On a GPU the host never asks how many different rows there are, for which it would wait: there are as many segments as
lookups, and those that are left over are empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F  # noqa: N812
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import Tensor

from recsys.sharding.inventory import FusedKernel
from recsys.sharding.processes import reads_without_waiting


@dataclass(frozen=True)
class Lookup:
    """One forward pass of one kernel: T features of B rows each.

    Attributes:
        indices: row ids, feature by feature.
        offsets: (T * B + 1,), where each bag begins in `indices`.
        weights: one per id, or None.
        output: (B, all widths), still joined to the kernel.
        leaf: the same numbers, from which the rest of the model's graph begins.
    """

    indices: Tensor
    offsets: Tensor
    weights: Tensor | None
    output: Tensor
    leaf: Tensor


class KernelRows:
    """The rows of one kernel's tables, numbered through all of them, and the gradients that they get.

    What it takes of the kernel is read once and kept on its device.
    """

    def __init__(self, kernel: FusedKernel) -> None:
        module = kernel.module
        rows, widths = ([spec[side] for spec in module.embedding_specs] for side in (0, 1))
        table_of_feature = module.feature_table_map
        self._widths = [widths[table] for table in table_of_feature]
        self._num_tables = len(kernel.tables)
        self._is_mean = module.pooling_mode == PoolingMode.MEAN
        device = module.D_offsets.device
        # Half as wide where they fit, because sorting them is the greatest cost of a norm.
        dtype = torch.int32 if sum(rows) < 2**31 else torch.int64
        # The key of each table's row 0, (tables + 1,), and of that which each feature looks up, (T,).
        self._first_keys = torch.tensor([0, *rows]).cumsum(0).to(device, dtype)
        self._first_key_of_feature = self._first_keys[torch.tensor(table_of_feature, device=device)]

    def squared_norms(self, lookups: Sequence[Lookup]) -> Tensor:
        """Return the squared norm of the summed gradient of each of the kernel's table pieces, (tables,) float64.

        The gradients are those in the lookups' leaves, none of which is None.
        """
        gradients = [[lookup.leaf.grad] for lookup in lookups if lookup.leaf.grad is not None]
        keys, sums = self._sums_by_row(lookups, gradients)
        # In float64: the squares of millions of small float32 numbers would lose the smallest of them.
        squares = torch.linalg.vector_norm(sums, dim=1, dtype=torch.float64).square()
        norms = squares.new_zeros(self._num_tables)
        return norms.index_add_(0, torch.searchsorted(self._first_keys, keys, right=True) - 1, squares)

    def inner_products(self, lookups: Sequence[Lookup], gradients: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return the inner products of S gradients of the kernel's table pieces with each other, (S, S) float64.

        Args:
            gradients: for each lookup, the S gradients at its output.
        """
        count = len(gradients[0])
        _, sums = self._sums_by_row(lookups, gradients)
        by_gradient = sums.view(len(sums), count, -1).transpose(0, 1).reshape(count, -1).double()
        return by_gradient @ by_gradient.T

    def _sums_by_row(self, lookups: Sequence[Lookup], gradients: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        """Sum the gradients by row: return keys (n,) and the summed gradients of their rows, (n, S * width).

        n is at most the number of ids that were looked up. Each key that was looked up has its sum once; what is left
        over of the n repeats a key with a sum of zeros.
        """
        parts = [self._parts(lookup, own) for lookup, own in zip(lookups, gradients, strict=True)]
        part = parts[0] if len(parts) == 1 else _joined(parts)
        # Equal keys side by side, so that each row's lookups are one segment.
        keys, order = part.keys.sort()
        starts = _segment_starts(keys)
        if reads_without_waiting(keys.device):
            starts = starts[starts < len(keys)]  # ids repeat, and summing nothing takes as long as summing something
        scale = None if part.scale is None else part.scale[order]
        # A segment sum without writing out a gradient row per lookup: an embedding bag whose "table" is the gradients.
        sums = F.embedding_bag(part.bags[order], part.bag_gradients, starts, mode="sum", per_sample_weights=scale)
        return keys[starts.clamp(max=max(0, len(keys) - 1))], sums

    def _parts(self, lookup: Lookup, gradients: Sequence[Tensor]) -> "_RowParts":
        """Return the parts of one forward pass, for each of the S gradients."""
        num_features, num_rows = len(self._widths), lookup.leaf.shape[0]
        lengths = lookup.offsets.diff()  # (T * B,)
        bag = torch.repeat_interleave(
            torch.arange(num_features * num_rows, device=lengths.device), lengths, output_size=lookup.indices.numel()
        )
        feature = torch.div(bag, max(1, num_rows), rounding_mode="floor")
        keys = self._first_key_of_feature[feature] + lookup.indices.to(self._first_keys.dtype)
        scale = lookup.weights
        if self._is_mean:
            assert scale is None  # `weighted_mean.py`: the kernels' own mean of weighted ids is no function's gradient
            scale = lengths.to(torch.float32).reciprocal()[bag]
        # Bag (t, b) is row b * T + t of the gradients.
        bags = (bag - feature * num_rows) * num_features + feature
        return _RowParts(keys, bags, scale, torch.cat([self._by_bag(own) for own in gradients], dim=1))

    def _by_bag(self, gradient: Tensor) -> Tensor:
        """See (B, sum of the features' widths) as (B * T, width); narrower features are filled with zeros."""
        width = max(self._widths)
        if any(own != width for own in self._widths):
            columns = [F.pad(own, (0, width - own.shape[1])) for own in gradient.split(self._widths, dim=1)]
            gradient = torch.cat(columns, dim=1)
        return gradient.reshape(gradient.shape[0] * len(self._widths), width)


@dataclass(frozen=True)
class _RowParts:
    """What each looked-up id adds to its row's gradients: `scale * bag_gradients[bag]`.

    Attributes:
        keys: (ids,) which row, counted through all tables of the kernel.
        bags: (ids,).
        scale: (ids,), or None for 1.
        bag_gradients: (bags, S * width).
    """

    keys: Tensor
    bags: Tensor
    scale: Tensor | None
    bag_gradients: Tensor


def _segment_starts(keys: Tensor) -> Tensor:
    """Return where each run of equal keys begins, (n,) int64; n itself for what is left over.

    >>> _segment_starts(torch.tensor([3, 3, 5, 8, 8])).tolist()
    [0, 2, 3, 5, 5]
    """
    n = len(keys)
    is_first = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=is_first[1:])
    # Each beginning goes to the place of its run's number, and every other position to a place behind the last.
    place = torch.where(is_first, is_first.cumsum(0) - 1, n)
    starts = torch.full((n + 1,), n, device=keys.device)
    return starts.scatter_(0, place, torch.arange(n, device=keys.device))[:n]


def _joined(parts: list[_RowParts]) -> _RowParts:
    """Return the parts of several forward passes as those of one."""
    first_bags = accumulate((part.bag_gradients.shape[0] for part in parts), initial=0)
    return _RowParts(
        torch.cat([part.keys for part in parts]),
        torch.cat([part.bags + first for part, first in zip(parts, first_bags, strict=False)]),
        None if parts[0].scale is None else torch.cat([part.scale for part in parts if part.scale is not None]),
        torch.cat([part.bag_gradients for part in parts]),
    )
