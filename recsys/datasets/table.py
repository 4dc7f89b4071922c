"""Rows that a user already has: Parquet or CSV files, described by the `table:` block of a schema file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import epoch_us, fetch_one, store
from recsys.datasets.history_features import (
    CONTRIBUTES,
    MOMENT,
    ROW,
    UNIT,
    HistoryFeature,
    HistoryKind,
    HistoryScope,
    add_history,
)
from recsys.datasets.source import DAY, SPLIT, TEST, TRAIN, VALIDATION, SourceRows
from recsys.datasets.staging import missing_or_infinite_as_null
from recsys.datasets.table_files import ROW_HASH, find_files, shown_files
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_reading import TableReader
from recsys.datasets.table_shape import TableShape
from recsys.datasets.table_types import TextRules
from recsys.datasets.table_uses import uses_of
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress


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
            TextRules(layout.csv.missing, layout.time.format),
            apart=layout.splits.column if layout.splits else "",
        )
        shape = TableShape(reader.read(connection, files), layout, schema, shown_files(files))
        kept, counts = _stored(connection, shape)
        # A row without a time lies in no span of time either, but it is broken, not outside: the check of rows says so.
        is_outside = kept[SPLIT].isnull() & kept[schema.time].notnull()
        outside = fetch_one(connection, kept.aggregate(rows=is_outside.sum()))["rows"] or 0
        kept = kept.filter(~is_outside)
        counts = {"rows outside every split": int(outside), **_repeated(connection, kept), **counts}
        if self.layout.history.features:
            kept = store(connection, "table_kept", kept)
            features = [_by_own_names(feature) for feature in self.layout.history.counted]
            kept = add_history(connection, kept, features, schema.label, progress)
        return SourceRows(
            rows=kept,
            extras=("user_key",),
            description={
                "source": "table",
                "files": {file.name: file.sha256 for file in files},
                "history": str(self.layout.history.scope) if self.layout.history.features else "none",
                "schema_file": self.layout.text,
            },
            counts=counts,
            origins=origins_of(self.layout, schema),
        )


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
        number = fetch_one(connection, found.aggregate(rows=found.count()))["rows"]
        counts[f"{later} rows that stand in {earlier} too"] = int(number)
    return counts


def _stored(connection: Backend, shape: TableShape) -> tuple[ir.Table, dict[str, int]]:
    """The shaped rows, run once, and how often values occur that the layout declares."""
    occurrences = shape.occurrences()
    # Columns beside the rows, as another pass over the files would parse them again.
    marks = {f"{OWN_PREFIX}declared_{number}": is_there for number, is_there in enumerate(occurrences.values())}
    try:
        rows = store(connection, "table_rows", shape.raw.select(**_shaped(shape), **marks))
    except (duckdb.OutOfMemoryException, duckdb.IOException):
        raise
    except duckdb.Error as error:
        # A value out of range, or pages that are damaged.
        what = str(error).splitlines()[0]
        raise DataError(
            f"{shape.where}: a value cannot be read ({what}). Mend it in the file, or the column's use in schema "
            f"`{shape.schema.name}`."
        ) from error
    if not marks:
        return rows, {}
    found = fetch_one(connection, rows.aggregate(**{mark: rows[mark].sum() for mark in marks}))
    counts = {}
    for key, number in zip(occurrences, map(found.__getitem__, marks), strict=True):
        if not number:
            counts[f"declared, but found nowhere: {key}"] = 1
        elif key.startswith("missing."):
            counts[f"declared missing: {key.removeprefix('missing.')}"] = int(number)
    return rows.drop(*marks), counts


def _shaped(shape: TableShape) -> dict[str, ir.Value]:
    """Features that the files hold, segment, label, weight, time, split, day, user_key, and what history needs."""
    schema, layout = shape.schema, shape.layout
    counted = layout.history.features
    columns = {feature.name: shape.feature(feature.name) for feature in schema.features if feature.name not in counted}
    if schema.weight:
        columns[schema.weight] = shape.weight(schema.weight)
    columns[schema.label] = shape.label()
    columns[schema.segment] = shape.segment()
    moment = shape.time()
    columns[schema.time] = moment
    split = shape.split(moment)
    user_key = _user_key(columns[schema.user])
    if layout.history.features:
        columns |= _history_columns(shape, columns)
        is_known = split == TRAIN if layout.history.scope is HistoryScope.TRAIN_ONLY else ibis.literal(True)
        columns |= {ROW: ibis.row_number(), MOMENT: epoch_us(moment), CONTRIBUTES: is_known, UNIT: user_key}
    if _can_repeat(layout):
        columns[ROW_HASH] = shape.raw[ROW_HASH]
    return columns | {SPLIT: split, DAY: moment.date(), "user_key": user_key}


def _history_columns(shape: TableShape, columns: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """The columns that the history is counted by or of, under names of their own."""
    found = dict[str, ir.Value]()
    for feature in shape.layout.history.counted:
        for name in filter(None, (*feature.by, feature.of)):
            column = _history_column(name, shape, columns, f"the history feature `{feature.name}`")
            # NaN and infinity are no values, and one of them would be in every later mean.
            found[_own_name(name)] = missing_or_infinite_as_null(column) if column.type().is_floating() else column
        lists = [name for name in feature.by if found[_own_name(name)].type().is_array()]
        if len(lists) > (feature.kind is not HistoryKind.RECENT):
            raise DataError(
                f"{shape.where}: the history feature `{feature.name}` is counted by the lists {', '.join(lists)}; "
                f"expected {'none' if feature.kind is HistoryKind.RECENT else 'at most one list'} among {feature.by}."
            )
        if feature.kind is HistoryKind.MEAN and not _is_number(form := found[_own_name(feature.of)].type()):
            raise DataError(
                f"{shape.where}: column `{feature.of}` has type {form}; expected numbers, of which the history feature "
                f"`{feature.name}` is the mean."
            )
    return found


def _history_column(name: str, shape: TableShape, columns: Mapping[str, ir.Value], use: str) -> ir.Value:
    """A column by its name in the schema, else in the files; `label` and `segment` are the declared ones."""
    role = {"label": shape.schema.label, "segment": shape.schema.segment}.get(name)
    if name in columns or role is None:
        return columns[name] if name in columns else shape.column(name, use)
    source = {"label": shape.layout.label.column, "segment": shape.layout.segment.column}[name]
    if name in shape.raw.columns and name != source:
        raise DataError(
            f"{shape.where}: `{name}` of {use} may be the declared {name}, which is made of `{source}`, or the files' "
            f"own column `{name}`. Write `{role}` for the declared one, or rename the column in the files."
        )
    return columns[role]


def _by_own_names(feature: HistoryFeature) -> HistoryFeature:
    """The feature over the columns of `_history_columns`."""
    return replace(feature, by=tuple(map(_own_name, feature.by)), of=_own_name(feature.of) if feature.of else "")


def _own_name(column: str) -> str:
    # By their bytes, as the data base would hold names that differ only in small and large letters for one.
    return f"{OWN_PREFIX}of_{column.encode().hex()}"


def origins_of(layout: TableLayout, schema: FeatureSchema) -> dict[str, str]:
    """Return the files' name of each of the schema's columns that has another one there."""
    found = {
        **layout.columns,
        **layout.texts,
        schema.label: layout.label.column,
        schema.segment: layout.segment.column,
        schema.time: layout.time.column,
    }
    return {name: column for name, column in found.items() if name != column}


def _user_key(user: ir.Value) -> ir.IntegerValue:
    """A number per user: the id where it is one, else 62 bits of its hash; -1 for no user."""
    if user.type().is_integer():
        # Beyond 64 signed bits, where no id can be, is no user either.
        return user.try_cast("int64").fill_null(-1)
    # Asked of the user, as the hash of null is a number like any other.
    return user.isnull().ifelse(-1, user.hash() & ibis.literal(2**62 - 1))


def _is_number(form: dt.DataType) -> bool:
    return bool(form.is_numeric() or form.is_boolean())
