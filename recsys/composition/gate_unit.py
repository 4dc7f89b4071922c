"""What EPNet and PPNet are made of: a gate between 0 and 2 for every number of a vector, and the segment's prior."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class SegmentPrior(nn.Module):
    """One segment's vector, by which the gates tell its rows from others'.

    A parameter of its own, and no row of a table of all: what belongs to an absent segment is then in no graph.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Map n rows of any shape, of which nothing is read, to (n, P)."""
        return self.vector.expand(len(rows), -1)


class GateUnit(nn.Module):
    """2 sigmoid(W' ReLU(W [p, stop(x)] + b) + b'): a gate for each of some numbers, from a prior p and a vector x.

    1 leaves a number as it is, 0 takes it away, 2 doubles it. x is read without its gradient: what the gate says of it
    must not change what it is; a composition declares this under `without_gradient`.

    Source: the Gate NU of Chang et al., "PEPNet: Parameter and Embedding Personalized Network for Infusing with
    Personalized Prior Information" (KDD 2023), section 3.2, eq. 1 and 2 with gamma = 2. W' and b' start at zero, which
    the paper does not say: every gate starts at 1, and the ranker as the one without gates.

    >>> unit = GateUnit(prior_width=3, input_width=4, hidden_width=5, output_width=2)
    >>> unit(torch.randn(1, 3), torch.randn(1, 4)).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, prior_width: int, input_width: int, hidden_width: int, output_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(prior_width + input_width, hidden_width)
        self.output = nn.Linear(hidden_width, output_width)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, prior: Tensor, rows: Tensor) -> Tensor:
        """Return the gates of every row.

        Args:
            prior: (B, P).
            rows: (B, W), read without their gradient.

        Returns:
            (B, output_width), each between 0 and 2.
        """
        hidden = torch.relu(self.hidden(torch.cat([prior, rows.detach()], dim=1)))
        return 2 * torch.sigmoid(self.output(hidden))


def mean_gates(gates: Tensor, columns: Mapping[str, slice]) -> dict[str, Tensor]:
    """Return each row's mean gate of every branch, (B,) each.

    Args:
        gates: (B, W).
        columns: branch -> its columns; where there are none the mean is over all of them, under "joined".
    """
    return {branch: gates[:, own].mean(dim=1) for branch, own in (columns or {"joined": slice(None)}).items()}
