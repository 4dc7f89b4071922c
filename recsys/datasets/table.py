"""Rows that a user already has: Parquet or CSV files, described by the `table:` block of a schema file."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import epoch_us, fetch_one, store
from recsys.datasets.history import CONTRIBUTES, MOMENT, ROW, UNIT, HistoryScope, add_history
from recsys.datasets.source import DAY, SPLIT, TRAIN, SourceRows
from recsys.datasets.table_files import matching_files, require_equal_columns, union_of_files
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.schema import FeatureSchema
from recsys.files import sha256_of_file
from recsys.progress import Progress


@dataclass(frozen=True)
class TableSource:
    """Reads the files below `raw` as `layout` says; see `load_table_layout`."""

    raw: Path
    layout: TableLayout

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return the rows of the files; see `Source.read`."""
        files = {split: matching_files(self.raw, patterns) for split, patterns in self.layout.files.items()}
        found = [path for paths in files.values() for path in paths]
        require_equal_columns(found)
        raw = union_of_files(connection, files)
        shaped = _shaped(TableShape(raw, self.layout, schema, ", ".join(map(str, found))))
        try:
            kept = store(connection, "table_rows", shaped)
        except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:
            raise DataError(
                f"{', '.join(map(str, found))}: a value cannot be read ({error}). Mend it in the file, or the column's "
                f"use in schema `{schema.name}`."
            ) from error
        # A row without a time lies in no span of time either, but it is broken, not outside: the check of rows says so.
        is_outside = kept[SPLIT].isnull() & kept[schema.time].notnull()
        outside = fetch_one(connection, kept.aggregate(rows=is_outside.sum()))["rows"] or 0
        kept = kept.filter(~is_outside)
        if self.layout.history:
            kept = store(connection, "table_kept", kept)
            kept = add_history(connection, kept, self.layout.history, schema.label, progress)
        return SourceRows(
            rows=kept,
            extras=("user_key",),
            description={
                "source": "table",
                "files": {str(path.relative_to(self.raw)): sha256_of_file(path) for path in found},
                "history": str(self.layout.history_scope) if self.layout.history else "none",
                "schema_file": self.layout.text,
            },
            counts={"rows outside every split": int(outside)},
            origins=_origins(self.layout, schema),
        )


def _shaped(shape: TableShape) -> ir.Table:
    """Features that the files hold, segment, label, weight, time, split, day, user_key, and what history needs."""
    schema, layout = shape.schema, shape.layout
    told = {feature.name for feature in layout.history}
    columns = {feature.name: shape.feature(feature.name) for feature in schema.features if feature.name not in told}
    for feature in layout.history:
        for name in filter(None, (*feature.by, feature.of)):
            if name not in (*columns, schema.segment, schema.label):
                columns[name] = shape.column(name, f"the history feature `{feature.name}`")
    if schema.weight:
        columns[schema.weight] = shape.weight(schema.weight)
    columns[schema.label] = shape.label()
    columns[schema.segment] = shape.segment()
    moment = shape.time()
    columns[schema.time] = moment
    split = shape.split(moment)
    user_key = _user_key(columns[schema.user])
    columns |= {SPLIT: split, DAY: moment.date(), "user_key": user_key}
    if layout.history:
        is_known = split == TRAIN if layout.history_scope is HistoryScope.TRAIN_ONLY else ibis.literal(True)
        columns |= {ROW: ibis.row_number(), MOMENT: epoch_us(moment), CONTRIBUTES: is_known, UNIT: user_key}
    return shape.raw.select(**columns)


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


def _user_key(user: ir.Value) -> ir.IntegerValue:
    """A number per user: the id where it is one, else 62 bits of its hash; -1 for no user."""
    number = user.cast("int64") if user.type().is_integer() else user.hash() & ibis.literal(2**62 - 1)
    # Asked of the user, as the hash of null is a number like any other.
    return user.isnull().ifelse(-1, number)
