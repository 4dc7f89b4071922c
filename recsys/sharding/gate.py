"""A gate between the backward pass and the update of the fused tables.

A fused kernel updates its rows as soon as the gradient reaches its output. The gate cuts the graph there: the loss's
backward pass ends at the tables' outputs, the gradients can be looked at (their norm, whether they are finite), and
then the update is let through, scaled or not at all.

The norm is exact. The gradient of a row is the sum over all lookups of that row, weighted as the pooling weighted them,
so lookups are sorted by row and summed by segment before anything is squared. With several processes the gradient at a
kernel's output already holds every process's rows, divided by the number of processes: sums of squares add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import Tensor, nn

from recsys.sharding.fused import FusedKernel, fused_kernels


@dataclass(frozen=True)
class _Lookup:
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


class TableGate:
    """Holds back the update of every fused table under a module until `release` or `discard`.

    It stays in place until `close`. A backward pass that is neither released nor discarded before the next one is held
    too: the updates of both are then released together, and the norm is that of their summed gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        self._kernels = fused_kernels(module)
        self._lookups: list[list[_Lookup]] = [[] for _ in self._kernels]
        self._hooks = [
            kernel.module.register_forward_hook(_CutGraph(lookups), with_kwargs=True)
            for kernel, lookups in zip(self._kernels, self._lookups, strict=True)
        ]

    def gradients(self) -> list[Tensor]:
        """Return the gradients at the tables' outputs, one per kernel and forward pass that the loss depends on."""
        return [lookup.leaf.grad for lookups in self._lookups for lookup in lookups if lookup.leaf.grad is not None]

    def squared_norms(self) -> dict[str, Tensor]:
        """Return the squared L2 norm of each table's gradient, as far as this process holds the table.

        float64 scalars by table name; a table that no kernel of this process holds, or whose kernel the loss does not
        reach, is left out.
        """
        norms: dict[str, Tensor] = {}
        for kernel, lookups in zip(self._kernels, self._lookups, strict=True):
            reached = [lookup for lookup in lookups if lookup.leaf.grad is not None]
            if reached:
                # Two pieces of one table (column-wise sharding) may lie in one kernel: their squares add up.
                for name, squared in zip(kernel.tables, _squared_norms(kernel, reached).unbind(), strict=True):
                    norms[name] = norms[name] + squared if name in norms else squared
        return norms

    def release(self, keep: Tensor, scale: Tensor | None = None) -> None:
        """Let the held updates through, their gradients times `scale`, or withhold them where `keep` is false.

        Args:
            keep: () bool. On a GPU it is not read by the host: withheld updates are made with zero gradients, which
                leave rows and accumulators as they are.
            scale: () float, or None for 1.
        """
        if keep.device.type == "cpu" and not keep:
            self.discard()
            return
        outputs = [lookup.output for lookups in self._lookups for lookup in lookups if lookup.leaf.grad is not None]
        gradients = self.gradients()
        if scale is not None:
            gradients = [gradient * scale.to(gradient.dtype) for gradient in gradients]
        if keep.device.type != "cpu":
            gradients = [torch.where(keep, gradient, 0.0) for gradient in gradients]
        if outputs:
            torch.autograd.backward(outputs, gradients)
        self.discard()

    def discard(self) -> None:
        """Drop the held updates: no table moves."""
        for lookups in self._lookups:
            lookups.clear()

    def close(self) -> None:
        """Take the gate away: from now on tables update inside the backward pass again."""
        self.discard()
        for hook in self._hooks:
            hook.remove()


class _CutGraph:
    """Forward hook of a kernel: the model goes on from a detached copy of the output."""

    def __init__(self, lookups: list[_Lookup]) -> None:
        self._lookups = lookups

    def __call__(self, kernel: nn.Module, arguments: tuple, keywords: dict[str, Any], output: Tensor) -> Tensor | None:
        if not output.requires_grad:  # evaluation, or a frozen part: there is no graph to cut
            return None
        leaf = output.detach().requires_grad_()
        weights = keywords["per_sample_weights"]
        detached = None if weights is None else weights.detach()
        self._lookups.append(_Lookup(keywords["indices"], keywords["offsets"], detached, output, leaf))
        return leaf


