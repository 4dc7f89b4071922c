"""Ranker: the whole model, from a batch to one logit a row."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from recsys.composition.branches import Composition
from recsys.features.batch import Batch
from recsys.features.id_dropout import with_unknown_ids
from recsys.interactions.first_order import FirstOrder
from recsys.interactions.mlp import Mlp
from recsys.interactions.network import InteractionNetwork
from recsys.towers.embedding import EmbeddingTower


class Head(nn.Module):
    """The last layers: the joined vector becomes a logit, to which the first-order weights of the row are added.

    Args:
        first_order: None for a ranker without; see `FirstOrder`.
    """

    def __init__(
        self, input_width: int, hidden_widths: Sequence[int], dropout: float, first_order: FirstOrder | None
    ) -> None:
        super().__init__()
        self.hidden = Mlp(input_width, hidden_widths, dropout)
        self.output = nn.Linear(self.hidden.output_width, 1)
        self.first_order = first_order

    def start_from(self, intercept: float, dense: Sequence[float], ids: Mapping[str, Tensor]) -> None:
        """Start as a fitted logistic regression; the layers, still untrained, add almost nothing to its logit.

        Call it before the tables are sharded; a head without a first-order path is left unchanged.

        Args:
            dense: one weight per dense feature of the schema, in its order.
            ids: sparse feature -> (rows of its table,), one weight per row.
        """
        if self.first_order is None:
            return
        self.first_order.load_logistic(dense, ids)
        with torch.no_grad():
            self.output.bias.fill_(intercept)

    def look_up(self, batch: Batch) -> Tensor | None:
        """Return what the first-order weights give for the ids of every row, (B,); None where there are none."""
        return None if self.first_order is None else self.first_order.look_up(batch)

    def forward(self, joined: Tensor, batch: Batch, looked_up: Tensor | None = None) -> Tensor:
        """Map vectors to logits.

        Args:
            joined: (B, input_width).
            batch: whose rows these are.
            looked_up: what `look_up` gave for the batch; None to look it up now.

        Returns:
            (B,).
        """
        hidden = self.hidden(joined)
        # A score is single whatever the layers computed in: in bfloat16 a logit of 3 is right to 0.01 alone.
        with torch.autocast(joined.device.type, enabled=False):
            logit = self.output(hidden.float()).squeeze(1)
            return logit if self.first_order is None else logit + self.first_order(batch, looked_up)


class Ranker(nn.Module):
    """Four parts with fixed names, by which the run wing freezes, measures and reports them.

    The one ranker class: compositions and interaction networks vary inside. Its first parameters depend on the random
    seed and the parts alone, never on the training mode, so that two arms of an ablation start from the same logits.

    Attributes:
        id_dropout: the probability with which an id is taken for an unknown one in training mode; see
            `with_unknown_ids`. A tower that is frozen, and so in evaluation mode, is given the ids themselves.
    """

    def __init__(
        self,
        embedding_tower: EmbeddingTower,
        interaction_network: InteractionNetwork,
        composition: Composition,
        head: Head,
    ) -> None:
        super().__init__()
        self.embedding_tower = embedding_tower
        self.interaction_network = interaction_network
        self.composition = composition
        self.head = head
        self.id_dropout = 0.0

    def reached_by(self, segment: int) -> frozenset[str]:
        """Return the names of the modules that the loss of a segment's rows must reach, where they learn."""
        return self.composition.reached_by(segment) | {"head"}

    def forward(self, batch: Batch) -> Tensor:
        """Return the logit of every row, (B,).

        All tables are looked up first, each with ids that the batch alone decides: what comes before a look-up (ids
        changing places or processes) can then be done for a batch that is still to come.
        """
        # Before the look-ups, and once, so that all parts take the same ids for unknown.
        seen = with_unknown_ids(batch, self.id_dropout) if self.training and self.id_dropout else batch
        of_tower = self.embedding_tower.look_up(seen if self.embedding_tower.training else batch)
        tower = partial(self.embedding_tower, looked_up=of_tower)
        network = partial(self.interaction_network, looked_up=self.interaction_network.look_up(seen))
        of_ids = self.head.look_up(seen)
        return self.head(self.composition(batch, self.composition.with_adapter(tower), network), batch, of_ids)
