"""Events that know only what was chosen, read as queries (who chose, when, in which context) and as items."""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.assigned_split import assigned_split, is_history
from recsys.datasets.computed_features import ComputedFeatures, own_name
from recsys.datasets.database import epoch_us, fetch_one, store
from recsys.datasets.declared_examples import QueryRule
from recsys.datasets.declared_history import HistoryScope
from recsys.datasets.enum_columns import with_enums
from recsys.datasets.event_log import IS_PAST, TIME, EventLog, counted_columns, read_column, user_key
from recsys.datasets.event_tables import RawEvents, reduced
from recsys.datasets.past import CONTRIBUTES, LABEL, MOMENT, ROW, UNIT, Opening, OpeningOutgrownError
from recsys.datasets.past.opening import mark_of
from recsys.datasets.past.quantities import whole
from recsys.datasets.source import SPLIT, TRAIN
from recsys.datasets.table_files import FILE_SPLIT
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

QUERY, ITEM = f"{OWN_PREFIX}query", f"{OWN_PREFIX}item"
"""Numbers of queries and items: of queries in the order of their times, of items in the order of their ids."""
ID = f"{OWN_PREFIX}query_id"
EVENTS_BEFORE = f"{OWN_PREFIX}events_before"
"""An item's column: its events before the opening of the log, all of which are of the past."""
_ITEMS, _QUERIES = "items", "queries"
_RULE_SPLIT = f"{OWN_PREFIX}rule_split"


@dataclass(frozen=True)
class QueryLog:
    """Events as choices.

    Attributes:
        log: the events, each with the numbers `QUERY` and `ITEM`.
        queries: `QUERY`, `ID`, `TIME`, `MOMENT`, `UNIT`, `CONTRIBUTES`, `SPLIT` (null outside every split), and the
            columns that are known when the query begins, by the files' own names.
        items: `ITEM` and the columns of the item, by the files' own names.
        positives: of labelled events, those that were chosen: `QUERY`, `ITEM` and the user; None: every event was.
    """

    log: EventLog
    queries: ir.Table
    items: ir.Table
    positives: ir.Table | None = None

    @property
    def choices(self) -> ir.Table:
        """`QUERY`, `ITEM` and the user of every choice."""
        return self.log.rows if self.positives is None else self.positives

    @property
    def raw(self) -> RawEvents:
        """What was read."""
        return self.log.raw


def file_name(name: str, raw: RawEvents) -> str:
    """The files' own name of a feature."""
    return raw.layout.columns.get(name, name)


def read_queries(connection: Backend, raw: RawEvents, progress: Progress) -> QueryLog:
    """Number queries and items, and store the events with all that is counted of them.

    Raises:
        DataError: a column is missing or of the wrong type, or there is no event.
    """
    computed = ComputedFeatures(raw.layout, raw.schema, raw.opening, raw.add_past)
    events = chosen_events(connection, raw, computed)
    queries = numbered_queries(connection, events, raw)
    if raw.layout.query and raw.layout.query.column:
        _require_new(connection, queries, raw.opening)
    items = _numbered_items(connection, events, raw)
    own_item = own_name(raw.schema.item)
    numbered = events.join(queries.select(ID, QUERY, SPLIT, IS_PAST), ID).join(
        items.select(ITEM, **{own_item: items[file_name(raw.schema.item, raw)]}), own_item
    )
    is_train_only = raw.layout.history.scope is HistoryScope.TRAIN_ONLY
    known = (numbered[SPLIT] == TRAIN) | numbered[IS_PAST] if is_train_only else ibis.literal(True)
    numbered = numbered.mutate(**{CONTRIBUTES: known.fill_null(False)}).drop(ID)
    stored = store(connection, f"{OWN_PREFIX}events", numbered)
    log = EventLog(raw, computed, computed.on_events(connection, stored, progress))
    known_query = (queries[SPLIT] == TRAIN) | queries[IS_PAST]
    queries = queries.mutate(**{CONTRIBUTES: known_query.fill_null(False) if is_train_only else ibis.literal(True)})
    return QueryLog(log, queries, items)


