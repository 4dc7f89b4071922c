"""Which columns rows to score have: those of the files, and by their own names what is not read from the row itself.

Features of the past are counted from other rows, and so stand in columns of their own names; what is derived stands in
one too, or is derived where the columns are there that it reads. A segment that follows from what was counted goes by
the schema's name of the segment.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from recsys.datasets.past import PastKind
from recsys.datasets.table_layout import TableLayout
from recsys.errors import DataError, similar_name
from recsys.features.raw import RAW_KINDS
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vectors import column_of, vector_element


@dataclass(frozen=True)
class RowColumn:
    """One column.

    Attributes:
        use: what it holds, and what that is to be.
        form: the type of one that happens to hold nothing.
        is_needed: False: others may stand in its place.
    """

    use: str
    form: pa.DataType
    is_needed: bool = True


@dataclass(frozen=True)
class RowColumns:
    """The columns by which rows are read.

    Attributes:
        id_types: embedding table -> string or int64, the type of its vocabulary's ids.
    """

    layout: TableLayout
    schema: FeatureSchema
    id_types: Mapping[str, pa.DataType]

    @cached_property
    def listed(self) -> dict[str, RowColumn]:
        """Every column that is read, those that are needed first."""
        found: dict[str, RowColumn] = {}
        every = [pair for name in self.wanted for pair in self._ways(name)]
        for name, column in sorted(every, key=lambda pair: not pair[1].is_needed):
            found.setdefault(name, column)
        return found

    @property
    def wanted(self) -> list[str]:
        """What is read of a row: the features and the segment, by the schema's names."""
        return [*(feature.name for feature in self.schema.features), self.schema.segment]

    @property
    def is_segment_named(self) -> bool:
        """Whether the segment goes by its own name, as other rows, or vectors, say what it is."""
        return self.layout.segment.column in self.layout.counted or bool(self.layout.segment.vectors)

    def lacking(self, name: str, found: Collection[str]) -> list[str]:
        """The columns whose absence among `found` keeps a feature, the segment or a derived column from being read."""
        if name == self.schema.segment and name not in self._features:
            is_given = self.is_segment_named and name in found
            return [] if is_given else self._lacking_column(self.layout.segment.column, found)
        return self._lacking_column(name, found)

    def suffice(self, found: Collection[str]) -> bool:
        """Whether rows with these columns can be read alone."""
        return not any(self.lacking(name, found) for name in self.wanted)

    def require(self, found: Collection[str], where: str, elsewhere: Collection[str] = ()) -> None:
        """Refuse rows that lack a column.

        Args:
            elsewhere: columns that no row needs to bring.

        Raises:
            DataError: names the column, and where training had it from.
        """
        for name in self.wanted:
            if lacking := self.lacking(name, [*found, *elsewhere]):
                raise DataError(f"{where}: {self._complaint(name, lacking, found)}")

    def source(self, name: str) -> str:
        """The files' own name of what is read from the files: a feature or another column."""
        layout, vector = self.layout, vector_element(name)
        if name in layout.texts:
            return layout.texts[name]
        if vector and name not in layout.columns and column_of(name, self._features) != name:
            return layout.columns.get(vector[0], vector[0])
        return layout.columns.get(name, name)

    @cached_property
    def _features(self) -> dict[str, FeatureKind]:
        return {feature.name: feature.kind for feature in self.schema.features}

    def _lacking_column(self, name: str, found: Collection[str]) -> list[str]:
        layout = self.layout
        if name in layout.computed:
            if name in found:
                return []
            parts = layout.expressions[name].columns if name in layout.expressions else ()
            return [each for part in parts for each in self._lacking_column(part, found)] if parts else [name]
        own = self.source(name)
        return [] if own in found or f"{own}[0]" in found else [own]

    def _ways(self, name: str) -> Iterator[tuple[str, RowColumn]]:
        """The columns by which a feature or the segment can come."""
        if name != self.schema.segment or name in self._features:
            yield from self._of_feature(name)
            return
        column = self.layout.segment.column
        if self.is_segment_named:
            yield name, RowColumn("string (the segment, by its name)", pa.string(), is_needed=False)
        elif column not in self.layout.computed:
            form = pa.float64() if self.layout.segment.bins is not None else pa.string()
            yield column, RowColumn("what the segment follows from (the segment)", form)
        if column in self.layout.computed:
            yield from self._of_computed(column, "the segment")

    def _of_feature(self, name: str) -> Iterator[tuple[str, RowColumn]]:
        layout, kind, own = self.layout, self._features[name], self.source(name)
        meaning = f"the feature `{name}`"
        if name in layout.computed:
            yield from self._of_computed(name, meaning)
        elif name in layout.words:
            yield own, RowColumn(f"text, cut into words ({meaning})", pa.string())
        elif name in layout.lists:
            yield own, RowColumn(f"text, cut at {layout.lists[name].separator!r} ({meaning})", pa.string())
        elif (
            (vector := vector_element(name)) and column_of(name, self._features) != name and name not in layout.columns
        ):
            yield own, RowColumn(f"vector: a list of numbers (the feature `{vector[0]}`)", pa.list_(pa.float64()))
        else:
            yield own, RowColumn(f"{RAW_KINDS[kind]} ({meaning})", self._form(name))

    def _of_computed(self, name: str, meaning: str) -> Iterator[tuple[str, RowColumn]]:
        """The column of the same name, and for one that is derived those that it reads."""
        kind = self._features.get(name)
        use = RAW_KINDS[kind] if kind else "counted from the past" if name in self.layout.counted else "derived"
        is_derived = name in self.layout.expressions
        is_alone = not is_derived and name in self._features
        yield name, RowColumn(f"{use} ({meaning})", self._form(name), is_needed=is_alone)
        for part in self.layout.expressions[name].columns if is_derived else ():
            if part in self.layout.computed:
                yield from self._of_computed(part, f"read by `{name}`")
            else:
                yield self.source(part), RowColumn(f"read by `{name}`", self._form(part), is_needed=False)

    def _form(self, name: str) -> pa.DataType:
        kind = self._features.get(name)
        if kind is None:
            entry = self.layout.history.features.get(name)
            return (
                pa.null() if entry is None else pa.list_(pa.null()) if entry.kind is PastKind.RECENT else pa.float64()
            )
        if kind is FeatureKind.DENSE:
            return pa.float64()
        if kind is FeatureKind.DENSE_LIST:
            return pa.list_(pa.float64())
        ids = self.id_types[self.schema.feature(name).table]
        return ids if kind is FeatureKind.SPARSE else pa.list_(ids)

    def _complaint(self, name: str, lacking: Collection[str], found: Collection[str]) -> str:
        """What is missing, and where it stood or came from in training."""
        layout, first = self.layout, next(iter(lacking))
        what = "the segment" if name == self.schema.segment and name not in self._features else f"the feature `{name}`"
        shown = f"found {', '.join(found) or 'no columns'}."
        if name in layout.counted or (what == "the segment" and self.is_segment_named):
            # A derived one may come as it is, which is said first.
            also = f" (or {', '.join(f'`{each}`' for each in lacking)})" if [*lacking] != [name] else ""
            return (
                f"column `{name}`{also} is missing; {shown} Training counted it from rows of the past "
                "(`table.history`), which rows to score do not bring along: name the folder of events (`recsys score "
                "--events <folder>`), or add the column with what is known of each row's past."
            )
        if side := next((side for side, rule in layout.tables.items() if first in rule.columns), ""):
            return (
                f"column `{first}` is missing, which is to be {what}; {shown} Training took it from the side table "
                f"`{side}`: name the folder of events (`recsys score --events <folder>`), or add the column."
            )
        close = similar_name(first, found)
        shown += f" Did you mean `{close}`?" if close else ""
        return (
            f"column `{first}` is missing, which is to be {what}; {shown} "
            f"Rename it, or add it as it stood in the files of schema `{self.schema.name}`."
        )
