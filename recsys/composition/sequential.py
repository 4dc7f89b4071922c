"""Tower and interaction network one after the other."""

from collections.abc import Mapping

from torch import Tensor, nn

from recsys.composition.branches import Composition, Network, TowerBranch
from recsys.features.batch import Batch


class SequentialComposition(Composition):
    """The tower's vector becomes one more field, which the interaction network crosses with the others.

    This is how pre-trained vectors enter most rankers (Covington, Adams and Sargin, RecSys 2016, section 4, feed a
    video's embedding in beside the other features). The tower's gradient comes through the crossing, and only so.

    Args:
        tower_width: of the tower's vector.
        field_width: D of the network's fields, which must have been built with a place for the tower.
        network_width: of the network's output, which is the joined vector.

    >>> SequentialComposition(tower_width=12, field_width=4, network_width=8).output_width
    8
    """

    def __init__(self, tower_width: int, field_width: int, network_width: int) -> None:
        super().__init__(network_width)
        self.tower_field = nn.Linear(tower_width, field_width)

    @property
    def only_through(self) -> Mapping[str, str]:
        """The crossing, behind which the tower's gradient comes."""
        return {"embedding_tower": "interaction_network.crossing"}

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return (B, network_width)."""
        return interaction_network(batch, tower_field=self.tower_field(embedding_tower(batch)))
