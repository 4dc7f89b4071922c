"""Rows of user, item and time, read for scoring with what the events say of them.

What a row's past is, which values its side tables have, and what is always the same of its user or item: all of it is
read from the events as training read it, by the same functions. A row that stands in the events too, with the columns
that training had, is read to the same bits; features out of fold excepted, as a row to score lies in no fold.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.computed_features import own_name
from recsys.datasets.database import epoch_us, fetch, fetch_one, load, scratch, store, temporary_database
from recsys.datasets.event_log import EventLog, read_column, user_key
from recsys.datasets.event_tables import RawEvents, read_events
from recsys.datasets.pair_rows import PairRows
from recsys.datasets.past import CONTRIBUTES, MOMENT, ROW, UNIT, PastKind
from recsys.datasets.query_rows import asked_items, asked_queries
from recsys.datasets.query_tables import QUERY, QueryLog, read_queries
from recsys.datasets.row_columns import RowColumn, RowColumns
from recsys.datasets.table import labelled_log, with_counted
from recsys.datasets.table_rows import RowReader
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.features.plain_arrays import plain_ids
from recsys.progress import Progress

PLACE = f"{OWN_PREFIX}place"
_WHERE = "Raw rows"


class EventRowReader:
    """Reads rows as `RowReader` does, with all that they lack from the events.

    Columns that rows bring are taken as they are, those by which features of the past come among them. Of events that
    know only what was chosen, rows bring user, item, time and the columns under `query.keep`; one of those that is
    absent has the value of the user's newest query before the row.
    """

    def __init__(self, connection: Backend, reader: RowReader, log: EventLog | QueryLog, progress: Progress) -> None:
        self._connection, self._reader, self._log, self._progress = connection, reader, log, progress
        self.layout, self.origins = reader.layout, reader.origins

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are read, and what each is."""
        return {name: self._reader.columns.get(name, column.use) for name, column in self._readable.items()}

    @property
    def replaceable(self) -> frozenset[str]:
        """Those that may be absent."""
        return frozenset(self.columns) - {*self._needed}

    def read(self, rows: pa.Table) -> pa.Table:
        """Return the schema's features and segment under their own names, row by row in the same order.

        Raises:
            DataError: a column is missing, or of another type than in the events; names it.
        """
        found = [name for name in rows.column_names if name in self._readable]
        self._require(found)
        if not rows.num_rows:
            return pa.table({name: pa.nulls(0) for name in self._row_columns.wanted})
        with scratch(self._connection):
            plain = {name: self._as_in_events(name, rows[name]) for name in found}
            numbered = pa.table({**plain, PLACE: pa.array(range(rows.num_rows), pa.int32())})
            asked = self._with_position(load(self._connection, f"{OWN_PREFIX}raw_rows", numbered))
            whole = self._chosen(asked) if isinstance(self._log, QueryLog) else self._labelled(asked)
            wanted = whole.select(*self._row_columns.wanted, PLACE).order_by(PLACE)
            result = fetch(self._connection, wanted).drop_columns(PLACE)
        if result.num_rows != rows.num_rows:
            raise AssertionError(f"{rows.num_rows} rows were read as {result.num_rows}")
        return result

    @property
    def _raw(self) -> RawEvents:
        return self._log.raw

    @property
    def _row_columns(self) -> RowColumns:
        return self._reader.row_columns

    @cached_property
    def _past(self) -> EventLog:
        return self._log.log if isinstance(self._log, QueryLog) else self._log

    @cached_property
    def _readable(self) -> dict[str, RowColumn]:
        """The columns of rows that mean something here."""
        layout, listed = self._reader.layout, self._row_columns.listed
        files = [name for name in self._raw.rows.columns if not name.startswith(OWN_PREFIX)]
        sides = [name for side in self._raw.sides for name in side.columns]
        names = [*listed, *files, *sides, *layout.computed]
        return {name: listed.get(name, RowColumn("as in the files", pa.null())) for name in dict.fromkeys(names)}

    @cached_property
    def _needed(self) -> list[str]:
        """The columns without which no row can be told: user, item and time."""
        layout, schema = self._reader.layout, self._reader.schema
        names = [self._row_columns.source(name) for name in (schema.user, schema.item) if name not in layout.computed]
        return [*names, *([layout.time.column] if layout.time else [])]

    def _require(self, found: Sequence[str]) -> None:
        if missing := [name for name in self._needed if name not in found]:
            time = self._reader.layout.time
            what = "the time before which everything is counted" if time and time.column == missing[0] else "an id"
            raise DataError(
                f"{_WHERE}: column `{missing[0]}` is missing, {what}; found {', '.join(found) or 'none that is read'}. "
                f"Rows that are read with their events bring {', '.join(self._needed)}, as in the events' files."
            )

    def _as_in_events(self, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """A column in a type that compares with the events' own.

        Raises:
            DataError: it is of another kind.
        """
        plain = self._reader.plain(pa.table({name: values}))
        values = plain[name] if name in plain.column_names else values
        if name not in self._raw.rows.columns:
            return values
        expected = self._raw.rows[name].type()
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_null(values.type):
            return values.cast(expected.to_pyarrow())
        if expected.is_integer() and pa.types.is_floating(values.type):
            return pa.chunked_array([plain_ids(values.combine_chunks(), pa.int64(), f"Column `{name}`")])
        is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        if expected.is_string() != is_text:
            raise DataError(
                f"{_WHERE}: column `{name}` has type {values.type}; expected {expected}, as in the events "
                f"({self._raw.where}). Write it as it stands there."
            )
        return values

    def _with_position(self, rows: ir.Table) -> ir.Table:
        """The rows; where positions say the order and the rows bring none, they come after all events."""
        column = self._reader.layout.position
        if not column or column in rows.columns:
            return rows
        return rows.mutate(**{column: ibis.literal(self._next_position, type="int64")})

    @cached_property
    def _next_position(self) -> int:
        column = self._raw.rows[self._reader.layout.position]
        return int(fetch_one(self._connection, self._raw.rows.aggregate(last=column.max()))["last"] or 0) + 1

    def _given(self, rows: ir.Table) -> list[str]:
        """Features of the past that rows bring; a list that something else is compared with is counted with it."""
        features = self._reader.layout.history.features
        counted = [name for name in self._reader.layout.counted if name in rows.columns]
        compared = [
            one.to for name, one in features.items() if one.kind is PastKind.CO_OCCURRENCE and name not in counted
        ]
        return [name for name in counted if name not in compared]

    def _labelled(self, rows: ir.Table) -> ir.Table:
        """Rows of events that bring their labels, each with its own columns."""
        raw, computed, layout = self._raw, self._past.computed, self._reader.layout
        rows = self._joined(self._looked_up(rows))
        shape = raw.shape(rows)
        columns = {own_name(name): read_column(name, shape) for name in (*computed.keys, *computed.read_by_expressions)}
        columns |= {own_name(name): rows[name] for name in self._given(rows)}
        plain = [one.name for one in self._reader.schema.features if one.name not in layout.counted]
        columns |= {name: shape.feature(name) for name in plain}
        segment = self._reader.schema.segment
        is_given = self._row_columns.is_segment_named and segment in rows.columns
        if is_given or layout.segment.column not in layout.counted:
            columns[segment] = rows[segment] if is_given else shape.segment()
        columns |= {
            PLACE: rows[PLACE],
            ROW: rows[PLACE],
            MOMENT: ibis.null("int64") if layout.order == "none" else epoch_us(shape.time()),
            CONTRIBUTES: ibis.literal(False),
            UNIT: user_key(shape.feature(self._reader.schema.user)),
        }
        asked = store(self._connection, f"{OWN_PREFIX}asked_rows", rows.select(**columns))
        if not layout.counted:
            return asked
        counted = computed.on_rows(self._connection, asked, self._past.rows, self._progress)
        whole = with_counted(counted, raw)
        return whole.mutate(**{segment: counted[segment]}) if is_given else whole

    def _joined(self, rows: ir.Table) -> ir.Table:
        """The rows with the side tables; what they bring of those stays."""
        given = [name for side in self._raw.sides for name in side.columns if name in rows.columns]
        kept = {f"{OWN_PREFIX}given_{place}": name for place, name in enumerate(given)}
        has_dates = any(side.rule.time for side in self._raw.sides)
        moment = epoch_us(self._raw.shape(rows).time()) if has_dates else None
        joined = self._raw.joined(rows.mutate(**{new: rows[name] for new, name in kept.items()}).drop(*given), moment)
        return joined.mutate(**{name: joined[new] for new, name in kept.items()}).drop(*kept)

    def _looked_up(self, rows: ir.Table) -> ir.Table:
        """The rows with columns that they lack, and that the events have once for each user or item."""
        lacking = self._lacking(rows.columns)
        for owner in (self._reader.schema.user, self._reader.schema.item):
            key = self._row_columns.source(owner)
            if not lacking or key not in rows.columns or key not in self._raw.rows.columns:
                continue
            names = [name for name in lacking if name in self._constant(key)]
            events, mark = self._raw.rows, f"{OWN_PREFIX}key"
            values = events.group_by(**{mark: events[key]}).aggregate(**{name: events[name].max() for name in names})
            rows = rows.left_join(values, rows[key] == values[mark]).drop(mark)
            lacking = [name for name in lacking if name not in names]
        if lacking:
            self._row_columns.require([name for name in rows.columns if name != PLACE], _WHERE, self._elsewhere)
            raise DataError(
                f"{_WHERE}: column `{lacking[0]}` is missing, by which the past is counted, and events of one user, or "
                "of one item, differ in it. Add it."
            )
        return rows

    @property
    def _elsewhere(self) -> list[str]:
        """What no row needs to bring: it is counted or joined."""
        segment = [self._reader.schema.segment] if self._row_columns.is_segment_named else []
        return [*self._reader.layout.counted, *segment, *(name for side in self._raw.sides for name in side.columns)]

    def _lacking(self, found: Sequence[str]) -> list[str]:
        """The files' columns that are read on the way and that rows do not bring."""
        computed, there = self._past.computed, [*found, *self._elsewhere]
        names = [*self._row_columns.wanted, *computed.keys, *computed.read_by_expressions]
        lacking = [each for name in names for each in self._row_columns.lacking(name, there)]
        keys = [side.rule.key for side in self._raw.sides if not {*side.columns} <= {*found}]
        return list(dict.fromkeys([*lacking, *(key for key in keys if key not in there)]))

    def _constant(self, key: str) -> frozenset[str]:
        """The events' columns that have one value, or none, for each value of `key`."""
        if key not in self._constants:
            events = self._raw.rows
            names = [name for name in events.columns if not name.startswith(OWN_PREFIX) and name != key]
            varies = {
                f"c{place}": (events[name].min() != events[name].max()).fill_null(False)
                | ((events[name].count() > 0) & (events[name].count() < events.count()))
                for place, name in enumerate(names)
            }
            by_key = events.group_by(key).aggregate(**varies)
            found = fetch_one(self._connection, by_key.aggregate(**{name: by_key[name].any() for name in varies}))
            fixed = (name for name, does_vary in zip(names, found.values(), strict=True) if not does_vary)
            self._constants[key] = frozenset(fixed)
        return self._constants[key]

    @cached_property
    def _constants(self) -> dict[str, frozenset[str]]:
        return {}

    def _chosen(self, rows: ir.Table) -> ir.Table:
        """Rows of events that know only what was chosen: a query and an item each."""
        assert isinstance(self._log, QueryLog)
        queries = asked_queries(self._connection, rows, PLACE, self._log, self._row_columns)
        items, pairs = asked_items(self._connection, rows, PLACE, self._log, self._given(rows))
        made = PairRows(replace(self._log, items=items), queries).rows(
            self._connection, pairs, self._progress, "scored"
        )
        return made.mutate(**{PLACE: made[QUERY]})


@contextmanager
def events_opened(
    reader: RowReader, raw: Path, folder: Path, memory_limit: str, threads: int, progress: Progress
) -> Iterator[EventRowReader]:
    """Read the events below `raw` once, for any number of rows.

    Args:
        folder: in which the database lies meanwhile; for this use alone.

    Raises:
        DataError, UsageError: see `Source.read`.
    """
    layout, schema = reader.layout.open_ended, reader.schema
    with temporary_database(folder, memory_limit, threads) as connection:
        events = read_events(connection, raw, layout, schema, progress)
        if layout.label is None:
            log: EventLog | QueryLog = read_queries(connection, events, progress)
        else:
            log, _ = labelled_log(connection, events, progress)
        yield EventRowReader(connection, reader, log, progress)
