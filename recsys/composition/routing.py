"""Rows sorted by segment, split, each part through its segment's own module, and put back in order."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def apply_by_segment(modules: Iterable[nn.Module], rows: Tensor, segment: Tensor) -> Tensor:
    """Pass every row through the module of its segment; the module of an absent segment is not called.

    Not called means no gradient at all, rather than a zero one, by which momentum and weight decay would still move the
    module. Sorting and splitting is also the fastest way: masking or padding computes S times the rows.

    Args:
        modules: one per segment, each mapping (n, ...) to (n, ...) of the same output shape.
        rows: (B, ...).
        segment: (B,) int64, each in [0, S).

    Returns:
        (B, ...), in the order of `rows`.

    >>> scales = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    >>> for scale, factor in zip(scales, [10.0, 100.0]): _ = nn.init.constant_(scale.weight, factor)
    >>> rows, segment = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 0, 1])
    >>> apply_by_segment(scales, rows, segment).flatten().tolist()
    [100.0, 20.0, 300.0]
    """
    experts = list(modules)
    # The host must know how many rows each module gets: on a GPU this is the forward pass's one wait.
    counts = torch.bincount(segment, minlength=len(experts)).tolist()
    order = segment.argsort(stable=True)
    parts = rows.index_select(0, order).split(counts)
    passed = [expert(part) for expert, part in zip(experts, parts, strict=True) if len(part)]
    return torch.cat(passed).index_select(0, order.argsort())
