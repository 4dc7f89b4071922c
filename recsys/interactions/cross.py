"""Cross networks: explicit products of fields, one degree more with every layer.

Source: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems" (WWW 2021).
"""

import torch
from torch import Tensor, nn

from recsys.interactions.crossing import Crossing


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
