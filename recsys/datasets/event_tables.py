"""The events of a table: its files as one, the rows that count, repeats merged, side tables joined."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one, store
from recsys.datasets.declared_tables import Keep
from recsys.datasets.past import NOTHING_BEFORE, Opening, PastCounter, add_past
from recsys.datasets.segment_clusters import clustered_segments
from recsys.datasets.side_tables import StoredSide, read_sides, side_of_events
from recsys.datasets.table_files import FILE_SPLIT, TableFile, find_files, shown_files
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_reading import TableReader
from recsys.datasets.table_shape import TableShape
from recsys.datasets.table_types import TextRules
from recsys.datasets.table_uses import uses_of
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.features.schema import FeatureSchema
from recsys.files import sha256_of_file
from recsys.progress import Progress


@dataclass(frozen=True)
class RawEvents:
    """Events under the files' own names.

    Attributes:
        rows: of the files, filtered and merged, without the side tables.
        sides: the side tables, in the order in which they are declared, which is that of joining them.
        where: the files, for messages.
        digests: of every file that was read, by its path below the raw folder.
        counts: what was left out or merged, by a readable name.
        opening: what the past had come to before these events.
        add_past: what counts their past.
    """

    rows: ir.Table
    sides: tuple[StoredSide, ...]
    layout: TableLayout
    schema: FeatureSchema
    where: str
    digests: dict[str, str]
    counts: dict[str, int]
    opening: Opening = NOTHING_BEFORE
    add_past: PastCounter = add_past

    def shape(self, rows: ir.Table) -> TableShape:
        """The reading of rows that have the columns of the files and the side tables."""
        return TableShape(rows, self.layout, self.schema, self.where)

    def joined(self, rows: ir.Table, moment: ir.IntegerValue | None = None) -> ir.Table:
        """Return `rows` with the columns of every side table whose key they have, by then.

        Args:
            moment: see `StoredSide.joined`.
        """
        for side in self.sides:
            if side.rule.key in rows.columns and (side.rule.time is None or moment is not None):
                rows = side.joined(rows, moment)
        return rows


def read_events(
    connection: Backend,
    raw: Path,
    layout: TableLayout,
    schema: FeatureSchema,
    progress: Progress,
    before: datetime | None = None,
) -> RawEvents:
    """Read the events and side tables below `raw`.

    Args:
        before: UTC, without zone; events from then on are as if they stood in no file. None: all events.

    Raises:
        DataError: see `find_files`, `TableReader.read` and `read_sides`; or a column is missing or stands twice.
    """
    files = find_files(raw, layout.files, progress)
    progress("read", 0, 0)
    rows, where = reader_of(raw, layout, schema).read(connection, files), shown_files(files)
    if before:
        rows = rows.filter(TableShape(rows, layout, schema, where).time() < before)
    events = events_of(connection, rows, raw, layout, schema, progress, where)
    return replace(events, digests=_digests(files) | events.digests)


def reader_of(raw: Path, layout: TableLayout, schema: FeatureSchema) -> TableReader:
    """The reader of the events' files."""
    return TableReader(
        raw,
        layout.csv,
        uses_of(layout, schema),
        TextRules(layout.csv.missing, layout.time.format if layout.time else ""),
        apart=layout.splits.column if layout.splits else "",
    )


def events_of(
    connection: Backend,
    rows: ir.Table,
    raw: Path,
    layout: TableLayout,
    schema: FeatureSchema,
    progress: Progress,
    where: str,
    opening: Opening = NOTHING_BEFORE,
    digest: Callable[[Path], str] = sha256_of_file,
) -> RawEvents:
    """Filter and merge rows that a `TableReader` read, and read the side tables below `raw`.

    Args:
        where: the files of the rows, for messages.
        opening: what the past had come to before these rows.
        digest: see `find_files`.

    Raises:
        DataError: see `read_sides`; or a column is missing or stands twice.
    """
    if twice := [name for name in layout.derive if name in rows.columns]:
        raise DataError(
            f"{where}: column `{twice[0]}` stands in the files and under `table.derive`; expected one of them. Give "
            "the derived column another name."
        )
    counts: dict[str, int] = {}
    if layout.conditions:
        rows, counts = _kept(connection, rows, layout, schema, where, is_empty_allowed=opening.is_continued)
    if layout.merge:
        rows, merged = _merged(connection, rows, layout, schema, where)
        counts |= merged
    sides, digests = read_sides(connection, raw, layout.tables, uses_of(layout, schema), progress, digest)
    order = [layout.time.column] if layout.time else []
    sides += [
        side_of_events(
            connection,
            name,
            rule,
            _with_derived(rows, rule.columns.values(), layout, schema, where),
            order,
            opening,
        )
        for name, rule in layout.tables.items()
        if not rule.files
    ]
    if layout.segment.vectors:
        clusters, of_vectors = clustered_segments(connection, raw, layout.segment, schema.segments)
        sides, digests = [*sides, clusters], digests | of_vectors
    # In the order in which they are declared, as a table's key may be another one's column.
    places = {name: place for place, name in enumerate(layout.tables)}
    ordered = sorted(sides, key=lambda side: places.get(side.name, len(places)))
    _require_distinct(rows, ordered, where)
    return RawEvents(rows, tuple(ordered), layout, schema, where, digests, counts, opening)


