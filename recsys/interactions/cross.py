"""Cross networks: explicit products of fields, one degree more with every layer.

Source: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems" (WWW 2021).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from recsys.interactions.crossing import Crossing

Gating = Literal["softmax", "sigmoid"]


class _Cross(Crossing):
    """x_{l+1} = x_0 * (linear_l(x_l)) + x_l, from x_0, the fields side by side."""

    def __init__(self, width: int, linears: list[nn.Module]) -> None:
        super().__init__(width)
        self.linears = nn.ModuleList(linears)

    def forward(self, fields: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F * D)."""
        first = crossed = fields.flatten(1)
        for linear in self.linears:
            # One pass over memory: first * linear(crossed) + crossed.
            crossed = torch.addcmul(crossed, first, linear(crossed))
        return crossed


class CrossNetwork(_Cross):
    """The full-rank cross network, equation 1: linear_l(x) = W_l x + b_l.

    >>> CrossNetwork(num_fields=3, dimension=4, num_layers=2).output_width
    12
    """

    def __init__(self, num_fields: int, dimension: int, num_layers: int) -> None:
        width = num_fields * dimension
        super().__init__(width, [nn.Linear(width, width) for _ in range(num_layers)])


class LowRankCrossNetwork(_Cross):
    """The low-rank cross network, equation 2: linear_l(x) = U_l (V_l^T x) + b_l, with U_l and V_l of `rank` columns.

    >>> LowRankCrossNetwork(num_fields=3, dimension=4, num_layers=2, rank=5).output_width
    12
    """

    def __init__(self, num_fields: int, dimension: int, num_layers: int, rank: int) -> None:
        width = num_fields * dimension
        # V first, without bias: equation 2 has one bias, outside of U.
        layers = [nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width)) for _ in range(num_layers)]
        super().__init__(width, list(layers))


class MixtureCrossNetwork(_Cross):
    """The mixture of low-rank crosses, equation 3: x_{l+1} = sum_i G_i(x_l) E_i(x_l) + x_l over `experts`.

    Expert i is E_i(x_l) = x_0 * (U_i (V_i^T x_l) + b_l), U_i and V_i of `rank` columns, with one bias a layer for all
    experts, so that each may find the crosses of another subspace. The gate's logits are linear in x_l, without a bias;
    `gating` says whether their softmax weighs the experts against one another, or their sigmoid each by itself.

    >>> MixtureCrossNetwork(num_fields=3, dimension=4, num_layers=2, experts=4, rank=5, gating="softmax").output_width
    12
    """

    def __init__(
        self, num_fields: int, dimension: int, num_layers: int, experts: int, rank: int, gating: Gating
    ) -> None:
        width = num_fields * dimension
        super().__init__(width, [_LowRankExperts(width, experts, rank, gating) for _ in range(num_layers)])


class _LowRankExperts(nn.Module):
    """sum_i G_i(x) (U_i (V_i^T x) + b), which equation 3 multiplies by x_0.

    U and V hold the experts' matrices side by side, so that a layer is two products however many experts there are.
    """

    def __init__(self, width: int, experts: int, rank: int, gating: Gating) -> None:
        super().__init__()
        self.v = nn.Linear(width, experts * rank, bias=False)
        self.u = nn.Linear(experts * rank, width)
        self.gate = nn.Linear(width, experts, bias=False)
        self._gating = gating

    def forward(self, rows: Tensor) -> Tensor:
        """Map (B, width) to (B, width)."""
        logits = self.gate(rows)
        gates = logits.softmax(dim=1) if self._gating == "softmax" else logits.sigmoid()  # (B, K)
        reduced = self.v(rows).unflatten(1, (gates.shape[1], -1)) * gates.unsqueeze(2)  # (B, K, rank)
        mixed = nn.functional.linear(reduced.flatten(1), self.u.weight)
        return torch.addcmul(mixed, gates.sum(dim=1, keepdim=True), self.u.bias)
