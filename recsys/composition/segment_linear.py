"""A linear map of the tower's vector beside the joined one, with a linear delta for every segment."""

import torch
from torch import Tensor, nn

from recsys.composition.branches import Composition
from recsys.composition.nested import NestedComposition
from recsys.composition.routing import RowsBySegment


class LinearDelta(nn.Module):
    """D t + d, starting at zero: by how much a segment's linear map differs from the shared one.

    Attributes:
        weight_decay: of D in the place of the training's, by AdamW; a segment's delta shrinks in the steps alone that
            have its rows, towards the shared map.
    """

    def __init__(self, input_width: int, output_width: int, weight_decay: float) -> None:
        super().__init__()
        self.weight_decay = weight_decay
        self.weight = nn.Parameter(torch.zeros(output_width, input_width))
        self.bias = nn.Parameter(torch.zeros(output_width))

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, tower_width) to (n, width)."""
        return nn.functional.linear(rows, self.weight, self.bias)


class SegmentLinearComposition(NestedComposition):
    """y = [x, A t + a + D_s t + d_s]: the inner composition's vector x, and beside it a linear map of the tower's t.

    A and a are shared. The deltas D_s and d_s start at zero and are held near it, so that a segment with few rows
    keeps the shared map.

    Source: the regularised deltas from a common model of Evgeniou and Pontil, "Regularized Multi-Task Learning" (KDD
    2004), eq. 2 and 3: w_s = w_0 + v_s, with a penalty on v_s. There it is an L2 term of the loss, here AdamW's decay.

    Args:
        width: of the linear map.
        delta_decay: weight decay of D_s.

    >>> from recsys.composition.branches import BranchProjection
    >>> from recsys.composition.parallel import ConcatJoin, ParallelComposition
    >>> inner = ParallelComposition(BranchProjection(tower_width=6, network_width=4, width=8), ConcatJoin(8))
    >>> SegmentLinearComposition(inner, 6, num_segments=3, width=4, delta_decay=0.1).output_width
    20
    """

    reads_tower = True

    def __init__(self, inner: Composition, tower_width: int, num_segments: int, width: int, delta_decay: float) -> None:
        shared = nn.Linear(tower_width, width)
        deltas = nn.ModuleList(LinearDelta(tower_width, width, delta_decay) for _ in range(num_segments))
        super().__init__(inner, inner.output_width + width, deltas)
        self.shared = shared

    def refine(self, joined: Tensor, tower: Tensor | None, by_segment: RowsBySegment) -> Tensor:
        """Map (B, W) and (B, tower_width) to (B, W + width), the inner composition's half first."""
        assert tower is not None
        return torch.cat([joined, self.shared(tower) + by_segment.apply(self.segments, tower)], dim=1)
