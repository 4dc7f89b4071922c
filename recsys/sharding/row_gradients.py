"""The exact gradient of a table's rows, from what its kernel looked up and the gradient at the kernel's output.

A row's gradient is the sum over all its lookups, each weighted as the pooling weighted it. Lookups are therefore sorted
by row and summed by segment before anything is squared: two lookups of one row with gradients a and b count as
|a + b|, and not as the root of |a|^2 + |b|^2.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import Tensor

from recsys.sharding.inventory import FusedKernel


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


def squared_norms(kernel: FusedKernel, lookups: Sequence[Lookup]) -> Tensor:
    """Return the squared norm of the summed gradient of each of the kernel's table pieces, (tables,) float64.

    The gradients are those in the lookups' leaves, none of which is None.
    """
    gradients = [[lookup.leaf.grad] for lookup in lookups if lookup.leaf.grad is not None]
    first_key = _first_keys(kernel, lookups[0].leaf.device)
    # In float64: the squares of millions of small float32 numbers would lose the smallest of them.
    norms = torch.zeros(len(kernel.tables), dtype=torch.float64, device=first_key.device)
    for features in _features_of_one_width(kernel):
        keys, sums = _sum_by_row([_row_parts(kernel, *each, features) for each in zip(lookups, gradients, strict=True)])
        squares = torch.linalg.vector_norm(sums, dim=1, dtype=torch.float64).square()
        norms.index_add_(0, torch.searchsorted(first_key, keys, right=True) - 1, squares)
    return norms


def inner_products(kernel: FusedKernel, lookups: Sequence[Lookup], gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the inner products of S gradients of the kernel's table pieces with each other, (S, S) float64.

    Args:
        gradients: for each lookup, the S gradients at its output.
    """
    count = len(gradients[0])
    products = torch.zeros(count, count, dtype=torch.float64, device=lookups[0].leaf.device)
    for features in _features_of_one_width(kernel):
        _, sums = _sum_by_row([_row_parts(kernel, *each, features) for each in zip(lookups, gradients, strict=True)])
        by_gradient = sums.view(len(sums), count, -1).transpose(0, 1).reshape(count, -1).double()
        products += by_gradient @ by_gradient.T
    return products


def _features_of_one_width(kernel: FusedKernel) -> list[list[int]]:
    """Group the kernel's features by the width of their tables."""
    widths = [spec[1] for spec in kernel.module.embedding_specs]
    groups: dict[int, list[int]] = {}
    for feature, table in enumerate(kernel.module.feature_table_map):
        groups.setdefault(widths[table], []).append(feature)
    return list(groups.values())


def _first_keys(kernel: FusedKernel, device: torch.device) -> Tensor:
    """Return the key of each table's row 0, counted through all tables of the kernel: (tables + 1,)."""
    rows = [spec[0] for spec in kernel.module.embedding_specs]
    # Half as wide where they fit, because sorting them is the greatest cost of a norm.
    dtype = torch.int32 if sum(rows) < 2**31 else torch.int64
    return torch.tensor([0, *rows], device=device).cumsum(0).to(dtype)


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


def _row_parts(kernel: FusedKernel, lookup: Lookup, gradients: Sequence[Tensor], features: list[int]) -> _RowParts:
    """Return the parts of one forward pass that fall to `features`, all of one width, for each of the S gradients."""
    table_of_feature = kernel.module.feature_table_map
    num_features, num_rows = len(table_of_feature), lookup.leaf.shape[0]
    device = lookup.leaf.device
    lengths = lookup.offsets.diff()  # (T * B,)
    bag = torch.repeat_interleave(
        torch.arange(num_features * num_rows, device=device), lengths, output_size=lookup.indices.numel()
    )
    feature = torch.div(bag, max(1, num_rows), rounding_mode="floor")
    first_keys = _first_keys(kernel, device)[torch.tensor(table_of_feature, device=device)]
    keys = first_keys[feature] + lookup.indices.to(first_keys.dtype)
    scale = lookup.weights
    if kernel.module.pooling_mode == PoolingMode.MEAN:
        assert scale is None  # `weighted_mean.py`: the kernels' own mean of weighted ids is no function's gradient
        scale = lengths.to(torch.float32).reciprocal()[bag]
    if len(features) == num_features:
        # (B, T * D) seen as (B * T, D): bag (t, b) is its row b * T + t.
        each = [gradient.reshape(num_rows * num_features, -1) for gradient in gradients]
        return _RowParts(keys, (bag - feature * num_rows) * num_features + feature, scale, _side_by_side(each))
    starts = kernel.module.D_offsets.tolist()
    each = [torch.cat([gradient[:, starts[f] : starts[f + 1]] for f in features]) for gradient in gradients]
    position = torch.full((num_features,), -1, device=device)
    position[features] = torch.arange(len(features), device=device)
    chosen = position[feature] >= 0
    bags = (bag - feature * num_rows) + position[feature] * num_rows
    chosen_scale = None if scale is None else scale[chosen]
    return _RowParts(keys[chosen], bags[chosen], chosen_scale, _side_by_side(each))


def _side_by_side(gradients: list[Tensor]) -> Tensor:
    return gradients[0] if len(gradients) == 1 else torch.cat(gradients, dim=1)


def _sum_by_row(parts: list[_RowParts]) -> tuple[Tensor, Tensor]:
    """Sum the parts by row; return the distinct keys and each row's gradients, (rows, S * width)."""
    part = parts[0] if len(parts) == 1 else _joined(parts)
    # Equal keys side by side, so that each row's lookups are one segment.
    keys, order = part.keys.sort()
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = is_first.nonzero().squeeze(1)
    scale = None if part.scale is None else part.scale[order]
    # A segment sum without writing out one gradient row per lookup: an embedding bag whose "table" is the gradients.
    sums = F.embedding_bag(part.bags[order], part.bag_gradients, starts, mode="sum", per_sample_weights=scale)
    return keys[starts], sums


def _joined(parts: list[_RowParts]) -> _RowParts:
    """Return the parts of several forward passes as those of one."""
    first_bags = itertools.accumulate((part.bag_gradients.shape[0] for part in parts), initial=0)
    return _RowParts(
        torch.cat([part.keys for part in parts]),
        torch.cat([part.bags + first for part, first in zip(parts, first_bags, strict=False)]),
        None if parts[0].scale is None else torch.cat([part.scale for part in parts if part.scale is not None]),
        torch.cat([part.bag_gradients for part in parts]),
    )
