"""One expert that all segments share, and for every segment a residual expert that learns what is left."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.composition.branches import Composition
from recsys.composition.conditional import SegmentExpert
from recsys.composition.nested import NestedComposition
from recsys.composition.routing import RowsBySegment
from recsys.interactions.mlp import Mlp


class ResidualExpert(nn.Module):
    """r(x) = V h(x) + c with h the hidden layers, or of low rank V U x; V and c start at zero.

    A segment thus begins as the shared expert alone, and what it learns is only how it differs.

    Source of the low-rank form: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), section
    4.1, there beside a weight matrix, here beside a whole expert.

    Args:
        hidden_widths: of h; read where there is no rank.
        rank: of V U; None for hidden layers.
    """

    def __init__(self, width: int, hidden_widths: Sequence[int], rank: int | None) -> None:
        super().__init__()
        self.hidden: nn.Module = nn.Linear(width, rank, bias=False) if rank else Mlp(width, hidden_widths, dropout=0.0)
        self.output = nn.Linear(rank or [width, *hidden_widths][-1], width, bias=not rank)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, W) to (n, W)."""
        return self.output(self.hidden(rows))


class SharedResidualComposition(NestedComposition):
    """y = x + f(x) + r_s(x): the vector x of the inner composition, a shared expert f and the segment's residual r_s.

    f learns from every row, so a small segment lacks nothing that the others know; r_s starts at zero.

    Source: the shared and the specific experts of Tang et al., "Progressive Layered Extraction (PLE)" (RecSys 2020),
    section 4.1, with segments for tasks; there a gate mixes them, here they are added, as in the shared and domain
    towers of Sheng et al. (STAR, CIKM 2021) their weights are joined.

    >>> from recsys.composition.branches import BranchProjection
    >>> from recsys.composition.parallel import ConcatJoin, ParallelComposition
    >>> inner = ParallelComposition(BranchProjection(tower_width=6, network_width=4, width=8), ConcatJoin(8))
    >>> SharedResidualComposition(inner, num_segments=3, expert_hidden=[16], rank=2).output_width
    16
    """

    def __init__(self, inner: Composition, num_segments: int, expert_hidden: Sequence[int], rank: int | None) -> None:
        width = inner.output_width
        shared = SegmentExpert(width, expert_hidden)
        residuals = nn.ModuleList(ResidualExpert(width, expert_hidden, rank) for _ in range(num_segments))
        super().__init__(inner, width, residuals)
        self.shared = shared

    def refine(self, joined: Tensor, tower: Tensor | None, by_segment: RowsBySegment) -> Tensor:
        """Map (B, W) to (B, W)."""
        return self.shared(joined) + by_segment.apply(self.segments, joined)
