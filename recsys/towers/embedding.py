"""EmbeddingTower: the pre-trained half of a ranker, one vector for the row's user and one for its item.

A two-tower model (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
2019) or a table of vectors imported from elsewhere; the ranker sees no difference.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.regrouped import Regrouping
from recsys.features.tables import table_configs
from recsys.towers.row_digests import row_digests
from recsys.towers.tower_spec import TABLE_PREFIX, TowerKind, TowerSpec


class EmbeddingTower(nn.Module):
    """Turn ids into the user's vector u, the item's vector v, and their product u * v, whose sum is the dot product.

    Both sides of a two-tower model are brought to unit length, as Yi et al. (2019, section 3) do. What the ranker gets
    is scaled so that the numbers of u, v and u * v are of order 1, the size that a layer's first weights are made for.

    Attributes:
        is_frozen: the whole forward, tables included, runs without a graph and in evaluation mode. Fused tables learn
            inside backward whatever `requires_grad` says, so there is no other way to freeze them. A child that
            has it set is frozen by itself: `ebc`, the tables, is then looked up without a graph.
        cache: returns the vectors of each side of a frozen tower, (B, D) each, in place of computing them; dropped when
            the tower learns again.
        output_width: of what the ranker gets: 3 D, or D where there is no user side.
    """

    cache: Callable[[Batch], list[Tensor]] | None
    user_columns: Tensor
    item_columns: Tensor

    def __init__(self, spec: TowerSpec, contract: FeatureContract) -> None:
        super().__init__()
        schema = contract.schema
        self.spec = spec
        self.is_frozen = False
        self.cache = None
        self.output_width = spec.width * (3 if spec.user_features else 1)
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

    def train(self, mode: bool = True) -> "EmbeddingTower":
        """Set training mode; a frozen tower, and a frozen child of one that learns, stays in evaluation mode."""
        super().train(mode and not self.is_frozen)
        for child in self.children():
            if _is_frozen(child):
                child.eval()
        return self

    def look_up(self, batch: Batch) -> list[Tensor] | None:
        """Return, per side, the pooled vectors of its ids, (B, W); None where a cache answers for the tower.

        Every row is looked up, since a rank may not skip a sharded table.
        """
        return None if self.cache is not None and self.is_frozen else self._looked_up(batch)

    def is_exercised_by(self, batch: Batch) -> bool:
        """Whether a pass over the batch reaches all of the tower: always, as every row has a user and an item."""
        return True

    def sides(
        self, batch: Batch, rows: Tensor | None = None, looked_up: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the user vectors and the item vectors, each (B, D), or (n, D) for the n `rows`.

        A two-tower's are of unit length. With no rows at all the layers above the tables are not called: they get no
        gradient rather than a zero one.

        Args:
            looked_up: what `look_up` gave for the batch; None to look it up now.

        Raises:
            UsageError: the tower has no user side.
        """
        if not self.spec.user_features:
            raise UsageError(
                "This tower has no user side: no list feature of the user tower shares the item's table. Give the "
                "schema one, or use the tower for its item vectors only."
            )
        user, item = self._vectors(batch, rows, looked_up)
        return user, item

    def forward(self, batch: Batch, rows: Tensor | None = None, looked_up: Sequence[Tensor] | None = None) -> Tensor:
        """Return what the ranker joins: u, v and u * v side by side, or v alone where there is no user side.

        Args:
            rows: (n,) int64 positions in the batch; None is all of them.
            looked_up: what `look_up` gave for the batch; None to look it up now.

        Returns:
            (B, output_width), or (n, output_width).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            if not self.spec.user_features:
                return self._vectors(batch, rows, looked_up)[0]
            user, item = self.sides(batch, rows, looked_up)
            if self.spec.kind is TowerKind.TWO_TOWER:
                # A unit vector of D numbers has mean square 1/D. Imported vectors were scaled when they were read.
                user, item = user * math.sqrt(self.spec.width), item * math.sqrt(self.spec.width)
            return torch.cat([user, item, user * item], dim=1)

    def side_digests(self, batch: Batch) -> list[Tensor]:
        """Return, for each side that the tower has, (2, B) int64: equal where a row gives it the same input."""
        return row_digests(batch, self._groups, self._dense_columns())

    def side_vectors(self, batch: Batch, rows: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return each side's vectors from the live tower, without a graph.

        Args:
            rows: per side, (n,) int64 positions in the batch, which alone are looked up; None is all rows.

        Returns:
            Per side, (n, D).
        """
        with torch.no_grad():
            if rows is None:
                return self._projected(self._looked_up(batch), [batch.dense] * len(self._groups))
            sizes = [len(positions) for positions in rows]
            taken = batch.take(torch.cat(list(rows)))
            looked_up = [side.split(sizes)[number] for number, side in enumerate(self._looked_up(taken))]
            return self._projected(looked_up, taken.dense.split(sizes))

    def _vectors(self, batch: Batch, rows: Tensor | None, looked_up: Sequence[Tensor] | None) -> list[Tensor]:
        if self.cache is not None and not self.is_frozen:
            self.cache = None  # the vectors in it are those of the frozen weights
        if self.cache is not None:
            return _picked(self.cache(batch), rows)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            picked = _picked(self._looked_up(batch) if looked_up is None else looked_up, rows)
            (dense,) = _picked([batch.dense], rows)
            return self._projected(picked, [dense] * len(picked))

    def _projected(self, looked_up: Sequence[Tensor], dense: Sequence[Tensor]) -> list[Tensor]:
        """Map, per side, what its tables gave (n, W) and its rows' dense features (n, F_dense) to vectors (n, D)."""
        if self.spec.kind is TowerKind.IMPORTED:
            return list(looked_up)
        projections = zip((self.user_side, self.item_side), looked_up, dense, self._dense_columns(), strict=True)
        return [
            # Single from here on, whatever the layers computed in: vectors are compared, kept and written so.
            normalize(side(torch.cat([ids, numbers[:, columns]], dim=1)).float(), dim=1)
            if len(ids)
            else _no_rows(ids, self.spec.width)
            for side, ids, numbers, columns in projections
        ]

    def _dense_columns(self) -> list[Tensor]:
        return [self.user_columns, self.item_columns] if self.spec.user_features else [self.item_columns]

    def _looked_up(self, batch: Batch) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.is_frozen or _is_frozen(self.ebc))):
            return self._regrouped(batch.look_up(self.ebc, batch.sparse))


def _is_frozen(child: nn.Module) -> bool:
    return bool(getattr(child, "is_frozen", False))


def _side(input_width: int, spec: TowerSpec) -> nn.Sequential:
    widths = (input_width, *spec.hidden_widths)
    hidden = [nn.Sequential(nn.Linear(i, o), _Relu()) for i, o in pairwise(widths)]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], spec.width))


class _Relu(nn.ReLU):
    """In place where nothing is kept for a backward pass: a fifth less time of a frozen tower's forward."""

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, W) to (n, W)."""
        return rows.relu() if torch.is_grad_enabled() else rows.relu_()


def _picked(tensors: Sequence[Tensor], rows: Tensor | None) -> list[Tensor]:
    return list(tensors) if rows is None else [tensor.index_select(0, rows) for tensor in tensors]


def _no_rows(empty: Tensor, width: int) -> Tensor:
    """An (0, width) tensor whose graph still reaches `empty`'s tables."""
    return empty.sum(dim=1, keepdim=True).expand(0, width)