def chosen_events(connection: Backend, raw: RawEvents, computed: ComputedFeatures) -> ir.Table:
    """Every event that names an item, with the id of its query."""
    schema, layout, rule = raw.schema, raw.layout, raw.layout.query
    assert rule is not None
    shape = raw.shape(raw.joined(raw.rows, epoch_us(raw.shape(raw.rows).time())))
    time = shape.time()
    columns = {own_name(name): column for name, column in counted_columns(computed, shape).items()}
    columns |= {own_name(name): read_column(name, shape) for name in (schema.user, schema.item)}
    columns |= {_kept(name): shape.column(name, "kept for the query", "table.query.keep") for name in rule.keep}
    if moment := _moment_column(raw):
        columns[_kept(moment)] = shape.column(moment, "the time", "table.time.column")
    if layout.splits is None:
        columns[FILE_SPLIT] = shape.raw[FILE_SPLIT]
    elif layout.splits.column:
        columns[_RULE_SPLIT] = shape.split_by_column(layout.splits)
    columns |= {
        ROW: ibis.row_number(),
        TIME: time,
        MOMENT: ibis.null("int64") if layout.order == "none" else epoch_us(time),
        LABEL: ibis.literal(1.0),
        UNIT: user_key(shape.feature(schema.user)),
    }
    events = store(connection, f"{OWN_PREFIX}read_events", shape.raw.select(**columns, **_query_id(rule, shape)))
    kept = events.filter(events[own_name(schema.item)].notnull(), events[TIME].notnull())
    if rule.session:
        kept = _with_sessions(kept, rule.session, own_name(schema.user))
    # The days between two openings may be days on which nothing was sold.
    if not raw.opening.is_continued and not fetch_one(connection, kept.aggregate(rows=kept.count()))["rows"]:
        raise DataError(
            f"{raw.where}: 0 events with an item and a time; expected some. Check `table.where` and `columns`."
        )
    return with_enums(connection, f"{OWN_PREFIX}typed_events", store(connection, f"{OWN_PREFIX}kept_events", kept))


def _query_id(rule: QueryRule, shape: TableShape) -> dict[str, ir.Value]:
    if rule.column:
        column = shape.column(rule.column, "the query", "table.query.column")
        return {ID: column.cast("string").fill_null("")}
    if rule.session:
        return {}
    user, item = (shape.feature(name).cast("string").fill_null("") for name in (shape.schema.user, shape.schema.item))
    return {ID: user + "|" + epoch_us(shape.time()).cast("string") + "|" + item}


def _with_sessions(events: ir.Table, gap: int, user: str) -> ir.Table:
    """Name each event's session by its user and its first moment; a pause longer than `gap` microseconds ends it."""
    start = f"{OWN_PREFIX}session_start"
    in_order = ibis.window(group_by=user, order_by=MOMENT)
    is_first = (events[MOMENT] - events[MOMENT].lag().over(in_order) > gap).fill_null(True)
    marked = events.mutate(**{start: is_first.ifelse(events[MOMENT], ibis.null("int64"))})
    # Events of one moment are peers, so the newest start up to a moment is the same for all of them.
    so_far = ibis.range_window(group_by=user, order_by=MOMENT, following=0)
    marked = marked.mutate(**{start: marked[start].max().over(so_far)})
    return marked.mutate(**{ID: marked[user].cast("string").fill_null("") + "|" + marked[start].cast("string")}).drop(
        start
    )


def _kept(name: str) -> str:
    return f"{OWN_PREFIX}kept_{name.encode().hex()}"


def _moment_column(raw: RawEvents) -> str:
    """The files' own column of times or places, which expressions may read."""
    return raw.layout.time.column if raw.layout.time else raw.layout.position


