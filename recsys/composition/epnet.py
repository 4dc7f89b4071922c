"""EPNet: the segment decides how much of each number of the joined vector goes on."""

from collections.abc import Mapping

from torch import Tensor, nn

from recsys.composition.branches import Composition
from recsys.composition.gate_unit import GateUnit, SegmentPrior, mean_gates
from recsys.composition.nested import NestedComposition
from recsys.composition.routing import RowsBySegment


class EpnetComposition(NestedComposition):
    """y = g * x with g = 2 sigmoid(U [p_s, stop(x)]): the inner composition's vector x, gated number by number.

    The gates' network U is shared; a segment has its prior p_s alone.

    Source: the embedding personalised network of Chang et al., "PEPNet" (KDD 2023), section 3.3, eq. 3 and 4. There x
    are the embeddings of all features and p the domain's; here x is what tower and network were joined to.

    Args:
        prior_width: P, of a segment's vector.
        gate_hidden: hidden width of the gates' network.

    >>> from recsys.composition.branches import BranchProjection
    >>> from recsys.composition.parallel import ConcatJoin, ParallelComposition
    >>> inner = ParallelComposition(BranchProjection(tower_width=6, network_width=4, width=8), ConcatJoin(8))
    >>> EpnetComposition(inner, num_segments=3, prior_width=4, gate_hidden=16).output_width
    16
    """

    def __init__(self, inner: Composition, num_segments: int, prior_width: int, gate_hidden: int) -> None:
        width = inner.output_width
        gate = GateUnit(prior_width, width, gate_hidden, width)
        super().__init__(inner, width, nn.ModuleList(SegmentPrior(prior_width) for _ in range(num_segments)))
        self.gate = gate

    @property
    def without_gradient(self) -> frozenset[str]:
        """The gate reads x without its gradient."""
        return super().without_gradient | {"composition.gate"}

    @property
    def columns(self) -> Mapping[str, slice]:
        """As the inner composition has them: a gate moves no number."""
        return self.inner.columns

    def refine(self, joined: Tensor, tower: Tensor | None, by_segment: RowsBySegment) -> Tensor:
        """Map (B, W) to (B, W)."""
        gates = self.gate(by_segment.apply(self.segments, joined[:, 0].detach()), joined)
        if self.noted_gates is not None:
            self.noted_gates.update(mean_gates(gates, self.inner.columns))
        return gates * joined
