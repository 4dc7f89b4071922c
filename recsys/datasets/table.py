"""Rows that a user already has: Parquet or CSV files, described by the `table:` block of a schema file."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.computed_features import ComputedFeatures, own_name
from recsys.datasets.database import epoch_us, fetch_one, folder_of, store
from recsys.datasets.event_log import IS_PAST, TIME, EventLog, event_columns, user_key
from recsys.datasets.event_tables import RawEvents, read_events
from recsys.datasets.on_spark.counting import past_on_spark
from recsys.datasets.on_spark.spark_engine import SparkSettings
from recsys.datasets.past import ROW, PastCounter, add_past
from recsys.datasets.sampled_examples import sampled_rows
from recsys.datasets.source import DAY, SPLIT, TEST, TRAIN, VALIDATION, SourceRows
from recsys.datasets.table_files import ROW_HASH
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.features.graded import GRADE
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress


@dataclass(frozen=True)
class TableSource:
    """Reads the files below `raw` as `layout` says; see `load_table_layout`.

    Attributes:
        spark: where the past is counted that the layout declares; None: in DuckDB.
    """

    raw: Path
    layout: TableLayout
    spark: SparkSettings | None = None

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return the rows of the files; see `Source.read`."""
        with self._counter(connection) as add_past:
            return self._read(connection, schema, progress, add_past)

    def _counter(self, connection: Backend) -> AbstractContextManager[PastCounter]:
        # Labelled events without a history ask nothing of the past.
        if self.spark is None or not (self.layout.history.features or self.layout.label is None):
            return nullcontext(add_past)
        return past_on_spark(self.spark, folder_of(connection))

    def _read(
        self, connection: Backend, schema: FeatureSchema, progress: Progress, add_past: PastCounter
    ) -> SourceRows:
        layout = self.layout
        raw = replace(read_events(connection, self.raw, layout, schema, progress), add_past=add_past)
        description = {
            "source": "table",
            "files": raw.digests,
            "history": str(layout.history.scope) if layout.history.features else "none",
            "schema_file": layout.text,
        }
        rows, extras, counts = example_rows(connection, raw, progress)
        return SourceRows(rows, extras, description, {**counts, **raw.counts}, origins_of(layout, schema))


def example_rows(
    connection: Backend, raw: RawEvents, progress: Progress
) -> tuple[ir.Table, tuple[str, ...], dict[str, int]]:
    """Return the examples of events of either kind, their extra columns, and counts for the manifest."""
    if raw.layout.label is None:
        return sampled_rows(connection, raw, progress)
    rows, counts = labelled_rows(connection, raw, progress)
    return rows, ("user_key", *((GRADE,) if raw.schema.graded else ())), counts


def labelled_log(connection: Backend, raw: RawEvents, progress: Progress) -> tuple[EventLog, dict[str, int]]:
    """Read events that bring their labels, each of which is an example too; also the counts for the manifest."""
    layout, schema = raw.layout, raw.schema
    has_dates = any(side.rule.time for side in raw.sides)
    moment = epoch_us(raw.shape(raw.rows).time()) if has_dates else None
    shape = raw.shape(raw.joined(raw.rows, moment))
    computed = ComputedFeatures(layout, schema, raw.opening, raw.add_past)
    columns = event_columns(raw, computed, shape) | _example_columns(shape)
    if not layout.history.features:
        columns = {name: column for name, column in columns.items() if name not in _OF_THE_PAST}
    stored, counts = _stored(connection, shape, columns)
    # A row without a time lies in no span of time either, but it is broken, not outside: the check of rows says so.
    is_outside = stored[SPLIT].isnull() & stored[schema.time].notnull() & ~stored[IS_PAST]
    outside = fetch_one(connection, stored.aggregate(rows=is_outside.sum()))["rows"] or 0
    kept = stored.filter(~is_outside)
    counts = {"rows outside every split": int(outside), **_repeated(connection, kept), **counts}
    if layout.history.features:
        kept = computed.on_events(connection, store(connection, f"{OWN_PREFIX}kept", kept), progress)
    return EventLog(raw, computed, kept), counts


def labelled_rows(connection: Backend, raw: RawEvents, progress: Progress) -> tuple[ir.Table, dict[str, int]]:
    """The examples of events that bring their labels."""
    log, counts = labelled_log(connection, raw, progress)
    rows, schema, layout = log.rows, raw.schema, raw.layout
    if layout.splits and layout.splits.train_start:
        rows = rows.filter(rows[SPLIT].notnull() | rows[schema.time].isnull())
        rows = store(connection, f"{OWN_PREFIX}asked", rows) if layout.history.features else rows
    if layout.history.features:
        rows = log.computed.on_rows(connection, rows, log.rows, progress)
    return with_counted(rows, raw), counts


def with_counted(rows: ir.Table, raw: RawEvents) -> ir.Table:
    """Give counted features, and a segment that follows from one, the schema's names."""
    layout, schema = raw.layout, raw.schema
    found = {one.name: rows[own_name(one.name)] for one in schema.features if one.name in layout.counted}
    if layout.segment.column in layout.counted:
        found[schema.segment] = raw.shape(rows).segment_of(rows[own_name(layout.segment.column)])
    return rows.mutate(**found) if found else rows


def _example_columns(shape: TableShape) -> dict[str, ir.Value]:
    """Features that are not counted, segment, label, weight, time, day and user_key."""
    schema, layout = shape.schema, shape.layout
    columns = {one.name: shape.feature(one.name) for one in schema.features if one.name not in layout.counted}
    if schema.weight:
        columns[schema.weight] = shape.weight(schema.weight)
    columns[schema.label] = shape.label()
    if schema.graded:
        columns[GRADE] = shape.grade(schema.graded)
    if layout.segment.column not in layout.counted:
        columns[schema.segment] = shape.segment()
    columns[schema.time] = shape.time()
    if _can_repeat(layout) and ROW_HASH in shape.raw.columns:
        columns[ROW_HASH] = shape.raw[ROW_HASH]
    return columns | {DAY: columns[schema.time].date(), "user_key": user_key(columns[schema.user])}


_OF_THE_PAST = (ROW, TIME)


def _stored(connection: Backend, shape: TableShape, columns: dict[str, ir.Value]) -> tuple[ir.Table, dict[str, int]]:
    """The shaped rows, run once, and how often values occur that the layout declares."""
    occurrences = shape.occurrences()
    # Columns beside the rows, as another pass over the files would parse them again.
    marks = {f"{OWN_PREFIX}declared_{number}": is_there for number, is_there in enumerate(occurrences.values())}
    try:
        rows = store(connection, "table_rows", shape.raw.select(**columns, **marks))
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


def _can_repeat(layout: TableLayout) -> bool:
    """Whether equal rows may stand in two splits: where time says the split, they have one time and so one split."""
    rule = layout.splits
    return not rule or bool(rule.column or rule.leave_last or rule.by == "time")


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


def origins_of(layout: TableLayout, schema: FeatureSchema) -> dict[str, str]:
    """Return the files' name of each of the schema's columns that has another one there."""
    found = {
        **layout.columns,
        **layout.texts,
        schema.segment: layout.segment.column,
    }
    if layout.label:
        found[schema.label] = layout.label.column
    if schema.graded:
        found[GRADE] = schema.graded.column
    if layout.time or layout.position:
        found[schema.time] = layout.time.column if layout.time else layout.position
    return {name: column for name, column in found.items() if name != column}
