"""Whose a column is: the item's, the query's, or both together, as it follows from what it is read from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from recsys.datasets.table_layout import TableLayout
from recsys.errors import UsageError
from recsys.features.schema import FeatureSchema
from recsys.features.vectors import vector_element


class Level(StrEnum):
    """What a column has one value for."""

    ITEM = "item"
    QUERY = "query"
    PAIR = "pair"


def sources_of(name: str, layout: TableLayout, schema: FeatureSchema) -> set[str]:
    """The columns of files and side tables that a feature, a role or a derived column is read from."""
    if name in layout.texts:
        return {layout.texts[name]}
    if name in layout.expressions:
        return {source for read in layout.expressions[name].columns for source in sources_of(read, layout, schema)}
    if name in ("segment", schema.segment):
        return sources_of(layout.segment.column, layout, schema) if layout.segment.column != name else {name}
    if name == schema.time:
        return {layout.time.column} if layout.time else {layout.position} if layout.position else set()
    if name in layout.columns:
        return {layout.columns[name]}
    is_element = any(feature.name == name for feature in schema.features) and vector_element(name)
    return {is_element[0]} if is_element else {name}


@dataclass(frozen=True)
class ColumnLevels:
    """Tells the level of a column by the columns that items and queries have.

    Attributes:
        items, queries: the columns, by the files' own names.
        dated: of side tables whose rows hold from a time on, joined by the item: they are of both together.
    """

    layout: TableLayout
    schema: FeatureSchema
    items: Sequence[str]
    queries: Sequence[str]
    dated: Sequence[str] = ()

    def of(self, name: str) -> Level:
        """The level of a feature, a role or a column.

        Raises:
            UsageError: it is read from a column that neither the query nor the item has; says where to declare it.
        """
        sources = sources_of(name, self.layout, self.schema)
        if sources <= set(self.items):
            return Level.ITEM
        if sources <= set(self.queries):
            return Level.QUERY
        known = {*self.items, *self.queries, *self.dated}
        if unknown := sorted(sources - known):
            raise UsageError(
                f"Schema `{self.schema.name}`: `{name}` is read from `{unknown[0]}`, which only events have, so it is "
                "not known of items that were not chosen. Say whose it is: of the query (`table.query.keep: "
                f"{{{unknown[0]}: max}}`), or of the item (`table.tables: {{items: {{key: <item column>, columns: "
                f"{{{unknown[0]}: {unknown[0]}}}}}}}`). The query has {', '.join(self.queries)}; the item has "
                f"{', '.join(self.items)}."
            )
        return Level.PAIR

    def at(self, level: Level, names: Iterable[str]) -> list[str]:
        """Those of the names that have a level."""
        return [name for name in dict.fromkeys(names) if self.of(name) is level]

    def of_feature(self, name: str) -> Level:
        """The level of any column, counted ones too; what is counted by the item is the item's at one moment only."""
        if name not in self.layout.counted:
            return self.of(name)
        if name in self.layout.expressions:
            parts = self.layout.expressions[name].columns
        else:
            one = self.layout.history.features[name]
            parts = (*one.keyed_by, *([one.to] if one.to else []))
        found = {self.of_feature(part) for part in parts}
        if len(found) > 1:
            return Level.PAIR
        # Of no column at all: what is known of the moment is known of the query.
        return found.pop() if found else Level.QUERY
