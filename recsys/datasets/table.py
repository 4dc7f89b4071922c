"""Rows that a user already has: Parquet or CSV files, described by the `table:` block of a schema file."""

import datetime
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import epoch_us, fetch_one, make_timestamp, store
from recsys.datasets.history import CONTRIBUTES, MOMENT, ROW, UNIT, HistoryScope, add_history
from recsys.datasets.source import DAY, SPLIT, TEST, TRAIN, VALIDATION, SourceRows
from recsys.datasets.staging import similar_name
from recsys.datasets.table_files import find_files, shown_files
from recsys.datasets.table_layout import TIME_UNITS, LabelRule, SegmentRule, TableLayout
from recsys.datasets.table_reading import FILE_SPLIT, ROW_HASH, TableReader
from recsys.datasets.table_types import TextRules
from recsys.datasets.table_uses import uses_of
from recsys.errors import DataError
from recsys.features.schema import FeatureSchema
from recsys.features.vectors import vector_element
from recsys.progress import Progress

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class TableSource:
    """Reads the files below `raw` as `layout` says; see `load_table_layout`."""

    raw: Path
    layout: TableLayout

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return the rows of the files; see `Source.read`."""
        layout = self.layout
        files = find_files(self.raw, layout.files, progress)
        progress("read", 0, 0)
        reader = TableReader(
            self.raw,
            layout.csv,
            uses_of(layout, schema),
            TextRules(layout.csv.missing, layout.time_format),
            apart=layout.splits.column if layout.splits else "",
        )
        where = shown_files(files)
        shaped = _Shape(reader.read(connection, files), layout, schema, where).rows()
        try:
            kept = store(connection, "table_rows", shaped)
        except (duckdb.OutOfMemoryException, duckdb.IOException):
            raise
        except duckdb.Error as error:
            # A value out of range, or pages that are damaged.
            raise DataError(
                f"{where}: a value cannot be read ({error}). Mend it in the file, or the column's use in schema "
                f"`{schema.name}`."
            ) from error
        # A row without a time lies in no span of time either, but it is broken, not outside: the check of rows says so.
        is_outside = kept[SPLIT].isnull() & kept[schema.time].notnull()
        outside = fetch_one(connection, kept.aggregate(rows=is_outside.sum()))["rows"] or 0
        kept = kept.filter(~is_outside)
        counts = {"rows outside every split": int(outside), **_repeated(connection, kept)}
        if self.layout.history:
            kept = store(connection, "table_kept", kept)
            kept = add_history(connection, kept, self.layout.history, schema.label, progress)
        return SourceRows(
            rows=kept,
            extras=("user_key",),
            description={
                "source": "table",
                "files": {file.name: file.sha256 for file in files},
                "history": str(self.layout.history_scope) if self.layout.history else "none",
            },
            counts=counts,
            origins=_origins(self.layout, schema),
        )


class _Shape:
    """Gives the files' columns the schema's names and meanings."""

    def __init__(self, raw: ir.Table, layout: TableLayout, schema: FeatureSchema, where: str) -> None:
        self._raw, self._layout, self._schema, self._where = raw, layout, schema, where

    def rows(self) -> ir.Table:
        """Features that the files hold, segment, label, weight, time, split, day, user_key, and what history needs."""
        schema, layout = self._schema, self._layout
        told = {feature.name for feature in layout.history}
        columns = {feature.name: self._feature(feature.name) for feature in schema.features if feature.name not in told}
        for feature in layout.history:
            for name in filter(None, (*feature.by, feature.of)):
                if name not in (*columns, schema.segment, schema.label):
                    columns[name] = self._column(name, f"the history feature `{feature.name}`")
        if schema.weight:
            columns[schema.weight] = self._column(layout.columns.get(schema.weight, schema.weight), "the weight")
        columns[schema.label] = self._label(layout.label)
        columns[schema.segment] = self._segment(layout.segment)
        moment = self._time()
        columns[schema.time] = moment
        split = self._split(moment)
        user_key = _user_key(columns[schema.user])
        columns |= {SPLIT: split, DAY: moment.date(), "user_key": user_key}
        if _can_repeat(layout):
            columns[ROW_HASH] = self._raw[ROW_HASH]
        if layout.history:
            is_known = split == TRAIN if layout.history_scope is HistoryScope.TRAIN_ONLY else ibis.literal(True)
            columns |= {ROW: ibis.row_number(), MOMENT: epoch_us(moment), CONTRIBUTES: is_known, UNIT: user_key}
        return self._raw.select(**columns)

    def _column(self, name: str, use: str, key: str = "table.columns") -> ir.Value:
        if name in self._raw.columns:
            return self._raw[name]
        there = [column for column in self._raw.columns if column not in (FILE_SPLIT, ROW_HASH)]
        close = similar_name(name, there)
        raise DataError(
            f"{self._where}: column `{name}` is missing, which is to be {use}; found {', '.join(there)}."
            f"{f' Did you mean `{close}`?' if close else ''} Rename it in the file, or say under `{key}` of schema "
            f"`{self._schema.name}` which column it is."
        )

    def _feature(self, name: str) -> ir.Value:
        use = f"the feature `{name}`"
        if name in self._layout.words:
            return self._text(self._layout.words[name], use).lower().re_split(r"[^\p{L}\p{N}]+").filter(_is_filled)
        if name in self._layout.lists:
            column, separator = self._layout.lists[name]
            return self._text(column, use).split(separator).filter(_is_filled)
        column = _nan_as_null(self._element(name, use))
        if name not in self._layout.missing:
            return column
        return (column.cast("string") == self._layout.missing[name]).ifelse(ibis.null(column.type()), column)

    def _element(self, name: str, use: str) -> ir.Value:
        """The column of a feature, or the element of the vector that the feature stands for."""
        vector = vector_element(name)
        if vector is None or name in self._layout.columns or name in self._raw.columns:
            return self._column(self._layout.columns.get(name, name), use)
        column = self._column(self._layout.columns.get(vector[0], vector[0]), use)
        if not column.type().is_array():
            raise DataError(
                f"{self._where}: column `{vector[0]}` has type {column.type()}; expected vectors, a list of numbers in "
                f"every row, as its `width` in schema `{self._schema.name}` says."
            )
        return column[vector[1]]

    def _text(self, name: str, use: str) -> ir.StringValue:
        column = self._column(name, use, "table.lists` or `table.words")
        if not column.type().is_string():
            raise DataError(
                f"{self._where}: column `{name}` has type {column.type()}; expected text, to be cut into {use}. Leave "
                f"the entry out of `table.lists` or `table.words` if it is a list already."
            )
        return column

    def _label(self, rule: LabelRule) -> ir.Value:
        # NaN first: DuckDB holds it for greater than any number, so an unknown rating would be a positive label.
        column = _nan_as_null(self._column(rule.column, "the label", "table.label"))
        if not rule.operator:
            return column
        is_word, is_text = isinstance(rule.value, str), column.type().is_string()
        if is_word != is_text:
            raise DataError(
                f"{self._where}: column `{rule.column}` has type {column.type()}, but the label rule compares it with "
                f"{rule.value!r}; expected both to be numbers or both to be words."
            )
        return _COMPARE[rule.operator](column, rule.value).cast("int8")

    def _segment(self, rule: SegmentRule) -> ir.Value:
        column = _nan_as_null(self._column(rule.column, "the segment", "table.segment.column"))
        names = self._schema.segments
        if rule.bins:
            if not column.type().is_numeric():
                raise DataError(
                    f"{self._where}: column `{rule.column}` has type {column.type()}, but `table.segment.bins` cuts "
                    "numbers; expected a numeric column, or `names` in place of `bins`."
                )
            cases = [(column < edge, name) for edge, name in zip(rule.bins, names, strict=False)]
            return ibis.cases((column.isnull(), ibis.null("string")), *cases, else_=names[-1])
        text = column.cast("string")
        if not rule.names:
            return text
        # A value without a name stays as it is, so that the check of the segments can show it.
        return ibis.cases(*((text == value, name) for value, name in rule.names.items()), else_=text)

    def _time(self) -> ir.TimestampValue:
        name, unit = self._layout.time_column, self._layout.time_unit
        column = self._column(name, "the time", "table.time.column")
        form = column.type()
        if unit == "timestamp":
            if not (form.is_timestamp() or form.is_date()):
                raise DataError(
                    f"{self._where}: time column `{name}` has type {form}; expected a timestamp. If it holds numbers, "
                    "set `table.time.unit` to seconds, ms or us."
                )
            return column.cast(dt.Timestamp(scale=6))
        if not form.is_numeric():
            raise DataError(
                f"{self._where}: time column `{name}` has type {form}; expected numbers, as `table.time.unit` is "
                f"{unit}."
            )
        if form.is_floating():
            return make_timestamp((_nan_as_null(column) * TIME_UNITS[unit]).round().cast("int64"))
        return make_timestamp(column.cast("int64") * TIME_UNITS[unit])

    def _split(self, moment: ir.TimestampValue) -> ir.StringValue:
        rule = self._layout.splits
        if rule is None:
            return self._raw[FILE_SPLIT]
        if rule.column:
            column = self._column(rule.column, "the split", "table.splits.column").cast("string")
            return ibis.cases(*((column == value, split) for value, split in rule.values.items()))
        ends = (
            (rule.validation_start, TRAIN),
            (rule.test_start, VALIDATION),
            (rule.test_end or datetime.datetime.max, TEST),
        )
        return ibis.cases(*((moment < end, split) for end, split in ends))


def _can_repeat(layout: TableLayout) -> bool:
    """Whether equal rows may stand in two splits: where time says the split, they have one time and so one split."""
    return not layout.splits or bool(layout.splits.column)


def _repeated(connection: Backend, rows: ir.Table) -> dict[str, int]:
    """How many rows of a later split stand in an earlier one too, equal in every column of the files."""
    if ROW_HASH not in rows.columns:
        return {}
    counts = {}
    for later, earlier in ((VALIDATION, TRAIN), (TEST, TRAIN), (TEST, VALIDATION)):
        asked, known = (rows.filter(rows[SPLIT] == split).select(ROW_HASH) for split in (later, earlier))
        # The few hashes that both have come first, so that no table of all training rows is built.
        shared = known.semi_join(asked, ROW_HASH).distinct()
        found = asked.semi_join(shared, ROW_HASH)
        counts[f"{later} rows that stand in {earlier} too"] = int(
            fetch_one(connection, found.aggregate(n=found.count()))["n"]
        )
    return counts


def _origins(layout: TableLayout, schema: FeatureSchema) -> dict[str, str]:
    found = {
        **layout.columns,
        **{name: column for name, (column, _) in layout.lists.items()},
        **layout.words,
        schema.label: layout.label.column,
        schema.segment: layout.segment.column,
        schema.time: layout.time_column,
    }
    return {name: column for name, column in found.items() if name != column}


def _is_filled(word: ir.StringValue) -> ir.BooleanValue:
    return word.length() > 0


def _nan_as_null(column: ir.Value) -> ir.Value:
    return column.isnan().ifelse(ibis.null(column.type()), column) if column.type().is_floating() else column


def _user_key(user: ir.Value) -> ir.IntegerValue:
    """A number per user: the id where it is one, else 62 bits of its hash; -1 for no user."""
    number = user.cast("int64") if user.type().is_integer() else user.hash() & ibis.literal(2**62 - 1)
    # Asked of the user, as the hash of null is a number like any other.
    return user.isnull().ifelse(-1, number)
