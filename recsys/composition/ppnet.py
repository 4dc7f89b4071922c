"""PPNet: layers on the joined vector, whose every input is gated by who the user is and what the item."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.composition.branches import Composition
from recsys.composition.gate_unit import GateUnit, SegmentPrior, mean_gates
from recsys.composition.nested import NestedComposition
from recsys.composition.routing import RowsBySegment


class PpnetComposition(NestedComposition):
    """x_0 = x, x_l = ReLU(W_l (g_l * x_(l-1)) + b_l) with g_l = 2 sigmoid(U_l [p_s, t, stop(x)]).

    x is the inner composition's vector, t the tower's and p_s the segment's prior: the layers W_l are everybody's, and
    the gates g_l personal. The tower's gradient comes through the gates too.

    Source: the parameter personalised network of Chang et al., "PEPNet" (KDD 2023), section 3.4, eq. 5 to 7. There the
    prior are embeddings of the ids of user, item and author; here it is the tower's vector, which is made of these, and
    the segment's. On `EpnetComposition` as the inner one this is the whole of PEPNet.

    Args:
        hidden_widths: of the layers; each has gates of its own on what it is given.
        prior_width: P, of a segment's vector.
        gate_hidden: hidden width of each gates' network.

    >>> from recsys.composition.branches import BranchProjection
    >>> from recsys.composition.parallel import ConcatJoin, ParallelComposition
    >>> inner = ParallelComposition(BranchProjection(tower_width=6, network_width=4, width=8), ConcatJoin(8))
    >>> PpnetComposition(inner, 6, num_segments=3, hidden_widths=[12, 10], prior_width=4, gate_hidden=16).output_width
    10
    """

    reads_tower = True

    def __init__(
        self,
        inner: Composition,
        tower_width: int,
        num_segments: int,
        hidden_widths: Sequence[int],
        prior_width: int,
        gate_hidden: int,
    ) -> None:
        widths = [inner.output_width, *hidden_widths]
        layers = nn.ModuleList(nn.Linear(given, output) for given, output in itertools.pairwise(widths))
        gates = nn.ModuleList(
            GateUnit(prior_width + tower_width, inner.output_width, gate_hidden, given) for given in widths[:-1]
        )
        priors = nn.ModuleList(SegmentPrior(prior_width) for _ in range(num_segments))
        super().__init__(inner, widths[-1], priors)
        self.layers = layers
        self.gates = gates

    @property
    def without_gradient(self) -> frozenset[str]:
        """The gates read x without its gradient."""
        return super().without_gradient | {f"composition.gates.{layer}" for layer in range(len(self.gates))}

    def refine(self, joined: Tensor, tower: Tensor | None, by_segment: RowsBySegment) -> Tensor:
        """Map (B, W) and (B, tower_width) to (B, the last of the hidden widths)."""
        assert tower is not None
        prior = torch.cat(
            [by_segment.apply(self.segments, joined[:, 0].detach()), tower], dim=1
        )  # (B, P + tower_width)
        rows = joined
        for number, (layer, gate) in enumerate(zip(self.layers, self.gates, strict=True), start=1):
            gates = gate(prior, joined)
            if self.noted_gates is not None:
                of_layer = mean_gates(gates, self.inner.columns if number == 1 else {})
                self.noted_gates.update({f"{name}_of_layer_{number}": each for name, each in of_layer.items()})
            rows = torch.relu(layer(gates * rows))
        return rows
