"""Tower and interaction network side by side, joined the same way for every row."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.composition.branches import BRANCHES, BranchProjection, Composition, Network, TowerBranch
from recsys.features.batch import Batch


class Join(nn.Module):
    """Base of the joins: branches (B, 2, D) in, (B, output_width) out."""

    def __init__(self, output_width: int) -> None:
        super().__init__()
        self.output_width = output_width

    @property
    def columns(self) -> Mapping[str, slice]:
        """Branch -> its columns of what comes out, where there are such."""
        return {}


class ConcatJoin(Join):
    """The branches side by side, as in Cheng et al., "Wide & Deep Learning for Recommender Systems" (DLRS 2016).

    >>> ConcatJoin(width=8).output_width
    16
    """

    def __init__(self, width: int) -> None:
        super().__init__(2 * width)

    @property
    def columns(self) -> Mapping[str, slice]:
        """The tower's half, and the network's."""
        width = self.output_width // len(BRANCHES)
        return {branch: slice(width * place, width * (place + 1)) for place, branch in enumerate(BRANCHES)}

    def forward(self, branches: Tensor) -> Tensor:
        """Map (B, 2, D) to (B, 2 D)."""
        return branches.flatten(1)


class SumJoin(Join):
    """The branches added, as DeepFM adds its two (Guo et al., IJCAI 2017)."""

    def forward(self, branches: Tensor) -> Tensor:
        """Map (B, 2, D) to (B, D)."""
        return branches.sum(dim=1)


class ProductJoin(Join):
    """The branches multiplied number by number, as in generalised matrix factorisation (He et al., WWW 2017).

    Each branch's gradient is scaled by the other's numbers: where one is silent, the other does not learn.
    """

    def forward(self, branches: Tensor) -> Tensor:
        """Map (B, 2, D) to (B, D)."""
        return branches[:, 0] * branches[:, 1]


class GateJoin(Join):
    """g * tower + (1 - g) * network, where each number of g is a sigmoid of both branches.

    Source: the gated unit of Arevalo et al., "Gated Multimodal Units for Information Fusion" (2017), equation for two
    inputs; there the inputs pass a tanh first, here they come as they are.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.gate = nn.Linear(2 * width, width)

    def forward(self, branches: Tensor) -> Tensor:
        """Map (B, 2, D) to (B, D)."""
        gate = torch.sigmoid(self.gate(branches.flatten(1)))
        return torch.lerp(branches[:, 1], branches[:, 0], gate)


class ParallelComposition(Composition):
    """Both branches for every row, brought to one width and joined.

    >>> ParallelComposition(BranchProjection(tower_width=6, network_width=4, width=8), ConcatJoin(8)).output_width
    16
    """

    def __init__(self, projection: BranchProjection, join: Join) -> None:
        super().__init__(join.output_width)
        self.projection = projection
        self.join = join

    @property
    def columns(self) -> Mapping[str, slice]:
        """As the join has them."""
        return self.join.columns

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return (B, output_width)."""
        return self.join(self.projection(embedding_tower(batch), interaction_network(batch)))
