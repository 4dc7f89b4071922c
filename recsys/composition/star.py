"""STAR: layers whose weights are the product of what all segments share and of what the row's segment has."""

import itertools
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from recsys.composition.branches import Composition
from recsys.composition.nested import NestedComposition
from recsys.composition.routing import RowsBySegment


class SegmentFactors(nn.Module):
    """One segment's factors on the shared weights, and its additions to the shared biases, layer by layer.

    They start at 1 and 0, where every segment is the shared network. No weight decay pulls at the factors: at zero
    they would silence the shared weights.

    Args:
        widths: of the input, then of each layer.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers = list(itertools.pairwise(widths))
        self.factors = nn.ParameterList(torch.ones(output, given) for given, output in layers)
        self.biases = nn.ParameterList(torch.zeros(output) for _, output in layers)

    def forward(self, rows: Tensor, shared: Sequence[nn.Linear]) -> Tensor:
        """Map (n, W) through the layers to (n, the last width)."""
        for layer, factor, bias in zip(shared, self.factors, self.biases, strict=True):
            rows = torch.relu(F.linear(rows, layer.weight * factor, layer.bias + bias))
        return rows


class StarComposition(NestedComposition):
    """x -> ReLU((W * W_s) x + b + b_s), layer by layer, on the vector x of the inner composition.

    W and b are shared by all segments, W_s and b_s are the segment's, and * is number by number.

    Source: Sheng et al., "One Model to Serve All: Star Topology Adaptive Recommender for Multi-Domain CTR Prediction"
    (CIKM 2021), section 3.3, eq. 9 and 10. Of that paper two things are left out. Its partitioned normalisation takes
    its statistics from the batch, by which a row's logit would depend on the rows beside it. Its auxiliary network adds
    a logit of the domain, which here the segment's field in the interaction network stands for.

    >>> from recsys.composition.branches import BranchProjection
    >>> from recsys.composition.parallel import ConcatJoin, ParallelComposition
    >>> inner = ParallelComposition(BranchProjection(tower_width=6, network_width=4, width=8), ConcatJoin(8))
    >>> StarComposition(inner, num_segments=3, hidden_widths=[12, 10]).output_width
    10
    """

    def __init__(self, inner: Composition, num_segments: int, hidden_widths: Sequence[int]) -> None:
        widths = [inner.output_width, *hidden_widths]
        shared = nn.ModuleList(nn.Linear(given, output) for given, output in itertools.pairwise(widths))
        segments = nn.ModuleList(SegmentFactors(widths) for _ in range(num_segments))
        super().__init__(inner, widths[-1], segments)
        self.shared = shared

    def refine(self, joined: Tensor, tower: Tensor | None, by_segment: RowsBySegment) -> Tensor:
        """Map (B, W) to (B, the last of the hidden widths)."""
        return by_segment.apply([partial(own, shared=self.shared) for own in self.segments], joined)
