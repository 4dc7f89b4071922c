"""What a row of a user's files says: each feature and role of a schema as an expression over the files' columns.

A feature and the segment hang on nothing but their own columns, so that rows without a label or a time, as a served
model gets them, are read by the same code as rows to learn from.
"""

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from recsys.datasets.database import is_nothing, make_timestamp
from recsys.datasets.declared_roles import SplitRule
from recsys.datasets.declared_values import Declared, compared, equals
from recsys.datasets.table_forms import TIME_UNITS, moments_of, nan_as_null
from recsys.datasets.table_layout import TableLayout
from recsys.errors import DataError, similar_name
from recsys.features.column_names import OWN_PREFIX
from recsys.features.graded import Graded
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vectors import vector_element

# What stands for the values of a column that holds nulls alone, by the kind of its feature.
_TYPES = {
    FeatureKind.DENSE: "float64",
    FeatureKind.SPARSE: "string",
    FeatureKind.SPARSE_LIST: "array<string>",
    FeatureKind.DENSE_LIST: "array<float64>",
}


@dataclass(frozen=True)
class TableShape:
    """Gives the files' columns the schema's names and meanings; every method raises DataError, naming `where`.

    Attributes:
        raw: the rows as the files hold them.
        where: the files, for messages.
    """

    raw: ir.Table
    layout: TableLayout
    schema: FeatureSchema
    where: str

    def feature(self, name: str) -> ir.Value:
        """A feature that the files hold under its own name or the one that the layout says."""
        column = self._known(name)
        if name in self.layout.words:
            return column.lower().re_split(r"[^\p{L}\p{N}]+").filter(_is_filled)
        if name in self.layout.lists:
            return self._pieces(column, name)
        return column.cast(_TYPES[self.schema.feature(name).kind]) if is_nothing(column.type()) else column

    def _pieces(self, text: ir.StringValue, name: str) -> ir.ArrayValue:
        """A text cut into the elements of a list; an empty piece is none, and one that is not known in a group."""
        pieces = text.split(self.layout.lists[name].separator).map(_stripped)
        if name not in self.schema.grouped_lists:
            return pieces.filter(_is_filled)
        nothing = ibis.literal([], type="array<string>")
        known = (text.strip() == "").ifelse(nothing, pieces.map(lambda piece: piece.nullif("")))
        return known.cast(_TYPES[self.schema.feature(name).kind])

    def segment(self) -> ir.Value:
        """The name of the row's segment, or what stands in its place."""
        return self.segment_of(self._segment_column())

    def segment_of(self, column: ir.Value) -> ir.Value:
        """The segment by the value of the declared column, which may have been counted."""
        rule, names = self.layout.segment, self.schema.segments
        missing = rule.missing or ibis.null("string")
        if rule.bins is not None:
            if not column.type().is_numeric():
                raise DataError(
                    f"{self.where}: column `{rule.column}` has type {column.type()}, but `table.segment.bins` cuts "
                    "numbers; expected a numeric column, or `names` in place of `bins`."
                )
            place = self._place(rule.column, "table.segment.bins")
            cases = [(compared(column, "<", edge, place), name) for edge, name in zip(rule.bins, names, strict=False)]
            return ibis.cases((column.isnull(), missing), *cases, else_=names[-1])
        # A value without a name stays as it is, so that the check of the segments can show it.
        named = [(is_meant, name) for is_meant, name, _ in self._named_segments(column)]
        return ibis.cases((column.isnull(), missing), *named, else_=rule.other or column.cast("string"))

    def label(self) -> ir.Value:
        """0 or 1 by the layout's rule; the column itself where there is none."""
        rule = self.layout.label
        if rule is None:
            return ibis.literal(1, type="int8")
        # NaN first: DuckDB holds it for greater than any number, so an unknown rating would be a positive label.
        column = nan_as_null(self.column(rule.column, "the label", "table.label"))
        if not rule.operator:
            return column.cast("float64") if is_nothing(column.type()) else column
        place = self._place(rule.column, "table.label")
        return compared(column, rule.operator, rule.value, place).cast("int8")

    def grade(self, graded: Graded) -> ir.Value:
        """The number that the label follows from."""
        column = nan_as_null(self.column(graded.column, "the grade", "graded.column"))
        return column.cast("float64") if is_nothing(column.type()) else column

    def weight(self, name: str) -> ir.Value:
        """The schema's column of weights, of that name."""
        column = self._known(name)
        return column.cast("float64") if is_nothing(column.type()) else column

    def time(self) -> ir.TimestampValue:
        """UTC, without zone, in microseconds."""
        if self.layout.position:
            # The order alone counts: a place stands for so many seconds of 1970.
            place = self.column(self.layout.position, "the position", "table.position")
            if not (place.type().is_integer() or is_nothing(place.type())):
                raise DataError(
                    f"{self.where}: column `{self.layout.position}` has type {place.type()}; expected whole numbers, "
                    "which `table.position` puts into an order."
                )
            return make_timestamp(place.cast("int64") * TIME_UNITS["seconds"])
        if self.layout.time is None:
            return make_timestamp(ibis.literal(0, type="int64"))
        column = self.column(self.layout.time.column, "the time", "table.time.column")
        return moments_of(column, self.layout.time, self.where, "table.time")

    def split_by_column(self, rule: SplitRule) -> ir.StringValue:
        """The row's split by a column's values; null where the value has none."""
        return ibis.cases(*((is_meant, split) for is_meant, split, _ in self._named_splits(rule)))

    def occurrences(self) -> dict[str, ir.BooleanValue]:
        """Where each value that the layout declares occurs, by its key and itself."""
        found = {
            f"missing.{name}: {value}": is_meant
            for name in self.layout.missing
            for is_meant, value in self._missing(name, self._source(name))
        }
        if self.layout.segment.bins is None and self.layout.segment.column not in self.layout.counted:
            key = "segment.names" if self.layout.segment.names else "segments"
            named = self._named_segments(self._segment_column())
            found |= {f"{key}: {value}": is_meant for is_meant, _, value in named}
        rule = self.layout.splits
        if rule is not None and rule.column:
            found |= {f"splits.{split}: {value}": is_meant for is_meant, split, value in self._named_splits(rule)}
        return found

    def column(self, name: str, use: str, key: str = "table.columns") -> ir.Value:
        """A column of the files; `use` says what it is to be, `key` where the schema file names it."""
        there = [column for column in self.raw.columns if not column.startswith(OWN_PREFIX)]
        if name in there:
            return self.raw[name]
        if name in self.layout.expressions and name not in self.layout.counted:
            parts = self.layout.expressions[name].columns
            use, key = f"part of the derived column `{name}`", f"table.derive.{name}"
            return self.layout.expressions[name].to_ibis({part: self.derived_part(part, use, key) for part in parts})
        close = similar_name(name, there)
        raise DataError(
            f"{self.where}: column `{name}` is missing, which is to be {use}; found {', '.join(there)}."
            f"{f' Did you mean `{close}`?' if close else ''} Rename it in the file, or say under `{key}` of schema "
            f"`{self.schema.name}` which column it is."
        )

    def derived_part(self, name: str, use: str, key: str) -> ir.Value:
        """A column that an expression reads: a feature by its name in the schema, else a column of the files."""
        is_renamed = name in self.layout.columns or name in self.layout.texts
        return self.feature(name) if is_renamed else self.column(name, use, key)

    def _known(self, name: str) -> ir.Value:
        """The column of a feature or weight, null where it holds NaN or a value that stands for nothing known."""
        column = self._source(name)
        missing = [is_meant for is_meant, _ in self._missing(name, column)]
        if column.type().is_array() and missing:
            unknown = self.layout.missing[name]
            place = self._place(name, f"table.missing.{name}")
            if name in self.schema.grouped_lists:
                # Left out, it would bring the list out of step with those beside it.
                nothing = ibis.null(column.type().value_type)
                return column.map(lambda one: _any(equals(one, value, place) for value in unknown).ifelse(nothing, one))
            return column.filter(lambda one: ~_any(equals(one, value, place) for value in unknown))
        column = nan_as_null(column)
        return _any(missing).fill_null(False).ifelse(ibis.null(column.type()), column) if missing else column

    def _missing(self, name: str, column: ir.Value) -> Iterator[tuple[ir.BooleanValue, Declared]]:
        """Which rows hold each value that stands for nothing known; of lists, in any place."""
        place = self._place(name, f"table.missing.{name}")
        for value in self.layout.missing.get(name, ()):
            if column.type().is_array():
                yield column.filter(lambda one, value=value: equals(one, value, place)).length() > 0, value
            else:
                yield equals(column, value, place), value

    def _source(self, name: str) -> ir.Value:
        """The files' column of a feature or weight: the text that is cut, the vector's element, or the column."""
        use = f"the feature `{name}`" if name != self.schema.weight else "the weight"
        if name in self.layout.texts:
            return self._text(self.layout.texts[name], use)
        vector = vector_element(name)
        if vector is None or name in self.layout.columns or name in self.raw.columns or name in self.layout.expressions:
            return self.column(self.layout.columns.get(name, name), use)
        column = self.column(self.layout.columns.get(vector[0], vector[0]), use)
        if not column.type().is_array():
            raise DataError(
                f"{self.where}: column `{vector[0]}` has type {column.type()}; expected vectors, a list of numbers in "
                f"every row, as its `width` in schema `{self.schema.name}` says."
            )
        return column[vector[1]]

    def _text(self, name: str, use: str) -> ir.StringValue:
        column = self.column(name, use, "table.lists` or `table.words")
        if is_nothing(column.type()):
            return column.cast("string")
        if not column.type().is_string():
            raise DataError(
                f"{self.where}: column `{name}` has type {column.type()}; expected text, to be cut into {use}. Leave "
                f"the entry out of `table.lists` or `table.words` if it is a list already."
            )
        return column

    def _segment_column(self) -> ir.Value:
        return nan_as_null(self.column(self.layout.segment.column, "the segment", "table.segment.column"))

    def _named_segments(self, column: ir.Value) -> Iterator[tuple[ir.BooleanValue, str, Declared]]:
        rule = self.layout.segment
        place = self._place(rule.column, "table.segment.names" if rule.names else "segments")
        # Without names the column's values are the segments' own.
        for value, name in rule.names.items() or [(name, name) for name in self.schema.segments]:
            yield equals(column, value, place), name, value

    def _named_splits(self, rule: SplitRule) -> Iterator[tuple[ir.BooleanValue, str, Declared]]:
        column = self.column(rule.column, "the split", "table.splits.column")
        for value, split in rule.values:
            yield equals(column, value, self._place(rule.column, f"table.splits.{split}")), split, value

    def _place(self, column: str, key: str) -> str:
        return f"{self.where}: `{key}` of schema `{self.schema.name}`: column `{column}`"


def _is_filled(word: ir.StringValue) -> ir.BooleanValue:
    return word.length() > 0


def _stripped(word: ir.StringValue) -> ir.StringValue:
    return word.strip()


def _any(conditions: list[ir.BooleanValue] | Iterator[ir.BooleanValue]) -> ir.BooleanValue:
    return functools.reduce(operator.or_, conditions)
