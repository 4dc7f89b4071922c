"""What a row reads out of a list of events: how they differ from what was expected, on the whole and where they matter.

Source of the weighting: kernel regression (Nadaraya, "On Estimating Regression", 1964) with a prior at zero, which is
target attention (Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018) that can say
"nothing relevant": the weights are exp(s) over a constant and their sum, where a softmax must add up to one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

# 1 and 10 minutes, 1 hour, 1, 7 and 30 days; in days.
_GAPS = (1 / 1440, 1 / 144, 1 / 24, 1.0, 7.0, 30.0)
_RANKS = (1, 2, 4, 8, 16, 32, 64)
# exp of more than this would drown all other events in rounding.
_LARGEST_SCORE = 10.0
# Beside it a key of length one is exact to 1e-6, and the gradient at a key of zeros, an unknown id's, stays small.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Events:
    """The events of a batch's B rows: jagged lists that agree element by element.

    Attributes:
        rows: (E,) int64, the row in the batch of each event.
        kept: (E,) float32, 1 for an event that is seen, 0 for one that is hidden in this step.
        values: (E, C) float32.
        num_rows: B.
        gaps: (E,) int64, the bucket of how long before (or after) the row each event was; None where no one knows.
        ranks: (E,) int64, the bucket of how many events of the row are newer.
    """

    rows: Tensor
    kept: Tensor
    values: Tensor
    num_rows: int
    gaps: Tensor | None
    ranks: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self) -> Tensor:
        """Return the number of each row's events that are seen, (B, 1)."""
        return self.sums(self.kept).unsqueeze(1)

    def sums(self, numbers: Tensor) -> Tensor:
        """Return the sum over each row's events, (B,) or (B, W), of numbers (E,) or (E, W)."""
        return numbers.new_zeros((self.num_rows, *numbers.shape[1:])).index_add(0, self.rows, numbers)


class EventBuckets(nn.Module):
    """Puts ages and ranks into buckets, whose edges lie where the events do."""

    gap_edges: Tensor
    rank_edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Buffers, so that they follow the module to its device; not persistent, as they are constants.
        self.register_buffer("gap_edges", torch.tensor(_GAPS), persistent=False)
        self.register_buffer("rank_edges", torch.tensor(_RANKS), persistent=False)

    def gaps(self, ages: Tensor) -> Tensor:
        """Return the bucket of each age in days, (E,) int64: seven of the past, then seven of the future."""
        return torch.bucketize(ages.abs(), self.gap_edges) + (len(_GAPS) + 1) * (ages < 0)

    def ranks(self, newer: Tensor) -> Tensor:
        """Return the bucket of each number of newer events, (E,) int64: 0, 1, 2-3, 4-7 up to 64 and more."""
        return torch.bucketize(newer, self.rank_edges, right=True)


class ContextBias(nn.Module):
    """b = sum V / (n + lambda), per value: by how much a row's events are above what was expected of them.

    With it the row is given log(1 + n), as a mean over few says less than one over many.

    Attributes:
        prior: (C,); lambda = softplus(prior).
    """

    def __init__(self, num_values: int, prior: float = 3.0) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.full((num_values,), prior))

    def forward(self, events: Events) -> tuple[Tensor, Tensor]:
        """Return (B, C) biases and (B, 1) log(1 + n)."""
        count = events.counts()
        total = events.sums(events.values * events.kept.unsqueeze(1))
        return total / (count + F.softplus(self.prior)), torch.log1p(count)


class EventKernel(nn.Module):
    """out = sum w V / (lambda + sum w), with w = exp(beta cos(k(row), k(event)) + bias(event) + gap + rank - 1).

    Beside it stands log(1 + sum w), which says how much there was to read.

    Args:
        sharpness: where beta starts; None for a kernel without keys, which weighs by gap and rank alone.
        num_values: C.
        has_gaps: whether the ages of the events are known.

    >>> rows, ranks = torch.tensor([0, 0]), torch.tensor([1, 0])
    >>> events = Events(rows, torch.ones(2), torch.tensor([[1.0], [-1.0]]), num_rows=2, gaps=None, ranks=ranks)
    >>> kernel = EventKernel(sharpness=None, num_values=1, has_gaps=False)
    >>> kernel(events, events.values, None, None, None).shape  # of a row without events both numbers are 0
    torch.Size([2, 2])
    """

    def __init__(self, sharpness: float | None, num_values: int, *, has_gaps: bool) -> None:
        super().__init__()
        self.sharpness = None if sharpness is None else nn.Parameter(torch.tensor(sharpness))
        self.prior = nn.Parameter(torch.tensor(1.0))
        self.gap = nn.Parameter(torch.zeros(2 * (len(_GAPS) + 1))) if has_gaps else None
        self.rank = nn.Parameter(torch.zeros(len(_RANKS) + 1))
        self.output_width = num_values + 1

    def forward(
        self, events: Events, values: Tensor, row_keys: Tensor | None, event_keys: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """Return (B, C + 1).

        Args:
            values: (E, C), what is averaged.
            row_keys: (B, D), and `event_keys`: (E, D); None for a kernel without keys.
            bias: (E,), how much each event counts whoever reads it; None for none.
        """
        scores = self.rank[events.ranks] - 1
        if self.gap is not None and events.gaps is not None:
            scores = scores + self.gap[events.gaps]
        if self.sharpness is not None and row_keys is not None and event_keys is not None:
            likeness = (_unit(row_keys).index_select(0, events.rows) * _unit(event_keys)).sum(dim=1)
            scores = scores + self.sharpness * likeness
        if bias is not None:
            scores = scores + bias
        weights = scores.clamp(max=_LARGEST_SCORE).exp() * events.kept
        read = events.sums(torch.cat([weights.unsqueeze(1) * values, weights.unsqueeze(1)], dim=1))  # (B, C + 1)
        total = read[:, -1:]
        return torch.cat([read[:, :-1] / (F.softplus(self.prior) + total), torch.log1p(total)], dim=1)


class EventProfile(nn.Module):
    """p = sum (a V) f / sqrt(n + lambda): a row's events as one vector, each by how it differed from what was expected.

    Source: the implicit part of Koren, "Factorization Meets the Neighborhood" (KDD 2008), equation 15, where the sum
    is over |N(u)|^-1/2; the constant keeps short lists short.
    """

    def __init__(self, num_values: int, prior: float = 5.0) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.tensor(prior))
        self.share = nn.Parameter(torch.full((num_values,), 1.0 / num_values))

    def forward(self, events: Events, values: Tensor, vectors: Tensor) -> Tensor:
        """Map values (E, C) and vectors (E, D) to (B, D)."""
        weights = (values @ self.share) * events.kept
        count = events.counts()
        return events.sums(weights.unsqueeze(1) * vectors) / (count + F.softplus(self.prior)).sqrt()


def _unit(keys: Tensor) -> Tensor:
    return keys * (keys.square().sum(dim=1, keepdim=True) + _EPSILON).rsqrt()
