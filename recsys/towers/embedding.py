"""EmbeddingTower: the pre-trained half of a ranker, one vector for the row's user and one for its item.

A two-tower model (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
2019) or a table of vectors imported from elsewhere; the ranker sees no difference.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.regrouped import Regrouping
from recsys.features.tables import table_configs
from recsys.towers.tower_spec import TABLE_PREFIX, TowerKind, TowerSpec
from recsys.towers.two_sided import TwoSidedTower, is_frozen, no_rows, picked


class EmbeddingTower(TwoSidedTower):
    """Two sides that pool their ids' vectors.

    Both sides of a two-tower model are brought to unit length, as Yi et al. (2019, section 3) do. What the ranker gets
    is scaled so that the numbers of u, v and u * v are of order 1, the size that a layer's first weights are made for.
    """

    user_columns: Tensor
    item_columns: Tensor

    def __init__(self, spec: TowerSpec, contract: FeatureContract) -> None:
        super().__init__(spec)
        schema = contract.schema
        sides = [[schema.feature(name) for name in names] for names in (spec.user_features, spec.item_features)]
        self._groups = [[f.name for f in side if f.is_sparse] for side in sides if side]
        self._regrouped = Regrouping(self._groups)
        names = spec.user_features + spec.item_features
        self.ebc = EmbeddingBagCollection(
            tables=table_configs(contract, names, prefix=TABLE_PREFIX, dimension=spec.table_dimension)
        )
        columns = [schema.dense_columns(side) for side in sides]
        # Buffers, so that they follow the module to its device; not persistent, as the schema gives them anew.
        self.register_buffer("user_columns", torch.tensor(columns[0], dtype=torch.int64), persistent=False)
        self.register_buffer("item_columns", torch.tensor(columns[1], dtype=torch.int64), persistent=False)
        if spec.kind is TowerKind.TWO_TOWER:
            widths = [
                len(names) * spec.table_dimension + len(dense)
                for names, dense in zip(self._groups, columns, strict=True)
            ]
            self.user_side = _side(widths[0], spec)
            self.item_side = _side(widths[1], spec)

    def side_vectors(self, batch: Batch, rows: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return, per side, (n, D); see `TwoSidedTower`."""
        with torch.no_grad():
            if rows is None:
                return self._projected(self._looked_up(batch), [batch.dense] * len(self._groups))
            sizes = [len(positions) for positions in rows]
            taken = batch.take(torch.cat(list(rows)))
            looked_up = [side.split(sizes)[number] for number, side in enumerate(self._looked_up(taken))]
            return self._projected(looked_up, taken.dense.split(sizes))

    @property
    def _scale(self) -> float:
        # A unit vector of D numbers has mean square 1/D. Imported vectors were scaled when they were read.
        return math.sqrt(self.spec.width) if self.spec.kind is TowerKind.TWO_TOWER else 1.0

    def _live(self, batch: Batch, rows: Tensor | None, looked_up: Sequence[Tensor]) -> list[Tensor]:
        sides = picked(looked_up, rows)
        (dense,) = picked([batch.dense], rows)
        return self._projected(sides, [dense] * len(sides))

    def _projected(self, looked_up: Sequence[Tensor], dense: Sequence[Tensor]) -> list[Tensor]:
        """Map, per side, what its tables gave (n, W) and its rows' dense features (n, F_dense) to vectors (n, D)."""
        if self.spec.kind is TowerKind.IMPORTED:
            return list(looked_up)
        projections = zip((self.user_side, self.item_side), looked_up, dense, self._dense_columns(), strict=True)
        return [
            # Single from here on, whatever the layers computed in: vectors are compared, kept and written so.
            normalize(side(torch.cat([ids, numbers[:, columns]], dim=1)).float(), dim=1)
            if len(ids)
            else no_rows(ids, self.spec.width)
            for side, ids, numbers, columns in projections
        ]

    def _read_features(self) -> tuple[list[list[str]], list[Tensor]]:
        return self._groups, self._dense_columns()

    def _dense_columns(self) -> list[Tensor]:
        return [self.user_columns, self.item_columns] if self.spec.user_features else [self.item_columns]

    def _looked_up(self, batch: Batch) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.is_frozen or is_frozen(self.ebc))):
            return self._regrouped(batch.look_up(self.ebc, batch.sparse))


def _side(input_width: int, spec: TowerSpec) -> nn.Sequential:
    widths = (input_width, *spec.hidden_widths)
    hidden = [nn.Sequential(nn.Linear(i, o), _Relu()) for i, o in pairwise(widths)]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], spec.width))


class _Relu(nn.ReLU):
    """In place where nothing is kept for a backward pass: a fifth less time of a frozen tower's forward."""

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, W) to (n, W)."""
        return rows.relu() if torch.is_grad_enabled() else rows.relu_()
