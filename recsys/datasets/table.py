"""Rows that a user already has: Parquet or CSV files, described by the `table:` block of a schema file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.datasets.database import epoch_us, fetch_one, store
from recsys.datasets.history import (
    CONTRIBUTES,
    MOMENT,
    ROW,
    UNIT,
    HistoryFeature,
    HistoryKind,
    HistoryScope,
    add_history,
)
from recsys.datasets.source import DAY, SPLIT, TRAIN, SourceRows
from recsys.datasets.staging import missing_or_infinite_as_null
from recsys.datasets.table_files import matching_files, require_equal_columns, union_of_files
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
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
        _require_distinct_columns(found)
        raw = union_of_files(connection, files)
        shape = TableShape(raw, self.layout, schema, ", ".join(map(str, found)))
        kept, counts = _stored(connection, shape)
        # A row without a time lies in no span of time either, but it is broken, not outside: the check of rows says so.
        is_outside = kept[SPLIT].isnull() & kept[schema.time].notnull()
        outside = fetch_one(connection, kept.aggregate(rows=is_outside.sum()))["rows"] or 0
        kept = kept.filter(~is_outside)
        if self.layout.history:
            kept = store(connection, "table_kept", kept)
            told = [_by_own_names(feature) for feature in self.layout.history]
            kept = add_history(connection, kept, told, schema.label, progress)
        return SourceRows(
            rows=kept,
            extras=("user_key",),
            description={
                "source": "table",
                "files": {str(path.relative_to(self.raw)): sha256_of_file(path) for path in found},
                "history": str(self.layout.history_scope) if self.layout.history else "none",
                "schema_file": self.layout.text,
            },
            counts={"rows outside every split": int(outside), **counts},
            origins=origins_of(self.layout, schema),
        )


def _require_distinct_columns(paths: Sequence[Path]) -> None:
    """Refuse a Parquet file with two columns of one name, in large letters or small: the data base renames one."""
    for path in paths:
        seen: dict[str, str] = {}
        for name in pq.read_schema(path).names if path.suffix == ".parquet" else ():
            if name.lower() in seen:
                raise DataError(
                    f"{path}: the columns `{seen[name.lower()]}` and `{name}` are told apart by small and large "
                    "letters at most; expected other names. Rename one of them, or leave it out."
                )
            if name.lower().startswith(OWN_PREFIX):
                raise DataError(
                    f"{path}: column `{name}` begins with `{OWN_PREFIX}`, as columns of our own do. Rename it."
                )
            seen[name.lower()] = name


def _stored(connection: Backend, shape: TableShape) -> tuple[ir.Table, dict[str, int]]:
    """The shaped rows, run once, and how often values occur that the layout declares."""
    occurrences = shape.occurrences()
    # Told of beside the rows, as another look at the files would parse them again.
    marks = {f"{OWN_PREFIX}declared_{number}": is_there for number, is_there in enumerate(occurrences.values())}
    try:
        rows = store(connection, "table_rows", shape.raw.select(**_shaped(shape), **marks))
    except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:
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
    told = {feature.name for feature in layout.history}
    columns = {feature.name: shape.feature(feature.name) for feature in schema.features if feature.name not in told}
    if schema.weight:
        columns[schema.weight] = shape.weight(schema.weight)
    columns[schema.label] = shape.label()
    columns[schema.segment] = shape.segment()
    moment = shape.time()
    columns[schema.time] = moment
    split = shape.split(moment)
    user_key = _user_key(columns[schema.user])
    if layout.history:
        columns |= _history_columns(shape, columns)
        is_known = split == TRAIN if layout.history_scope is HistoryScope.TRAIN_ONLY else ibis.literal(True)
        columns |= {ROW: ibis.row_number(), MOMENT: epoch_us(moment), CONTRIBUTES: is_known, UNIT: user_key}
    return columns | {SPLIT: split, DAY: moment.date(), "user_key": user_key}


def _history_columns(shape: TableShape, columns: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """The columns that the history is counted by or of, under names of their own."""
    found = dict[str, ir.Value]()
    for feature in shape.layout.history:
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
    source = {"label": shape.layout.label, "segment": shape.layout.segment}[name].column
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
        **{name: column for name, (column, _) in layout.lists.items()},
        **layout.words,
        schema.label: layout.label.column,
        schema.segment: layout.segment.column,
        schema.time: layout.time_column,
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
