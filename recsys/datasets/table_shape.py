"""What a row of a user's files says: each feature and role of a schema as an expression over the files' columns.

A feature and the segment hang on nothing but their own columns, so that rows without a label or a time, as a served
model gets them, are read by the same code as rows to learn from.
"""

import datetime
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from recsys.datasets.database import make_timestamp
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.datasets.staging import similar_name
from recsys.datasets.table_files import FILE_SPLIT
from recsys.datasets.table_layout import TIME_UNITS, TableLayout
from recsys.errors import DataError
from recsys.features.schema import FeatureSchema
from recsys.features.vectors import vector_element

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
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
        use = f"the feature `{name}`"
        if name in self.layout.words:
            return self._text(self.layout.words[name], use).lower().re_split(r"[^\p{L}\p{N}]+").filter(_is_filled)
        if name in self.layout.lists:
            column, separator = self.layout.lists[name]
            return self._text(column, use).split(separator).filter(_is_filled)
        column = _nan_as_null(self._element(name, use))
        if name not in self.layout.missing:
            return column
        return (column.cast("string") == self.layout.missing[name]).ifelse(ibis.null(column.type()), column)

    def segment(self) -> ir.Value:
        """The name of the row's segment, or what stands in its place."""
        rule = self.layout.segment
        column = _nan_as_null(self.column(rule.column, "the segment", "table.segment.column"))
        names = self.schema.segments
        if rule.bins:
            if not column.type().is_numeric():
                raise DataError(
                    f"{self.where}: column `{rule.column}` has type {column.type()}, but `table.segment.bins` cuts "
                    "numbers; expected a numeric column, or `names` in place of `bins`."
                )
            cases = [(column < edge, name) for edge, name in zip(rule.bins, names, strict=False)]
            return ibis.cases((column.isnull(), ibis.null("string")), *cases, else_=names[-1])
        text = column.cast("string")
        if not rule.names:
            return text
        # A value without a name stays as it is, so that the check of the segments can show it.
        return ibis.cases(*((text == value, name) for value, name in rule.names.items()), else_=text)

    def label(self) -> ir.Value:
        """0 or 1 by the layout's rule; the column itself where there is none."""
        rule = self.layout.label
        # NaN first: DuckDB holds it for greater than any number, so an unknown rating would be a positive label.
        column = _nan_as_null(self.column(rule.column, "the label", "table.label"))
        if not rule.operator:
            return column
        is_word, is_text = isinstance(rule.value, str), column.type().is_string()
        if is_word != is_text:
            raise DataError(
                f"{self.where}: column `{rule.column}` has type {column.type()}, but the label rule compares it with "
                f"{rule.value!r}; expected both to be numbers or both to be words."
            )
        return _COMPARE[rule.operator](column, rule.value).cast("int8")

    def weight(self, name: str) -> ir.Value:
        """The schema's column of weights."""
        return self.column(self.layout.columns.get(name, name), "the weight")

    def time(self) -> ir.TimestampValue:
        """UTC, without zone, in microseconds."""
        name, unit = self.layout.time_column, self.layout.time_unit
        column = self.column(name, "the time", "table.time.column")
        form = column.type()
        if unit == "timestamp":
            if not (form.is_timestamp() or form.is_date()):
                raise DataError(
                    f"{self.where}: time column `{name}` has type {form}; expected a timestamp. If it holds numbers, "
                    "set `table.time.unit` to seconds, ms or us."
                )
            return column.cast(dt.Timestamp(scale=6))
        if not form.is_numeric():
            raise DataError(
                f"{self.where}: time column `{name}` has type {form}; expected numbers, as `table.time.unit` is {unit}."
            )
        if form.is_floating():
            return make_timestamp((_nan_as_null(column) * TIME_UNITS[unit]).round().cast("int64"))
        return make_timestamp(column.cast("int64") * TIME_UNITS[unit])

    def split(self, moment: ir.TimestampValue) -> ir.StringValue:
        """The row's split, null outside every split; `moment` is its time."""
        rule = self.layout.splits
        if rule is None:
            return self.raw[FILE_SPLIT]
        if rule.column:
            column = self.column(rule.column, "the split", "table.splits.column").cast("string")
            return ibis.cases(*((column == value, split) for value, split in rule.values.items()))
        ends = (
            (rule.validation_start, TRAIN),
            (rule.test_start, VALIDATION),
            (rule.test_end or datetime.datetime.max, TEST),
        )
        return ibis.cases(*((moment < end, split) for end, split in ends))

    def column(self, name: str, use: str, key: str = "table.columns") -> ir.Value:
        """A column of the files; `use` says what it is to be, `key` where the schema file names it."""
        if name in self.raw.columns:
            return self.raw[name]
        there = [column for column in self.raw.columns if column != FILE_SPLIT]
        close = similar_name(name, there)
        raise DataError(
            f"{self.where}: column `{name}` is missing, which is to be {use}; found {', '.join(there)}."
            f"{f' Did you mean `{close}`?' if close else ''} Rename it in the file, or say under `{key}` of schema "
            f"`{self.schema.name}` which column it is."
        )

    def _element(self, name: str, use: str) -> ir.Value:
        """The column of a feature, or the element of the vector that the feature stands for."""
        vector = vector_element(name)
        if vector is None or name in self.layout.columns or name in self.raw.columns:
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
        if not column.type().is_string():
            raise DataError(
                f"{self.where}: column `{name}` has type {column.type()}; expected text, to be cut into {use}. Leave "
                f"the entry out of `table.lists` or `table.words` if it is a list already."
            )
        return column


def _is_filled(word: ir.StringValue) -> ir.BooleanValue:
    return word.length() > 0


def _nan_as_null(column: ir.Value) -> ir.Value:
    return column.isnan().ifelse(ibis.null(column.type()), column) if column.type().is_floating() else column
