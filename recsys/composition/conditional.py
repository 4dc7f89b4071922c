"""Compositions that depend on the user segment: which branches count for a row, and through whose expert it passes.

Multi-domain rankers give each domain layers of its own beside shared ones (Sheng et al., "One Model to Serve All: Star
Topology Adaptive Recommender for Multi-Domain CTR Prediction", CIKM 2021). Here the domain is the user segment, and it
chooses between the pre-trained tower and the interaction network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.composition.branches import BRANCHES, BranchProjection, Composition, Network, TowerBranch
from recsys.composition.parallel import Join
from recsys.composition.routing import RowsBySegment
from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.interactions.mlp import Mlp

_PROJECTIONS = {"embedding_tower": "tower", "interaction_network": "network"}  # names within BranchProjection


class BranchGate(nn.Module):
    """One segment's gates: the branches by a weighted sum, whose weights are positive and sum to one.

    A gate reads as "how much this segment relies on that branch".

    Source: the gating of Jacobs et al., "Adaptive Mixtures of Local Experts" (1991). There the gate is computed from
    the input; here it belongs to the segment.
    """

    def __init__(self) -> None:
        super().__init__()
        # Zero logits are equal gates: training starts at the plain average of the branches.
        self.logits = nn.Parameter(torch.zeros(len(BRANCHES)))

    @property
    def gates(self) -> Tensor:
        """What each branch counts, (K,)."""
        return self.logits.softmax(dim=0)

    def forward(self, branches: Tensor) -> Tensor:
        """Map (n, K, D) to (n, D)."""
        return torch.einsum("k,nkd->nd", self.gates, branches)


class SegmentExpert(nn.Module):
    """One segment's own layers, added to what all segments share: x + linear(layers(x)).

    A small segment thus learns only how it differs (the shortcut of He et al., "Deep Residual Learning", CVPR 2016).
    """

    def __init__(self, width: int, hidden_widths: Sequence[int]) -> None:
        super().__init__()
        self.hidden = Mlp(width, hidden_widths, dropout=0.0)
        self.output = nn.Linear(self.hidden.output_width, width)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, D) to (n, D)."""
        return rows + self.output(self.hidden(rows))


class SegmentGatedComposition(Composition):
    """Every row passes both branches; its segment's gates weigh them, then its segment's expert, if any, refines.

    Args:
        expert_hidden: hidden widths of each segment's expert; None for gates alone.

    >>> projection = BranchProjection(tower_width=6, network_width=4, width=8)
    >>> SegmentGatedComposition(projection, num_segments=3, expert_hidden=[16]).output_width
    8
    """

    def __init__(self, projection: BranchProjection, num_segments: int, expert_hidden: Sequence[int] | None) -> None:
        super().__init__(projection.width)
        self.projection = projection
        self.segments = _gates_and_experts(projection.width, num_segments, expert_hidden)

    def reached_by(self, segment: int) -> frozenset[str]:
        """Return both branches, and the segment's own gates and expert."""
        return super().reached_by(segment) - {"composition.segments"} | {f"composition.segments.{segment}"}

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return (B, D)."""
        branches = self.projection(embedding_tower(batch), interaction_network(batch))  # (B, 2, D)
        _note_gates(self.noted_gates, self.segments, batch)
        return _rows_by_segment(batch, len(self.segments)).apply(self.segments, branches)


class SegmentRoutedComposition(Composition):
    """A row passes the branches that its segment's route names, and no other; what comes back is added up.

    A branch's layers see only the rows routed to them, and are not called where there is none: they then get no
    gradient. Its tables are looked up for every row, since no rank may skip a sharded table; the rows routed elsewhere
    bring them none.

    Args:
        routes: for every segment in order, the branches of `BRANCHES` that its rows pass.
        expert_hidden: hidden widths of each segment's expert; None for no experts.

    Attributes:
        passing: branch -> the segments whose rows pass it.

    Raises:
        UsageError: a route is empty or names an unknown branch.

    >>> projection = BranchProjection(tower_width=6, network_width=4, width=8)
    >>> routes = [["interaction_network"], ["embedding_tower", "interaction_network"]]
    >>> SegmentRoutedComposition(projection, routes, expert_hidden=None).output_width
    8
    """

    def __init__(
        self, projection: BranchProjection, routes: Sequence[Sequence[str]], expert_hidden: Sequence[int] | None
    ) -> None:
        super().__init__(projection.width)
        for segment, route in enumerate(routes):
            if not route or not set(route) <= set(BRANCHES):
                raise UsageError(
                    f"The route of segment {segment} is {list(route)}; expected one or both of {', '.join(BRANCHES)}."
                )
        self.projection = projection
        self.passing = {
            branch: frozenset(segment for segment, route in enumerate(routes) if branch in route) for branch in BRANCHES
        }
        self._num_segments = len(routes)
        self.experts = None
        if expert_hidden is not None:
            self.experts = nn.ModuleList(SegmentExpert(projection.width, expert_hidden) for _ in routes)

    def reached_by(self, segment: int) -> frozenset[str]:
        """Return the branches of the segment's route with their projections, and the segment's expert."""
        passed = [branch for branch, segments in self.passing.items() if segment in segments]
        own = [f"composition.projection.{_PROJECTIONS[branch]}" for branch in passed]
        own += [] if self.experts is None else [f"composition.experts.{segment}"]
        if self.tower_adapter is not None and BRANCHES[0] in passed:
            own.append("composition.tower_adapter")
        return frozenset((*passed, *own))

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return (B, D)."""
        joined = batch.dense.new_zeros(len(batch), self.output_width)
        by_segment = _rows_by_segment(batch, self._num_segments)
        projections = (self.projection.tower, self.projection.network)
        for branch, project, segments in zip(
            (embedding_tower, interaction_network), projections, self.passing.values(), strict=True
        ):
            rows = by_segment.of(segments)  # (n,)
            vectors = branch(batch, rows)
            # Under autocast a layer's output is narrower than what it is added to. The empty sum keeps the branch's
            # tables in the graph, as every rank's backward must reach them.
            joined = (
                joined.index_add(0, rows, project(vectors).to(joined.dtype)) if len(rows) else joined + vectors.sum()
            )
        return joined if self.experts is None else by_segment.apply(self.experts, joined)