def _squared_norms(kernel: FusedKernel, lookups: Sequence[_Lookup]) -> Tensor:
    """Return the squared norm of the summed gradient of each of the kernel's table pieces, (tables,) float64."""
    device = lookups[0].leaf.device
    table_of_feature = kernel.module.feature_table_map
    rows = [spec[0] for spec in kernel.module.embedding_specs]
    widths = [spec[1] for spec in kernel.module.embedding_specs]
    first_key = torch.tensor([0, *rows], device=device).cumsum(0)  # (tables + 1,)
    norms = torch.zeros(len(rows), dtype=torch.float64, device=device)
    for width in dict.fromkeys(widths):
        features = [feature for feature, table in enumerate(table_of_feature) if widths[table] == width]
        if not features:
            continue
        parts = [_row_parts(kernel, lookup, features, first_key) for lookup in lookups]
        keys, squares = _sum_by_row(parts)
        norms.index_add_(0, torch.searchsorted(first_key, keys, right=True) - 1, squares)
    return norms


@dataclass(frozen=True)
class _RowParts:
    """What each looked-up id adds to its row's gradient: `scale * bag_gradients[bag]`."""

    keys: Tensor  # (ids,) which row, counted through all tables of the kernel
    bags: Tensor  # (ids,)
    scale: Tensor | None  # (ids,)
    bag_gradients: Tensor  # (bags, width)


def _row_parts(kernel: FusedKernel, lookup: _Lookup, features: list[int], first_key: Tensor) -> _RowParts:
    """Return the parts of one forward pass that fall to `features`, all of one width."""
    table_of_feature = kernel.module.feature_table_map
    num_features, num_rows = len(table_of_feature), lookup.leaf.shape[0]
    device = lookup.leaf.device
    lengths = lookup.offsets.diff()  # (T * B,)
    bag = torch.repeat_interleave(
        torch.arange(num_features * num_rows, device=device), lengths, output_size=lookup.indices.numel()
    )
    feature = torch.div(bag, num_rows, rounding_mode="floor")
    keys = first_key[torch.tensor(table_of_feature, device=device)][feature] + lookup.indices
    scale = lookup.weights
    if kernel.module.pooling_mode == PoolingMode.MEAN:
        inverse = lengths.to(torch.float32).reciprocal()[bag]
        scale = inverse if scale is None else scale * inverse
    gradient = lookup.leaf.grad
    assert gradient is not None
    if len(features) == num_features:
        # (B, T * D) seen as (B * T, D): bag (t, b) is its row b * T + t.
        bag_gradients = gradient.reshape(num_rows * num_features, -1)
        return _RowParts(keys, (bag - feature * num_rows) * num_features + feature, scale, bag_gradients)
    starts = kernel.module.D_offsets.tolist()
    columns = [gradient[:, starts[feature] : starts[feature + 1]] for feature in features]
    position = torch.full((num_features,), -1, device=device)
    position[features] = torch.arange(len(features), device=device)
    chosen = position[feature] >= 0
    bags = (bag - feature * num_rows) + position[feature] * num_rows
    chosen_scale = None if scale is None else scale[chosen]
    return _RowParts(keys[chosen], bags[chosen], chosen_scale, torch.cat(columns))


def _sum_by_row(parts: list[_RowParts]) -> tuple[Tensor, Tensor]:
    """Sum the parts by row and return the distinct keys and the squared norm of each row's gradient (float64)."""
    first_bag = 0
    bags = []
    for part in parts:
        bags.append(part.bags + first_bag)
        first_bag += part.bag_gradients.shape[0]
    keys, order = torch.cat([part.keys for part in parts]).sort()
    scales = None
    if parts[0].scale is not None:
        scales = torch.cat([part.scale for part in parts if part.scale is not None])[order]
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = is_first.nonzero().squeeze(1)
    gradients = parts[0].bag_gradients if len(parts) == 1 else torch.cat([part.bag_gradients for part in parts])
    # A segment sum without writing out one gradient row per lookup: an embedding bag whose "table" is the gradients.
    sums = F.embedding_bag(torch.cat(bags)[order], gradients, starts, mode="sum", per_sample_weights=scales)
    return keys[starts], torch.linalg.vector_norm(sums, dim=1, dtype=torch.float64).square()
