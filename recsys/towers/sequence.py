"""SequenceTower: the user is what a causal self-attention makes of the items that she met, the item a row of a table.

Source: SASRec (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018): the items that are read and
those that are scored share one table, and the score is the inner product. It does not see the candidate, so it
retrieves; `HistoryTower` does, and ranks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.events import one_bag_per_id, vectors_by_feature
from recsys.towers.jagged_attention import SequenceEncoder, starts_of
from recsys.towers.tower_spec import TowerSpec
from recsys.towers.two_sided import TwoSidedTower, no_rows, picked
from recsys.towers.vector_source import VectorSource

# Of a table's first values; row-wise Adagrad's first steps are as long as its rate, and so soon longer than these.
_SPREAD = 0.03


class SequenceTower(TwoSidedTower):
    """u, the last output over the user's list; v, the item's row.

    Inner products are logits of a softmax over items, so that the vectors have no length in common.
    """

    no_columns: Tensor

    def __init__(self, spec: TowerSpec, contract: FeatureContract) -> None:
        super().__init__(spec)
        assert spec.sequence is not None
        (self.events,), (self.item,) = spec.user_features, spec.item_features
        events = contract.schema.feature(self.events)
        self.items = VectorSource({events.table: (self.events, self.item)}, contract.table_rows, spec.width, _SPREAD)
        self.encoder = SequenceEncoder(
            width=spec.width,
            blocks=spec.sequence.blocks,
            heads=spec.sequence.heads,
            most=events.max_length,
            dropout=spec.sequence.dropout,
        )
        # The columns of dense features that a side reads; on the module's device.
        self.register_buffer("no_columns", torch.empty(0, dtype=torch.int64), persistent=False)

    def side_vectors(self, batch: Batch, rows: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return, per side, (n, D); see `TwoSidedTower`."""
        with torch.no_grad():
            if rows is None:
                return self._live(batch, None, self._looked_up(batch))
            taken = batch.take(torch.cat(list(rows)))
            sizes = [len(positions) for positions in rows]
            sides = self._live(taken, None, self._looked_up(taken))
            return [side.split(sizes)[number] for number, side in enumerate(sides)]

    def item_vectors(self, batch: Batch) -> Tensor:
        """Return the vectors of the rows' items alone, (B, D)."""
        features = dict.fromkeys(self.items.features, (self.item,))
        pooled = batch.look_up(self.items.ebc, one_bag_per_id(batch.sparse, features))
        return vectors_by_feature(pooled, batch.sparse, features)[self.item]

    def _looked_up(self, batch: Batch) -> dict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return self.items(batch)

    def _live(self, batch: Batch, rows: Tensor | None, looked_up: dict[str, Tensor]) -> list[Tensor]:
        """All lists are read, and `rows` taken from what they say: how long the lists of some are, only a device knows.

        With no rows the encoder is not called.
        """
        vectors, item = looked_up[self.events], looked_up[self.item]
        if rows is not None and not len(rows):
            return [no_rows(vectors[:0], self.spec.width), no_rows(item[:0], self.spec.width)]
        lengths = batch.sparse[self.events].lengths()
        said = self.encoder(vectors, lengths)
        # Single from here on, whatever the layers computed in: vectors are compared, kept and written so.
        user = said.index_select(0, starts_of(lengths) + lengths).float()
        return picked([user, item.float()], rows)

    def _read_features(self) -> tuple[list[list[str]], list[Tensor]]:
        return [[self.events], [self.item]], [self.no_columns, self.no_columns]