class ParallelConditionalComposition(Composition):
    """A join that is the same for every row, and beside it the segment's own: gates, then its expert, if any.

    What segments share is learned from all rows at once; the segment's half is free to differ.

    >>> from recsys.composition.parallel import ConcatJoin
    >>> projection = BranchProjection(tower_width=6, network_width=4, width=8)
    >>> ParallelConditionalComposition(projection, ConcatJoin(8), num_segments=3, expert_hidden=[16]).output_width
    24
    """

    def __init__(
        self, projection: BranchProjection, join: Join, num_segments: int, expert_hidden: Sequence[int] | None
    ) -> None:
        super().__init__(join.output_width + projection.width)
        self.projection = projection
        self.join = join
        self.segments = _gates_and_experts(projection.width, num_segments, expert_hidden)

    def reached_by(self, segment: int) -> frozenset[str]:
        """Return both branches, the shared join, and the segment's own gates and expert."""
        return super().reached_by(segment) - {"composition.segments"} | {f"composition.segments.{segment}"}

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return (B, the join's width + D), the shared half first."""
        branches = self.projection(embedding_tower(batch), interaction_network(batch))  # (B, 2, D)
        _note_gates(self.noted_gates, self.segments, batch)
        by_segment = _rows_by_segment(batch, len(self.segments)).apply(self.segments, branches)
        return torch.cat([self.join(branches), by_segment], dim=1)


def _gates_and_experts(width: int, num_segments: int, expert_hidden: Sequence[int] | None) -> nn.ModuleList:
    """One module per segment, so that an absent segment's parameters are in no graph."""
    if expert_hidden is None:
        return nn.ModuleList(BranchGate() for _ in range(num_segments))
    return nn.ModuleList(nn.Sequential(BranchGate(), SegmentExpert(width, expert_hidden)) for _ in range(num_segments))


def _note_gates(noted: dict[str, Tensor] | None, segments: nn.ModuleList, batch: Batch) -> None:
    """Leave the gates of every row where they are read."""
    if noted is None:
        return
    gates = [module for module in segments.modules() if isinstance(module, BranchGate)]
    of_rows = torch.stack([gate.gates for gate in gates]).index_select(0, batch.segment)  # (B, K)
    noted.update(zip(BRANCHES, of_rows.unbind(dim=1), strict=True))


def _rows_by_segment(batch: Batch, num_segments: int) -> RowsBySegment:
    return RowsBySegment(batch.segment, batch.counts_by_segment(num_segments))
