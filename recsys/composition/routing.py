"""Rows sorted by segment, split, each part through its segment's own module, and put back in order."""

from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor


class RowsBySegment:
    """Which rows of a batch are of which segment, from one sort of its segments; waits for no device.

    Args:
        segment: (B,) int64, each in [0, S).
        counts: rows of each of the S segments, as `Batch.counts_by_segment` returns them.

    >>> from torch import nn
    >>> scales = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    >>> for scale, factor in zip(scales, [10.0, 100.0]): _ = nn.init.constant_(scale.weight, factor)
    >>> rows = RowsBySegment(torch.tensor([1, 0, 1]), counts=[1, 2])
    >>> rows.apply(scales, torch.tensor([[1.0], [2.0], [3.0]])).flatten().tolist()
    [100.0, 20.0, 300.0]
    >>> rows.of([1]).tolist()
    [0, 2]
    """

    def __init__(self, segment: Tensor, counts: Sequence[int]) -> None:
        self._counts = list(counts)
        # Stable, so that the rows of one segment stay in the batch's order.
        self._order = segment.argsort(stable=True)  # (B,)

    def of(self, segments: Collection[int]) -> Tensor:
        """Return the positions of all rows of some segments, (n,) int64 and ascending."""
        parts = [rows for segment, rows in enumerate(self._order.split(self._counts)) if segment in segments]
        # One segment's rows ascend as they are.
        return parts[0] if len(parts) == 1 else torch.cat([self._order[:0], *parts]).sort().values

    def apply(self, modules: Iterable[Callable[[Tensor], Tensor]], rows: Tensor) -> Tensor:
        """Pass every row through the module of its segment; the module of an absent segment is not called.

        Not called means no gradient at all, rather than a zero one, by which momentum and weight decay would still move
        the module. Sorting and splitting is also the fastest way: masking or padding computes S times the rows.

        Args:
            modules: one per segment, each mapping (n, ...) to (n, ...) of the same output shape.
            rows: (B, ...).

        Returns:
            (B, ...), in the order of `rows`.
        """
        parts = rows.index_select(0, self._order).split(self._counts)
        passed = [module(part) for module, part in zip(modules, parts, strict=True) if len(part)]
        places = torch.empty_like(self._order)
        places[self._order] = torch.arange(len(places), device=places.device)
        return torch.cat(passed).index_select(0, places)
