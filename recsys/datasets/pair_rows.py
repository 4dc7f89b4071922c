"""Pairs of queries and items -> rows of the schema: what the query says, what the item says, and what was before.

One piece of code makes the rows to learn from, the lists that are ranked, and those of which recommendations are made.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.column_levels import ColumnLevels, Level
from recsys.datasets.computed_features import own_name
from recsys.datasets.database import store
from recsys.datasets.enum_columns import with_enums
from recsys.datasets.event_log import TIME, read_column
from recsys.datasets.event_tables import RawEvents
from recsys.datasets.past import CONTRIBUTES, MOMENT, ROW, UNIT, PastFeature, PastKind
from recsys.datasets.query_tables import ITEM, QUERY, QueryLog
from recsys.datasets.source import DAY, SPLIT
from recsys.features.column_names import OWN_PREFIX
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress

HAD_BEFORE = f"{OWN_PREFIX}had_before"
"""How many events of the item the user had before the query."""


def had_before(schema: FeatureSchema) -> PastFeature:
    """The feature `HAD_BEFORE`, which every pair has beside the declared ones."""
    return PastFeature(HAD_BEFORE, PastKind.COUNT, tuple(map(own_name, (schema.user, schema.item))))


@dataclass(frozen=True)
class PairRows:
    """Makes rows of pairs; the queries may be others than the log's own, if they have the same columns."""

    log: QueryLog
    queries: ir.Table

    @property
    def raw(self) -> RawEvents:
        """What was read."""
        return self.log.raw

    @cached_property
    def levels(self) -> ColumnLevels:
        """Whose each column is."""
        items, queries = (
            [name for name in table.columns if not name.startswith(OWN_PREFIX)]
            for table in (self.log.items, self.queries)
        )
        dated = [column for side in self._dated for column in side.columns]
        items = [name for name in items if name not in queries or name not in dated]
        return ColumnLevels(self.raw.layout, self.raw.schema, items, queries, dated)

    @property
    def _dated(self) -> list:
        return [side for side in self.raw.sides if side.rule.time and side.rule.key in self.log.items.columns]

    def of_counted(self, names: Collection[str]) -> "PairRows":
        """The same without the counted features that are not among `names`: each costs a pass over the events."""
        counted, schema = self.raw.layout.counted, self.raw.schema
        kept = tuple(one for one in schema.features if one.name in names or one.name not in counted)
        narrow = replace(schema, features=kept)
        raw, log = replace(self.raw, schema=narrow), self.log.log
        computed = replace(log.computed, schema=narrow)
        return replace(self, log=replace(self.log, log=replace(log, raw=raw, computed=computed)))

    def rows(self, connection: Backend, pairs: ir.Table, progress: Progress, name: str = "pairs") -> ir.Table:
        """Return `pairs` with the schema's features, segment and time, the split, the day and user_key.

        Not run yet: what is counted of the past is stored, the rows themselves are not.

        Args:
            pairs: a stored table with `QUERY`, `ITEM` and any other columns, which are kept.
            name: of the tables that are made, for one use of the database.
        """
        features = [one.name for one in self.raw.schema.features if one.name not in self.raw.layout.counted]
        segment = self.raw.layout.segment.column
        final = [*features, *([] if segment in self.raw.layout.counted else ["segment"])]
        shared = self._shared_columns(connection, final, name)
        asked = self._asked(connection, pairs, shared, name)
        more = [] if self.raw.layout.order == "none" else [had_before(self.raw.schema)]
        counted = self.log.log.computed.on_rows(connection, asked, self.log.log.rows, progress, more)
        for key, table in shared.items():
            known = [column for column in table.columns if column not in counted.columns or column == key]
            counted = counted.join(table.select(known), key)
        return self._named(counted, final)

    @property
    def _pair_names(self) -> tuple[str, str]:
        return self.raw.schema.user, self.raw.schema.item

    def _shared_columns(self, connection: Backend, final: Iterable[str], name: str) -> dict[str, ir.Table]:
        """What all rows of a query, and all rows of an item, have in common, read once for each."""
        computed = self.log.log.computed
        names = [*final, *computed.keys, *computed.read_by_expressions, *self._pair_names]
        tables = {}
        for key, level, table in ((QUERY, Level.QUERY, self.queries), (ITEM, Level.ITEM, self.log.items)):
            shape = self.raw.shape(table)
            own = {own_name(each): read_column(each, shape) for each in self.levels.at(level, names)}
            more = {
                column: table[column] for column in (TIME, MOMENT, UNIT, CONTRIBUTES, SPLIT) if column in table.columns
            }
            kept = store(connection, f"{OWN_PREFIX}{name}_{level}_read", table.select(key, **own, **more))
            tables[key] = with_enums(connection, f"{OWN_PREFIX}{name}_{level}", kept)
        return tables

    def _asked(self, connection: Backend, pairs: ir.Table, shared: dict[str, ir.Table], name: str) -> ir.Table:
        """The pairs with what their past is chosen by, and nothing wider."""
        computed = self.log.log.computed
        wanted = [*map(own_name, (*computed.keys, *computed.read_by_expressions, *self._pair_names))]
        wanted += [MOMENT, UNIT, CONTRIBUTES]
        joined = pairs
        for key, table in shared.items():
            known = [column for column in table.columns if column in wanted]
            joined = joined.join(table.select(key, *known), key)
        both = self.levels.at(Level.PAIR, (*computed.keys, *computed.read_by_expressions, *self._features_of_both))
        if both:
            joined = self._with_both(joined, both)
        return store(connection, f"{OWN_PREFIX}{name}_asked", joined.mutate(**{ROW: ibis.row_number()}))

    @property
    def _features_of_both(self) -> list[str]:
        names = [one.name for one in self.raw.schema.features if one.name not in self.raw.layout.counted]
        return self.levels.at(Level.PAIR, names)

    def _with_both(self, pairs: ir.Table, names: Iterable[str]) -> ir.Table:
        """Add columns that are read from the query's and the item's columns together."""
        queries, items = self.queries, self.log.items
        columns = {
            key: [c for c in table.columns if not c.startswith(OWN_PREFIX)]
            for key, table in ((QUERY, queries), (ITEM, items))
        }
        whole = pairs.join(queries.select(QUERY, *columns[QUERY]), QUERY)
        whole = whole.join(items.select(ITEM, *(c for c in columns[ITEM] if c not in columns[QUERY])), ITEM)
        for side in self._dated:
            whole = side.joined(whole, whole[MOMENT])
        shape = self.raw.shape(whole)
        return whole.select(*pairs.columns, **{own_name(name): read_column(name, shape) for name in names})

    def _named(self, rows: ir.Table, final: Iterable[str]) -> ir.Table:
        """Give the columns the schema's names."""
        schema, layout = self.raw.schema, self.raw.layout
        columns = {one.name: rows[own_name(one.name)] for one in schema.features}
        if "segment" in final:
            columns[schema.segment] = rows[own_name("segment")]
        else:
            columns[schema.segment] = self.raw.shape(rows).segment_of(rows[own_name(layout.segment.column)])
        columns[schema.time] = rows[TIME]
        kept = [name for name in rows.columns if not name.startswith(f"{OWN_PREFIX}of_")]
        return rows.select(*kept, **columns, **{DAY: rows[TIME].date(), "user_key": rows[UNIT]})