def _digests(files: Sequence[TableFile]) -> dict[str, str]:
    return {file.name: file.sha256 for file in files}


def _kept(
    connection: Backend,
    rows: ir.Table,
    layout: TableLayout,
    schema: FeatureSchema,
    where: str,
    *,
    is_empty_allowed: bool,
) -> tuple[ir.Table, dict[str, int]]:
    """The rows that meet every condition; a condition that is null is not met."""
    shape = TableShape(rows, layout, schema, where)
    meets = [
        condition.condition(
            {name: shape.derived_part(name, "a condition", "table.where") for name in condition.columns}
        )
        for condition in layout.conditions
    ]
    kept = rows.filter(*meets)
    counted = fetch_one(connection, rows.aggregate(rows=rows.count()))["rows"]
    left = fetch_one(connection, kept.aggregate(rows=kept.count()))["rows"]
    if not left and not is_empty_allowed:
        raise DataError(
            f"{where}: 0 of {counted} rows meet `table.where` ({'; '.join(layout.where)}). Mend a condition."
        )
    return kept, {"events that `where` leaves out": counted - left}


def _merged(
    connection: Backend, rows: ir.Table, layout: TableLayout, schema: FeatureSchema, where: str
) -> tuple[ir.Table, dict[str, int]]:
    rule = layout.merge
    assert rule is not None
    shape = TableShape(rows, layout, schema, where)
    by = {name: shape.column(name, "merged by", "table.merge.by") for name in rule.by}
    kept = {name: shape.column(name, "kept", "table.merge.keep") for name in rule.keep if name not in by}
    split = {FILE_SPLIT: rows[FILE_SPLIT]}
    if layout.time and layout.time.column not in (*by, *kept):
        raise DataError(
            f"{where}: `table.merge` has no `{layout.time.column}`, the time; expected it in `by`, or in `keep` with "
            "min or max."
        )
    narrow = rows.select(**by, **kept, **split)
    order = [narrow[layout.time.column]] if layout.time else []
    merged = narrow.group_by([*by, FILE_SPLIT]).aggregate(
        **{name: reduced(narrow[name], rule.keep[name], order) for name in kept}
    )
    merged = store(connection, f"{OWN_PREFIX}merged", merged)
    before, after = (fetch_one(connection, one.aggregate(rows=one.count()))["rows"] for one in (rows, merged))
    return merged, {"repeats that were merged": before - after}


def reduced(column: ir.Value, keep: Keep, order: Sequence[ir.Value]) -> ir.Value:
    """The value that stands for several; equal places in the order are told apart by the value itself."""
    if keep in (Keep.FIRST, Keep.LAST):
        ordered = [*order, column]
        return column.first(order_by=ordered) if keep is Keep.FIRST else column.last(order_by=ordered)
    whole = {Keep.MINIMUM: "min", Keep.MAXIMUM: "max", Keep.SUM: "sum", Keep.MEAN: "mean"}[keep]
    return getattr(column, whole)()


def _with_derived(
    rows: ir.Table, names: Iterable[str], layout: TableLayout, schema: FeatureSchema, where: str
) -> ir.Table:
    shape = TableShape(rows, layout, schema, where)
    derived = [name for name in names if name not in rows.columns and name in layout.expressions]
    return rows.mutate(**{name: shape.column(name, "part of a side table") for name in derived})


def _require_distinct(rows: ir.Table, sides: Sequence[StoredSide], where: str) -> None:
    """Refuse a column that two tables have: it could mean either."""
    owners = dict.fromkeys(rows.columns, "the events")
    for side in sides:
        if taken := [name for name in side.columns if name in owners]:
            raise DataError(
                f"{where}: column `{taken[0]}` stands in {owners[taken[0]]} and in the side table `{side.name}`. Give "
                f"it another name under `table.tables.{side.name}.columns`, such as `{side.name}_{taken[0]}: "
                f"{taken[0]}`."
            )
        owners |= dict.fromkeys(side.columns, f"the side table `{side.name}`")
