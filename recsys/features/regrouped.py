"""Vectors out of what a collection of tables returns, by the names of their features."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.modules.regroup import KTRegroupAsDict
from torchrec.sparse.jagged_tensor import KeyedTensor


class Regrouping:
    """Puts the vectors of named features side by side, group by group.

    By name, because a sharded collection returns its keys in the order of its plan, not of its configuration. On a GPU
    by one kernel, which keeps on the device how an order is brought into groups, for each order that comes: that of a
    plain collection, say, and of the same one when it has been sharded. On a CPU, where that kernel takes some 40 times
    as long, by a concatenation. It is no module, and so no part of a model's state.

    Args:
        groups: the names of the features of each group.

    >>> pooled = KeyedTensor(["a", "b", "c"], [1, 1, 2], torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    >>> [group.tolist() for group in Regrouping([["c", "a"], ["b"]])(pooled)]
    [[[3.0, 4.0, 1.0]], [[2.0]]]
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._groups = [list(group) for group in groups]
        self._known: dict[tuple[tuple[str, ...], torch.device], KTRegroupAsDict] = {}

    def __call__(self, pooled: KeyedTensor) -> list[Tensor]:
        """Return, per group, (B, sum of its features' widths)."""
        return self.in_one_kernel(pooled) if pooled.values().is_cuda else self._concatenated(pooled)

    def in_one_kernel(self, pooled: KeyedTensor) -> list[Tensor]:
        """Return, per group, (B, sum of its features' widths): what a call does on a GPU."""
        came = tuple(pooled.keys()), pooled.values().device
        if (regroup := self._known.get(came)) is None:
            regroup = KTRegroupAsDict(self._groups, [str(number) for number in range(len(self._groups))])
            self._known[came] = regroup
        return list(regroup([pooled]).values())

    def _concatenated(self, pooled: KeyedTensor) -> list[Tensor]:
        vectors = dict(zip(pooled.keys(), pooled.values().split(pooled.length_per_key(), dim=1), strict=True))
        return [torch.cat([vectors[name] for name in group], dim=1) for group in self._groups]