def numbered_queries(connection: Backend, events: ir.Table, raw: RawEvents) -> ir.Table:
    """The queries of `chosen_events`, as `QueryLog` has them, but for `CONTRIBUTES`."""
    schema, layout, rule = raw.schema, raw.layout, raw.layout.query
    assert rule is not None
    order, user = [events[TIME]], own_name(schema.user)
    columns: dict[str, ir.Value] = {file_name(schema.user, raw): events[user].min(), TIME: events[TIME].min()}
    columns |= {name: reduced(events[_kept(name)], keep, order) for name, keep in rule.keep.items()}
    if (moment := _moment_column(raw)) and moment not in columns:
        columns[moment] = events[_kept(moment)].min()
    columns |= {name: events[name].max() for name in (FILE_SPLIT, _RULE_SPLIT) if name in events.columns}
    if rule.column and rule.column not in columns:
        columns[rule.column] = events[ID].min()
    found = events.group_by(ID).aggregate(**{UNIT: events[UNIT].min()}, **columns)
    who = found[file_name(schema.user, raw)]
    if layout.splits is None or layout.splits.column:
        split = found[FILE_SPLIT if layout.splits is None else _RULE_SPLIT]
    else:
        split = assigned_split(layout.splits, found[TIME], who, [found[ID]], found[ID])
    is_past = is_history(layout.splits, found[TIME]) if layout.order == "time" else ibis.literal(False)
    found = found.mutate(
        **{
            QUERY: ibis.row_number().over(order_by=[found[TIME], found[ID]]).cast("int32"),
            MOMENT: ibis.null("int64") if layout.order == "none" else epoch_us(found[TIME]),
            SPLIT: split,
            IS_PAST: is_past,
        }
    )
    dropped = [name for name in (FILE_SPLIT, _RULE_SPLIT) if name in found.columns]
    stored = store(connection, f"{OWN_PREFIX}queries", found.drop(*dropped))
    return store(connection, f"{OWN_PREFIX}whole_queries", raw.joined(stored, stored[MOMENT]))


def _require_new(connection: Backend, queries: ir.Table, opening: Opening) -> None:
    """Refuse an opening in whose past a query began that is now asked about."""
    mark = f"{OWN_PREFIX}mark"
    marked = queries.select(SPLIT, **{mark: mark_of(queries[ID])})
    if _QUERIES in opening.known and not opening.is_continued:
        again = marked.filter(marked[SPLIT].notnull()).semi_join(opening.known[_QUERIES], mark)
        if fetch_one(connection, again.aggregate(rows=again.count()))["rows"]:
            raise OpeningOutgrownError("a query goes on that began long ago")
    opening.keep(connection, _QUERIES, opening.taken_up(connection, _QUERIES, marked.select(mark)).distinct())


def _numbered_items(connection: Backend, events: ir.Table, raw: RawEvents) -> ir.Table:
    name, opening = file_name(raw.schema.item, raw), raw.opening
    single = events.select(**{name: events[own_name(raw.schema.item)]})
    every = opening.taken_up(connection, _ITEMS, single.group_by(name).aggregate(**{EVENTS_BEFORE: single.count()}))
    totals = every.group_by(name).aggregate(**{EVENTS_BEFORE: whole(every[EVENTS_BEFORE].sum())})
    opening.keep(connection, _ITEMS, totals)
    distinct = totals.drop(EVENTS_BEFORE)
    if _ITEMS in opening.known:
        before = opening.known[_ITEMS]
        distinct = distinct.left_join(before, name).select(name, EVENTS_BEFORE)
    numbered = distinct.mutate(**{ITEM: ibis.row_number().over(order_by=distinct[name]).cast("int32")})
    stored = store(connection, f"{OWN_PREFIX}items", numbered)
    return store(connection, f"{OWN_PREFIX}whole_items", raw.joined(stored))
