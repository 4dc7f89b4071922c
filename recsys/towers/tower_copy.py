"""TowerCopy: a trainable copy of a frozen tower, for the rows of some user segments.

Its tables hold by how much an id's vector differs from the frozen tower's, and start at zero: what the layers above
them are given is the sum of the two. That is the copy itself, to the rounding of one addition: a gradient with respect
to the difference is that with respect to the copied vector. It needs rows only for the ids that its segments have
seen, and any other id has the frozen tower's vector to the bit.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.towers.any_tower import Tower, build_tower
from recsys.towers.tower_spec import TABLE_PREFIX, TowerSpec

TABLES, DENSE = "tables", "dense"
"""The halves of a tower."""

_ROWS = "rows_"  # before a table's name, the buffer that says which row of the copy an id of it has
_UNSEEN = 0  # that row of a copy's table: of every id that its segments have not seen, zero for good


class TowerCopy(nn.Module):
    """The tower once more: differences of its tables' vectors, its dense layers, or both.

    Args:
        spec: of the frozen tower.
        rows: of each of the copy's tables, the row of unseen ids included; read where the tables are among `learns`.
        learns: `TABLES`, `DENSE` or both. Dense layers that are not to learn are the frozen tower's values, and are
            frozen too; tables that are not to learn are not copied.

    Attributes:
        tower: of the same class and with the same names as the frozen one.

    Raises:
        UsageError: dense layers are to learn, and the tower has none.
    """

    def __init__(
        self, spec: TowerSpec, contract: FeatureContract, rows: Mapping[str, int], learns: Collection[str]
    ) -> None:
        super().__init__()
        self.learns = tuple(half for half in (TABLES, DENSE) if half in learns)
        few = {table: rows.get(table, 1) for table in contract.table_rows}
        self.tower: Tower = build_tower(spec, replace(contract, table_rows=few))
        read = {*spec.user_features, *spec.item_features}
        self._table_of = {each.name: each.table for each in contract.schema.sparse if each.name in read}
        self._tables: tuple[str, ...] = ()
        collections = [
            (path, each) for path, each in self.tower.named_modules() if isinstance(each, EmbeddingBagCollection)
        ]
        if DENSE in learns and not _dense(self.tower):
            raise UsageError(
                "A segment's rung copies the tower's dense layers, and this tower has tables alone (imported vectors "
                "have no layers above them). Choose `tables`, `adapter` or `frozen` for it."
            )
        if TABLES not in learns:
            for path, _ in collections:
                parent, _, name = path.rpartition(".")
                delattr(self.tower.get_submodule(parent), name)
            return
        found = dict.fromkeys(
            config.name.removeprefix(TABLE_PREFIX) for _, each in collections for config in each.embedding_bag_configs()
        )
        self._tables = tuple(found)
        for table in self._tables:
            unseen = torch.full((contract.table_rows[table],), _UNSEEN, dtype=torch.int32)
            self.register_buffer(f"{_ROWS}{table}", unseen)

    def start_from(self, base: nn.Module, seen: Mapping[str, Tensor]) -> None:
        """Begin as the frozen tower, before either is sharded.

        Args:
            base: the frozen tower.
            seen: by table, the rows that the segments of this copy look up, (n,) int64, each once.
        """
        theirs = _dense(base)
        with torch.no_grad():
            for name, parameter in self.tower.named_parameters():
                parameter.copy_(theirs[name]) if name in theirs else parameter.zero_()
            for table in self._tables:
                rows = self.rows_of(table)
                rows.fill_(_UNSEEN)
                rows[seen[table]] = torch.arange(1, len(seen[table]) + 1, dtype=rows.dtype)

    def rows_of(self, table: str) -> Tensor:
        """Return, for every row of the frozen tower's table, (rows,) int32, the row of the copy's; 0 for unseen ids."""
        rows: Tensor = self.get_buffer(f"{_ROWS}{table}")
        return rows

    @property
    def features(self) -> tuple[str, ...]:
        """The sparse features that the tower reads, in the schema's order."""
        return tuple(self._table_of)

    def look_up(self, base: Tower, batch: Batch, known: Any = None) -> Any:
        """Return what the frozen tower's tables have for the batch's ids, and the differences added to it.

        Args:
            base: the frozen tower.
            batch: with the ids of this copy's segments and features alone (`Batch.with_ids_of`).
            known: what the frozen tower's tables have for all of the batch's rows, where it is at hand and is a vector
                a row.
        """
        with torch.no_grad():
            theirs = base.look_up_live(batch) if known is None else known
        if not self._tables:
            return theirs
        return _plus(theirs, self.tower.look_up_live(batch.with_ids(self._own_ids(batch))))

    def forward(self, batch: Batch, rows: Tensor, looked_up: Any) -> Tensor:
        """Return the vectors of some rows, (n, output_width).

        Args:
            batch: as `look_up` was given it.
            rows: (n,) int64 positions in the batch; with none, nothing but the tables is reached.
            looked_up: what `look_up` returned.
        """
        vectors: Tensor = self.tower(batch, rows, looked_up)
        return vectors

    def _own_ids(self, batch: Batch) -> Tensor:
        """The batch's ids as rows of the copy's tables, (ids,); it has none but of features that the tower reads."""
        sparse = batch.sparse
        by_feature = zip(sparse.keys(), sparse.values().split(sparse.length_per_key()), strict=True)
        return torch.cat(
            [
                self.rows_of(self._table_of[name]).index_select(0, ids).to(ids.dtype)
                for name, ids in by_feature
                if name in self._table_of
            ]
        )


def _dense(tower: nn.Module) -> dict[str, Tensor]:
    """The parameters of a tower that are of no table, by name."""
    collections = tuple(f"{path}." for path, each in tower.named_modules() if isinstance(each, EmbeddingBagCollection))
    return {name: each.detach() for name, each in tower.named_parameters() if not name.startswith(collections)}


def _plus(theirs: Any, difference: Any) -> Any:
    """The sum of two look-ups of one shape: tensors, or lists and mappings of such."""
    if isinstance(theirs, Mapping):
        return {name: _plus(each, difference[name]) for name, each in theirs.items()}
    if isinstance(theirs, list):
        return [_plus(each, other) for each, other in zip(theirs, difference, strict=True)]
    return theirs + difference
