"""Members: several heads in one, which share their large matrices and differ by vectors of their own.

Source: Wen, Tran and Ba, "BatchEnsemble" (ICLR 2020), equation 4; as a head on tables, with the start that keeps the
members together, Gorishniy et al., "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling" (ICLR
2025), section 3.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Member(nn.Module):
    """What one member has of its own: per hidden layer three vectors, and an output layer.

    The first layer's `input_scale` starts at random signs, so that members learn from different views of a row; every
    other scale starts at 1 and every shift at 0.
    """

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        layers = list(pairwise(widths))
        self.input_scales = nn.ParameterList(torch.ones(before) for before, _ in layers)
        self.output_scales = nn.ParameterList(torch.ones(after) for _, after in layers)
        self.shifts = nn.ParameterList(torch.zeros(after) for _, after in layers)
        self.output = nn.Linear(widths[-1], outputs)
        with torch.no_grad():
            self.input_scales[0].bernoulli_(0.5).mul_(2).sub_(1)

    def forward(self) -> list[Tensor]:
        """Return the input scales, output scales and shifts by layer, then the output's weight (T, D) and bias (T,)."""
        return [*self.input_scales, *self.output_scales, *self.shifts, self.output.weight, self.output.bias]


class MemberMlp(nn.Module):
    """Layers of linear, ReLU and dropout whose matrices all members share.

    Member m maps x to s_m * (W (r_m * x)) + c + b_m, where W and c are shared and r_m, s_m and b_m are its own. Its
    scales are multiplied into the matrix, which is small beside a batch: the first layer is one product of the batch
    with the members' matrices side by side, every other one a batched product.

    >>> members = [Member([6, 4, 3], outputs=1) for _ in range(5)]
    >>> stacked = [torch.stack(each) for each in zip(*(member() for member in members), strict=True)]
    >>> MemberMlp(6, [4, 3], dropout=0.0)(torch.zeros(2, 6), stacked[:6]).shape
    torch.Size([2, 5, 3])
    """

    def __init__(self, input_width: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise([input_width, *widths]))
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.output_width = widths[-1]

    def forward(self, rows: Tensor, own: Sequence[Tensor]) -> Tensor:
        """Map rows through every member.

        Args:
            rows: (B, input_width).
            own: for L layers the L input scales, L output scales and L shifts of the members, (M, D) each.

        Returns:
            (B, M, output_width).
        """
        count, hidden = len(self.layers), rows
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            scale_in, scale_out, shift = own[number::count]
            weight = layer.weight * scale_in.unsqueeze(1) * scale_out.unsqueeze(2)  # (M, D, D of the layer before)
            bias = layer.bias + shift
            if number == 0:
                mapped = F.linear(hidden, weight.flatten(0, 1), bias.flatten()).view(len(rows), *bias.shape)
            else:
                mapped = member_outputs(hidden, weight, bias)
            hidden = mapped.relu() if self.dropout is None else self.dropout(mapped.relu())
        return hidden


def member_outputs(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a linear layer of each member makes of its own vectors, (B, M, T).

    Args:
        hidden: (B, M, D).
        weight: (M, T, D); bias: (M, T).
    """
    return torch.baddbmm(bias.unsqueeze(1), hidden.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
